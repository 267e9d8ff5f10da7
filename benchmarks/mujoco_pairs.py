"""Image pairs of a photo-like world: a robot arm of Meta-World (MuJoCo) that opens and closes four things.

    pip install metaworld 'mujoco<3.4'
    MUJOCO_GL=egl python benchmarks/mujoco_pairs.py --out arm --pairs 2000
    retrodict bootstrap arm/recipe.yaml --out runs/arm

Drawer, window, faucet and door, each opened and closed by the suite's own scripted policies: the source is a frame
while the arm approaches, the target the frame in which the task is done, and the action its name in words. Layouts are
sampled from the seed, scenes are textured and lit; a fifth of the episodes is held out. Poses stand in `states.jsonl`.
Frames are kept as they are made, so the same command continues; an episode takes half a CPU second without a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("MUJOCO_GL", "egl")

from PIL import Image

from retrodict import write_pairs
from retrodict.files import write_atomic, write_json, write_lines, write_text

TASKS = {
    f"{thing}-{way}-v3": f"{way} the {thing}"
    for thing in ("drawer", "window", "faucet", "door")
    for way in ("open", "close")
}
SIDE = 96  # pixels
LONGEST = 200  # steps of an episode
APPROACH = (2, 8)  # steps before the source frame
REST = 3  # steps after success, so that the thing has come to rest
RECIPE = """\
# What `benchmarks/mujoco_pairs.py` wrote, for `retrodict bootstrap`.
data: {labelled: labelled, test: test}
model: {layers: 2}
inverse: &training {steps: 1200, per_device_batch_size: 16, learning_rate: 0.004}
forward: *training
"""


def arm(task: str) -> Any:
    """The environment of a task, whose layout every reset samples anew."""
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS

    env = ALL_V3_ENVIRONMENTS[task](render_mode="rgb_array", camera_name="corner2", width=SIDE, height=SIDE)
    env._set_task_called, env._freeze_rand_vec, env.seeded_rand_vec = True, False, True
    return env


def episode(env: Any, task: str, seed: int, folder: Path) -> None:
    """Play one episode; keep its poses, and its two frames if the task was done."""
    from metaworld.policies import ENV_POLICY_MAP

    policy, rng = ENV_POLICY_MAP[task](), random.Random(f"{task}/{seed}")
    env.seed(seed)
    seen, _ = env.reset()
    at, done, after = rng.randint(*APPROACH), False, 0
    kept: dict[str, tuple[Any, list[float]]] = {}
    for step in range(LONGEST):
        if step == at:
            kept["source"] = (env.render(), seen.tolist())
        seen, _, _, _, info = env.step(policy.get_action(seen))
        done = done or (step > at and bool(info["success"]))
        after += done
        if after > REST:
            kept["target"] = (env.render(), seen.tolist())
            break
    for side, (frame, _) in kept.items():
        image = Image.fromarray(frame).rotate(180)  # this camera is mounted upside down
        write_atomic(folder / f"{side}.png", lambda temporary, image=image: image.save(temporary, format="PNG"))
    write_json(folder / "poses.json", {side: pose for side, (_, pose) in kept.items()})


def pairs(folder: Path, split: str) -> Iterator[dict[str, Any]]:
    for one in sorted(folder.iterdir()):
        task, _, seed = one.name.rpartition("_")
        if (one / "target.png").is_file() and ("test" if int(seed) % 5 == 0 else "labelled") == split:
            sides = {side: one / f"{side}.png" for side in ("source", "target")}
            yield {**sides, "action": TASKS[task], "category": TASKS[task], "group": one.name, "id": one.name}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=2000)
    arguments = parser.parse_args()
    frames = arguments.out / "frames"
    for task, action in TASKS.items():
        env: Any = None
        for seed in range(arguments.pairs // len(TASKS)):
            folder = frames / f"{task}_{seed:05d}"
            if not (folder / "poses.json").is_file():
                env = env or arm(task)
                episode(env, task, seed, folder)
        done = len(list(frames.glob(f"{task}_*/target.png")))
        print(f"{action}: {done:,} of {arguments.pairs // len(TASKS):,} episodes end in success", flush=True)
    poses = [json.loads((one / "poses.json").read_text()) | {"id": one.name} for one in sorted(frames.iterdir())]
    write_lines(arguments.out / "states.jsonl", poses)
    for split in ("labelled", "test"):
        write_pairs(arguments.out / split, pairs(frames, split))
    write_text(arguments.out / "recipe.yaml", RECIPE)
    print(f"Next: retrodict bootstrap {arguments.out / 'recipe.yaml'} --out runs/{arguments.out.name}")


if __name__ == "__main__":
    main()

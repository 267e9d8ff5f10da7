"""Long rollouts on *tabletop*: is handing on image tokens better than handing on images?

    python benchmarks/rollouts.py                    # the shipped small model
    python benchmarks/rollouts.py --model demo       # a finished demo's models

Each rollout starts in a random scene and takes actions that are valid one after the other. A step is right while the
frame shows exactly the scene that the world's rules lead to. Both ways see the same scenes, actions and seeds; the
difference is paired over rollouts, with a bootstrap interval.
"""

from __future__ import annotations

import argparse
import os
import random
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from PIL import Image

from retrodict.dynamics.rollout import rollout
from retrodict.dynamics.unified import UnifiedModel
from retrodict.dynamics.verify import InverseAndForwardLikelihood
from retrodict.files import write_json
from retrodict.loading import load
from retrodict.stats import paired_difference
from retrodict.worlds import tabletop
from retrodict.worlds.tabletop.scene import same_scene


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="small")
    parser.add_argument("--rollouts", type=int, default=60)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("-n", type=int, default=4)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    forward, inverse = load(arguments.model, "forward"), load(arguments.model, "inverse")
    assert isinstance(forward, UnifiedModel)
    verifier = InverseAndForwardLikelihood(inverse)
    right: dict[str, list[list[bool]]] = {"tokens": [], "image": []}
    changed: list[list[float]] = []
    for seed in range(arguments.rollouts):
        scenes, texts = _story(seed, arguments.steps)
        for name, shown in right.items():
            source = tabletop.draw(scenes[0])
            steps = rollout(forward, verifier, source, texts, n=arguments.n, seed=seed, reencode=name == "image")
            shown.append([_shows(step.image, scene) for step, scene in zip(steps, scenes[1:], strict=True)])
            if name == "tokens":
                changed.append([step.drift for step in steps])
    share = {name: np.array(shown, dtype=float) for name, shown in right.items()}
    paired = paired_difference(share["tokens"].mean(1), share["image"].mean(1), None)
    results = {
        "right_by_step": {name: values.mean(0).round(3).tolist() for name, values in share.items()},
        "right": {name: float(values.mean()) for name, values in share.items()},
        "difference": {"mean": paired.difference, "ci95": [paired.low, paired.high], "n": paired.n},
        "tokens_changed_by_tokenizing_again": np.mean(changed, axis=0).round(4).tolist(),
    }
    for name, value in results.items():
        print(name, value)
    if arguments.out:
        write_json(arguments.out, results)


def _story(seed: int, steps: int) -> tuple[list[tabletop.State], list[str]]:
    """Scenes and the actions between them."""
    rng = random.Random(f"rollouts/{seed}")
    scenes, texts = [tabletop.random_state(rng, "cells")], []
    for _ in range(steps):
        action = rng.choice(tabletop.actions(scenes[-1]))
        following = tabletop.apply(scenes[-1], action)
        assert following is not None
        scenes.append(following)
        texts.append(tabletop.templates(action)[0])
    return scenes, texts


def _shows(image: Image.Image, scene: tabletop.State) -> bool:
    return same_scene(tabletop.parse(image, "cells"), scene)


if __name__ == "__main__":
    main()

"""How often plans reach a goal image some actions away, by the world's own rules.

Against the planner: random possible actions, enumeration of all possible actions with the same forward model, and the
true simulator in its place. Every step of a problem has one reading, and no single action leads from start to goal. A
plan reaches the goal if it ends in the goal's scene when the world carries it out ("exact"); "things" leaves out where
the agent stands, in a world that has one. Results are added to a JSON Lines file: the same command continues. With
`--calibrate`, what a plan's probability means is stored beside the model; on problems of a seed that is not measured.

    python benchmarks/planning.py --world tabletop --steps 2 --items 200 --out planning.jsonl
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image

from retrodict.dynamics.confidence import fit, read, write
from retrodict.dynamics.plan_search import as_imagined
from retrodict.dynamics.planning import CALIBRATED, Plan, plan
from retrodict.dynamics.verify import changed_cells
from retrodict.loading import folder_of, load
from retrodict.models.protocol import Candidate, ForwardModel, Frame, image_of
from retrodict.sampling import Sampling
from retrodict.stats import wilson
from retrodict.worlds import get_world
from retrodict.worlds.base import World

GRIDS = {"tabletop": (6, 6), "babyai": (7, 7)}
NO_STEP = ("pick", "drop", "let", "grab", "take up", "put down")  # leave something in the hand that no image shows


def problem(world: World, steps: int, seed: int) -> tuple[Image.Image, list[str], list[Image.Image]]:
    """A start, the actions from there on and what they lead to; the last image is the goal."""
    for attempt in range(1000):
        rng = random.Random(f"{world.name}/{steps}/{seed}/{attempt}")
        start = world.sample(5, rng.randrange(2**31), namespace="plan-test")[rng.randrange(5)].source_image
        actions: list[str] = []
        shown = [start]
        while len(actions) < steps and (action := next_action(world, rng, shown)):
            actions.append(action)
            shown = [start, *(world.play(start, actions) or [])]
        direct = steps > 1 and world.action_between(start, shown[-1]) is not None
        if len(actions) == steps and len({image.tobytes() for image in shown}) == steps + 1 and not direct:
            return start, actions, shown[1:]
    raise AssertionError("no problem in 1,000 attempts")


def next_action(world: World, rng: random.Random, shown: Sequence[Image.Image]) -> str:
    """A random action of a random kind (its first word) that alone explains what it changes; "" where none is found."""
    by_kind: dict[str, list[str]] = {}
    for text in world.possible(shown[-1]):
        by_kind.setdefault(text.split()[0], []).append(text)
    kinds = sorted(kind for kind in by_kind if kind not in NO_STEP)
    for _ in range(20):
        action = rng.choice(by_kind[rng.choice(kinds)])
        after = world.play(shown[-1], [action])
        said = world.action_between(shown[-1], after[0]) if after else None
        if said is not None and world.same_action(said, action):
            return action
    return ""


class Simulator:
    """The world in place of a forward model."""

    def __init__(self, world: World) -> None:
        self.world = world

    def sample(
        self,
        sources: Sequence[Frame],
        actions: Sequence[str],
        n: int,
        seed: int,
        sampling: Sampling = Sampling(),
    ) -> list[list[Candidate]]:
        images = [image_of(source) for source in sources]
        return [[Candidate((self.world.play(i, [a]) or [i])[0])] * n for i, a in zip(images, actions, strict=True)]


def enumerate_plans(
    world: World, model: ForwardModel, start: Image.Image, goal: Image.Image, steps: int, beam: int
) -> tuple[list[str], int]:
    """The actions that come nearest to the goal when all possible ones are tried, and the predictions made."""
    begin, end, _ = as_imagined(model, start, goal)
    grid, goal, calls = GRIDS[world.name], end.image, 0
    nodes: list[tuple[Candidate, list[str]]] = [(begin, [])]
    best: tuple[int, list[str]] = (int(changed_cells(goal, begin.image, grid).sum()), [])
    for _ in range(steps):
        asked = [
            (frame, done, action)
            for frame, done in nodes
            for action in world.possible(start if frame is begin else frame.image)
        ]
        outcomes: list[Candidate] = []
        for at in range(0, len(asked), 64):
            some = asked[at : at + 64]
            sampled = model.sample([f for f, _, _ in some], [a for _, _, a in some], 1, 0, Sampling(temperature=0.0))
            outcomes += [candidates[0] for candidates in sampled]
        calls += len(asked)
        far = [int(changed_cells(goal, outcome.image, grid).sum()) for outcome in outcomes]
        nodes, seen = [], []
        for i in sorted(range(len(asked)), key=lambda i: (far[i], -outcomes[i].logprob.sum)):
            best = min(best, (far[i], [*asked[i][1], asked[i][2]]), key=lambda b: b[0])
            if len(nodes) < beam and not any(not changed_cells(outcomes[i].image, s, grid).any() for s in seen):
                seen.append(outcomes[i].image)
                nodes.append((outcomes[i], [*asked[i][1], asked[i][2]]))
        if best[0] == 0 or not asked:
            break
    return best[1], calls


def reaches(world: World, start: Image.Image, actions: Sequence[str], goal: Image.Image) -> tuple[bool, bool]:
    """Whether actions end in the goal's scene; and whether but for the agent, in a world that has one."""
    shown = world.play(start, actions) if actions else None
    if not shown:
        return False, False
    exact = shown[-1].tobytes() == goal.tobytes()
    if exact or world.name != "babyai":
        return exact, exact
    from retrodict.worlds.babyai.images import read
    from retrodict.worlds.babyai.tiles import FLOOR, agents, having

    states = read([shown[-1], goal])
    without = [having(state, agents(state)[0].cell, FLOOR) for state in states]
    return False, without[0] == without[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--world", default="tabletop")
    parser.add_argument("--model", default="small")
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--items", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="of the problems")
    parser.add_argument("--methods", nargs="+", default=["plan", "random", "simulator"])
    parser.add_argument("--proposals", type=int, default=16)
    parser.add_argument("--beam", type=int, default=4)
    parser.add_argument("--out", type=Path, default=Path("planning.jsonl"))
    parser.add_argument("--calibrate", action="store_true", help="store the curve of these plans beside the model")
    args = parser.parse_args()
    world = get_world(args.world)
    forward, inverse = load(args.model, role="forward"), load(args.model, role="inverse")
    known = [json.loads(line) for line in args.out.read_text().splitlines()] if args.out.exists() else []
    done = {(r["world"], r["model"], r["steps"], r["method"], r["seed"], r["item"]) for r in known}

    def planned(start: Image.Image, goal: Image.Image, steps: int) -> tuple[list[str], int, Plan | None]:
        found = plan(
            forward, inverse, start, goal, steps=steps, proposals=args.proposals, beam=args.beam, seed=args.seed
        )
        return list(found.actions), found.predictions, found

    def at_random(start: Image.Image, goal: Image.Image, steps: int) -> tuple[list[str], int, None]:
        rng, actions, image = random.Random(start.tobytes() + goal.tobytes()), [], start
        for _ in range(steps):
            options = [a for a in world.possible(image) if world.play(image, [a])]
            actions.append(rng.choice(options))
            image = (world.play(image, actions[-1:]) or [image])[0]
        return actions, 0, None

    def tried(model: ForwardModel, beam: int) -> Callable[..., tuple[list[str], int, None]]:
        return lambda start, goal, steps: (*enumerate_plans(world, model, start, goal, steps, beam), None)

    methods: dict[str, Callable[..., tuple[list[str], int, Plan | None]]] = {
        "plan": planned,
        "random": at_random,
        "enumerate": tried(forward, args.beam),
        "simulator": tried(Simulator(world), args.beam),
    }
    for steps in args.steps:
        for item in range(args.items):
            start, truth, shown = problem(world, steps, 1000 * args.seed + item)
            for method in args.methods:
                if (args.world, args.model, steps, method, args.seed, item) in done:
                    continue
                began = time.process_time()
                actions, calls, found = methods[method](start, shown[-1], steps)
                exact, things = reaches(world, start, actions, shown[-1])
                record = {
                    "world": args.world,
                    "model": args.model,
                    "steps": steps,
                    "method": method,
                    "seed": args.seed,
                    "item": item,
                    "exact": exact,
                    "things": things,
                    "probability": found.probability if found else None,
                    "confidence": found.confidence if found else None,
                    "predictions": calls,
                    "seconds": time.process_time() - began,
                    "actions": actions,
                    "truth": truth,
                }
                known.append(record)
                with args.out.open("a") as file:
                    file.write(json.dumps(record) + "\n")
        for method in args.methods:
            rows = [r for r in known if (r["world"], r["steps"], r["method"]) == (args.world, steps, method)]
            rates = {key: wilson(sum(r[key] for r in rows), len(rows)) for key in ("exact", "things")}
            believed = [r["confidence"] for r in rows if r["confidence"] is not None]
            print(
                f"{args.world} {steps} steps, {method}: "
                + ", ".join(f"{key} {e.mean:.3f} [{e.low:.3f}, {e.high:.3f}]" for key, e in rates.items())
                + f", n {len(rows)}, predictions {sum(r['predictions'] for r in rows) / len(rows):.1f}"
                + (f", believed {sum(believed) / len(believed):.3f}" if believed else "")
                + f", {sum(r['seconds'] for r in rows) / len(rows):.2f} CPU-s each",
                flush=True,
            )
    if args.calibrate:
        folder = folder_of(args.model, "forward")
        rows = [r for r in known if (r["world"], r["model"], r["method"]) == (args.world, args.model, "plan")]
        for count in args.steps:
            found_plans = [r for r in rows if r["probability"] and len(r["actions"]) == count]
            scores = [math.log(r["probability"]) for r in found_plans]
            curve = fit(scores, [float(r["things"]) for r in found_plans])
            write(folder, read(folder) | {CALIBRATED.format(count): curve})


if __name__ == "__main__":
    main()

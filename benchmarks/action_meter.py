"""Does the action meter tell a model that uses the action from one that cannot? FT of the demo, with true and with
shuffled labels.

    python benchmarks/action_meter.py --out meter --seeds 0-9

For each seed, 900 labelled pairs of *tabletop* and the demo's settings; "shuffled" gives every pair the label of
another one. The meter reads 48 held-out pairs. What is done is not done again. The threshold (`action_meter.LEAST`) was
chosen on seeds from 100 on.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from retrodict.bootstrap.loop import RECIPES
from retrodict.bootstrap.recipe import BootstrapRecipe
from retrodict.files import made_once
from retrodict.loading import load_family
from retrodict.recipes import load_recipe
from retrodict.training.action_meter import ActionMeter, describe, warning
from retrodict.training.config import METER
from retrodict.training.data import stored_transitions
from retrodict.training.image_tokenizer import learn_tokenizer
from retrodict.training.recipe import from_nothing
from retrodict.training.run import train_model
from retrodict.transitions import Transition, write_rows
from retrodict.worlds import get_world


def measured(folder: Path, recipe: BootstrapRecipe, labels: str, seed: int) -> dict[str, object]:
    """The meter of one model and the seconds that it took beside those of training, from `folder` where it is there."""
    assert recipe.world is not None
    world = get_world(recipe.world.name)
    rows = world.sample(recipe.world.labelled, seed, namespace="demo-labelled", split="train")
    test = world.sample(recipe.world.test, seed, namespace="demo-test", split="test")
    write_rows(folder / "rows" / "rows.parquet", shuffled(rows, seed) if labels == "shuffled" else rows)
    write_rows(folder / "test" / "rows.parquet", test)
    stored, held_out = stored_transitions(folder / "rows"), stored_transitions(folder / "test")
    learn_tokenizer(stored, recipe.tokenizer, seed, folder / "image_tokenizer")
    began = time.process_time()
    train_model(
        from_nothing(folder / "image_tokenizer", world.vocabulary(), recipe.model),
        "forward",
        stored,
        recipe.forward,
        folder / "ft",
        seed=seed,
        held_out=held_out,
    )
    trained = time.process_time()
    meter: dict[str, object] = ActionMeter(load_family(folder / "ft"), "forward", held_out).measure()
    return meter | {"seconds": {"training": trained - began, "meter": time.process_time() - trained}}


def shuffled(rows: list[Transition], seed: int) -> list[Transition]:
    actions = [row.action for row in rows]
    random.Random(seed).shuffle(actions)
    return [replace(row, action=action) for row, action in zip(rows, actions, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", default="0-9", help="the first and the last one")
    parser.add_argument("--steps", type=int, help="of training; by default the demo's")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    first, last = map(int, arguments.seeds.split("-"))
    right = dict.fromkeys(("true", "shuffled"), 0)
    for seed in range(first, last + 1):
        changes = [f"seed={seed}", "world.test=100"]  # of which the meter takes 48
        changes += [f"forward.steps={arguments.steps}"] if arguments.steps else []
        recipe = load_recipe(RECIPES / "demo.yaml", BootstrapRecipe, changes)
        for labels in right:
            folder = arguments.out / f"{labels}-{seed}"
            meter = made_once(folder / METER, partial(measured, folder, recipe, labels, seed))
            meter["warning"] = warning(meter)  # by the threshold of today
            right[labels] += ("does not use" in meter["warning"]) == (labels == "shuffled")
            took = meter["seconds"]
            share = meter["difference"]["difference"] / meter["shuffled"]["loss"]
            print(f"{seed} {labels}: {describe(meter)}")
            print(
                f"  difference {share:.3f} of the loss; meter {took['meter']:.1f} s, training {took['training']:.1f} s"
            )
    print(json.dumps({f"right on {labels} labels": f"{n} of {last - first + 1}" for labels, n in right.items()}))


if __name__ == "__main__":
    main()

"""When do recognition weights help? Forward models on a finished demo's data, alike but for the weighting.

    retrodict demo --out demo && python benchmarks/weighting.py demo --out demo-weighting

Each variant sees the same transitions for the same number of steps and is measured on the demo's test scenes; all are
compared with even weights item by item. Variants that are done are not trained again.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from retrodict.bootstrap.context import Context
from retrodict.bootstrap.recipe import BootstrapRecipe
from retrodict.bootstrap.stages import bootstrapped, train
from retrodict.evaluation.bench import compare, estimate, evaluate, read_predictions, write_predictions
from retrodict.evaluation.pool import exact_scorer
from retrodict.files import write_json
from retrodict.loading import load
from retrodict.progress.view import open_progress
from retrodict.recipes import EFFECTIVE, load_recipe
from retrodict.training.config import Weighting
from retrodict.transitions import read_transitions
from retrodict.worlds import get_world

SCORER = exact_scorer(get_world("tabletop"))

VARIANTS = {
    "recognition": Weighting(method="recognition"),
    "recognition, last half": Weighting(method="recognition", start=0.5),
    "softened, clip 3": Weighting(method="softened", clip=3.0),
    "softened, clip 3, last half": Weighting(method="softened", clip=3.0, start=0.5),
    "softened, clip 10": Weighting(method="softened", clip=10.0),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS), choices=list(VARIANTS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    context = Context(arguments.demo, load_recipe(arguments.demo / EFFECTIVE, BootstrapRecipe))
    seed = context.recipe.seed
    test, rows = read_transitions(context.dir("test")), bootstrapped(context)
    even = read_predictions(context.dir("predictions") / "fdm.parquet")
    results = {"none": {"greedy": estimate(even)}}
    with open_progress(title="recognition weights") as progress:
        for name in arguments.variants:
            progress.stage(name)
            folder = arguments.out.resolve() / name.replace(", ", "-").replace(" ", "-")
            train(context, progress, folder, "forward", rows, VARIANTS[name])
            file = folder / "predictions.parquet"
            if not file.is_file():
                model = load(folder, role="forward")
                write_predictions(file, evaluate(model, test, scorer=SCORER, n=0, seed=seed, progress=progress))
            items = read_predictions(file)
            paired = compare(items, even, names=(name, "none"))
            results[name] = {"greedy": estimate(items), "against_none": paired}
            progress.done(f"{results[name]['greedy']['score']:.3f}")
    write_json(arguments.out / "results.json", results)
    for name, entry in results.items():
        greedy, paired = entry["greedy"], entry.get("against_none")
        line = f"{name:30} {greedy['score']:.3f}  copies {greedy['copy_rate']:.2f}"
        if paired:
            low, high = paired["ci95"]
            line += f"  against none {paired['difference']:+.3f} [{low:+.3f}, {high:+.3f}]  n {paired['n']}"
        print(line)


if __name__ == "__main__":
    main()

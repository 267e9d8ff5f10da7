"""Peak memory of `annotate`, `select` and `train` by number of pairs: it should not grow with them.

    python benchmarks/memory.py --pairs 10000 100000

Makes folders of pairs of small images, of which 512 differ, and runs each command in a process of its own, with an
inverse model that says one of a few sentences; training tokenizes all images and takes a few steps of a tiny model.
Prints the peak resident memory of each, and its ratio to that of the first number.
"""

from __future__ import annotations

import argparse
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from retrodict.models.protocol import Explanation, LogProb, Pair
from retrodict.transitions import FramePair, encode_png, write_rows

FILE, SIDE, CLASSES, POOL = 640, 64, 20, 512  # pairs of a file, pixels, classes, different images
NAMES = ("pairs", "labelled", "chosen", "model")


RECIPE = """
direction: forward
data: {{train: [{{path: {rows}}}], val_share: 0.01}}
tokenizer: {{patch: 16, codes: 64}}
model: {{hidden: 16, layers: 1, heads: 2}}
training: {{steps: 5, per_device_batch_size: 4}}
"""


class Stub:
    """An inverse model whose labels are hashes of the target."""

    def explain(self, pairs: Sequence[Pair]) -> list[Explanation]:
        sums = [int(np.asarray(target).sum()) for _, target in pairs]
        return [Explanation(f"do {n % 7}", LogProb(-float(n % 1000), 3), "stub") for n in sums]


def make(folder: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    frames = [Image.fromarray(f) for f in rng.integers(0, 256, (POOL, SIDE // 8, SIDE // 8, 3), np.uint8)]
    images = [encode_png(frame.resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for frame in frames]

    def rows(start: int) -> Iterator[FramePair]:
        for number in range(start, min(start + FILE, count)):
            yield FramePair(
                id=f"clip{number:07d}.mp4@0-20",
                category=f"class {random.Random(number).randrange(CLASSES)}",
                source=images[number % POOL],
                target=images[number * 7 % (POOL - 1)],
            )

    for start in range(0, count, FILE):
        write_rows(folder / f"pairs-{start:07d}.parquet", rows(start), FramePair)


def run(stage: str, given: str, out: str, top_k: str) -> None:
    """One command, in this process; prints its peak in kilobytes."""
    if stage == "annotate":
        from retrodict.bootstrap import annotate

        annotate.load = lambda name, role: Stub()  # type: ignore[assignment]
        annotate.annotate_dir(Path(given), model="stub", out=Path(out))
    elif stage == "train":
        from retrodict.progress import QuietProgress
        from retrodict.recipes import load_recipe
        from retrodict.training.config import TrainRecipe
        from retrodict.training.recipe import train_recipe

        recipe = Path(out).with_suffix(".yaml")
        recipe.write_text(RECIPE.format(rows=given))
        train_recipe(load_recipe(recipe, TrainRecipe), Path(out), QuietProgress())
    else:
        from retrodict.bootstrap.select import select_dir

        select_dir(Path(given), top_k=int(top_k), out=Path(out))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--stages", nargs="+", default=["annotate", "select", "train"])
    parser.add_argument("--stage", nargs=4, metavar=("STAGE", "IN", "OUT", "TOP_K"))
    options = parser.parse_args()
    if options.stage:
        run(*options.stage)
        return
    first: dict[str, int] = {}
    for count in options.pairs:
        with tempfile.TemporaryDirectory() as folder:
            pairs, labelled, chosen, trained = (Path(folder, name) for name in NAMES)
            make(pairs, count)
            size = sum(file.stat().st_size for file in pairs.iterdir()) / 1e6
            print(f"{count:,} pairs, {size:,.0f} MB on disk", flush=True)
            stages = (("annotate", pairs, labelled), ("select", labelled, chosen), ("train", labelled, trained))
            for stage, given, out in stages:
                if stage not in options.stages:
                    continue
                command = [sys.executable, __file__, "--stage", stage, str(given), str(out), str(count * 6 // 10)]
                began = time.monotonic()
                peak = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])
                ratio = peak / first.setdefault(stage, peak)
                print(
                    f"  {stage}: peak {peak / 1024:,.0f} MiB, {ratio:.2f}x, {time.monotonic() - began:.0f} s",
                    flush=True,
                )


if __name__ == "__main__":
    main()

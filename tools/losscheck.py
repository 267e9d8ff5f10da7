"""Whether training still computes the same: 50 steps of the small family, twice, and beside stored losses.

    python tools/losscheck.py [--write]

Two runs of the forward model must agree to the last bit. Stored losses, which other machines and instruction sets
compute with other digits, must agree within 1 %: a change that is meant to leave training as it is passes, and one that
is not writes new ones with --write and says why in its commit.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from retrodict.progress import QuietProgress
from retrodict.recipes import load_recipe
from retrodict.training.config import LOG, TrainRecipe
from retrodict.training.recipe import train_recipe
from retrodict.transitions import write_manifest, write_rows
from retrodict.worlds import get_world

STORED = Path(__file__).with_suffix(".json")
RECIPE = """
direction: {direction}
data: {{train: labelled, val_share: 0}}
model: {{hidden: 64, layers: 2, heads: 2}}
training: {{steps: 50, per_device_batch_size: 8, bf16: false}}
"""


def losses(folder: Path, direction: str) -> list[float]:
    """The logged losses of a run in a new folder."""
    (folder / "recipe.yaml").write_text(RECIPE.format(direction=direction))
    train_recipe(load_recipe(folder / "recipe.yaml", TrainRecipe), out=folder / direction, progress=QuietProgress())
    lines = (folder / direction / LOG).read_text().splitlines()
    return [line["loss"] for line in map(json.loads, lines) if "loss" in line]


def run(*directions: str) -> dict[str, list[float]]:
    with tempfile.TemporaryDirectory() as name:
        rows = get_world("tabletop").sample(48, 0, namespace="losscheck")
        labelled = Path(name) / "labelled"
        labelled.mkdir()
        write_rows(labelled / "transitions-00000.parquet", rows)
        write_manifest(labelled, kind="transitions", config={}, kept=len(rows), dropped={})
        return {direction: losses(Path(name), direction) for direction in directions}


def main() -> int:
    first, second = run("inverse", "forward"), run("forward")
    if first["forward"] != second["forward"]:
        print(f"Two runs differ: {first['forward']} and {second['forward']}.", file=sys.stderr)
        return 1
    if "--write" in sys.argv:
        STORED.write_text(json.dumps(first, indent=1) + "\n")
    stored = json.loads(STORED.read_text())
    off = {d: max(abs(a / b - 1) for a, b in zip(first[d], stored[d], strict=True)) for d in stored}
    print(", ".join(f"{d}: last loss {first[d][-1]:.6f}, largest change {off[d]:.2e}" for d in off))
    return int(max(off.values()) > 0.01)


if __name__ == "__main__":
    sys.exit(main())

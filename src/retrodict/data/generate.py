"""Labelled transitions of a world, in files that any number of processes make."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from retrodict.progress import Progress, QuietProgress
from retrodict.run_folder import claim
from retrodict.shards import ALL, Shard, Where, run_shards
from retrodict.transitions import write_manifest, write_rows
from retrodict.worlds import get_world

ROWS = 500  # of a file


def generate_dir(
    world: str,
    out: Path,
    *,
    pairs: int,
    seed: int = 0,
    split: str = "train",
    where: Where = ALL,
    progress: Progress | None = None,
) -> bool:
    """Write labelled transitions of a world. Each file is a stream of its own, so no file waits for another.

    Args:
        world: its name.
        out: a new folder, or that of an earlier call with the same arguments.
        pairs: how many transitions.
        seed: of everything random.
        split: "train", or "test" or "val" for scenes that no training data shows.
        where: which of several processes this is, or a Ray cluster.
        progress: advances with the files.

    Returns:
        Whether all files are made; else other processes are still at their shares.

    Raises:
        ValueError: there is no such world, or `out` is another run's.
    """
    settings = {"world": get_world(world).name, "pairs": pairs, "seed": seed, "split": split}
    claim(out, "generate", settings)
    plan = partial(_shards, world, out, pairs, seed, split)
    if run_shards(plan(), where, progress or QuietProgress(), plan):
        return False
    write_manifest(out, kind="transitions", config=settings, kept=pairs, dropped={})
    return True


def _shards(world: str, out: Path, pairs: int, seed: int, split: str) -> list[Shard]:
    def shard(number: int, rows: int) -> Shard:
        file = out / f"transitions-{number:05d}.parquet"

        def make(tell: Callable[[int], None]) -> None:
            namespace = f"generated-{number}-{split}"  # a stream is held out by the last part of its name
            write_rows(file, get_world(world).sample(rows, seed, namespace=namespace, split=split))

        return Shard(file.is_file, make, rows)

    return [shard(number, min(ROWS, pairs - start)) for number, start in enumerate(range(0, pairs, ROWS))]

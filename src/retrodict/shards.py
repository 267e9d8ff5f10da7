"""Shares of work: files are the queue.

A stage that makes one file of each part of its input can be shared by any number of processes that see the same
folders. Each makes the files of its share, one part in memory at a time; a file appears whole or not at all and is
left alone where it is there, so a process that died is started again and repeats nothing but the file that it was at.
Whoever finds all files there finishes the stage.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from retrodict.progress import Progress


class Share(NamedTuple):
    """Which process this is, from 0, of how many."""

    number: int = 0
    total: int = 1

    def takes(self, part: int) -> bool:
        """Whether the part of this number is this process's."""
        return part % self.total == self.number


ALL = Share()


def share_of_process(shard: str = "") -> Share:
    """The share that was asked for, else that of a launcher, else everything.

    Args:
        shard: "2/8", the second of eight processes, which may run anywhere and at any time.

    Returns:
        Without `shard`, what `torchrun` says (`RANK`, `WORLD_SIZE`), or a Slurm job array (`SLURM_ARRAY_TASK_*`).

    Raises:
        ValueError: `shard` does not say so.
    """
    if shard:
        if not (said := re.fullmatch(r"(\d+)/(\d+)", shard)) or not 1 <= int(said[1]) <= int(said[2]):
            raise ValueError(f'"{shard}" is no share: --shard 2/8 is the second of eight.')
        return Share(int(said[1]) - 1, int(said[2]))
    variables = os.environ
    if "RANK" in variables and "WORLD_SIZE" in variables:
        return Share(int(variables["RANK"]), int(variables["WORLD_SIZE"]))
    if "SLURM_ARRAY_TASK_ID" in variables and "SLURM_ARRAY_TASK_COUNT" in variables:
        first, step = (int(variables.get(f"SLURM_ARRAY_TASK_{name}", default)) for name, default in _ARRAY)
        return Share((int(variables["SLURM_ARRAY_TASK_ID"]) - first) // step, int(variables["SLURM_ARRAY_TASK_COUNT"]))
    return ALL


_ARRAY = (("MIN", "0"), ("STEP", "1"))


@dataclass(frozen=True)
class Shard:
    """A part of a stage's work, which gives one file.

    Attributes:
        is_made: whether the file is there, made of what the part is now.
        make: makes it; is told how to say how many rows are done.
        rows: how many rows the part has.
    """

    is_made: Callable[[], bool]
    make: Callable[[Callable[[int], None]], object]
    rows: int


def run_shards(shards: Sequence[Shard], share: Share, progress: Progress) -> int:
    """Make what is missing of a share.

    Returns:
        How many shards are not made yet: others are still at their shares. The stage is finished by every process that
        finds 0.
    """
    total, done = sum(shard.rows for shard in shards), 0
    for number, shard in enumerate(shards):

        def tell(rows: int, before: int = done) -> None:
            progress.advance(before + rows, total)

        if share.takes(number) and not shard.is_made():
            shard.make(tell)
        done += shard.rows
        progress.advance(done, total)
    return sum(not shard.is_made() for shard in shards)

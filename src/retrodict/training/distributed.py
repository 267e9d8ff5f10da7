"""Ranks that work together, as `torchrun` and `accelerate launch` start them."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch

from retrodict.placement import chosen_device

T = TypeVar("T")


def process_count() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def process_number() -> int:
    """This process's rank; 0 is the one that writes."""
    return int(os.environ.get("RANK", "0"))


def is_main() -> bool:
    return process_number() == 0


def join() -> None:
    """Connect the ranks, where there are several, and let them wait for each other as long as it takes."""
    if process_count() > 1 and not torch.distributed.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if chosen_device().type == "cuda" else "gloo"
        torch.distributed.init_process_group(backend, timeout=timedelta(days=30))  # rank 0 may mine for days


class RankError(ValueError):
    """Another rank failed, and has said why."""


def meet(error: BaseException | None = None) -> None:
    """Wait until all ranks are here, or have failed with an `error`. Raises `RankError` when another one has.

    Once one has failed, all leave: a process that ends with its group alive is now and then aborted instead, because
    the group's threads still ask for an interpreter that is gone.
    """
    if process_count() == 1:
        return
    said: list[str | None] = [None] * process_count()
    torch.distributed.all_gather_object(said, None if error is None else str(error) or type(error).__name__)
    if any(said):
        leave()
    for rank, reason in enumerate(said):
        if reason is not None and error is None:
            raise RankError(f"rank {rank} failed: {reason}")


def agreed(value: T) -> T:
    """Rank 0's value, on every rank."""
    values = [value]
    if process_count() > 1:
        torch.distributed.broadcast_object_list(values, src=0)
    return values[0]


def leave() -> None:
    """Destroy the process group, so that no rank waits for this one."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def wait_for(paths: Sequence[Path], what: str) -> None:
    """Wait for files or folders that other ranks make, as long as new ones appear.

    Files and not a barrier, because making them may take longer than a barrier waits. Where another rank dies, the
    launcher ends this one, too; where its disk is another one, nothing ever appears here.

    Args:
        paths: what is waited for.
        what: what it is, in words.

    Raises:
        ValueError: nothing has appeared for an hour, or the seconds that `RETRODICT_PATIENCE` says.
    """
    patience = float(os.environ.get("RETRODICT_PATIENCE", "3600"))
    missing, since, said = list(paths), time.monotonic(), False
    while left := [path for path in missing if not path.exists()]:
        if len(left) < len(missing):
            missing, since = left, time.monotonic()
        waited, who = time.monotonic() - since, f"rank {process_number()}"
        which = f"{len(left):,} of {len(paths):,} {what}, such as {left[0]}"
        if waited > patience:
            raise ValueError(
                f"{who} gives up: for {patience:.0f} s no other rank has made any of {which}. All ranks must see the "
                "same --out and data.cache; where disks are not shared, see docs/scale.md."
            )
        if waited > SAY_AFTER and not said:
            sys.stderr.write(f"{who} waits for {which}, which other ranks make\n")
            said = True
        time.sleep(0.2)


SAY_AFTER = 60.0  # seconds

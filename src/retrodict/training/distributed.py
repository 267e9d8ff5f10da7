"""Ranks that work together, as `torchrun` and `accelerate launch` start them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import timedelta
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
    """Wait until all ranks are here, or have failed with an `error`. Raises `RankError` when another one has."""
    if process_count() == 1:
        return
    said: list[str | None] = [None] * process_count()
    torch.distributed.all_gather_object(said, None if error is None else str(error) or type(error).__name__)
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


def wait_until(done: Callable[[], bool], seconds: float = 0.2) -> None:
    """Wait for what another process does. Where that one dies, the launcher ends this one, too.

    Files and not a barrier, because tokenizing may take longer than a barrier waits.
    """
    while not done():
        time.sleep(seconds)

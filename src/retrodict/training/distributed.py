"""Several processes that train together, as `torchrun` and `accelerate launch` start them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import torch
from torch import nn


def process_count() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def process_number() -> int:
    """This process's number; 0 is the one that writes."""
    return int(os.environ.get("RANK", "0"))


def is_main() -> bool:
    return process_number() == 0


def to_accelerator(module: nn.Module) -> None:
    """Move a module to this process's GPU, where there is one."""
    if torch.cuda.is_available():
        module.to(f"cuda:{os.environ.get('LOCAL_RANK', '0')}")


def leave() -> None:
    """Say goodbye to the other processes, so that none waits for this one."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def wait_until(done: Callable[[], bool], seconds: float = 0.2) -> None:
    """Wait for what another process does. Where that one dies, the launcher ends this one, too.

    Files and not a barrier, because tokenizing may take longer than a barrier waits.
    """
    while not done():
        time.sleep(seconds)

"""On which device models run, and in which type: decided here, for every command.

Both are environment variables, so that processes that a command starts follow it: `RETRODICT_DEVICE` and
`RETRODICT_DTYPE`, or `--device` and `--dtype`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import nn

DEVICE, DTYPE = "RETRODICT_DEVICE", "RETRODICT_DTYPE"
AUTO = "auto"
FOUR_BIT = "4bit"  # the layers' weights alone, by bitsandbytes; all else in the type that it is stored in
DTYPES = ("float32", "bfloat16", "float16", FOUR_BIT)


def chosen_device() -> torch.device:
    """The device that models run on: that of `RETRODICT_DEVICE`, else a GPU where there is one.

    Of several GPUs it is the one with the number that `torchrun` gives this process (`LOCAL_RANK`).

    Raises:
        ValueError: there is no such device.
    """
    import torch

    name = os.environ.get(DEVICE) or AUTO
    if name == AUTO:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        name = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"There is no device {name!r}: use cpu, cuda, cuda:1 or mps.") from None
    usable = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not usable.get(device.type, False):
        raise ValueError(f"This machine, or its PyTorch, has no device {name!r}: use cpu.")
    return device


def chosen_dtype() -> torch.dtype | None:
    """The type that `RETRODICT_DTYPE` asks for; None for the type that weights are stored in, and for 4 bits.

    Raises:
        ValueError: it is none of `DTYPES`.
    """
    import torch

    name = os.environ.get(DTYPE) or AUTO
    if name not in (AUTO, *DTYPES):
        raise ValueError(f"There is no type {name!r}: use {', '.join(DTYPES)} or {AUTO}.")
    dtype: torch.dtype | None = None if name in (AUTO, FOUR_BIT) else getattr(torch, name)
    return dtype


def in_four_bits() -> bool:
    """Whether the weights of layers are asked for in 4 bits."""
    return os.environ.get(DTYPE) == FOUR_BIT


def place(module: nn.Module) -> None:
    """Move a module to the chosen device, its weights in the type that they have; one in 4 bits was loaded there."""
    if not getattr(module, "is_quantized", False):
        module.to(chosen_device())


@contextmanager
def asked_for(device: str, dtype: str) -> Iterator[None]:
    """While the block runs, models go there; "auto" leaves it as it was. Raises `ValueError` for what there is not."""
    asked = {name: value for name, value in ((DEVICE, device), (DTYPE, dtype)) if value != AUTO}
    before = {name: os.environ.get(name) for name in asked}
    os.environ.update(asked)
    try:
        if asked:
            chosen_device(), chosen_dtype()
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def settings() -> dict[str, str]:
    """What of it changes a result beyond rounding, where it is not the default: a type that was asked for."""
    dtype = os.environ.get(DTYPE) or AUTO
    return {} if dtype == AUTO else {"dtype": dtype}

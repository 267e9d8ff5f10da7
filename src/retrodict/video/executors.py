"""Where clips are mined: in this process, in worker processes, or on a Ray cluster. The output is the same."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import Literal, Protocol

from retrodict.video.clip_miner import process_clip
from retrodict.video.clips import ClipRef, ClipResult
from retrodict.video.config import MineConfig
from retrodict.video.pool import Pool

ExecutorName = Literal["serial", "processes", "ray"]


class Executor(Protocol):
    """Mines clips and yields their results in the order given."""

    def map(self, refs: Iterable[ClipRef]) -> Generator[ClipResult, None, None]: ...


class Serial:
    """In this process, one after the other. A clip that crashes a codec takes the run with it: for debugging."""

    def __init__(self, config: MineConfig) -> None:
        self._config = config

    def map(self, refs: Iterable[ClipRef]) -> Generator[ClipResult, None, None]:
        for ref in refs:
            yield process_clip(ref, self._config)


def executor(name: str, config: MineConfig, *, workers: int, timeout: float, retries: int) -> Executor:
    """The executor of that name. Raises `ValueError` when there is none, or its extra is not installed."""
    if name == "serial":
        return Serial(config)
    if name == "processes":
        return Pool(config, workers=workers, timeout=timeout, retries=retries)
    if name == "ray":
        from retrodict.video.on_ray import OnRay

        return OnRay(config, timeout=timeout, retries=retries)
    raise ValueError(f"executor is {name!r}: choose one of serial, processes, ray.")

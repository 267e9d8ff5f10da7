"""A clip that is asked for, and what became of it. Plain data that crosses process borders; no pyarrow here."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class ClipRef:
    """One clip to mine: a file, or the part of it from `start` to `stop` seconds."""

    path: Path
    name: str  # unique in a run; relative to the mined folder
    category: str = ""
    group: str = ""  # clips of one group never straddle a split; the clip's own name when empty
    start: float = 0.0
    stop: float | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)  # what the layout knows; goes to the provenance

    @property
    def is_segment(self) -> bool:
        return self.start > 0 or self.stop is not None


@dataclass(frozen=True, kw_only=True)
class Keyframe:
    """A picked frame ("motion keyframe": not the codec's I-frame)."""

    index: int  # in decode order, from the start of the file
    seconds: float
    pts: int | None
    motion: float  # per second; frame widths for flow, full scale for `fast`
    sharpness: float  # variance of the Laplacian of the halved luma plane, grey levels squared
    shot: int
    image: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True)
class ClipResult:
    """What one clip gave. `reason` is empty when it gave pairs; a clip that failed is a result like any other."""

    ref: ClipRef
    keyframes: tuple[Keyframe, ...] = ()
    pairs: tuple[tuple[int, int], ...] = ()  # positions in `keyframes`
    reason: str = ""
    detail: str = ""
    sha256: str = ""
    frames: int = 0  # decoded
    duplicates: int = 0
    corrupt_packets: int = 0
    cuts: tuple[int, ...] = ()  # first frame of each new shot
    duration: float = 0.0  # seconds
    fps: float = 0.0
    time_base: str = ""
    straddling: int = 0  # neighbouring picks that made no pair because a cut lies between them
    unlike: int = 0  # those that made none because they have nothing in common


def readable(text: str) -> str:
    """Names of files may hold bytes that are no text, which no Parquet file or page can: here they are escaped."""
    return os.fsencode(text).decode("utf-8", "backslashreplace")


class ClipError(Exception):
    """A clip cannot be mined: `reason` is a word for counting, the message says more. Never leaves `process_clip`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason

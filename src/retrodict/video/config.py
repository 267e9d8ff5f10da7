"""What mining may be told: one frozen, picklable, hashable set of settings."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

Motion = Literal["flow", "fast", "reference"]
Selection = Literal["exact", "paper"]

# Part of every config hash: raise it when the same settings would give other pairs.
ALGORITHM = 2


@dataclass(frozen=True, kw_only=True)
class MineConfig:
    """Settings of `mine` that change its output. Raises `ValueError` when one makes no sense.

    The paper (arXiv 2506.06006, sec. 3.2) keeps K_f = 6 frames at least I_f = 20 frames apart, ranked by optical flow:
    `MineConfig(selection="paper", motion="reference", cuts=False)`.
    """

    motion: Motion = "flow"  # DIS on a small luma plane; `fast` frame difference; `reference` full-size Farneback
    selection: Selection = "exact"  # most frames, then most pairs, then most motion; `paper` greedy top-K_f
    frames_per_clip: int = 6  # K_f
    min_gap: int | str = 20  # I_f: frames, or seconds as "0.8s"
    snap: str = "0.3s"  # how far `exact` may move a pick to a sharper frame; "0s" never
    cuts: bool = True  # find shot boundaries and make no pair across one
    compensate_camera: bool = False  # rank by what is left of the flow after a global affine motion
    min_motion: float = 0.002  # mean flow in frame widths per second below which a clip is static
    frames: bool = True  # store the pictures; without them they are decoded again on demand
    jpeg_quality: int = 95

    def __post_init__(self) -> None:
        _one_of("motion", self.motion, get_args(Motion))
        _one_of("selection", self.selection, get_args(Selection))
        if self.frames_per_clip < 2:
            raise ValueError(f"frames_per_clip is {self.frames_per_clip}: a pair needs at least 2 frames.")
        if not 1 <= self.jpeg_quality <= 100:
            raise ValueError(f"jpeg_quality is {self.jpeg_quality}: give 1 to 100.")
        if not (math.isfinite(self.min_motion) and self.min_motion >= 0):
            raise ValueError(f"min_motion is {self.min_motion}: give a number of frame widths per second, 0 or more.")
        if self.compensate_camera and self.motion != "flow":
            raise ValueError("compensate_camera needs motion 'flow': the other measures have no flow field to correct.")
        self.gap()
        seconds(self.snap, "snap")

    def gap(self) -> tuple[float, bool]:
        """The least distance of two picks, and whether it is in seconds (else in frames)."""
        text = str(self.min_gap).strip()
        if text.endswith("s"):
            return seconds(text, "min_gap", least=1e-6), True
        if not text.isdecimal() or int(text) < 1:
            raise ValueError(f'min_gap is {self.min_gap!r}: give a number of frames such as 20, or seconds as "0.8s".')
        return float(int(text)), False

    def digest(self) -> str:
        """Twelve hex digits that change when the settings (or the algorithm) do."""
        text = json.dumps({"algorithm": ALGORITHM, **self.to_dict()}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def seconds(text: str, name: str, least: float = 0.0) -> float:
    """Seconds in a text such as "0.8s"."""
    try:
        value = float(str(text).strip().removesuffix("s"))
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= least):
        raise ValueError(f'{name} is {text!r}: give seconds such as "0.8s".')
    return value


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}: choose one of {', '.join(allowed)}.")

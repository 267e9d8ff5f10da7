"""Settings of mining: one frozen, picklable, hashable set of settings."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field
from typing import ClassVar, Literal, get_args

from retrodict.files import JsonObject

Motion = Literal["flow", "fast", "reference"]
Selection = Literal["exact", "paper"]
NearDuplicates = Literal["keep", "drop"]
ExecutorName = Literal["serial", "processes", "ray"]  # where clips are mined, which changes no pair

# Part of every config hash: raise it when the same settings would give other pairs.
ALGORITHM = 4
SHOTS_AT_ONCE = 60.0  # seconds whose shots are mined together, so that memory does not grow with a video


@dataclass(frozen=True, kw_only=True)
class MineConfig:
    """Settings of `mine` that change its output, and the section `mine` of recipes.

    The paper (arXiv 2506.06006, sec. 3.2) keeps K_f = 6 frames at least I_f = 20 frames apart, ranked by optical flow:
    `MineConfig(selection="paper", motion="reference", cuts=False)`. Raises `ValueError` when a setting makes no sense.

    A dataclass and not a `Section`: the processes that mine would start half a second later with pydantic.
    """

    __pydantic_config__: ClassVar[JsonObject] = {"extra": "forbid"}

    frames_per_clip: int = field(
        default=6, metadata={"help": "How many frames to keep of each clip; consecutive ones become pairs."}
    )
    min_gap: int | str = field(
        default=20, metadata={"help": 'Least distance between kept frames: frames (20), or time ("0.8s").'}
    )
    selection: Selection = field(
        default="exact",
        metadata={"help": "`exact` keeps the frames with the most motion in all, `paper` goes greedily."},
    )
    motion: Motion = field(
        default="flow",
        metadata={"help": "Optical flow, a faster frame difference, or the paper's flow at full size as `reference`."},
    )
    snap: str = field(
        default="0.3s", metadata={"help": "How far `exact` may move a keyframe to a sharper frame; 0s never."}
    )
    cuts: bool = field(default=True, metadata={"help": "Look for shot boundaries and make no pair across one."})
    compensate_camera: bool = field(
        default=False, metadata={"help": "Leave out the motion of the camera when ranking; needs `motion: flow`."}
    )
    min_motion: float = field(
        default=0.002,
        metadata={
            "help": "Mean motion in frame widths per second below which a clip is static and gives no pairs, unless "
            "more than 0.2 % of the pixels change clearly at once."
        },
    )
    segment: str = field(
        default="",
        metadata={
            "help": "Give longer videos keyframes for each window of about a length (`10s`), for windows that overlap "
            "(`10s/5s`: one every 5 s), or for each shot (`shot`). Empty: for the video."
        },
    )
    near_duplicates: NearDuplicates = field(
        default="keep",
        metadata={
            "help": "Of clips that show the same, keep the pairs of all (and count them), or of the first by name."
        },
    )
    frames: bool = field(
        default=True, metadata={"help": "Store the images; without them only their positions in the video are kept."}
    )
    jpeg_quality: int = field(default=95, metadata={"help": "Quality of stored images, 1 to 100."})
    max_side: int = field(default=0, metadata={"help": "Longest side of stored images in pixels; 0: as they are."})

    def __post_init__(self) -> None:
        if str(self.min_gap).strip().isdecimal():  # as options give it; equal settings have equal digests
            object.__setattr__(self, "min_gap", int(self.min_gap))
        if str(self.motion) == "vectors":
            raise ValueError(
                "motion is 'vectors': a codec's vectors rank frames unlike their flow (correlation .54, median of 21 "
                "clips): choose flow or fast."
            )
        _one_of("motion", self.motion, get_args(Motion))
        _one_of("selection", self.selection, get_args(Selection))
        _one_of("near_duplicates", self.near_duplicates, get_args(NearDuplicates))
        if self.frames_per_clip < 2:
            raise ValueError(f"frames_per_clip is {self.frames_per_clip}: a pair needs at least 2 frames.")
        if not 1 <= self.jpeg_quality <= 100:
            raise ValueError(f"jpeg_quality is {self.jpeg_quality}: give 1 to 100.")
        if self.max_side < 0:
            raise ValueError(f"max_side is {self.max_side}: give pixels, or 0 for images as they are.")
        if not (math.isfinite(self.min_motion) and self.min_motion >= 0):
            raise ValueError(f"min_motion is {self.min_motion}: give a number of frame widths per second, 0 or more.")
        if self.compensate_camera and self.motion != "flow":
            raise ValueError("compensate_camera needs motion 'flow': the other measures have no flow field to correct.")
        self.gap()
        seconds(self.snap, "snap")
        self.windows()

    def gap(self) -> tuple[float, bool]:
        """The least distance of two keyframes, and whether it is in seconds (else in frames)."""
        text = str(self.min_gap).strip()
        if text.endswith("s"):
            return seconds(text, "min_gap", least=1e-6), True
        if not text.isdecimal() or int(text) < 1:
            raise ValueError(f'min_gap is {self.min_gap!r}: give a number of frames such as 20, or seconds as "0.8s".')
        return float(int(text)), False

    def windows(self) -> tuple[float, float]:
        """Length of a window and from one's start to the next one's, in seconds; infinite where there are none."""
        if not self.segment:
            return math.inf, math.inf
        if self.by_shot:
            return SHOTS_AT_ONCE, SHOTS_AT_ONCE
        length, slash, step = self.segment.partition("/")
        try:
            window = seconds(length, "segment", least=0.1)
            every = seconds(step, "segment", least=0.1) if slash else window
        except ValueError:
            window, every = 0.0, math.inf
        if every > window:
            raise ValueError(
                f'segment is {self.segment!r}: give a length such as "10s", that and a step of at most as much '
                '("10s/5s"), or "shot".'
            )
        return window, every

    @property
    def by_shot(self) -> bool:
        """Whether each shot gets keyframes of its own."""
        return self.segment == "shot"

    def digest(self) -> str:
        """Twelve hex digits that change when the settings (or the algorithm) do."""
        text = json.dumps({"algorithm": ALGORITHM, **self.to_dict()}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def to_dict(self) -> JsonObject:
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

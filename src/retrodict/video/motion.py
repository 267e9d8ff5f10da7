"""How much a frame moved, how sharp it is and how like the one before it: the numbers that keyframes are chosen by."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from retrodict.video.config import MineConfig
from retrodict.video.cuts import (
    BLANK,
    CUT,
    FLASH,
    LONE_CUT,
    NO_FLOW,
    DissolveFinder,
    between_bars,
    dense_flow,
    may_have_bars,
    similarity,
)
from retrodict.video.decode import Gray

Floats = NDArray[np.float64]

NO_PTS = -(2**63)  # in a track, for a frame without a time stamp
SIDE = 160  # long side in pixels that flow and cuts are measured at
_DUPLICATE = 10  # grey levels: where no pixel of the small plane changed by more, the frame repeats the last one
_CLEAR = 20  # grey levels: a pixel that changed by more did not change by noise
_SUSPECT = 0.25  # change over contrast, above which two frames are compared for a cut
_PART = 0.1, 0.9  # share of the image that changed of late: between these, the rest is a frame around it that stays
_AT_ONCE = 0.7  # share of that part that changes in a cut; of a thing that moves, mostly the edges do
# A mean change, in grey levels, below which no such part can change at once: few pixels change enough to be counted.
_LEAST = 0.98 * (_DUPLICATE + 1) * _AT_ONCE * _PART[0]
_BROKEN = 0.35  # similarity of that part below which it is a cut: between the .25 of cuts and the .45 of motion
_OF_LATE = 12  # frames before it is known what never moves


@dataclass
class Track:
    """Numbers of every frame of a clip, in order: about 49 bytes a frame, the only memory that grows with a clip.

    `motion` is the mean length of the flow from the last frame that was not a duplicate, in frame widths (long sides)
    per second; `similarity` compares with that same frame: 1 the same scene, 0 nothing in common.
    """

    index: array[int] = field(default_factory=lambda: array("q"))
    seconds: array[float] = field(default_factory=lambda: array("d"))
    pts: array[int] = field(default_factory=lambda: array("q"))
    motion: array[float] = field(default_factory=lambda: array("f"))
    sharpness: array[float] = field(default_factory=lambda: array("f"))
    similarity: array[float] = field(default_factory=lambda: array("f"))
    contrast: array[float] = field(default_factory=lambda: array("f"))  # standard deviation, grey levels
    change: array[float] = field(default_factory=lambda: array("f"))  # mean absolute difference, grey levels
    changed: array[float] = field(default_factory=lambda: array("f"))  # share of pixels that clearly changed
    end: float = 0.0  # seconds of the last frame, a duplicate or not
    dissolves: list[tuple[int, int]] = field(default_factory=list)  # first and last index in these arrays
    reshaped: list[int] = field(default_factory=list)  # indices in these arrays from which on images have another shape
    duplicates: int = 0

    def __len__(self) -> int:
        return len(self.index)


class Meter:
    """Measures frames one after the other; duplicates are counted and left out of the track."""

    def __init__(self, config: MineConfig, fps: float) -> None:
        self.track = Track()
        self._measure = {"flow": self._flow, "fast": self._difference, "reference": self._farneback}[config.motion]
        self._compensate = config.compensate_camera
        self._last: Gray | None = None
        self._older: Gray | None = None  # the one before
        self._lively: Gray | None = None
        self._last_full: Gray | None = None
        self._lit: Gray | None = None  # the last that was not blank
        self._blanks = 0  # blank frames since
        self._full = config.motion == "reference"
        self._shape: tuple[int, ...] = ()
        self._dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
        self._dissolves = DissolveFinder(fps, self._dis) if config.cuts else None

    def push(self, index: int, seconds: float, pts: int | None, luma: Gray) -> bool:
        """Measure a frame. False when it repeats the one before."""
        self.track.end = seconds
        half, small = self.planes(luma)
        resized = luma.shape != self._shape and self._last is not None
        if self._last is not None and not resized and cv2.norm(small, self._last, cv2.NORM_INF) <= _DUPLICATE:
            self.track.duplicates += 1
            return False
        if resized:
            self.track.reshaped.append(len(self.track))
        self._shape = luma.shape
        full = luma.copy() if self._full else None
        motion, like, change, changed, contrast = 0.0, 1.0, 0.0, 0.0, float(cv2.meanStdDev(small)[1][0, 0])
        if self._last is not None:
            elapsed = max(seconds - self.track.seconds[-1], 1e-3)
            motion = 0.0 if resized else self._measure(small, full) / elapsed
            difference = cv2.absdiff(small, self._last)
            change = cv2.norm(difference, cv2.NORM_L1) / small.size
            changed = np.count_nonzero(difference > _CLEAR) / small.size
            # What changed of late; each frame without a change takes a grey level off.
            self._lively = difference if self._lively is None else cv2.max(difference, np.maximum(self._lively, 1) - 1)
            like = 0.0 if resized else self._like(self._before_flash(contrast), small, index, contrast)
            if like < LONE_CUT and self._older is not None and not resized:
                again = self._like(self._older, small, index, contrast)
                if again >= LONE_CUT:  # as it was two frames ago: it flickers, and the frame between began no shot
                    like = self.track.similarity[-1] = again
        self._record(index, seconds, pts, motion, sharpness(half), like, contrast, change, changed)
        self._older, self._last, self._last_full = self._last, small, full
        self._blanks = self._blanks + 1 if contrast < BLANK else 0
        self._lit = self._lit if self._blanks else small
        if self._dissolves:
            self._dissolves.push(small)
        return True

    def planes(self, luma: Gray) -> tuple[Gray, Gray]:
        """The halved and the small plane of a frame; all small planes of a clip have the size of the first."""
        half, small = pyramid(luma)
        if self._last is not None and small.shape != self._last.shape:
            small = cv2.resize(small, self._last.shape[::-1])
        return half, small

    def _like(self, before: Gray, small: Gray, index: int, contrast: float) -> float:
        """The similarity of a frame to an earlier one; small where a part breaks and the rest never moves."""
        difference = cv2.absdiff(small, before)
        change = cv2.norm(difference, cv2.NORM_L1) / small.size
        calm = change <= _SUSPECT * (max(contrast, self.track.contrast[-1]) + 1) and not may_have_bars(small)
        like = 1.0 if calm else self.alike(before, small)
        if self._lively is None or like < CUT or change < _LEAST or index - self.track.index[0] < _OF_LATE:
            return like
        part = self._lively > _DUPLICATE
        size = np.count_nonzero(part)
        at_once = np.count_nonzero(difference > _DUPLICATE) >= _AT_ONCE * size
        if at_once and _PART[0] * small.size <= size <= _PART[1] * small.size:
            inside = similarity(before, small, dense_flow(self._dis, before, small), part)
            return inside if inside < _BROKEN else like
        return like

    def _before_flash(self, contrast: float) -> Gray:
        """What to compare a frame of that contrast with: the last one, or the one before a flash."""
        assert self._last is not None
        ended = 0 < self._blanks <= FLASH and contrast >= BLANK
        return self._lit if ended and self._lit is not None else self._last

    @property
    def small(self) -> Gray:
        """The small plane of the last frame of the track."""
        assert self._last is not None
        return self._last

    def alike(self, before: Gray, after: Gray, changed: float = _SUSPECT) -> float:
        """The similarity of two small planes of the clip; 1 where less than `changed` of the contrast did change."""
        box = between_bars(before, after)
        first, second = before[box], after[box]
        change = cv2.norm(first, second, cv2.NORM_L1) / first.size
        contrast = max(float(cv2.meanStdDev(plane)[1][0, 0]) for plane in (first, second))
        if change <= changed * (contrast + 1):
            return 1.0
        return similarity(before, after, dense_flow(self._dis, before, after))

    def finish(self) -> Track:
        """The track, once no frame is left."""
        if self._dissolves:
            self._dissolves.finish()
            self.track.dissolves = self._dissolves.dissolves
        return self.track

    def _record(self, index: int, seconds: float, pts: int | None, *numbers: float) -> None:
        track = self.track
        track.index.append(index)
        track.seconds.append(seconds)
        track.pts.append(NO_PTS if pts is None else pts)
        columns = track.motion, track.sharpness, track.similarity, track.contrast, track.change, track.changed
        for column, number in zip(columns, numbers, strict=True):
            column.append(number)

    def _flow(self, small: Gray, _: Gray | None) -> float:
        assert self._last is not None
        flow = dense_flow(self._dis, self._last, small)
        return mean_length(without_camera(flow) if self._compensate else flow[::4, ::4]) / float(max(small.shape))

    def _difference(self, small: Gray, _: Gray | None) -> float:
        assert self._last is not None
        return float(cv2.norm(small, self._last, cv2.NORM_L1)) / small.size / 255

    def _farneback(self, _: Gray, full: Gray | None) -> float:
        assert full is not None and self._last_full is not None
        flow = cv2.calcOpticalFlowFarneback(self._last_full, full, NO_FLOW, 0.5, 3, 15, 3, 5, 1.2, 0)
        return mean_length(flow) / float(max(full.shape))


def pyramid(luma: Gray) -> tuple[Gray, Gray]:
    """The plane halved once (as it is, when small already), and at most `SIDE` pixels long.

    Halving is an order of magnitude cheaper than one area resize by an odd factor.
    """
    half = small = luma
    while max(small.shape) >= 2 * SIDE:
        height, width = small.shape[0] // 2, small.shape[1] // 2
        if not height or not width:
            break
        small = cv2.resize(small[: height * 2, : width * 2], (width, height), interpolation=cv2.INTER_AREA)
        half = small if half is luma else half
    if max(small.shape) > SIDE:
        scale = SIDE / max(small.shape)
        size = max(1, round(small.shape[1] * scale)), max(1, round(small.shape[0] * scale))
        small = cv2.resize(small, size, interpolation=cv2.INTER_LINEAR)
    # A copy where nothing was resized: the plane belongs to the decoder.
    return half, small.copy() if small is luma else small


def sharpness(plane: Gray) -> float:
    """Variance of the Laplacian (whose mean is 0), grey levels squared: falls when the image is blurred."""
    return float(cv2.norm(cv2.Laplacian(plane, cv2.CV_16S), cv2.NORM_L2SQR)) / plane.size


def mean_length(flow: Gray) -> float:
    """Mean length of the vectors of a flow field (height x width x 2), in its pixels.

    Not by `cv2.magnitude`, whose last digits depend on how its arrays happen to be aligned in memory.
    """
    x, y = flow[..., 0], flow[..., 1]
    length = np.sqrt(x * x + y * y)
    return float(np.add.reduce(length, axis=None, dtype=np.float64) / length.size)  # `mean` takes twice as long


def without_camera(flow: Gray) -> NDArray[np.float32]:
    """What is left of a flow field (sampled every 4th pixel) after the affine motion that most of it follows."""
    sampled = flow[::4, ::4]
    height, width = sampled.shape[:2]
    y, x = np.mgrid[:height, :width].reshape(2, -1) / max(height, width)
    basis = np.stack([x, y, np.ones_like(x)], axis=1)
    vectors = sampled.reshape(-1, 2).astype(np.float64)
    weight = np.ones(len(basis))
    for _ in range(4):  # iteratively reweighted least squares: what moves by itself loses its say
        root = np.sqrt(weight)[:, None]
        affine = np.linalg.lstsq(basis * root, vectors * root, rcond=None)[0]
        left = vectors - basis @ affine
        length = np.sqrt((left**2).sum(axis=1))
        weight = 1 / (1 + (length / (np.median(length) + 1e-3)) ** 2)
    return np.asarray(left.reshape(height, width, 2), np.float32)

"""Shot boundaries: hard cuts, and fades through a blank image. And dissolves, see `DissolveFinder`.

Two frames of one shot still match once the flow between them is undone; two frames of different shots do not, in the
fine structure nor the coarse. The match is a correlation per block, so it does not depend on contrast or exposure, and
its median over the blocks does not depend on a logo that stays in place. Black bars, whose edges always match, are cut
off first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from functools import lru_cache
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

from retrodict.video.decode import Gray

Plane = NDArray[np.float32]
Box = tuple[slice, slice]  # rows and columns

CUT = 0.5  # similarity below which two frames belong to different shots
LONE_CUT = 0.65  # the same for a frame amid calm ones, where a lesser break stands out
_CALM = 0.75
_NEIGHBOURS = 3
BLANK = 3.0  # contrast in grey levels under which an image shows nothing
FLASH = 2  # blank frames in a row that may be a flash of light within a shot
_BLACK = 32  # grey level up to which all of a row or column at the border makes it part of a bar
_LEAST_SIDE = 24  # pixels that bars must leave of a small plane
_FADING = 0.01  # relative change of contrast per frame that continues a fade

# Of dissolves
_SPANS = (0.2, 0.4, 0.8)  # seconds to look back and ahead: dissolves of a sixth of a second to two seconds
_NEGATIVE = 0.01  # 1 less the squared correlation, up to which one image is another's negative
_ALIKE = 0.5  # correlation and similarity of before and after, above which nothing dissolved
_UNEXPLAINED = 0.45  # share of the image that the mixture leaves over
_ELSEWHERE = 0.12  # left over, as a share of what differs: a thing on its way from one place to another leaves half
_LEAST, _MOST = 0.12, 0.98  # share of either shot
_FALL = 0.2  # of the first shot's share, over the frames of the dissolve

NO_FLOW = cast(Gray, None)  # OpenCV does without a field to start from, which its types do not say


def dense_flow(finder: cv2.DISOpticalFlow, before: Gray, after: Gray) -> NDArray[np.float32]:
    """The optical flow between two planes: height x width x 2, float32, in pixels."""
    return np.asarray(finder.calc(before, after, NO_FLOW), np.float32)


def similarity(before: Gray, after: Gray, flow: NDArray[np.float32], part: NDArray[np.bool_] | None = None) -> float:
    """How much two small planes (height x width) have in common after `flow` is undone: about 0 to 1.

    With `part`, a mask [height, width], only what it covers counts.
    """
    box = between_bars(before, after)
    before, after, flow = before[box], after[box], flow[box]
    counts = None if part is None else part[box].astype(np.float32)
    height, width = before.shape
    x, y = _grid(height, width)
    aligned = cv2.remap(after, x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    first, second = before.astype(np.float32), aligned.astype(np.float32)
    scale = max(height, width) / 40
    fine = _correlation(first, second, counts, blur=scale, blocks=8, noise=4.0)
    coarse = _correlation(first, second, counts, blur=4 * scale, blocks=4, noise=9.0)
    return (fine + coarse) / 2


def may_have_bars(plane: Gray) -> bool:
    """Whether two corners are black, which every bar takes: quick to see that most frames have none."""
    corners = plane[0, 0], plane[0, -1], plane[-1, 0], plane[-1, -1]
    return bool(sorted(corners)[1] <= _BLACK)


def between_bars(before: Gray, after: Gray) -> Box:
    """The part of two small planes that black bars leave of either; all of it where there are none."""
    rows, columns = (slice(0, size) for size in before.shape)
    if not may_have_bars(before):
        return rows, columns
    brightest = np.maximum(before, after)
    lit = [np.flatnonzero(brightest.max(axis=axis) > _BLACK) for axis in (1, 0)]
    if min(len(side) for side in lit) < _LEAST_SIDE:
        return rows, columns
    # Less a pixel, in which image and bar blend.
    return slice(lit[0][0] + 1, lit[0][-1]), slice(lit[1][0] + 1, lit[1][-1])


def _correlation(first: Plane, second: Plane, counts: Plane | None, *, blur: float, blocks: int, noise: float) -> float:
    """Median over blocks of the correlation of what is finer than `blur` pixels; `noise` in grey levels squared."""
    first = first - cv2.GaussianBlur(first, (0, 0), blur)
    second = second - cv2.GaussianBlur(second, (0, 0), blur)
    height, width = first.shape
    along = max(2, round(blocks * height / width)), max(2, round(blocks * width / height))
    grid = (blocks, along[0]) if width >= height else (along[1], blocks)
    grid = min(grid[0], width), min(grid[1], height)
    both, one, other = (
        cv2.resize(product, grid, interpolation=cv2.INTER_AREA)
        for product in (first * second, first * first, second * second)
    )
    textured = np.maximum(one, other) > noise
    if counts is not None:
        inside = textured & (cv2.resize(counts, grid, interpolation=cv2.INTER_AREA) > 0.5)
        return float(np.median((both / np.maximum(np.sqrt(one * other), noise))[inside])) if inside.any() else 1.0
    if textured.sum() < max(3, textured.size / 8):  # next to nothing to see: take the image as one block
        return float(both.sum() / max(1e-6, float(np.sqrt(one.sum() * other.sum()))))
    return float(np.median((both / np.maximum(np.sqrt(one * other), noise))[textured]))


@lru_cache(maxsize=4)
def _grid(height: int, width: int) -> tuple[Plane, Plane]:
    y, x = np.mgrid[:height, :width].astype(np.float32)
    return np.ascontiguousarray(x), np.ascontiguousarray(y)


def shots(
    like: NDArray[np.float64], contrast: NDArray[np.float64], dissolves: Iterable[tuple[int, int]] = ()
) -> NDArray[np.int64]:
    """Number of the shot of each frame, from 0; -1 for blank frames and those of a fade or a dissolve.

    The similarity of a frame after at most `FLASH` blank ones is that to the frame before them.
    """
    flash = find_flashes(like, contrast)
    before = np.maximum.accumulate(np.where(flash, 0, np.arange(len(like))))  # the frame before, for those of a flash
    starts = find_cuts(np.where(flash, 1.0, like))
    faded = find_fades(contrast[before])
    for first, last in dissolves:
        faded[first : last + 1] = True
    starts[1:] |= faded[1:] != faded[:-1]
    numbers = np.cumsum(starts).astype(np.int64)
    numbers[faded | flash] = -1
    return numbers


def find_flashes(like: NDArray[np.float64], contrast: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which blank frames are of a flash: at most `FLASH` in a row, and the image after them is that before them."""
    flash = np.zeros(len(like), bool)
    edges = np.diff(np.concatenate([[False], contrast < BLANK, [False]]).astype(int))
    for first, end in zip(np.flatnonzero(edges > 0), np.flatnonzero(edges < 0), strict=True):
        flash[first:end] = first > 0 and end < len(like) and end - first <= FLASH and like[end] >= CUT
    return flash


def find_cuts(like: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which frames begin a new shot, by their similarity to the frame before."""
    padded = np.pad(like, _NEIGHBOURS, constant_values=1.0)
    around = np.lib.stride_tricks.sliding_window_view(padded, 2 * _NEIGHBOURS + 1)
    neighbours = np.delete(around, _NEIGHBOURS, axis=1)
    cut = (like < CUT) & ((neighbours < CUT).sum(axis=1) < _NEIGHBOURS)  # else all breaks all the time: noise, flicker
    calm = neighbours.min(axis=1) > _CALM
    starts: NDArray[np.bool_] = cut | (calm & (like < LONE_CUT))
    starts[:1] = False
    return starts


def find_fades(contrast: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which frames are blank, or lie in the steady loss or gain of contrast that leads to a blank one."""
    faded = contrast < BLANK
    for step in (1, -1):  # forwards out of a blank stretch, then backwards into one
        order = range(len(contrast)) if step == 1 else range(len(contrast) - 1, -1, -1)
        for i in order:
            j = i - step
            if not faded[i] and 0 <= j < len(contrast) and faded[j] and contrast[i] > contrast[j] * (1 + _FADING):
                faded[i] = True
    return faded


class DissolveFinder:
    """Finds dissolves: one shot faded over into the next, with no frame at which the image breaks.

    Half-way through, the image is a mixture of what was before and what comes after, the share of the first falls from
    frame to frame, and the two have nothing in common. Motion gives no mixture: a thing that moves is in neither place.
    Fed the small planes of a clip one by one; `dissolves` holds the (first, last) frames inside each dissolve.
    """

    def __init__(self, fps: float, dis: cv2.DISOpticalFlow) -> None:
        self._spans = sorted({min(24, max(2, round(span * fps))) for span in _SPANS})
        self._reach = self._spans[-1]
        self._planes: deque[Gray] = deque(maxlen=2 * self._reach + 1)
        self._thumbs: deque[NDArray[np.float32]] = deque(maxlen=2 * self._reach + 1)
        self._norms: deque[float] = deque(maxlen=2 * self._reach + 1)
        self._runs: dict[int, list[tuple[int, float]]] = {span: [] for span in self._spans}
        self._differ: dict[int, bool] = {}  # of runs that fell far enough to ask: whether before and after differ
        self._dis = dis
        self._count = 0
        self.dissolves: list[tuple[int, int]] = []

    def push(self, small: Gray) -> None:
        thumb = _thumb(small)
        self._planes.append(small)
        self._thumbs.append(thumb)
        self._norms.append(float(thumb @ thumb))
        self._count += 1
        if len(self._thumbs) == self._thumbs.maxlen:
            for span in self._spans:
                self._look(span)

    def finish(self) -> None:
        for span in self._spans:
            self._close(span)

    def _look(self, span: int) -> None:
        """Test the frame in the middle of the window, which came `_reach` frames ago."""
        frame, run = self._count - 1 - self._reach, self._runs[span]
        share = self._share(span)
        if run and (share is None or share > run[-1][1] + 0.02):
            self._close(span)
            run = self._runs[span]
        if share is not None:
            run.append((frame, share))
            if run[0][1] - share >= _FALL and span not in self._differ:
                self._differ[span] = self._similarity(span) < _ALIKE  # dear, so asked once, when all else holds

    def _share(self, span: int) -> float | None:
        """The share of the earlier image in the middle one, if that is a mixture of two that differ."""
        middle = self._reach
        thumbs, norms = self._thumbs, self._norms
        before, after = thumbs[middle - span], thumbs[middle + span]
        aa, bb, both = norms[middle - span], norms[middle + span], float(before @ after)
        determinant = aa * bb - both * both
        # Between an image and its negative, which are shares of one another, no mixture can be taken apart.
        if both > _ALIKE * (aa * bb) ** 0.5 or determinant <= _NEGATIVE * aa * bb:
            return None
        am, bm, mm = float(before @ thumbs[middle]), float(after @ thumbs[middle]), norms[middle]
        first, second = (am * bb - bm * both) / determinant, (bm * aa - am * both) / determinant
        if not (_LEAST < first < _MOST and _LEAST < second < _MOST and 0.7 < first + second < 1.25):
            return None
        left_over = mm - first * am - second * bm
        if left_over > _UNEXPLAINED * mm or left_over > _ELSEWHERE * (aa + bb - 2 * both):
            return None
        return first

    def _similarity(self, span: int) -> float:
        earlier, later = self._planes[self._reach - span], self._planes[self._reach + span]
        return similarity(earlier, later, dense_flow(self._dis, earlier, later))

    def _close(self, span: int) -> None:
        run, self._runs[span] = self._runs[span], []
        if self._differ.pop(span, False):
            widen = len(run) // 2 + 1  # the faint ends are lost in noise
            self.dissolves.append((max(0, run[0][0] - widen), run[-1][0] + widen))


def _thumb(small: Gray) -> NDArray[np.float32]:
    """A quarter of the size, without what is coarser than a fifth of it, as a vector."""
    height, width = max(1, small.shape[0] // 4), max(1, small.shape[1] // 4)
    quarter = cv2.resize(small, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32)
    window = 2 * (max(width, height) // 8) + 1
    return np.asarray(quarter - cv2.blur(quarter, (window, window)), np.float32).ravel()

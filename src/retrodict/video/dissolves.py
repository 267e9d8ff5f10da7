"""Dissolves: one shot faded over into the next, with no frame at which the picture breaks.

Half-way through, the picture is a mixture of what was before and what comes after, the share of the first falls from
frame to frame, and the two have nothing in common. Motion gives no mixture: a thing that moves is in neither place.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from retrodict.video.cuts import likeness
from retrodict.video.decode import Gray

_SPANS = (0.2, 0.4, 0.8)  # seconds to look back and ahead: dissolves of a sixth of a second to two seconds
_ALIKE = 0.5  # correlation and likeness of before and after, above which nothing dissolved
_UNEXPLAINED = 0.45  # share of the picture that the mixture leaves over
_ELSEWHERE = 0.12  # left over, as a share of what differs: a thing on its way from one place to another leaves half
_LEAST, _MOST = 0.12, 0.98  # share of either shot
_FALL = 0.2  # of the first shot's share, over the frames found


class DissolveFinder:
    """Fed the small planes of a clip one by one; `found` holds (first, last) places of frames inside a dissolve."""

    def __init__(self, fps: float, dis: Any) -> None:
        self._spans = sorted({min(24, max(2, round(span * fps))) for span in _SPANS})
        self._reach = self._spans[-1]
        self._planes: deque[Gray] = deque(maxlen=2 * self._reach + 1)
        self._thumbs: deque[NDArray[np.float32]] = deque(maxlen=2 * self._reach + 1)
        self._norms: deque[float] = deque(maxlen=2 * self._reach + 1)
        self._runs: dict[int, list[tuple[int, float]]] = {span: [] for span in self._spans}
        self._differ: dict[int, bool] = {}  # of runs that fell far enough to ask: whether before and after differ
        self._dis = dis
        self._count = 0
        self.found: list[tuple[int, int]] = []

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
        place, run = self._count - 1 - self._reach, self._runs[span]
        share = self._share(span)
        if run and (share is None or share > run[-1][1] + 0.02):
            self._close(span)
            run = self._runs[span]
        if share is not None:
            run.append((place, share))
            if run[0][1] - share >= _FALL and span not in self._differ:
                self._differ[span] = self._likeness(span) < _ALIKE  # dear, so asked once, when all else holds

    def _share(self, span: int) -> float | None:
        """The share of the earlier picture in the middle one, if that is a mixture of two that differ."""
        middle = self._reach
        thumbs, norms = self._thumbs, self._norms
        before, after = thumbs[middle - span], thumbs[middle + span]
        aa, bb, both = norms[middle - span], norms[middle + span], float(before @ after)
        if both > _ALIKE * (aa * bb) ** 0.5 or not aa or not bb:
            return None
        am, bm, mm = float(before @ thumbs[middle]), float(after @ thumbs[middle]), norms[middle]
        determinant = aa * bb - both * both
        first, second = (am * bb - bm * both) / determinant, (bm * aa - am * both) / determinant
        if not (_LEAST < first < _MOST and _LEAST < second < _MOST and 0.7 < first + second < 1.25):
            return None
        left_over = mm - first * am - second * bm
        if left_over > _UNEXPLAINED * mm or left_over > _ELSEWHERE * (aa + bb - 2 * both):
            return None
        return first

    def _likeness(self, span: int) -> float:
        earlier, later = self._planes[self._reach - span], self._planes[self._reach + span]
        return likeness(earlier, later, self._dis.calc(earlier, later, None))

    def _close(self, span: int) -> None:
        run, self._runs[span] = self._runs[span], []
        if self._differ.pop(span, False):
            widen = len(run) // 2 + 1  # the faint ends are not told from noise
            self.found.append((max(0, run[0][0] - widen), run[-1][0] + widen))


def _thumb(small: Gray) -> NDArray[np.float32]:
    """A quarter of the size, without what is coarser than a fifth of it, as a vector."""
    height, width = max(1, small.shape[0] // 4), max(1, small.shape[1] // 4)
    quarter = cv2.resize(small, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32)
    window = 2 * (max(width, height) // 8) + 1
    return np.asarray(quarter - cv2.blur(quarter, (window, window)), np.float32).ravel()

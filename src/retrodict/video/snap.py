"""Where each pick finally lands: on a sharp frame, and after an action rather than within it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from retrodict.video.picks import Floats, Ints

_CLEARLY = 1.03  # a frame must be this much sharper to win: at a tie the pick stays
_REST = 0.2  # of the run's largest change: less is rest
_REST_FRAMES = 3
SETTLE = 0.6  # seconds that an action may go on after its peak and still be said to end there
_PAUSE = 2.5  # usual steps between two frames: where more passed, the frames between repeated the first


@dataclass(frozen=True)
class Lane:
    """The frames of a clip as `snap` sees them; arrays of one length."""

    position: Floats  # in the unit of the gap
    seconds: Floats
    motion: Floats  # frame widths per second; 0 across a cut
    change: Floats  # mean absolute difference to the frame before, grey levels
    sharpness: Floats
    shot: Ints
    end: float  # seconds of the clip's last frame, a duplicate or not


def snap(picks: list[int], lane: Lane, *, gap: float, reach: float) -> list[int]:
    """Move each pick within its shot, as far as the gap to its neighbours holds.

    Where motion comes to rest soon after the pick, an action has ended: the pick goes to its last moving frame or, if
    clearly sharper, to a still frame at most `reach` seconds later; never back, which would undo the action. Elsewhere
    it goes to the sharpest frame within `reach` seconds. Later picks move first, as rest draws them later.
    """
    step = float(np.median(np.diff(lane.seconds))) if len(lane.seconds) > 1 else 1.0
    moved = list(picks)
    for order in reversed(range(len(picks))):
        peak = picks[order]
        low = lane.position[picks[order - 1]] + gap if order else -np.inf
        high = lane.position[moved[order + 1]] - gap if order + 1 < len(picks) else np.inf
        settled = _settled(peak, lane, step)
        if settled is None:
            start, near = peak, _within(lane, peak, lane.seconds[peak] - reach, lane.seconds[peak] + reach)
        else:
            start, near = settled[0], [i for i in settled if lane.seconds[i] <= lane.seconds[settled[0]] + reach]
        free = [i for i in near if low <= lane.position[i] <= high]
        start = start if start in free else peak
        sharpest = max(free, key=lambda i: (lane.sharpness[i], -abs(i - start)), default=start)
        moved[order] = sharpest if lane.sharpness[sharpest] > _CLEARLY * lane.sharpness[start] else start
    return moved


def _within(lane: Lane, peak: int, begin: float, end: float) -> list[int]:
    low, high = np.searchsorted(lane.seconds, [begin - 1e-9, end + 1e-9])
    return [i for i in range(low, high) if lane.shot[i] == lane.shot[peak]]


def _settled(peak: int, lane: Lane, step: float) -> list[int] | None:
    """The last moving frame of the action at `peak` and the still frames after it; None if it does not end soon."""
    run = _within(lane, peak, lane.seconds[peak], lane.seconds[peak] + SETTLE)
    largest = 0.0
    for i in run:
        largest = max(largest, float(lane.change[i]))
        following = lane.seconds[i + 1] if i + 1 < len(lane.seconds) else lane.end
        if following - lane.seconds[i] > _PAUSE * step:
            return [i]
        still = _still_after(i, lane, _REST * largest)
        if len(still) >= _REST_FRAMES:
            return [i, *still]
    return None


def _still_after(i: int, lane: Lane, threshold: float) -> list[int]:
    still = []
    for j in range(i + 1, min(i + 1 + 30, len(lane.seconds))):
        if lane.change[j] > threshold or lane.shot[j] != lane.shot[i]:
            break
        still.append(j)
    return still

"""Which frames to keep: the paper's greedy rule, and the exact one that keeps more."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def paper(position: Floats, motion: Floats, *, k: int, gap: float) -> list[int]:
    """Greedy top-`k` by motion, at least `gap` apart (arXiv 2506.06006, sec. 3.2). Indices in order of position."""
    picks: list[int] = []
    for i in np.argsort(-motion, kind="stable"):
        if all(abs(position[i] - position[j]) >= gap for j in picks):
            picks.append(int(i))
            if len(picks) == k:
                break
    return sorted(picks)


def exact(position: Floats, motion: Floats, shot: Ints, *, k: int, gap: float) -> list[int]:
    """At most `k` frames at least `gap` apart: as many as fit, then most neighbours of one shot, then most motion.

    Dynamic programming over (frames kept, last frame kept), O(n k). Ties go to the earlier frame.

    Args:
        position: where each candidate stands, rising; in frames or seconds, as `gap`.
        motion: what to maximise, not negative.
        shot: number of the shot of each candidate, constant over each run of candidates.
    """
    count = len(position)
    if not count:
        return []
    value = motion / (motion.max() or 1.0)
    bonus = k + 1.0  # one more pair outweighs all motion
    room = np.searchsorted(position, position - gap, side="right")  # candidates that may precede each
    starts = np.flatnonzero(np.diff(shot, prepend=shot[0] - 1))
    first = starts[np.searchsorted(starts, np.arange(count), side="right") - 1]  # where each one's shot begins
    best, came_from = value.copy(), []
    for _ in range(k - 1):
        anywhere = _running_argmax(best, np.zeros(count, np.int64))
        within = _running_argmax(best, first)
        last = np.maximum(room - 1, 0)
        from_any, from_same = anywhere[last], within[last]
        any_value = np.where(room > 0, best[from_any], -np.inf)
        same_value = np.where(room > first, best[from_same] + bonus, -np.inf)
        extended = value + np.maximum(any_value, same_value)
        if not np.isfinite(extended).any():
            break
        came_from.append(np.where(same_value >= any_value, from_same, from_any))
        best = extended
    picks = [int(np.argmax(best))]
    for link in reversed(came_from):
        picks.append(int(link[picks[-1]]))
    return picks[::-1]


def _running_argmax(values: Floats, since: Ints) -> Ints:
    """For each i, the first index of the largest value in `since[i]..i`; `since` is constant or steps up to i."""
    out = np.empty(len(values), np.int64)
    starts = np.unique(since)
    for begin, end in zip(starts, [*starts[1:], len(values)], strict=True):
        part = values[begin:end]
        top = np.maximum.accumulate(part)
        new = np.ones(len(part), bool)
        new[1:] = top[1:] > top[:-1]
        out[begin:end] = begin + np.maximum.accumulate(np.where(new, np.arange(len(part)), 0))
    return out

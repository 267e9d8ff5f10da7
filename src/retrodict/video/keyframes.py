"""Which frames of a clip are its keyframes: those with the most motion, moved to where they are sharp and at rest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from retrodict.video.config import MineConfig, seconds
from retrodict.video.cuts import shots
from retrodict.video.motion import Track

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_STILL = 0.1  # of the clip's brisk motion (95th percentile): frames that move less are never keyframes
_SHARE = 0.002  # of the pixels: where more change clearly, something happened, however small it is and briefly it moves
_CLEARLY = 1.03  # a frame must be this much sharper to win: at a tie the keyframe stays
_REST = 0.2  # of the run's largest change: less is rest
_REST_FRAMES = 3
SETTLE = 0.6  # seconds that an action may go on after its peak and still be said to end there
_PAUSE = 2.5  # usual steps between two frames: where more passed, the frames between repeated the first


@dataclass(frozen=True)
class Timeline:
    """The frames of a clip by what is measured of them; arrays of one length."""

    position: Floats  # in the unit of the gap
    seconds: Floats
    motion: Floats  # frame widths per second; 0 across a cut
    lively: NDArray[np.bool_]  # enough motion, or enough pixels that clearly changed
    change: Floats  # mean absolute difference to the frame before, grey levels
    sharpness: Floats
    shot: Ints
    end: float  # seconds of the clip's last frame, a duplicate or not

    def parts(self, config: MineConfig) -> Iterator[tuple[Ints, Timeline]]:
        """What gets keyframes of its own: the whole clip, or each shot; its indices, and its frames alone."""
        if not config.by_shot:
            yield np.arange(len(self.seconds)), self
            return
        for number in np.unique(self.shot[self.shot >= 0]):
            inside = np.flatnonzero(self.shot == number)
            after = int(inside[-1]) + 1
            yield (
                inside,
                Timeline(
                    position=self.position[inside],
                    seconds=self.seconds[inside],
                    motion=self.motion[inside],
                    lively=self.lively[inside],
                    change=self.change[inside],
                    sharpness=self.sharpness[inside],
                    shot=self.shot[inside],
                    end=float(self.seconds[after]) if after < len(self.seconds) else self.end,
                ),
            )


def lay_out(track: Track, config: MineConfig) -> Timeline:
    """The frames of a clip as the rules see them: shots numbered, and no motion across a cut."""
    _, in_seconds = config.gap()
    times, motion = np.asarray(track.seconds), np.asarray(track.motion, np.float64)
    shot = np.zeros(len(track), np.int64)
    if config.cuts:
        similarity, contrast = np.asarray(track.similarity, np.float64), np.asarray(track.contrast, np.float64)
        shot = shots(similarity, contrast, track.dissolves)
        motion[np.diff(shot, prepend=shot[:1]) != 0] = 0.0  # the flow across a cut is not motion
        motion[shot < 0] = 0.0
    shot[shot >= 0] += np.isin(np.arange(len(track)), track.reshaped).cumsum()[shot >= 0]  # no pair is of two shapes
    return Timeline(
        position=times if in_seconds else np.asarray(track.index, np.float64),
        seconds=times,
        motion=motion,
        lively=(motion >= config.min_motion) | ((np.asarray(track.changed) >= _SHARE) & (motion > 0)),
        change=np.asarray(track.change, np.float64),
        sharpness=np.asarray(track.sharpness, np.float64),
        shot=shot,
        end=track.end,
    )


def select(timeline: Timeline, config: MineConfig) -> list[int]:
    """Indices of the keyframes, in order. The timeline holds at least one frame."""
    return [int(inside[i]) for inside, part in timeline.parts(config) for i in _select(part, config)]


def _select(timeline: Timeline, config: MineConfig) -> list[int]:
    gap, _ = config.gap()
    if config.selection == "paper":
        return _greedy(timeline, np.flatnonzero(timeline.shot >= 0), k=config.frames_per_clip, gap=gap)
    usable = _usable(timeline, config)
    chosen = exact(
        timeline.position[usable], timeline.motion[usable], timeline.shot[usable], k=config.frames_per_clip, gap=gap
    )
    return snap([int(usable[i]) for i in chosen], timeline, gap=gap, reach=seconds(config.snap, "snap"))


def likely(timeline: Timeline, config: MineConfig) -> set[int]:
    """Indices of the keyframes if the clip ended here, and of frames that might become some once it goes on:
    the liveliest, two for each keyframe, and the frames that they would move to."""
    return {int(inside[i]) for inside, part in timeline.parts(config) for i in _likely(part, config)}


def _likely(timeline: Timeline, config: MineConfig) -> set[int]:
    gap, _ = config.gap()
    reach = seconds(config.snap, "snap") if config.selection == "exact" else 0.0
    peaks = _greedy(timeline, _usable(timeline, config), k=2 * config.frames_per_clip, gap=gap / 2)
    moved = {snap([peak], timeline, gap=gap, reach=reach)[0] for peak in peaks}
    return {*_select(timeline, config), *peaks, *moved}


def _greedy(timeline: Timeline, usable: Ints, *, k: int, gap: float) -> list[int]:
    return [int(usable[i]) for i in paper(timeline.position[usable], timeline.motion[usable], k=k, gap=gap)]


def _usable(timeline: Timeline, config: MineConfig) -> Ints:
    """Indices of the frames that move, by flow and by difference, and of those that begin a shot."""
    moving = timeline.lively & (timeline.motion >= _STILL * float(np.percentile(timeline.motion, 95)))
    moving &= timeline.change >= _STILL * float(np.percentile(timeline.change, 95))  # flow sees motion in codec noise
    moving[np.diff(timeline.shot, prepend=timeline.shot[0] - 1) != 0] = True  # what its first action starts from
    return np.flatnonzero(moving & (timeline.shot >= 0))


def paper(position: Floats, motion: Floats, *, k: int, gap: float) -> list[int]:
    """Greedy top-`k` by motion, at least `gap` apart (arXiv 2506.06006, sec. 3.2). Indices in order of position."""
    chosen: list[int] = []
    for i in np.argsort(-motion, kind="stable"):
        if all(abs(position[i] - position[j]) >= gap for j in chosen):
            chosen.append(int(i))
            if len(chosen) == k:
                break
    return sorted(chosen)


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
    chosen = [int(np.argmax(best))]
    for link in reversed(came_from):
        chosen.append(int(link[chosen[-1]]))
    return chosen[::-1]


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


def snap(chosen: list[int], timeline: Timeline, *, gap: float, reach: float) -> list[int]:
    """Move each keyframe within its shot, as far as the gap to its neighbours holds.

    Where motion comes to rest soon after it, an action has ended: the keyframe goes to its last moving frame or, if
    clearly sharper, to a still frame at most `reach` seconds later; never back, which would undo the action. Elsewhere
    it goes to the sharpest frame within `reach` seconds. Later ones move first, as rest pulls them later.
    """
    step = float(np.median(np.diff(timeline.seconds))) if len(timeline.seconds) > 1 else 1.0
    moved = list(chosen)
    for order in reversed(range(len(chosen))):
        peak = chosen[order]
        low = timeline.position[chosen[order - 1]] + gap if order else -np.inf
        high = timeline.position[moved[order + 1]] - gap if order + 1 < len(chosen) else np.inf
        settled = _settled(peak, timeline, step)
        if settled is None:
            start, near = peak, _within(timeline, peak, timeline.seconds[peak] - reach, timeline.seconds[peak] + reach)
        else:
            start, end = settled[0], timeline.seconds[settled[0]] + reach
            near = [i for i in settled if timeline.seconds[i] <= end]
        free = [i for i in near if low <= timeline.position[i] <= high]
        start = start if start in free else peak
        sharpest = max(free, key=lambda i: (timeline.sharpness[i], -abs(i - start)), default=start)
        moved[order] = sharpest if timeline.sharpness[sharpest] > _CLEARLY * timeline.sharpness[start] else start
    return moved


def _within(timeline: Timeline, peak: int, begin: float, end: float) -> list[int]:
    low, high = np.searchsorted(timeline.seconds, [begin - 1e-9, end + 1e-9])
    return [i for i in range(low, high) if timeline.shot[i] == timeline.shot[peak]]


def _settled(peak: int, timeline: Timeline, step: float) -> list[int] | None:
    """The last moving frame of the action at `peak` and the still frames after it; None if it does not end soon."""
    run = _within(timeline, peak, timeline.seconds[peak], timeline.seconds[peak] + SETTLE)
    largest = 0.0
    for i in run:
        largest = max(largest, float(timeline.change[i]))
        following = timeline.seconds[i + 1] if i + 1 < len(timeline.seconds) else timeline.end
        if following - timeline.seconds[i] > _PAUSE * step:
            return [i]
        still = _still_after(i, timeline, _REST * largest)
        if len(still) >= _REST_FRAMES:
            return [i, *still]
    return None


def _still_after(i: int, timeline: Timeline, threshold: float) -> list[int]:
    still = []
    for j in range(i + 1, min(i + 1 + 30, len(timeline.seconds))):
        if timeline.change[j] > threshold or timeline.shot[j] != timeline.shot[i]:
            break
        still.append(j)
    return still

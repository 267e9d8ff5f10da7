"""From the numbers of a clip's frames to the frames that are picked."""

from __future__ import annotations

import numpy as np

from retrodict.video import picks as rules
from retrodict.video.config import MineConfig, seconds
from retrodict.video.cuts import shots
from retrodict.video.motion import Track
from retrodict.video.snap import Lane, snap

_STILL = 0.1  # of the clip's brisk motion (95th percentile): frames that move less are not picked


def lay_out(track: Track, config: MineConfig) -> Lane:
    """The frames of a clip as the rules see them: shots numbered, and no motion across a cut."""
    _, in_seconds = config.gap()
    times, motion = np.asarray(track.seconds), np.asarray(track.motion, np.float64)
    shot = np.zeros(len(track), np.int64)
    if config.cuts:
        likeness, contrast = np.asarray(track.likeness, np.float64), np.asarray(track.contrast, np.float64)
        shot = shots(likeness, contrast, track.dissolves)
        motion[np.diff(shot, prepend=shot[:1]) != 0] = 0.0  # the flow across a cut is not motion
        motion[shot < 0] = 0.0
    return Lane(
        position=times if in_seconds else np.asarray(track.index, np.float64),
        seconds=times,
        motion=motion,
        change=np.asarray(track.change, np.float64),
        sharpness=np.asarray(track.sharpness, np.float64),
        shot=shot,
        end=track.end,
    )


def select(lane: Lane, config: MineConfig) -> list[int]:
    """Places of the frames to keep, in order. The lane holds at least one frame."""
    gap, _ = config.gap()
    if config.selection == "paper":
        return _paper(lane, np.flatnonzero(lane.shot >= 0), k=config.frames_per_clip, gap=gap)
    usable = _usable(lane, config)
    found = rules.exact(
        lane.position[usable], lane.motion[usable], lane.shot[usable], k=config.frames_per_clip, gap=gap
    )
    return snap([int(usable[i]) for i in found], lane, gap=gap, reach=seconds(config.snap, "snap"))


def likely(lane: Lane, config: MineConfig) -> set[int]:
    """Places of the frames that would be picked if the clip ended here, and of some that might be once it goes on:
    the liveliest, two for each pick, and the frames that they would move to."""
    gap, _ = config.gap()
    reach = seconds(config.snap, "snap") if config.selection == "exact" else 0.0
    peaks = _paper(lane, _usable(lane, config), k=2 * config.frames_per_clip, gap=gap / 2)
    moved = {snap([peak], lane, gap=gap, reach=reach)[0] for peak in peaks}
    return {*select(lane, config), *peaks, *moved}


def _paper(lane: Lane, usable: rules.Ints, *, k: int, gap: float) -> list[int]:
    return [int(usable[i]) for i in rules.paper(lane.position[usable], lane.motion[usable], k=k, gap=gap)]


def _usable(lane: Lane, config: MineConfig) -> rules.Ints:
    """Places of the frames that move, by flow and by difference, and of those that begin a shot."""
    moving = lane.motion >= max(config.min_motion, _STILL * float(np.percentile(lane.motion, 95)))
    moving &= lane.change >= _STILL * float(np.percentile(lane.change, 95))  # flow sees motion in codec noise
    moving[np.diff(lane.shot, prepend=lane.shot[0] - 1) != 0] = True  # what its first action starts from
    return np.flatnonzero(moving & (lane.shot >= 0))

"""Which frames are keyframes: the rules alone, on numbers."""

from __future__ import annotations

from itertools import combinations, pairwise

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrodict.video.config import MineConfig
from retrodict.video.cuts import DissolveFinder, find_cuts, find_fades, shots
from retrodict.video.keyframes import Timeline, exact, paper, snap


def timeline(motion, sharpness, seconds=None, end=None):
    frames = np.arange(len(motion), dtype=float)
    seconds = frames / 10 if seconds is None else np.asarray(seconds)
    end = seconds[-1] if end is None else end
    shot = np.zeros(len(motion), np.int64)
    motion = np.asarray(motion, float)
    return Timeline(seconds * 10, seconds, motion, motion > 0, motion, np.asarray(sharpness, float), shot, end)


def value(chosen, motion, shot):
    pairs = sum(shot[a] == shot[b] for a, b in pairwise(chosen))
    return len(chosen), pairs, round(float(sum(motion[i] for i in chosen)), 6)


@settings(max_examples=150)
@given(
    motion=st.lists(st.integers(0, 9), min_size=1, max_size=11),
    cut=st.integers(0, 11),
    k=st.integers(2, 5),
    gap=st.integers(1, 5),
)
def test_exact_is_as_good_as_trying_everything(motion, cut, k, gap):
    motion = np.array(motion, float)
    shot = (np.arange(len(motion)) >= cut).astype(np.int64)
    choices = (c for n in range(1, k + 1) for c in combinations(range(len(motion)), n))
    allowed = [c for c in choices if all(b - a >= gap for a, b in pairwise(c))]
    best = max(value(c, motion, shot) for c in allowed)
    chosen = exact(np.arange(len(motion), dtype=float), motion, shot, k=k, gap=gap)
    assert all(b - a >= gap for a, b in pairwise(chosen))
    assert value(chosen, motion, shot) == best


def test_paper_rule_is_greedy_and_keeps_fewer():
    frames = np.arange(41, dtype=float)
    motion = np.where(frames == 20, 2.0, 1.0) - frames / 1000
    assert paper(frames, motion, k=3, gap=20) == [0, 20, 40]
    motion[25] = 3.0  # the greedy rule takes it, and no room is left on one side
    assert paper(frames, motion, k=3, gap=20) == [0, 25]
    assert len(exact(frames, motion, np.zeros(41, np.int64), k=3, gap=20)) == 3


def test_snap_takes_the_clearly_sharper_frame_and_keeps_the_gap():
    steady = [5.0] * 30
    sharp = [100.0] * 30
    sharp[12] = 150
    assert snap([10, 20], timeline(steady, sharp), gap=8, reach=0.3) == [12, 20]
    assert snap([10, 19], timeline(steady, sharp), gap=8, reach=0.3) == [10, 19]  # 12 is too close to 19
    sharp[12] = 101  # as good as a tie
    assert snap([10, 20], timeline(steady, sharp), gap=8, reach=0.3) == [10, 20]


def test_snap_goes_to_where_an_action_ends_and_never_back_into_it():
    # Frames 3 to 6 move, ever faster, and uncover something sharp on the way; then all is still.
    motion = [0, 0, 0, 4, 6, 8, 9, 0.1, 0.1, 0.1, 0.1, 0.1]
    sharp = [100, 100, 100, 180, 180, 180, 100, 100, 100, 100, 100, 100]
    assert snap([6], timeline(motion, sharp), gap=8, reach=0.3) == [6]
    assert snap([4], timeline(motion, sharp), gap=8, reach=0.3) == [6]
    sharp[8] = 150  # the image becomes sharp a little after it came to rest
    assert snap([5], timeline(motion, sharp), gap=8, reach=0.3) == [8]
    # The same where the still frames were duplicates, and are gone.
    pause = [0, 0.1, 0.2, 0.3, 0.4, 0.5, 1.5, 1.6, 1.7]
    assert snap([3], timeline([0, 0, 2, 4, 6, 8, 3, 4, 5], [100] * 9, pause), gap=8, reach=0.3) == [5]


def test_cuts_and_fades():
    like = np.full(40, 0.95)
    like[10], like[20], like[30:33] = 0.2, 0.6, 0.6
    assert list(np.flatnonzero(find_cuts(like))) == [10, 20]  # a lesser break counts amid calm frames only
    contrast = np.array([50, 50, 40, 30, 20, 10, 2, 1, 2, 12, 25, 40, 41, 40, 41.0])
    assert list(np.flatnonzero(find_fades(contrast))) == list(range(1, 13))
    numbers = shots(np.ones(15), contrast)
    assert (numbers[1:13] == -1).all() and -1 < numbers[0] < numbers[13] == numbers[14]


@pytest.mark.parametrize(
    "wrong",
    [
        {"min_gap": "0"},
        {"min_gap": "soon"},
        {"min_gap": "-1s"},
        {"frames_per_clip": 1},
        {"motion": "raft"},
        {"snap": "nan"},
        {"jpeg_quality": 0},
        {"motion": "fast", "compensate_camera": True},
    ],
)
def test_settings_that_make_no_sense_are_named(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong)) if "compensate_camera" not in wrong else "compensate"):
        MineConfig(**wrong)


def test_between_an_image_and_its_negative_nothing_dissolves():
    """No mixture of the two can be told from a share of one."""
    finder = DissolveFinder(10, cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST))
    for number in range(60):
        plane = np.full((72, 128), 200 if number // 4 % 2 else 40, np.uint8)
        plane[:, 64:] = 240 - plane[0, 0]
        finder.push(plane)
    finder.finish()
    assert finder.dissolves == []

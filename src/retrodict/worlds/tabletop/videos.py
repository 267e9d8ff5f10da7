"""Unlabelled videos of the tabletop, as real mp4 files, and the truth about them for checking what is mined."""

from __future__ import annotations

import json
import multiprocessing
import random
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from retrodict.files import JsonObject, write_json
from retrodict.video.encode import write_video
from retrodict.worlds.tabletop.language import SUITE_KINDS, SUITES, Action, Kind, parse_action, templates
from retrodict.worlds.tabletop.motion import frames_between
from retrodict.worlds.tabletop.outcomes import apply, candidates, true_action
from retrodict.worlds.tabletop.rendering import draw
from retrodict.worlds.tabletop.sampling import check_size, is_held_out, random_state
from retrodict.worlds.tabletop.scene import COLOURS, Size, State

_STILL = (5, 12)  # frames at rest, at least and at most
_MOVING = (4, 6)  # frames of one action
_OPTIONS = 2  # actions of each other kind tried, to get back to the suite's own

_Pair = tuple[State, State]
_Step = tuple[State, Action]  # the scene that the action leads to


class Moment(NamedTuple):
    """One action in a video. From `settled` on, until the next moment, the outcome is at rest."""

    first: int  # the first frame that differs from the scene before
    settled: int
    action: Action


@dataclass
class VideoTruth:
    """What happens in a video. Frames are indices from 0, in the order in which the frames are shown.

    `scenes` holds every scene at rest and the frame from which it is so: the first one, and one for each moment.
    """

    suite: str
    size: Size
    frames: int = 0
    moments: list[Moment] = field(default_factory=list)
    scenes: list[tuple[int, State]] = field(default_factory=list)

    def states_at(self, frame: int) -> State:
        """The scene at a frame; `ValueError` when something moves there, or the video has no such frame."""
        if not 0 <= frame < self.frames:
            raise ValueError(f"No frame {frame}: the video has {self.frames}.")
        if any(m.first <= frame < m.settled for m in self.moments):
            raise ValueError(f"Something moves in frame {frame}: ask for a frame at rest.")
        return next(state for start, state in reversed(self.scenes) if start <= frame)

    def save(self, path: Path) -> None:
        record = {
            "suite": self.suite,
            "size": self.size,
            "frames": self.frames,
            "moments": [[m.first, m.settled, templates(m.action)[0]] for m in self.moments],
            "scenes": [[start, state.to_json()] for start, state in self.scenes],
        }
        write_json(path, record)

    @staticmethod
    def load(path: Path) -> VideoTruth:
        record: JsonObject = json.loads(path.read_text())
        return VideoTruth(
            record["suite"],
            record["size"],
            record["frames"],
            [Moment(first, settled, _action(text)) for first, settled, text in record["moments"]],
            [(start, State.from_json(state)) for start, state in record["scenes"]],
        )


def _action(text: str) -> Action:
    action = parse_action(text)
    if action is None:
        raise ValueError(f'"{text}" is no tabletop action: the truth file is damaged, write the video again.')
    return action


def render_video(path: Path, seed: int, *, suite: str, actions: int = 8, size: Size = "cells") -> VideoTruth:
    """Write one video (mp4, H.264, 96 x 96, 10 frames/s) of several actions of one suite in a row.

    Where the suite leaves nothing more to do (all is stacked, all is at the walls), an action of another suite comes
    between. No action happens twice in the same scene, and no scene is one that `sample` holds out. Still stretches
    take 5 to 12 frames, moving ones 4 to 6. The file appears under its name when it is complete.
    Raises `ValueError` for an unknown size or suite.
    """
    check_size(size, (suite,))
    truth = VideoTruth(suite, size)
    rng = random.Random(f"tabletop/video/{size}/{suite}/{seed}")
    write_video(path, _play(rng, truth, actions))
    return truth


def _play(rng: random.Random, truth: VideoTruth, actions: int) -> Iterator[Image.Image]:
    """The frames of a video; `truth` is filled in as they are made."""
    while is_held_out(state := random_state(rng, truth.size)):
        pass
    truth.scenes.append((0, state))
    yield from _still(rng, truth, state)
    seen: set[_Pair] = set()
    for _ in range(actions):
        target, action = _next_step(rng, state, SUITE_KINDS[truth.suite], seen)
        seen.add((state, target))
        count = rng.randint(*_MOVING)
        truth.moments.append(Moment(truth.frames, truth.frames + count - 1, action))
        yield from frames_between(state, target, action, count)
        truth.frames += count
        truth.scenes.append((truth.frames - 1, target))
        yield from _still(rng, truth, target)
        state = target


def _next_step(rng: random.Random, state: State, own: tuple[Kind, ...], seen: set[_Pair]) -> _Step:
    """An action of the suite's own kinds, else another, if possible one that the suite's own can follow."""
    if step := next(_steps(rng, state, own, seen), None):
        return step
    others = [kind for kinds in SUITE_KINDS.values() for kind in kinds if kind not in own]
    first = None
    for kind in rng.sample(others, len(others)):
        for step in islice(_steps(rng, state, (kind,), seen), _OPTIONS):
            if next(_steps(rng, step[0], own, seen), None):
                return step
            first = first or step
    assert first is not None, "something can always be done"
    return first


def _steps(rng: random.Random, state: State, kinds: tuple[Kind, ...], seen: set[_Pair]) -> Iterator[_Step]:
    """Actions that the video has not shown in this scene yet, in random order, and where they lead."""
    every = list(candidates(state, set(COLOURS), adding="add" in kinds))
    for kind in rng.sample(kinds, len(kinds)):
        of_kind = [action for action in every if action.kind == kind]
        for action in rng.sample(of_kind, len(of_kind)):
            target = apply(state, action)
            if target is None or (state, target) in seen or is_held_out(target):
                continue
            if true_action(state, target) == action:
                yield target, action


def _still(rng: random.Random, truth: VideoTruth, state: State) -> Iterator[Image.Image]:
    count = rng.randint(*_STILL)
    truth.frames += count
    yield from [draw(state)] * count


def write_videos(
    folder: Path, n: int, seed: int, *, truth: Path, size: Size = "cells", actions: int = 8, processes: int = 1
) -> list[Path]:
    """Write videos to `folder`/suite/name.mp4, the suites in turn, and what is true of each to `truth`/suite/name.json.

    Complete files that are there already are kept, so an interrupted run can be repeated. The folder holds nothing
    but the videos: keep `truth` outside it, as mining takes the whole folder.
    """
    jobs = [(folder, truth, seed, index, size, actions) for index in range(n)]
    if processes == 1:
        return [_write_video(*job) for job in jobs]
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(_write_video, *zip(*jobs, strict=True), chunksize=8))


def _write_video(folder: Path, truth: Path, seed: int, index: int, size: Size, actions: int) -> Path:
    suite = SUITES[index % len(SUITES)]
    name = f"{size}-{seed}-{index:05d}"
    path, truth_path = folder / suite / f"{name}.mp4", truth / suite / f"{name}.json"
    # The video is written first: a truth file means that both are complete.
    if not (path.exists() and truth_path.exists()):
        render_video(path, seed * 1_000_003 + index, suite=suite, actions=actions, size=size).save(truth_path)
    return path

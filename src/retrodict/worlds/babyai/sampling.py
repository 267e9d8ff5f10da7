"""Random episodes of the package's levels: transitions that one action explains, and unlabelled videos."""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count as counted
from pathlib import Path

from PIL import Image

from retrodict.files import write_json
from retrodict.images import encode_png
from retrodict.transitions import Transition
from retrodict.video.encode import write_video
from retrodict.worlds.babyai import engine
from retrodict.worlds.babyai.images import draw
from retrodict.worlds.babyai.language import SUITE_OF, TITLES, Action, every_action, wordings
from retrodict.worlds.babyai.rules import explanations, is_room, possible, possible_actions
from retrodict.worlds.babyai.tiles import FLOOR, State, agents, at, name_of, things, to_text
from retrodict.worlds.base import STILL

NAME = "babyai"
HELD_OUT = ("val", "test", "bench")  # namespaces, or the last part of their names
SUITES = tuple(TITLES)

_ACTIONS = 6  # of an episode
_TRIES = 40  # to find an action that one explanation fits
_OWN = 0.6  # how often an episode does something of its own suite
_LEVELS = ("ActionObjDoor", "GoToLocal", "ActionObjDoor", "PutNextLocal", "UnlockLocal")
_STILL = (9, 14)  # frames for which each state of a video is shown, at least and at most


@dataclass(frozen=True, eq=False, slots=True)
class Example:
    """One transition: the states, what was done, and one sentence that says it."""

    id: str
    episode: str
    source: State
    target: State
    action: Action
    text: str

    def transition(self, split: str = "") -> Transition:
        """The row that a stage stores: PNG images, and the states in `provenance`."""
        same = self.source == self.target
        return Transition(
            id=self.id,
            category=STILL if same else self.action.suite,
            group=self.episode,
            source=encode_png(draw(self.source)),
            target=encode_png(draw(self.target)),
            provenance={NAME: {"source": to_text(self.source), "target": to_text(self.target)}},
            action=self.text,
            action_source="template",
            split=split,
        )


def sample(count: int, seed: int, *, namespace: str) -> list[Example]:
    """Transitions in which something changes, the suites in turn; rows of one episode share their room."""
    rows: dict[str, list[Example]] = {suite: [] for suite in SUITES}
    wanted = {suite: (count + len(SUITES) - 1 - i) // len(SUITES) for i, suite in enumerate(SUITES)}
    for number in counted():
        lacking = max(SUITES, key=lambda suite: wanted[suite] - len(rows[suite]))
        if len(rows[lacking]) >= wanted[lacking]:
            break
        name = f"{namespace}-{seed}-{number}"
        rng = random.Random(f"{NAME}/{name}")
        for step, (source, action, target) in enumerate(_episode(rng, namespace, lacking, _ACTIONS)):
            text = rng.choice(wordings(action))
            rows[action.suite].append(Example(f"{name}-{step}", name, source, target, action, text))
    return [rows[SUITES[i % len(SUITES)]][i // len(SUITES)] for i in range(count)]


def sample_still(count: int, seed: int, *, namespace: str) -> list[Example]:
    """Transitions in which nothing happens: a wall is in the way, a door is locked, or what is named is not there."""
    rows: list[Example] = []
    for number in counted():
        if len(rows) >= count:
            break
        name = f"{namespace}-still-{seed}-{number}"
        rng = random.Random(f"{NAME}/{name}")
        state = _first_state(rng, namespace)
        vain = {kind: [a for a in every_action() if a.kind == kind and _in_vain(a, state)] for kind in SUITE_OF}
        action = rng.choice(vain[rng.choice([kind for kind, actions in vain.items() if actions])])
        rows.append(Example(f"{name}-0", name, state, state, action, rng.choice(wordings(action))))
    return rows


def _in_vain(action: Action, state: State) -> bool:
    """Whether an action can be seen to change nothing."""
    if action.kind == "forward":
        return at(state, agents(state)[0].ahead()) != FLOOR
    return action.kind != "drop" and not possible(action, state)


def _first_state(rng: random.Random, namespace: str) -> State:
    """A room of a random level on the namespace's side: which set of things and doors is held out, is fixed."""
    held_out = namespace.rsplit("-", 1)[-1] in HELD_OUT
    while True:
        state = engine.first_state(rng.choice(_LEVELS), rng.randrange(2**31))
        if is_room(state) and _is_held_out(state) == held_out:
            return state


def _is_held_out(state: State) -> bool:
    """No action changes which things and doors a room has, so a whole episode is on one side: a fixed eighth of all."""
    names = sorted(name_of(tile) for tile in things(state))
    return zlib.crc32(" ".join(names).encode()) % 8 == 0


def _episode(rng: random.Random, namespace: str, suite: str, length: int) -> Iterator[tuple[State, Action, State]]:
    """Actions in a row, each the only explanation of what it changes; those of the suite are the most frequent."""
    state, carrying = _first_state(rng, namespace), ""
    for _ in range(length):
        for _ in range(_TRIES):
            action = _random_action(rng, state, carrying, suite)
            outcome = None if action is None else engine.carry_out(action, state, carrying)
            if action is not None and outcome is not None and explanations(state, outcome[0]) == [action]:
                yield state, action, outcome[0]
                state, carrying = outcome
                break
        else:
            return


def _random_action(rng: random.Random, state: State, carrying: str, suite: str) -> Action | None:
    """A random action of a random kind. With full hands: what the image suffices for, or to drop what is named."""
    wanted = suite if rng.random() < _OWN else rng.choice(SUITES)
    if carrying and wanted not in ("walk", "go"):
        return Action("drop", carrying)
    options = [a for a in possible_actions(state) if a.suite == wanted]
    if not options:
        return None
    kind = rng.choice(sorted({a.kind for a in options}))
    return rng.choice([a for a in options if a.kind == kind])


def write_videos(folder: Path, count: int, seed: int, *, actions: int, truth: Path) -> list[Path]:
    """Write videos to `folder`/suite/name.mp4, and the state of every frame to `truth`/suite/name.json.

    A video shows what each action has led to, 9 to 14 frames long, as a step of the engine takes no time. What is
    there already is kept.
    """
    return [_write_video(folder, truth, seed, index, actions) for index in range(count)]


def _write_video(folder: Path, truth: Path, seed: int, index: int, actions: int) -> Path:
    suite = SUITES[index % len(SUITES)]
    name = f"{suite}/{seed}-{index:05d}"
    path, record = folder / f"{name}.mp4", truth / f"{name}.json"
    if not (path.exists() and record.exists()):
        states: list[str] = []
        write_video(path, _frames(random.Random(f"{NAME}/video/{seed}/{index}"), suite, actions, states))
        write_json(record, states)
    return path


def _frames(rng: random.Random, suite: str, actions: int, states: list[str]) -> Iterator[Image.Image]:
    """The frames of a video; `states` is filled in as they are made."""
    for shown in _shown(rng, suite, actions):
        held = rng.randint(*_STILL)
        states += [to_text(shown)] * held
        yield from [draw(shown)] * held


def _shown(rng: random.Random, suite: str, actions: int) -> Iterator[State]:
    for step, (source, _, target) in enumerate(_episode(rng, "video", suite, actions)):
        if step == 0:
            yield source
        yield target


def read_truth(path: Path) -> list[str]:
    """The states that the frames of a video show."""
    states: list[str] = json.loads(path.read_text())
    return states

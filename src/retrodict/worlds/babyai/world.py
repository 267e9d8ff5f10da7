"""*babyai* as a `World`: sentences and images outside, tiles inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from PIL import Image

from retrodict.transitions import FramePair, Transition
from retrodict.worlds.babyai import engine, language, rules, sampling
from retrodict.worlds.babyai.images import draw, read
from retrodict.worlds.babyai.language import Action, parse_action, wordings
from retrodict.worlds.babyai.tiles import State, from_text
from retrodict.worlds.base import Score, World


class BabyAI:
    """An agent in a room with balls, boxes, keys and doors, told what to do by BabyAI's missions in words."""

    name = sampling.NAME
    about = "Rooms of BabyAI, a grid world that others wrote: an agent (the red arrow), balls, boxes, keys and doors."
    suites: Mapping[str, str] = language.TITLES

    def sample(self, count: int, seed: int, *, namespace: str, split: str = "") -> list[Transition]:
        return [example.transition(split) for example in sampling.sample(count, seed, namespace=namespace)]

    def sample_still(self, count: int, seed: int, *, namespace: str, split: str = "") -> list[Transition]:
        return [example.transition(split) for example in sampling.sample_still(count, seed, namespace=namespace)]

    def write_videos(self, folder: Path, count: int, seed: int, *, actions: int, truth: Path) -> list[Path]:
        return sampling.write_videos(folder, count, seed, actions=actions, truth=truth)

    def vocabulary(self) -> list[str]:
        return language.vocabulary()

    def owns(self, row: FramePair) -> bool:
        return self.name in row.provenance

    def score(self, image: Image.Image, row: Transition) -> Score:
        (shown,), (source, target) = read([image]), self._states(row)
        if source == target:
            return rules.score_still(shown, source)
        return rules.score(shown, source, rules.explanations(source, target)[0])

    def is_copy(self, image: Image.Image, row: Transition) -> bool:
        return read([image])[0] == self._states(row)[0]

    def score_action(
        self, image: Image.Image, source: Image.Image, action: str, like: Transition | None = None
    ) -> Score | None:
        stated = parse_action(action)
        shown, before = read([image, source])
        possible = stated is not None and rules.possible(stated, before)
        return rules.score(shown, before, stated) if stated is not None and possible else None

    def explains(self, action: str, source: Image.Image, target: Image.Image, like: Transition | None = None) -> bool:
        stated = parse_action(action)
        return stated is not None and rules.explains(stated, *read([source, target]))

    def action_between(self, source: Image.Image, target: Image.Image, like: Transition | None = None) -> str | None:
        return _only(*read([source, target]))

    def names_action(self, text: str, row: Transition) -> bool:
        stated = parse_action(text)
        return stated is not None and rules.explanations(*self._states(row)) == [stated]

    def same_action(self, a: str, b: str) -> bool:
        stated = parse_action(a)
        return stated is not None and stated == parse_action(b)

    def wordings(self, action: str) -> list[str]:
        stated = parse_action(action)
        return [] if stated is None else wordings(stated)

    def counterfactuals(self, row: Transition) -> list[str]:
        """The same kind of action on another thing, another door, another way or another number of steps."""
        source, target = self._states(row)
        true = parse_action(row.action)
        if true is None:
            return []
        texts = wordings(true)
        wording = texts.index(row.action) if row.action in texts else 0
        others = [a for a in _allowed(source, true) if a.kind == true.kind and not rules.explains(a, source, target)]
        return sorted(wordings(a)[wording] for a in others)

    def alternatives(self, row: Transition) -> list[str]:
        source, target = self._states(row)
        true = parse_action(row.action)
        return [
            wordings(action)[0]
            for action in _allowed(source, true)
            if (true is None or action.suite == true.suite) and not rules.explains(action, source, target)
        ]

    def possible(self, source: Image.Image) -> list[str]:
        return [wordings(action)[0] for action in rules.possible_actions(*read([source]))]

    def play(self, source: Image.Image, actions: Sequence[str]) -> list[Image.Image] | None:
        (state,), carrying, shown = read([source]), "", []
        for stated in map(parse_action, actions):
            after = engine.carry_out(stated, state, carrying) if stated is not None and rules.is_room(state) else None
            if after is None:
                return None
            state, carrying = after
            shown.append(draw(state))
        return shown

    def true_action(self, pair: FramePair, truth: Path) -> str | None:
        states = _truth(truth / Path(pair.clip).with_suffix(".json"))
        return _only(*(from_text(states[frame]) for frame in (pair.frame_source, pair.frame_target)))

    def _states(self, row: FramePair) -> tuple[State, State]:
        if not self.owns(row):
            raise ValueError(f"Row {row.id} has no {self.name} states: score only rows that {self.name} made.")
        states = row.provenance[self.name]
        return from_text(states["source"]), from_text(states["target"])


def _allowed(source: State, true: Action | None) -> list[Action]:
    """What the image of the source allows; in place of a drop, a drop of anything else that is not in sight."""
    actions = rules.possible_actions(source)
    if true is not None and true.kind == "drop":
        drops = (Action("drop", name) for name in language.THINGS if name != true.thing)
        actions += [action for action in drops if rules.possible(action, source)]
    return actions


def _only(source: State, target: State) -> str | None:
    """The one action between two states, in its plainest wording."""
    actions = rules.explanations(source, target)
    return wordings(actions[0])[0] if len(actions) == 1 else None


@lru_cache(maxsize=64)
def _truth(path: Path) -> list[str]:
    return sampling.read_truth(path)


WORLD: World = BabyAI()

"""*tabletop* as a `World`: sentences and images outside, exact states inside."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from PIL import Image

from retrodict.transitions import FramePair, Transition
from retrodict.worlds.base import DrawableWorld, Placed, Score
from retrodict.worlds.tabletop import language, outcomes, sampling, scoring, videos
from retrodict.worlds.tabletop.cells import CellsBoard
from retrodict.worlds.tabletop.language import parse_action, templates
from retrodict.worlds.tabletop.parsing import parse, possible_sizes
from retrodict.worlds.tabletop.rendering import draw
from retrodict.worlds.tabletop.scene import (
    COLOURS,
    GRID,
    MOST,
    SHAPES,
    SHELF_ROW,
    Size,
    State,
    Thing,
    same_scene,
)

SHELF = "shelf"  # a piece: one column of the plank


class Tabletop:
    """Balls, boxes and cones on a table, seen from the side. `sample` and `write_videos` make the size "cells"."""

    name = "tabletop"
    about = "A simulated tabletop: balls, boxes and cones, a floor, sometimes a shelf."
    suites: Mapping[str, str] = language.TITLES
    pieces: Sequence[str] = (*(f"{colour} {shape}" for shape in SHAPES for colour in COLOURS), SHELF)
    grid = (GRID, GRID)

    def sample(self, count: int, seed: int, *, namespace: str, split: str = "") -> list[Transition]:
        return [example.transition(split) for example in sampling.sample(count, seed, namespace=namespace)]

    def sample_still(self, count: int, seed: int, *, namespace: str, split: str = "") -> list[Transition]:
        return [example.transition(split) for example in sampling.sample_still(count, seed, namespace=namespace)]

    def write_videos(self, folder: Path, count: int, seed: int, *, actions: int, truth: Path) -> list[Path]:
        return videos.write_videos(folder, count, seed, actions=actions, truth=truth)

    def vocabulary(self) -> list[str]:
        return language.vocabulary()

    def owns(self, row: FramePair) -> bool:
        return self.name in row.provenance

    def score(self, image: Image.Image, row: Transition) -> Score:
        return scoring.score(image, row)

    def is_copy(self, image: Image.Image, row: Transition) -> bool:
        return scoring.is_copy(image, row)

    def score_action(
        self, image: Image.Image, source: Image.Image, action: str, like: Transition | None = None
    ) -> Score | None:
        before, after = next(self._outcomes(action, source, like), (None, None))
        if before is None or after is None:
            return None
        return scoring.score_state(parse(image, before.size), before, after)

    def explains(self, action: str, source: Image.Image, target: Image.Image, like: Transition | None = None) -> bool:
        return any(
            same_scene(after, parse(target, before.size)) for before, after in self._outcomes(action, source, like)
        )

    def _outcomes(self, action: str, source: Image.Image, like: Transition | None) -> Iterator[tuple[State, State]]:
        """The scene before and after an action, in each size that `source` may have and that allows the action."""
        stated = parse_action(action)
        for size in _sizes(source, like) if stated is not None else ():
            before = parse(source, size)
            after = None if stated is None else outcomes.apply(before, stated)
            if after is not None:
                yield before, after

    def action_between(self, source: Image.Image, target: Image.Image, like: Transition | None = None) -> str | None:
        for size in _sizes(source, like):
            action = outcomes.true_action(parse(source, size), parse(target, size))
            if action is not None:
                return templates(action)[0]
        return None

    def names_action(self, text: str, row: Transition) -> bool:
        return scoring.exact(text, row)

    def same_action(self, a: str, b: str) -> bool:
        stated = parse_action(a)
        return stated is not None and stated == parse_action(b)

    def wordings(self, action: str) -> list[str]:
        stated = parse_action(action)
        return [] if stated is None else templates(stated)

    def counterfactuals(self, row: Transition) -> list[str]:
        """The same kind of action on the same thing, with another value or another second thing."""
        true = parse_action(row.action)
        if true is None:
            return []
        texts = templates(true)
        wording = texts.index(row.action) if row.action in texts else 0
        source, _ = scoring.states(row)
        others = [a for a in outcomes.actions(source) if (a.kind, a.thing) == (true.kind, true.thing) and a != true]
        return sorted(templates(action)[wording] for action in others)

    def alternatives(self, row: Transition) -> list[str]:
        source, target = scoring.states(row)
        true = parse_action(row.action)
        return [
            templates(action)[0]
            for action in outcomes.actions(source)
            if (true is None or action.suite == true.suite)
            and (outcome := outcomes.apply(source, action)) is not None
            and not same_scene(outcome, target)
        ]

    def possible(self, source: Image.Image) -> list[str]:
        scene = parse(source)
        return [templates(action)[0] for action in outcomes.actions(scene) if outcomes.apply(scene, action)]

    def play(self, source: Image.Image, actions: Sequence[str]) -> list[Image.Image] | None:
        scene, shown = parse(source), []
        for stated in map(parse_action, actions):
            after = None if stated is None else outcomes.apply(scene, stated)
            if after is None:
                return None
            scene = after
            shown.append(draw(scene))
        return shown

    def compose(self, placed: Sequence[Placed]) -> Image.Image:
        if not {piece for piece, _, _ in placed} <= set(self.pieces):
            raise ValueError(f"There are {', '.join(self.pieces)}.")
        words = [(piece.split(), x, y) for piece, x, y in placed if piece != SHELF]
        things = [Thing(colour, shape, x, y) for (colour, shape), x, y in words]
        shelf = {x for piece, x, _ in placed if piece == SHELF}  # at its height, wherever it is put
        scene = State.of(things, shelf)
        if len(things) > MOST or len({thing.colour for thing in things}) < len(things):
            raise ValueError(f"A scene has up to {MOST} things, each of its own colour.")
        board = CellsBoard(scene)
        inside = all(0 <= x < GRID and 0 <= y < GRID for _, x, y in placed)
        apart = len(board.things) == len(things) and not board.plank & board.things.keys()
        settled = board.settle() if inside and apart else None
        if settled is None:
            raise ValueError("Things stand on the floor, the shelf or a box, one in a cell.")
        return draw(settled)

    def placed(self, image: Image.Image) -> list[Placed]:
        scene = parse(image)
        things = [(thing.name, int(thing.x), int(thing.y)) for thing in scene.things]
        return [*things, *((SHELF, x, SHELF_ROW) for x in scene.shelf)]

    def true_action(self, pair: FramePair, truth: Path) -> str | None:
        video = _truth(truth / Path(pair.clip).with_suffix(".json"))
        try:
            action = outcomes.true_action(video.states_at(pair.frame_source), video.states_at(pair.frame_target))
        except ValueError:  # something moves in one of the frames
            return None
        return None if action is None else templates(action)[0]


def _sizes(source: Image.Image, like: Transition | None) -> Sequence[Size]:
    """The size of the row where there is one, else those that the image may have."""
    if like is not None and WORLD.owns(like):
        return (scoring.states(like)[0].size,)
    return possible_sizes(source)


@lru_cache(maxsize=64)
def _truth(path: Path) -> videos.VideoTruth:
    return videos.VideoTruth.load(path)


WORLD: DrawableWorld = Tabletop()

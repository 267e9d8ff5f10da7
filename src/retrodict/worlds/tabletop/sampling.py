"""Random transitions, each explained by exactly one action."""

from __future__ import annotations

import itertools
import random
import zlib
from dataclasses import dataclass

from retrodict.images import encode_png
from retrodict.transitions import Transition
from retrodict.worlds.base import STILL
from retrodict.worlds.tabletop.language import SUITE_KINDS, SUITES, Action, Kind, templates
from retrodict.worlds.tabletop.outcomes import SIDES, apply, board, true_action
from retrodict.worlds.tabletop.rendering import draw
from retrodict.worlds.tabletop.rules import Position
from retrodict.worlds.tabletop.scene import (
    CELL,
    COLOURS,
    FEWEST,
    GRID,
    MOST,
    SHAPES,
    SHELF_ROW,
    SIZES,
    Size,
    State,
    Thing,
)

HELD_OUT = ("val", "test", "bench")  # namespaces, or the last part of their names


@dataclass(frozen=True, slots=True)
class Example:
    """One transition with its exact states, the canonical action and one sentence that states it."""

    id: str
    size: Size
    suite: str
    source: State
    target: State
    action: Action
    text: str

    def transition(self, split: str = "") -> Transition:
        """The row that a stage stores: PNG images, and the states in `provenance`, where `score` finds them."""
        return Transition(
            id=self.id,
            category=self.suite,
            group=self.id,
            source=encode_png(draw(self.source)),
            target=encode_png(draw(self.target)),
            provenance={"tabletop": {"source": self.source.to_json(), "target": self.target.to_json()}},
            action=self.text,
            action_source="template",
            split=split,
        )


def sample(
    n: int,
    seed: int,
    *,
    size: Size = "cells",
    suites: tuple[str, ...] = SUITES,
    namespace: str = "train",
    start: int = 0,
) -> list[Example]:
    """Examples `start` to `start + n` of an endless list, the suites in turn.

    Example i depends on `seed`, `namespace`, `size`, `suites` and i alone, so processes can share a range; only an
    example that repeats an earlier one of the same call is sampled anew. Name the splits as namespaces: they share no
    random numbers. One in eight scenes is held out: the namespaces "val", "test", "bench" and those that end so after
    a hyphen ("demo-test") start from these scenes, and no other namespace and no video does.

    Raises `ValueError` for an unknown size or suite.
    """
    check_size(size, suites)
    held_out = namespace.rsplit("-", 1)[-1] in HELD_OUT
    seen: set[tuple[State, State]] = set()
    examples = []
    for index in range(start, start + n):
        suite = suites[index % len(suites)]
        rng = random.Random(f"tabletop/{size}/{namespace}/{seed}/{index}")
        kinds = SUITE_KINDS[suite]
        kind = kinds[index // len(suites) % len(kinds)]
        source, target, action = _sample_pair(rng, size, kind, held_out, seen)
        seen.add((source, target))
        text = rng.choice(templates(action))
        examples.append(Example(f"{namespace}-{size}-{seed}-{index}", size, suite, source, target, action, text))
    return examples


def sample_still(count: int, seed: int, *, namespace: str) -> list[Example]:
    """Examples of size "cells" in which nothing happens: there is no room, nothing to stand on, or no such thing."""
    held_out = namespace.rsplit("-", 1)[-1] in HELD_OUT
    kinds = [kind for kinds in SUITE_KINDS.values() for kind in kinds]
    rows: list[Example] = []
    for number in itertools.count():
        if len(rows) == count:
            return rows
        rng = random.Random(f"tabletop/{STILL}/{namespace}/{seed}/{number}")
        here, elsewhere = (random_state(rng, "cells", kind) for kind in rng.choices(kinds, k=2))
        action = random_action(rng, rng.choice((here, elsewhere)), rng.choice(kinds))
        if action is not None and apply(here, action) is None and is_held_out(here) == held_out:
            name = f"{namespace}-{STILL}-{seed}-{number}"
            rows.append(Example(name, "cells", STILL, here, here, action, rng.choice(templates(action))))
    raise AssertionError("counting ended")


def check_size(size: Size, suites: tuple[str, ...]) -> None:
    if size not in SIZES:
        raise ValueError(f'No size "{size}": use one of {", ".join(SIZES)}.')
    if unknown := [s for s in suites if s not in SUITES]:
        raise ValueError(f'No suite "{unknown[0]}": use some of {", ".join(SUITES)}.')


def _sample_pair(
    rng: random.Random, size: Size, kind: Kind, held_out: bool, seen: set[tuple[State, State]]
) -> tuple[State, State, Action]:
    for _ in range(100_000):
        source = random_state(rng, size, kind)
        if is_held_out(source) != held_out:
            continue
        outcome = _random_outcome(rng, source, kind)
        if outcome is not None and (source, outcome[0]) not in seen:
            return source, *outcome
    raise AssertionError(f"no {kind} in 100,000 scenes")


def is_held_out(state: State) -> bool:
    """Whether transitions that start from this scene are for evaluation alone: a fixed eighth of all scenes."""
    things = [f"{t.name} {t.x:g} {t.y:g}" for t in state.things]
    return zlib.crc32(f"{things} {state.shelf}".encode()) % 8 == 0


def _random_outcome(rng: random.Random, source: State, kind: Kind) -> tuple[State, Action] | None:
    """What a random action of this kind leads to; None when it is not valid or another action leads there too."""
    action = random_action(rng, source, kind)
    target = None if action is None else apply(source, action)
    if action is None or target is None or true_action(source, target) != action:
        return None
    return target, action


def random_state(rng: random.Random, size: Size, kind: Kind | None = None) -> State:
    """A scene at rest; `kind` keeps the number of things such that an action of this kind can be valid."""
    count = rng.randint(FEWEST + (kind == "remove"), MOST - (kind == "add"))
    while (state := _random_things(rng, count, State.of([], _random_shelf(rng), size))) is None:
        pass
    return state


def _random_things(rng: random.Random, count: int, state: State) -> State | None:
    """`state` and `count` things more; None when there seems to be no room left."""
    # Boxes are a little more frequent, as only they carry something.
    for colour in rng.sample(COLOURS, count):
        thing = Thing(colour, rng.choice((*SHAPES, "box")), 0, 0)
        position = _random_position(rng, state)
        if position is None:
            return None
        state = state.having(plus=[thing.at(*position)])
    return state


def _random_shelf(rng: random.Random) -> tuple[int, ...]:
    if rng.random() < 0.5:
        return ()
    length = rng.randint(2, 3)
    first = rng.randint(0, GRID - length)
    return tuple(range(first, first + length))


def _random_position(rng: random.Random, state: State) -> Position | None:
    """A free position at rest: on a box or on the shelf more often than their share of the width."""
    room = board(state)
    floor = range(GRID)
    for _ in range(30):
        surface = rng.choice(("floor", "floor", "box", "shelf"))
        boxes = [t for t in state.things if t.shape == "box"]
        if surface == "box" and boxes:
            box = rng.choice(boxes)
            position = _shifted(rng, state, box.x, box.y + 1, 0.2)
        elif surface == "shelf" and state.shelf:
            position = _shifted(rng, state, rng.choice(state.shelf), SHELF_ROW + 1, 0.5)
        else:
            position = _shifted(rng, state, rng.choice(floor), 0, 0.5)
        if room.free(position) and room.supported(position):
            return position
    return None


def _shifted(rng: random.Random, state: State, x: float, y: float, most: float) -> Position:
    """In "continuous", up to `most` cells to the left or right, by whole pixels."""
    return (x, y) if state.size == "cells" else (x + round(rng.uniform(-most, most) * CELL) / CELL, y)


def random_action(rng: random.Random, state: State, kind: Kind) -> Action | None:
    """An action of this kind on things of this scene, not yet known to be valid; None when there is nothing for it."""
    thing, other = rng.sample(state.things, 2)
    absent = sorted(set(COLOURS) - {t.colour for t in state.things})
    boxes = [t for t in state.things if t.shape == "box" and t is not thing]
    side = rng.choice(SIDES)
    match kind:
        case "paint":
            return Action(kind, thing.name, rng.choice(absent))
        case "turn":
            return Action(kind, thing.name, rng.choice([s for s in SHAPES if s != thing.shape]))
        case "push":
            return Action(kind, thing.name, side)
        case "put":
            return Action(kind, thing.name, other=rng.choice(boxes).name) if boxes else None
        case "move":
            return Action(kind, thing.name, side, other.name)
        case "add":
            return _random_addition(rng, f"{rng.choice(absent)} {rng.choice(SHAPES)}", side, other, boxes)
        case "remove":
            return Action(kind, _random_carrier(rng, state, thing).name)
        case "swap":
            return Action(kind, min(thing.name, other.name), other=max(thing.name, other.name))


def _random_carrier(rng: random.Random, state: State, thing: Thing) -> Thing:
    """Half the time something that carries something, if there is: it is what falls that makes removing hard."""
    room = board(state)
    carriers = [t for t in state.things if not room.clear(t)]
    return rng.choice(carriers) if carriers and rng.random() < 0.5 else thing


def _random_addition(rng: random.Random, name: str, side: str, other: Thing, boxes: list[Thing]) -> Action | None:
    where = rng.choice(("corner", "beside", "top"))
    if where == "top":
        return Action("add", name, "top", rng.choice(boxes).name) if boxes else None
    return Action("add", name, side, other.name if where == "beside" else "")

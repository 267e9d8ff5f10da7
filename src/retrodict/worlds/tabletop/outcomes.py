"""What an action leads to, which actions are possible, and which action explains a pair of scenes."""

from __future__ import annotations

from collections.abc import Iterator

from retrodict.worlds.tabletop.cells import CellsBoard
from retrodict.worlds.tabletop.continuous import ContinuousBoard
from retrodict.worlds.tabletop.language import Action
from retrodict.worlds.tabletop.rules import Board, apply_rules
from retrodict.worlds.tabletop.scene import COLOURS, SHAPES, Size, State, Thing, changed_colours, same_scene

SIDES = ("left", "right")
_BOARDS: dict[Size, type[Board]] = {"cells": CellsBoard, "continuous": ContinuousBoard}


def board(state: State) -> Board:
    """The room in a scene."""
    return _BOARDS[state.size](state)


def apply(state: State, action: Action) -> State | None:
    """The scene after the action has come to rest; None when the action is not valid in `state`."""
    return apply_rules(_BOARDS[state.size], state, action)


def actions(state: State) -> list[Action]:
    """Every canonical action that is valid in `state`."""
    return [action for action in candidates(state, set(COLOURS)) if apply(state, action) is not None]


def true_action(source: State, target: State) -> Action | None:
    """The one action that leads from `source` to `target`; None when no action does, or more than one."""
    explanation = None
    # Every valid action changes the thing it names, so only actions on things that changed can explain the pair.
    for action in candidates(source, changed_colours(source, target)):
        outcome = apply(source, action)
        if outcome is not None and same_scene(outcome, target):
            if explanation is not None:
                return None
            explanation = action
    return explanation


def candidates(state: State, colours: set[str], *, adding: bool = True) -> Iterator[Action]:
    """The actions that may be valid in `state` and change nothing but things of `colours` by name; most are "add"."""
    present = {t.colour for t in state.things}
    absent = [c for c in COLOURS if c in colours and c not in present]
    for thing in state.things:
        if thing.colour in colours:
            yield from _on_thing(state, thing, absent)
            yield from (
                Action("swap", thing.name, other=other.name)
                for other in state.things
                if thing.name < other.name and other.colour in colours
            )
    for colour in absent if adding else ():
        for shape in SHAPES:
            yield from _additions(state, f"{colour} {shape}")


def _on_thing(state: State, thing: Thing, absent: list[str]) -> Iterator[Action]:
    name = thing.name
    yield from (Action("paint", name, colour) for colour in absent)
    yield from (Action("turn", name, shape) for shape in SHAPES if shape != thing.shape)
    yield from (Action("push", name, side) for side in SIDES)
    for other in state.things:
        if other is not thing:
            if other.shape == "box":
                yield Action("put", name, other=other.name)
            yield from (Action("move", name, side, other.name) for side in SIDES)
    yield Action("remove", name)


def _additions(state: State, name: str) -> Iterator[Action]:
    for side in SIDES:
        yield Action("add", name, side)
        yield from (Action("add", name, side, other.name) for other in state.things)
    yield from (Action("add", name, "top", other.name) for other in state.things if other.shape == "box")

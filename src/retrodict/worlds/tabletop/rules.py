"""What each action needs and does, in terms of what a board of either size knows.

Only boxes carry something, a thing that carries something cannot be taken away from under it (except by "remove"),
and whatever would come to rest on a ball or a cone, or tip over an edge, is not a valid action.
"""

from __future__ import annotations

from typing import Protocol

from retrodict.worlds.tabletop.language import Action
from retrodict.worlds.tabletop.scene import FEWEST, GRID, MOST, State, Thing, same_place

STEP = {"left": -1, "right": 1}

Position = tuple[float, float]


class Board(Protocol):
    """The room in one scene, without the thing that is lifted at the moment, if any."""

    pitch: float  # from one thing to a thing right beside it

    def __init__(self, state: State, lifted: Thing | None = None) -> None: ...

    def free(self, position: Position) -> bool:
        """Whether a thing fits there."""
        ...

    def supported(self, position: Position) -> bool:
        """Whether a thing rests there on the floor, the shelf or a box."""
        ...

    def clear(self, thing: Thing) -> bool:
        """Whether nothing stands on the thing."""
        ...

    def push(self, thing: Thing, step: int) -> State | None:
        """The scene after a push; None when it does not end with everything at rest."""
        ...

    def settle(self) -> State | None:
        """The scene after everything has fallen; None when it does not end with everything at rest."""
        ...


def apply_rules(board_type: type[Board], state: State, action: Action) -> State | None:
    """The scene after the action has come to rest, or None when the action is not valid in this scene."""
    if action.kind == "add":
        return _add(board_type(state), state, action)
    thing = state.find(action.thing)
    other = state.find(action.other) if action.other else None
    if thing is None or (action.other and (other is None or other is thing)):
        return None
    match action.kind:
        case "paint":
            taken = any(t.colour == action.value for t in state.things)
            return None if taken else state.having(without=[thing], plus=[thing._replace(colour=action.value)])
        case "remove":
            return None if len(state.things) == FEWEST else board_type(state.having(without=[thing])).settle()
        case "turn":
            stays = action.value != thing.shape and (action.value == "box" or board_type(state).clear(thing))
            return state.having(without=[thing], plus=[thing._replace(shape=action.value)]) if stays else None
    if not board_type(state).clear(thing):
        return None
    if action.kind == "push":
        return _pushed(board_type(state, thing), state, thing, STEP[action.value])
    assert other is not None, "the remaining kinds name two things"
    if action.kind == "swap":
        return _swapped(board_type(state), state, thing, other)
    position = _position(board_type(state, thing), other, action.value or "top")
    if position is None or same_place(thing, thing.at(*position), state.size):
        return None
    return state.having(without=[thing], plus=[thing.at(*position)])


def _position(board: Board, anchor: Thing, where: str) -> Position | None:
    """The position at rest on top of a box or right beside a thing."""
    if where == "top":
        position = (anchor.x, anchor.y + 1)
        if anchor.shape != "box":
            return None
    else:
        position = (anchor.x + STEP[where] * board.pitch, anchor.y)
    return position if board.free(position) and board.supported(position) else None


def _add(board: Board, state: State, action: Action) -> State | None:
    colour, shape = action.thing.split()
    if len(state.things) == MOST or any(t.colour == colour for t in state.things):
        return None
    if action.other:
        other = state.find(action.other)
        position = None if other is None else _position(board, other, action.value)
    else:
        corner = (0 if action.value == "left" else GRID - 1, 0)
        position = corner if board.free(corner) else None
    return None if position is None else state.having(plus=[Thing(colour, shape, *position)])


def _pushed(board: Board, state: State, thing: Thing, step: int) -> State | None:
    outcome = board.push(thing, step)
    moved = None if outcome is None else outcome.find(thing.name)
    return None if moved is None or same_place(thing, moved, state.size) else outcome


def _swapped(board: Board, state: State, thing: Thing, other: Thing) -> State | None:
    if not board.clear(other):
        return None
    return state.having(without=[thing, other], plus=[thing.at(other.x, other.y), other.at(thing.x, thing.y)])

"""The rule that moves things in the size "cells".

An integer rule and not the physics engine, because every action of a state is carried out whenever a transition is
sampled, to prove that only one of them explains it: the rule takes microseconds where the engine takes milliseconds.
A test holds the rule against the engine. Only boxes carry something; whatever would come to rest on a ball or a cone
is not a valid action.
"""

from __future__ import annotations

from retrodict.worlds.tabletop.language import Action
from retrodict.worlds.tabletop.scene import FEWEST, GRID, MOST, SHELF_ROW, State, Thing

STEP = {"left": -1, "right": 1}

Place = tuple[int, int]


def apply_cells(state: State, action: Action) -> State | None:
    """The scene after the action has come to rest, or None when the action is not valid in this scene."""
    if action.kind == "add":
        return _add(state, action)
    thing = state.find(action.thing)
    if thing is None:
        return None
    match action.kind:
        case "paint":
            taken = any(t.colour == action.value for t in state.things)
            return None if taken else state.having(without=[thing], plus=[thing._replace(colour=action.value)])
        case "turn":
            return _turn(state, thing, action.value)
        case "push":
            return _moved(state, thing, _slide(_board(state), thing, STEP[action.value]))
        case "put":
            return _moved(state, thing, _on_top(_board(state, thing), state.find(action.other)))
        case "move":
            return _moved(state, thing, _beside(_board(state, thing), state.find(action.other), action.value))
        case "remove":
            return _remove(state, thing)
        case "swap":
            return _swap(state, thing, state.find(action.other))


class _Board:
    """What fills each cell: things and planks, perhaps without the thing that is being moved."""

    def __init__(self, state: State, lifted: Thing | None) -> None:
        self.things = {(int(t.x), int(t.y)): t for t in state.things if t is not lifted}
        self.plank = {(x, SHELF_ROW) for x in state.shelf}

    def free(self, place: Place) -> bool:
        inside = 0 <= place[0] < GRID and 0 <= place[1] < GRID
        return inside and place not in self.things and place not in self.plank

    def supported(self, place: Place) -> bool:
        below = (place[0], place[1] - 1)
        carrier = self.things.get(below)
        return place[1] == 0 or below in self.plank or (carrier is not None and carrier.shape == "box")

    def landing(self, place: Place) -> Place | None:
        """Where something let go at `place` comes to rest; None when that would be on a ball or a cone."""
        x, y = place
        while y > 0 and self.free((x, y - 1)):
            y -= 1
        return (x, y) if self.supported((x, y)) else None

    def clear(self, thing: Thing) -> bool:
        return (int(thing.x), int(thing.y) + 1) not in self.things


def _board(state: State, lifted: Thing | None = None) -> _Board:
    return _Board(state, lifted)


def _moved(state: State, thing: Thing, place: Place | None) -> State | None:
    if place is None or place == (thing.x, thing.y) or not _board(state).clear(thing):
        return None
    return state.having(without=[thing], plus=[thing.at(*place)])


def _slide(board: _Board, thing: Thing, step: int) -> Place | None:
    """Along its row until something is in the way; past an edge it falls straight down and stays there."""
    place = (int(thing.x), int(thing.y))
    while board.free(ahead := (place[0] + step, place[1])):
        if not board.supported(ahead):
            return board.landing(ahead)
        place = ahead
    return place


def _on_top(board: _Board, box: Thing | None) -> Place | None:
    if box is None or box.shape != "box":
        return None
    place = (int(box.x), int(box.y) + 1)
    return _if_at_rest(board, box, place)


def _beside(board: _Board, other: Thing | None, side: str) -> Place | None:
    if other is None:
        return None
    return _if_at_rest(board, other, (int(other.x) + STEP[side], int(other.y)))


def _if_at_rest(board: _Board, anchor: Thing, place: Place) -> Place | None:
    # The anchor may be the lifted thing itself, which is then no longer on the board.
    on_board = board.things.get((int(anchor.x), int(anchor.y))) is anchor
    return place if on_board and board.free(place) and board.supported(place) else None


def _add(state: State, action: Action) -> State | None:
    colour, shape = action.thing.split()
    if len(state.things) == MOST or any(t.colour == colour for t in state.things):
        return None
    place = _place_to_add(_board(state), state, action)
    return None if place is None else state.having(plus=[Thing(colour, shape, *place)])


def _place_to_add(board: _Board, state: State, action: Action) -> Place | None:
    if not action.other:
        corner = (0 if action.value == "left" else GRID - 1, 0)
        return corner if board.free(corner) else None
    other = state.find(action.other)
    return _on_top(board, other) if action.value == "top" else _beside(board, other, action.value)


def _turn(state: State, thing: Thing, shape: str) -> State | None:
    if shape == thing.shape or not (shape == "box" or _board(state).clear(thing)):
        return None
    return state.having(without=[thing], plus=[thing._replace(shape=shape)])


def _remove(state: State, thing: Thing) -> State | None:
    if len(state.things) == FEWEST:
        return None
    return settle(state.having(without=[thing]))


def settle(state: State) -> State | None:
    """The scene after everything has fallen straight down, lowest first."""
    board = _board(state)
    for (x, y), thing in sorted(board.things.items(), key=lambda item: item[0][1]):
        del board.things[x, y]
        place = board.landing((x, y))
        if place is None:
            return None
        board.things[place] = thing.at(*place)
    return State.of(board.things.values(), state.shelf, state.size)


def _swap(state: State, thing: Thing, other: Thing | None) -> State | None:
    board = _board(state)
    if other is None or other is thing or not (board.clear(thing) and board.clear(other)):
        return None
    return state.having(without=[thing, other], plus=[thing.at(other.x, other.y), other.at(thing.x, thing.y)])

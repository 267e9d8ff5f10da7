"""States: 7 x 7 tiles, each one of the 42 that the engine can draw, and what is where."""

from __future__ import annotations

import string
from collections import deque
from collections.abc import Mapping, Set
from functools import lru_cache
from typing import NamedTuple

from retrodict.worlds.babyai.language import DOORS, THINGS

GRID = 7

# Ids of tiles. An agent adds its direction (0 right, 1 down, 2 left, 3 up), a thing its number, a door three times its
# number and whether it is open, closed or locked.
FLOOR, WALL, AGENT, THING = 0, 1, 2, 6
DOOR = THING + len(THINGS)
OPEN, CLOSED, LOCKED = 0, 1, 2
TILES = DOOR + 3 * len(DOORS)
UNKNOWN = 255  # what is no tile

State = bytes  # 49 tile ids, row by row
Cell = tuple[int, int]  # column, row
AHEAD: tuple[Cell, ...] = ((1, 0), (0, 1), (-1, 0), (0, -1))  # by direction

_DIGITS = string.digits + string.ascii_letters


def is_agent(tile: int) -> bool:
    return AGENT <= tile < THING


def base(tile: int) -> int:
    """A thing's or door's id without a door's state: what stays the same while it is opened, closed or moved."""
    return tile - (tile - DOOR) % 3 if tile >= DOOR else tile


def name_of(tile: int) -> str:
    """Of a thing or door: "red ball"."""
    return DOORS[(tile - DOOR) // 3] if tile >= DOOR else THINGS[tile - THING]


def tile_of(name: str) -> int:
    """The `base` of a thing or door by its name."""
    return THING + THINGS.index(name) if name in THINGS else DOOR + 3 * DOORS.index(name)


def to_text(state: State) -> str:
    """A state as 49 characters."""
    return "".join(_DIGITS[tile] for tile in state)


def from_text(text: str) -> State:
    return bytes(_DIGITS.index(character) for character in text)


class Agent(NamedTuple):
    """Where the agent stands and which way it looks."""

    cell: Cell
    direction: int

    def ahead(self, steps: int = 1) -> Cell:
        dx, dy = AHEAD[self.direction]
        return self.cell[0] + steps * dx, self.cell[1] + steps * dy


def cell_of(index: int) -> Cell:
    row, column = divmod(index, GRID)
    return column, row


_remembered = lru_cache(maxsize=4096)  # the same few states are asked about with every action


@_remembered
def agents(state: State) -> tuple[Agent, ...]:
    """All agents: one in every true state."""
    return tuple(Agent(cell_of(i), tile - AGENT) for i, tile in enumerate(state) if is_agent(tile))


@_remembered
def things(state: State) -> Mapping[int, list[tuple[Cell, int]]]:
    """By `base` tile, where things and doors are, each with its tile; one each in every true state."""
    everywhere: dict[int, list[tuple[Cell, int]]] = {}
    for index, tile in enumerate(state):
        if THING <= tile < TILES:
            everywhere.setdefault(base(tile), []).append((cell_of(index), tile))
    return everywhere


def at(state: State, cell: Cell) -> int:
    """The tile of a cell; walls are outside."""
    x, y = cell
    return state[y * GRID + x] if 0 <= x < GRID and 0 <= y < GRID else WALL


def beside(a: Cell, b: Cell) -> bool:
    return abs(a[0] - b[0]) + abs(a[1] - b[1]) == 1


@_remembered
def reachable(state: State, start: Cell) -> Set[Cell]:
    """The cells that the agent can walk to from `start`, over floor."""
    known, todo = {start}, deque([start])
    while todo:
        x, y = todo.popleft()
        for dx, dy in AHEAD:
            cell = (x + dx, y + dy)
            if cell not in known and at(state, cell) == FLOOR:
                known.add(cell)
                todo.append(cell)
    return known


def having(state: State, cell: Cell, tile: int) -> State:
    """The state with another tile at a cell."""
    index = cell[1] * GRID + cell[0]
    return state[:index] + bytes([tile]) + state[index + 1 :]

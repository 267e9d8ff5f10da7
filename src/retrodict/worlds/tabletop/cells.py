"""The board of the size "cells": everything moves by whole cells, by an integer rule.

A rule and not the physics engine, because every action that could explain a transition is carried out whenever one is
sampled, to prove that only one does: the rule takes microseconds where the engine takes milliseconds. A test holds
the rule against the engine where both apply.
"""

from __future__ import annotations

from retrodict.worlds.tabletop.rules import Position
from retrodict.worlds.tabletop.scene import GRID, SHELF_ROW, State, Thing


class CellsBoard:
    """A `rules.Board` on whole cells."""

    pitch: float = 1

    def __init__(self, state: State, lifted: Thing | None = None) -> None:
        self.state = state
        self.things = {(t.x, t.y): t for t in state.things if t is not lifted}
        self.plank = {(x, SHELF_ROW) for x in state.shelf}

    def free(self, position: Position) -> bool:
        inside = 0 <= position[0] < GRID and 0 <= position[1] < GRID
        return inside and position not in self.things and position not in self.plank

    def supported(self, position: Position) -> bool:
        below = (position[0], position[1] - 1)
        carrier = self.things.get(below)
        return position[1] == 0 or below in self.plank or (carrier is not None and carrier.shape == "box")

    def clear(self, thing: Thing) -> bool:
        return (thing.x, thing.y + 1) not in self.things

    def push(self, thing: Thing, step: int) -> State | None:
        """Along its row until something is in the way; past an edge it falls straight down and stays there."""
        x, y = thing.x, thing.y
        while self.free((x + step, y)):
            x += step
            if not self.supported((x, y)):
                y = self._landing(x, y)
                break
        if not self.supported((x, y)):
            return None
        return self.state.having(without=[thing], plus=[thing.at(x, y)])

    def settle(self) -> State | None:
        for (x, y), thing in sorted(self.things.items(), key=lambda item: item[0][1]):
            del self.things[x, y]
            position = x, self._landing(x, y)
            if not self.supported(position):
                return None
            self.things[position] = thing.at(*position)
        return State.of(self.things.values(), self.state.shelf, self.state.size)

    def _landing(self, x: float, y: float) -> float:
        while y > 0 and self.free((x, y - 1)):
            y -= 1
        return y

"""The board of the size "continuous": any horizontal position, with falls, slides and collisions by pymunk.

Things keep upright, so that a scene is described by positions alone; a thing that hangs too far over an edge would
tip over, and an action that ends so is not valid. Heights at rest are whole cells, since everything stands
on the floor, on the shelf or on boxes; horizontal positions are rounded to whole pixels.
"""

from __future__ import annotations

from retrodict.worlds.tabletop.physics import simulate
from retrodict.worlds.tabletop.rules import Position
from retrodict.worlds.tabletop.scene import CELL, GRID, PLANK_PIXELS, SHELF_ROW, State, Thing

_BALANCED = 0.4  # how much of a thing may hang over an edge; it tips over well before a half
_SLACK = 2 / CELL  # how far a simulated height may be from the support's
_UNDERSIDE = SHELF_ROW + 1 - PLANK_PIXELS / CELL  # of the plank


class ContinuousBoard:
    """A `rules.Board` with horizontal positions in whole pixels."""

    pitch: float = 1 + 1 / CELL

    def __init__(self, state: State, lifted: Thing | None = None) -> None:
        self.state = state
        self.things = [t for t in state.things if t is not lifted]

    def free(self, position: Position) -> bool:
        x, y = position
        inside = 0 <= x <= GRID - 1 and 0 <= y <= GRID - 1
        hits_plank = _over_plank(self.state, x, margin=1) and _UNDERSIDE - 1 < y < SHELF_ROW + 1
        return inside and not hits_plank and not any(abs(t.x - x) < 1 and abs(t.y - y) < 1 for t in self.things)

    def supported(self, position: Position) -> bool:
        return position[1] in supports(self.state, self.things, position[0])

    def clear(self, thing: Thing) -> bool:
        return not any(abs(t.x - thing.x) < 1 and t.y == thing.y + 1 for t in self.things)

    def push(self, thing: Thing, step: int) -> State | None:
        return self._after(simulate(self.state, pushed=thing, step=step))

    def settle(self) -> State | None:
        return self._after(simulate(self.state))

    def _after(self, simulated: list[Thing] | None) -> State | None:
        return None if simulated is None else at_rest(self.state, simulated)


def supports(state: State, things: list[Thing], x: float) -> set[float]:
    """The heights at which a thing at x rests and keeps its balance."""
    heights: set[float] = {0, *(t.y + 1 for t in things if t.shape == "box" and abs(t.x - x) <= _BALANCED)}
    return heights | {SHELF_ROW + 1} if _over_plank(state, x, margin=_BALANCED) else heights


def at_rest(before: State, simulated: list[Thing]) -> State | None:
    """The simulated things at whole pixels; None when one hangs in the air, leans on something or would tip over."""
    settled: list[Thing] = []
    for thing in sorted(simulated, key=lambda t: t.y):
        old = before.find(thing.name)
        assert old is not None, "the engine keeps every thing"
        # The engine moves even a thing at rest by a hair: only whole pixels count.
        x = old.x if abs(thing.x - old.x) < 1 / CELL else round(thing.x * CELL) / CELL
        x = min(max(x, 0), GRID - 1)
        height = min(supports(before, settled, x), key=lambda h: abs(h - thing.y))
        if abs(height - thing.y) > _SLACK:
            return None
        settled.append(thing.at(x, height))
    return State.of(settled, before.shelf, before.size)


def _over_plank(state: State, x: float, margin: float) -> bool:
    """Whether a thing at x overlaps the plank (margin 1), or keeps its balance on it (margin 0.4)."""
    if not state.shelf:
        return False
    return state.shelf[0] - margin < x < state.shelf[-1] + margin

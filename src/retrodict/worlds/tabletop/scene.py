"""What a tabletop scene is: up to four things of distinct colour, a floor, and perhaps a shelf.

Seen from the side. Positions are in cells (16 pixels) from the bottom left corner: a thing at (x, y) fills the square
from (x, y) to (x + 1, y + 1), and y = 0 is on the floor. In the size "cells" positions are whole numbers; in
"continuous" they are multiples of 1/16, i.e. whole pixels.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from retrodict.files import JsonMapping, JsonObject

Size = Literal["cells", "continuous"]
SIZES: tuple[Size, ...] = ("cells", "continuous")

COLOURS = ("red", "green", "blue", "yellow", "purple", "orange")
SHAPES = ("ball", "box", "cone")

GRID = 6  # cells along each side of the image
CELL = 16  # pixels along each side of a cell
PIXELS = GRID * CELL
SHELF_ROW = 2  # the row of cells that the plank is in; things stand on it in the row above
PLANK_PIXELS = 6  # how thick the plank is, from the top of its row down
FEWEST, MOST = 2, 4  # things in a scene

TOLERANCE = 3 / CELL  # "continuous": positions that agree within this many cells count as the same position


class Thing(NamedTuple):
    colour: str
    shape: str
    x: float
    y: float

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"

    def at(self, x: float, y: float) -> Thing:
        return Thing(self.colour, self.shape, x, y)


@dataclass(frozen=True, slots=True)
class State:
    """A scene at rest. Build it with `State.of`, which orders the things so that equal scenes compare equal.

    `shelf` holds the columns that the plank fills, in order; empty without a shelf.
    """

    things: tuple[Thing, ...]
    shelf: tuple[int, ...] = ()
    size: Size = "cells"

    @staticmethod
    def of(things: Iterable[Thing], shelf: Iterable[int] = (), size: Size = "cells") -> State:
        return State(tuple(sorted(things)), tuple(sorted(shelf)), size)

    def having(self, *, without: Iterable[Thing] = (), plus: Iterable[Thing] = ()) -> State:
        """This scene without some things and with others."""
        gone = set(without)
        return State.of([*(t for t in self.things if t not in gone), *plus], self.shelf, self.size)

    def find(self, name: str) -> Thing | None:
        """The thing called, say, "red ball"; None when there is no such thing."""
        return next((t for t in self.things if t.name == name), None)

    def to_json(self) -> JsonObject:
        return {"size": self.size, "shelf": list(self.shelf), "things": [list(t) for t in self.things]}

    @staticmethod
    def from_json(record: JsonMapping) -> State:
        return State.of((Thing(*t) for t in record["things"]), record["shelf"], record["size"])


def same_place(a: Thing, b: Thing, size: Size) -> bool:
    if size == "cells":
        return a.x == b.x and a.y == b.y
    return abs(a.x - b.x) <= TOLERANCE and abs(a.y - b.y) <= TOLERANCE


def same_things(a: list[Thing], b: list[Thing], size: Size) -> bool:
    """Whether two lists hold things of the same shapes at the same positions. Their colours must agree already."""
    return len(a) == len(b) and all(
        p.shape == q.shape and same_place(p, q, size) for p, q in zip(sorted(a), sorted(b), strict=True)
    )


def changed_colours(a: State, b: State) -> set[str]:
    """The colours that differ between two scenes: a thing of that colour came, went, moved or has another shape."""
    if a.size == "cells":  # positions are whole numbers: the same as below, many times quicker
        return {t.colour for t in set(a.things) ^ set(b.things)}
    return {c for c in COLOURS if not same_things(of_colour(a, c), of_colour(b, c), a.size)}


def of_colour(state: State, colour: str) -> list[Thing]:
    return [t for t in state.things if t.colour == colour]


def same_scene(a: State, b: State) -> bool:
    """Whether two scenes show the same, up to the size's tolerance on positions."""
    return a == b or (a.shelf == b.shelf and not changed_colours(a, b))

"""How an action looks while it happens: the pictures from one scene at rest to the next.

Motion eases in: the last picture, which shows the outcome at rest, changes most. A search for the frames of most
motion therefore finds the outcomes, and two such frames in a row have exactly one action between them. Things creep
and then leap, as the change between two frames does not grow any more once a thing moves by its own width.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from PIL import Image

from retrodict.worlds.tabletop.drawing import corner, paint, sprite
from retrodict.worlds.tabletop.language import Action
from retrodict.worlds.tabletop.scene import CELL, GRID, State, Thing, of_colour

_LIFT = 7  # pixels that a thing is lifted before it leaps to where it is put
_SLIDE = 7  # pixels that a pushed thing creeps, or less than half its way
_SHRINK = 4  # pixels by which a thing is smaller before it is gone, or another
_PEEK = 6  # pixels of a new thing that show at the top before it drops
_SWEEP = 4  # rows of pixels that are painted before the rest is


def pictures_between(source: State, target: State, action: Action, count: int) -> Iterator[Image.Image]:
    """`count` pictures (96 x 96 RGB) from the first that differs from `source` to the last, which shows `target`."""
    for index in range(1, count):
        picture = paint((), source.shelf)
        for thing in source.things:
            _put(picture, thing, target, action, _Pace(index, count - 1))
        if action.kind == "add":
            (new,) = of_colour(target, action.thing.split()[0])
            _paste(picture, new.at(new.x, GRID - _Pace(index, count - 1)(_PEEK) / CELL))
        yield picture
    yield paint(target.things, target.shelf)


class _Pace:
    """How much of a change is visible in picture `index` of `last` before the leap."""

    def __init__(self, index: int, last: int) -> None:
        self.index, self.last = index, last

    def __call__(self, most: float) -> int:
        """Whole pixels: at least one more in each picture, and quadratic up to about `most`."""
        return max(self.index, round(most * (self.index / self.last) ** 2))


def _put(picture: Image.Image, thing: Thing, target: State, action: Action, pace: _Pace) -> None:
    """Draw a thing of the source scene on its way."""
    if thing.name != action.thing or action.kind not in ("paint", "turn", "remove"):
        goal = of_colour(target, thing.colour)[0]
        _paste(picture, thing if goal == thing else _under_way(thing, goal, action, pace))
    elif action.kind == "paint":
        _paste(picture, thing)
        _paste(picture, thing._replace(colour=action.value), rows=1 + pace(_SWEEP))
    else:
        _paste(picture, thing, smaller=pace(_SHRINK))


def _under_way(thing: Thing, goal: Thing, action: Action, pace: _Pace) -> Thing:
    if action.kind == "push":
        way = min(pace(_SLIDE) / CELL, abs(goal.x - thing.x) * 0.45)
        return thing.at(thing.x + (way if goal.x > thing.x else -way), thing.y)
    if action.kind == "remove":  # it sinks with what carries it
        return thing.at(thing.x, thing.y - pace(_SHRINK) / CELL)
    return thing.at(thing.x, thing.y + pace(_LIFT) / CELL)


def _paste(picture: Image.Image, thing: Thing, smaller: int = 0, rows: int = CELL) -> None:
    """Draw a thing, by some pixels smaller each way, or only its uppermost rows of pixels."""
    image, mask = _scaled(thing.colour, thing.shape, CELL - smaller)
    left, top = corner(thing)
    area = (0, 0, image.width, min(rows, image.height))
    picture.paste(image.crop(area), (left + smaller // 2, top + smaller), mask.crop(area))


@cache
def _scaled(colour: str, shape: str, side: int) -> tuple[Image.Image, Image.Image]:
    image, mask = sprite(colour, shape)
    return (image, mask) if side == CELL else (image.resize((side, side)), mask.resize((side, side)))

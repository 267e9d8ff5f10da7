"""How an action looks while it happens: the frames from one scene at rest to the next.

Things creep by one pixel a frame, and then leap: the last frame, which shows the outcome at rest, changes most.
A search for the frames of most motion therefore finds the outcomes, and two such frames in a row have exactly one
action between them. Smoother motion would hide them: once a thing moves by its own width, the change between two
frames does not grow any more, and optical flow loses track of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from PIL import Image

from retrodict.worlds.tabletop.language import Action
from retrodict.worlds.tabletop.rendering import corner, paint, sprite
from retrodict.worlds.tabletop.scene import CELL, GRID, State, Thing, of_colour


def frames_between(source: State, target: State, action: Action, count: int) -> Iterator[Image.Image]:
    """`count` frames (96 x 96 RGB) from the first that differs from `source` to the last, which shows `target`."""
    for pixels in range(1, count):
        frame = paint((), source.shelf)
        for thing in source.things:
            if thing.name == action.thing and action.kind in ("paint", "turn", "remove"):
                _paste(frame, thing, smaller=pixels)
            else:
                _paste(frame, _under_way(thing, of_colour(target, thing.colour)[0], action, pixels))
        if action.kind == "add":  # it shows at the top before it drops
            new = of_colour(target, action.thing.split()[0])[0]
            _paste(frame, new.at(new.x, GRID - pixels / CELL))
        yield frame
    yield paint(target.things, target.shelf)


def _under_way(thing: Thing, goal: Thing, action: Action, pixels: int) -> Thing:
    if goal == thing:
        return thing
    way = pixels / CELL
    if action.kind == "push":
        way = min(way, abs(goal.x - thing.x) * 0.45)
        return thing.at(thing.x + (way if goal.x > thing.x else -way), thing.y)
    # What was carried by a removed thing sinks with it; what is to be put elsewhere is lifted.
    return thing.at(thing.x, thing.y + (-way if action.kind == "remove" else way))


def _paste(frame: Image.Image, thing: Thing, smaller: int = 0) -> None:
    """Render a thing, perhaps by some pixels smaller each way."""
    image, mask = _scaled(thing.colour, thing.shape, CELL - smaller)
    left, top = corner(thing)
    frame.paste(image, (left + smaller // 2, top + smaller), mask)


@cache
def _scaled(colour: str, shape: str, side: int) -> tuple[Image.Image, Image.Image]:
    image, mask = sprite(colour, shape)
    return (image, mask) if side == CELL else (image.resize((side, side)), mask.resize((side, side)))

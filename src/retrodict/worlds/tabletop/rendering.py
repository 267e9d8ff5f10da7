"""Rendering of scenes: 96 x 96 pixels, by Pillow, from cached, supersampled sprites.

Everything a still scene shows lies on the 16-pixel grid in the size "cells", so that its images are made of a few
dozen different 16 x 16 patches.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from PIL import Image, ImageDraw

from retrodict.worlds.tabletop.scene import CELL, GRID, PIXELS, PLANK_PIXELS, SHELF_ROW, State, Thing

Colour = tuple[int, int, int]

RGB: dict[str, Colour] = {
    "red": (222, 48, 56),
    "green": (46, 166, 84),
    "blue": (44, 104, 226),
    "yellow": (250, 212, 44),
    "purple": (146, 66, 196),
    "orange": (248, 138, 28),
}
WALL: Colour = (236, 240, 245)
FLOOR: Colour = (178, 186, 202)
FLOOR_EDGE: Colour = (140, 149, 170)
WOOD: Colour = (134, 96, 66)
WOOD_LIGHT: Colour = (168, 126, 90)
FLOOR_PIXELS = 4
_SCALE = 8  # supersampling


def draw(state: State) -> Image.Image:
    """Render a scene: 96 x 96 RGB."""
    return paint(state.things, state.shelf)


def paint(things: Iterable[Thing], shelf: tuple[int, ...] = ()) -> Image.Image:
    """Render things anywhere, also in motion; positions are rounded to whole pixels."""
    canvas = backdrop(shelf).copy()
    for thing in things:
        image, mask = sprite(thing.colour, thing.shape)
        canvas.paste(image, corner(thing), mask)
    return canvas


def corner(thing: Thing) -> tuple[int, int]:
    """The pixel (from the left, from the top) of a thing's upper left corner."""
    return round(thing.x * CELL), PIXELS - CELL - round(thing.y * CELL)


@cache
def backdrop(shelf: tuple[int, ...]) -> Image.Image:
    canvas = Image.new("RGB", (PIXELS, PIXELS), WALL)
    pen = ImageDraw.Draw(canvas)
    top = PIXELS - FLOOR_PIXELS
    pen.rectangle((0, top, PIXELS, PIXELS), fill=FLOOR)
    pen.line((0, top, PIXELS, top), fill=FLOOR_EDGE)
    for column in shelf:
        left, top = column * CELL, (GRID - 1 - SHELF_ROW) * CELL
        pen.rectangle((left, top, left + CELL - 1, top + PLANK_PIXELS - 1), fill=WOOD)
        pen.line((left, top, left + CELL - 1, top), fill=WOOD_LIGHT)
        pen.line((left, top + 1, left + CELL - 1, top + 1), fill=WOOD_LIGHT)
    return canvas


@cache
def sprite(colour: str, shape: str) -> tuple[Image.Image, Image.Image]:
    """A thing's image and its mask, 16 x 16 pixels; it touches the bottom, and a box also the top."""
    side = CELL * _SCALE
    image, mask = Image.new("RGB", (side, side)), Image.new("L", (side, side))
    pen, cut = ImageDraw.Draw(image), ImageDraw.Draw(mask)
    fill = RGB[colour]
    edge, light = _mix(fill, (20, 20, 40), 0.38), lit(fill)
    image.paste(edge, (0, 0, side, side))
    unit = _SCALE
    match shape:
        case "ball":
            cut.ellipse((unit // 2, unit, side - unit // 2 - 1, side - 1), fill=255)
            pen.ellipse((1.5 * unit, 2 * unit, side - 1.5 * unit, side - unit), fill=fill)
            pen.ellipse((4 * unit, 4 * unit, 7.5 * unit, 7 * unit), fill=light)
        case "box":
            cut.rounded_rectangle((unit // 2, 0, side - unit // 2 - 1, side - 1), radius=1.5 * unit, fill=255)
            pen.rectangle((1.5 * unit, unit, side - 1.5 * unit, side - unit), fill=fill)
            pen.rectangle((1.5 * unit, unit, side - 1.5 * unit, 3.5 * unit), fill=light)
        case _:
            cut.polygon([(side // 2 - unit, 0), (side // 2 + unit, 0), (side - 1, side - 1), (0, side - 1)], fill=255)
            inner = [(side // 2, 1.5 * unit), (side - 1.8 * unit, side - unit), (1.8 * unit, side - unit)]
            pen.polygon(inner, fill=fill)
            pen.polygon([inner[0], (5.5 * unit, side - unit), inner[2]], fill=light)
    size = (CELL, CELL)
    return image.resize(size, Image.Resampling.BOX), mask.resize(size, Image.Resampling.BOX)


def lit(fill: Colour) -> Colour:
    """The colour of a thing's lit side."""
    return _mix(fill, (255, 255, 255), 0.45)


def _mix(a: Colour, b: Colour, share: float) -> Colour:
    mixed = [round(p + (q - p) * share) for p, q in zip(a, b, strict=True)]
    return mixed[0], mixed[1], mixed[2]

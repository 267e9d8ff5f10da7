"""Images back to scenes: what every exact score rests on."""

from __future__ import annotations

from functools import cache, lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image

from retrodict.worlds.tabletop.rendering import paint
from retrodict.worlds.tabletop.scene import CELL, COLOURS, GRID, PIXELS, SHAPES, SHELF_ROW, Size, State, Thing
from retrodict.worlds.tabletop.segmentation import parse_continuous

Floats = npt.NDArray[np.float32]
Content = tuple[str, str] | None  # what a cell shows: a thing's colour and shape, ("", "plank"), or nothing


def parse(image: Image.Image, size: Size = "cells") -> State:
    """The scene that an image shows, also a blurred or noisy one; an image of another size is resized to 96 x 96.

    In "cells" every cell is read as the nearest of the patches that a still image can hold there; in "continuous"
    things are found by colour and fitted to the pixel. The scene need not be one that could occur: things may float,
    and two may have the same colour.
    """
    pixels_HW3 = pixels(image)
    return _parse_cells(pixels_HW3) if size == "cells" else parse_continuous(pixels_HW3)


_ALIGNED = 1 / CELL  # fits err by a pixel at most, also on noisy and compressed images


def possible_sizes(image: Image.Image) -> tuple[Size, ...]:
    """The sizes of which an image can be, "cells" first.

    Everything in "cells" is on whole cells. A scene of "continuous" seldom is, but where it happens to be, the image
    does not tell the two apart.
    """
    return _possible_sizes(pixels(image).tobytes())


@lru_cache(maxsize=8)  # one source is asked about with every candidate
def _possible_sizes(image: bytes) -> tuple[Size, ...]:
    scene = parse_continuous(np.frombuffer(image, dtype=np.float32).reshape(PIXELS, PIXELS, 3))
    aligned = all(abs(x - round(x)) <= _ALIGNED for thing in scene.things for x in (thing.x, thing.y))
    return ("cells", "continuous") if aligned else ("continuous",)


def pixels(image: Image.Image) -> Floats:
    """The image as floats of shape (96, 96, 3)."""
    image = image if image.mode == "RGB" else image.convert("RGB")
    if image.size != (PIXELS, PIXELS):
        image = image.resize((PIXELS, PIXELS), Image.Resampling.BOX)
    return np.asarray(image, dtype=np.float32)


def _parse_cells(image: Floats) -> State:
    patches = image.reshape(GRID, CELL, GRID, CELL * 3).transpose(0, 2, 1, 3).reshape(GRID, GRID, -1)
    things, shelf = [], []
    for y in range(GRID):
        contents, transposed, offset = _patches(y)
        # The nearest patch p of c: argmin |c - p|^2 = argmin |p|^2 - 2 c p.
        nearest = (offset - patches[GRID - 1 - y] @ transposed).argmin(axis=1)
        for x, index in enumerate(nearest.tolist()):
            content = contents[index]
            if content is not None and content[0]:
                things.append(Thing(content[0], content[1], x, y))
            elif content is not None:
                shelf.append(x)
    return State.of(things, shelf)


@cache
def _patches(y: int) -> tuple[list[Content], Floats, Floats]:
    """What a cell of row y can show, and the matrix and offsets that find the nearest of it."""
    contents: list[Content] = [None, *((colour, shape) for colour in COLOURS for shape in SHAPES)]
    images = [paint([] if c is None else [Thing(c[0], c[1], 0, y)]) for c in contents]
    if y == SHELF_ROW:
        contents.append(("", "plank"))
        images.append(paint([], (0,)))
    top = (GRID - 1 - y) * CELL
    rows = np.stack([pixels(p)[top : top + CELL, :CELL].reshape(-1) for p in images])
    return contents, np.ascontiguousarray(2 * rows.T), np.square(rows).sum(axis=1)

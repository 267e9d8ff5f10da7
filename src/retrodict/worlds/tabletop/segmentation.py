"""Finding things at any position in an image, for the size "continuous".

Pixels near a thing's colour vote for the 16 x 16 windows that hold them; around the window with most votes, the
shape and the position are those whose sprite explains most of what differs from the empty scene. What is found is taken
out of the votes, and the search goes on, so that an image with two things of one colour is read as such. In the end
every thing is fitted once more to the pixel, in front of all the others.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from retrodict.worlds.tabletop.rendering import RGB, backdrop, corner, paint, sprite
from retrodict.worlds.tabletop.scene import CELL, COLOURS, GRID, PIXELS, PLANK_PIXELS, SHAPES, SHELF_ROW, State, Thing

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

_NEAR = 70.0  # RGB distance within which a pixel has a thing's colour
_NO_COLOUR = len(COLOURS)
_FEWEST_PIXELS = 40  # of a thing's colour in one window; a ball, the smallest, has about 120


class _Views(NamedTuple):
    """What a sprite is fitted to: the image, what it would show without the thing, and the pixels that matter."""

    image: Floats
    empty: Floats
    counts: Mask


def parse_continuous(image: Floats) -> State:
    """The scene in an image of shape (96, 96, 3)."""
    shelf = _shelf(image)
    empty = np.asarray(backdrop(shelf), dtype=np.float32)
    colours = _colours(image, np.abs(image - empty).sum(-1) > _NEAR)
    counts = np.bincount(colours.reshape(-1), minlength=len(COLOURS) + 1)
    things: list[Thing] = []
    for index, colour in enumerate(COLOURS):
        if counts[index] >= _FEWEST_PIXELS:
            near = colours == index
            own = near | (colours == _NO_COLOUR)
            things += _find(_Views(image, empty, own), near, colour)
    return State.of((_refined(image, shelf, things, thing) for thing in things), shelf, "continuous")


def _refined(image: Floats, shelf: tuple[int, ...], things: list[Thing], thing: Thing) -> Thing:
    others = np.asarray(paint((t for t in things if t is not thing), shelf), dtype=np.float32)
    left, top = corner(thing)
    everywhere = np.ones((PIXELS, PIXELS), dtype=np.bool_)
    return _fit(_Views(image, others, everywhere), thing.colour, top, left, reach=4)


def _planes(views: _Views, rows: slice, columns: slice) -> Floats:
    """What `_fit` needs of an area of the image: shape (rows, columns, 9).

    With p the image, b what is behind, s a sprite and m its mask, a sprite explains, summed over the pixels that
    matter, (p - b)^2 - (p - b - m (s - b))^2 = 2 m s (p - b) - 2 m b (p - b) - m^2 s^2 + 2 m^2 s b - m^2 b^2: products
    of what depends on the image alone, these planes, and on the sprite alone, `_kernels`.
    """
    image, empty, counts = (view[rows, columns] for view in views)
    weight = counts[..., None].astype(np.float32)
    excess, behind = (image - empty) * weight, empty * weight
    of_both = (excess * empty).sum(-1, keepdims=True)
    return np.concatenate((excess, of_both, weight, behind, (behind * empty).sum(-1, keepdims=True)), axis=-1)


@cache
def _kernels(colour: str, stride: int) -> Floats:
    """The factors of `_planes` for every shape, from every `stride`th pixel each way: shape (pixels * 9, 3)."""
    kernels = []
    for shape in SHAPES:
        image, cut = sprite(colour, shape)
        s = np.asarray(image, dtype=np.float32)[::stride, ::stride]
        m = np.asarray(cut, dtype=np.float32)[::stride, ::stride, None] / 255
        square = (m * m * s * s).sum(-1, keepdims=True)
        kernels.append(np.concatenate((2 * m * s, -2 * m, -square, 2 * m * m * s, -m * m), axis=-1).reshape(-1))
    return np.stack(kernels, axis=1, dtype=np.float32)


def _colours(image: Floats, foreground: Mask) -> npt.NDArray[np.intp]:
    """Which thing's colour each pixel has, as an index; `_NO_COLOUR` for the background, outlines and lit sides."""
    pixels = image[foreground]
    # |p - f|^2 for every pixel and colour, by one matrix product
    fills = np.array([RGB[c] for c in COLOURS], dtype=np.float32)
    distance = np.square(pixels).sum(-1)[:, None] - 2 * pixels @ fills.T + np.square(fills).sum(-1)
    colours = np.full(foreground.shape, _NO_COLOUR)
    colours[foreground] = np.where(distance.min(-1) < _NEAR**2, distance.argmin(-1), _NO_COLOUR)
    return colours


def _find(views: _Views, near: Mask, colour: str) -> list[Thing]:
    """All things of one colour, which the pixels in `near` have."""
    things: list[Thing] = []
    near = near.copy()
    while True:
        votes = _window_sums(near)
        top, left = divmod(int(votes.argmax()), votes.shape[1])
        if votes[top, left] < _FEWEST_PIXELS:
            return things
        near[top : top + CELL, left : left + CELL] = False
        thing = _fit(views, colour, top, left, reach=6)
        left, top = corner(thing)
        near[max(top - 2, 0) : top + CELL + 2, max(left - 2, 0) : left + CELL + 2] = False
        things.append(thing)


def _window_sums(near: Mask) -> npt.NDArray[np.int32]:
    """How many pixels are set in every 16 x 16 window: shape (81, 81)."""
    total = np.zeros((PIXELS + 1, PIXELS + 1), dtype=np.int32)
    near.cumsum(0, dtype=np.int32).cumsum(1, out=total[1:, 1:])
    return total[CELL:, CELL:] - total[:-CELL, CELL:] - total[CELL:, :-CELL] + total[:-CELL, :-CELL]


def _fit(views: _Views, colour: str, top: int, left: int, reach: int) -> Thing:
    """The thing that explains the image best, up to `reach` pixels from a first guess: coarse search, then fine."""
    shape = SHAPES[0]
    for far, stride in ((reach, 2), (1, 1)):
        rows, columns = _around(top, far, stride), _around(left, far, stride)
        area = slice(rows[0], rows[-1] + CELL), slice(columns[0], columns[-1] + CELL)
        explained = _windows(_planes(views, *area), stride) @ _kernels(colour, stride)
        window, index = divmod(int(explained.argmax()), len(SHAPES))
        y, x = divmod(window, len(columns))
        shape, top, left = SHAPES[index], rows[y], columns[x]
    return Thing(colour, shape, left / CELL, (PIXELS - CELL - top) / CELL)


def _around(middle: int, reach: int, stride: int) -> range:
    """Starts of windows up to `reach` pixels to each side that lie inside the image."""
    return range(max(middle - reach, 0), min(middle + reach, PIXELS - CELL) + 1, stride)


def _windows(area: Floats, stride: int) -> Floats:
    """The 16 x 16 windows of an area, `stride` apart and thinned as much: shape (windows, pixels * channels)."""
    windows = np.lib.stride_tricks.sliding_window_view(area, (CELL, CELL), axis=(0, 1))[::stride, ::stride]
    thinned = windows.transpose(0, 1, 3, 4, 2)[:, :, ::stride, ::stride]
    return thinned.reshape(thinned.shape[0] * thinned.shape[1], -1)


def _shelf(image: Floats) -> tuple[int, ...]:
    """The columns where the plank's band is nearer to wood than to the wall."""
    top = (GRID - 1 - SHELF_ROW) * CELL
    band = image[top : top + PLANK_PIXELS].reshape(PLANK_PIXELS, GRID, CELL, 3)
    wood, wall = (_band(shelf) for shelf in (True, False))
    off_wood, off_wall = (np.abs(band - b).mean(axis=(0, 2, 3)) for b in (wood, wall))
    return tuple(int(x) for x in np.flatnonzero((off_wood < off_wall) & (off_wood < 40)))


@cache
def _band(shelf: bool) -> Floats:
    top = (GRID - 1 - SHELF_ROW) * CELL
    whole = np.asarray(backdrop((0,) if shelf else ()), dtype=np.float32)
    return whole[top : top + PLANK_PIXELS, None, :CELL]

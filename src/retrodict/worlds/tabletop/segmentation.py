"""Finding things at any place in a picture, for the size "continuous".

Pixels near a thing's colour vote for the 16 x 16 windows that hold them; around the window with most votes, the
shape and the place are those whose sprite explains most of what differs from the empty scene. What is found is taken
out of the votes, and the search goes on, so that a picture with two things of one colour is read as such. In the end
every thing is fitted once more to the pixel, in front of all the others.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from retrodict.worlds.tabletop.drawing import PLANK_PIXELS, RGB, backdrop, corner, paint, sprite
from retrodict.worlds.tabletop.scene import CELL, COLOURS, GRID, PIXELS, SHAPES, SHELF_ROW, State, Thing

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

_NEAR = 70.0  # RGB distance within which a pixel has a thing's colour
_NO_COLOUR = len(COLOURS)
_FEWEST_PIXELS = 40  # of a thing's colour in one window; a ball, the smallest, has about 120


def parse_continuous(picture: Floats) -> State:
    """The scene in a picture of shape (96, 96, 3)."""
    shelf = _shelf(picture)
    empty = np.asarray(backdrop(shelf), dtype=np.float32)
    colours = _colours(picture, np.abs(picture - empty).sum(-1) > _NEAR)
    counts = np.bincount(colours.reshape(-1), minlength=len(COLOURS) + 1)
    found: list[Thing] = []
    for index, colour in enumerate(COLOURS):
        if counts[index] >= _FEWEST_PIXELS:
            near = colours == index
            own = near | (colours == _NO_COLOUR)
            found += _find(_planes(picture, empty, own), near, colour)
    return State.of((_refined(picture, shelf, found, thing) for thing in found), shelf, "continuous")


def _refined(picture: Floats, shelf: tuple[int, ...], found: list[Thing], thing: Thing) -> Thing:
    others = np.asarray(paint((t for t in found if t is not thing), shelf), dtype=np.float32)
    left, top = corner(thing)
    everywhere = np.ones((PIXELS, PIXELS), dtype=np.bool_)
    return _fit(_planes(picture, others, everywhere), thing.colour, top, left, reach=4)


def _planes(picture: Floats, empty: Floats, counts: Mask) -> Floats:
    return np.concatenate((picture - empty, empty, counts[..., None]), axis=-1, dtype=np.float32)


def _colours(picture: Floats, foreground: Mask) -> npt.NDArray[np.intp]:
    """Which thing's colour each pixel has, as an index; `_NO_COLOUR` for the background, outlines and lit sides."""
    pixels = picture[foreground]
    # |p - f|^2 for every pixel and colour, by one matrix product
    fills = np.array([RGB[c] for c in COLOURS], dtype=np.float32)
    distance = np.square(pixels).sum(-1)[:, None] - 2 * pixels @ fills.T + np.square(fills).sum(-1)
    colours = np.full(foreground.shape, _NO_COLOUR)
    colours[foreground] = np.where(distance.min(-1) < _NEAR**2, distance.argmin(-1), _NO_COLOUR)
    return colours


def _find(planes: Floats, near: Mask, colour: str) -> list[Thing]:
    """All things of one colour, which the pixels in `near` have; for `planes` see `_fit`."""
    things: list[Thing] = []
    near = near.copy()
    while True:
        votes = _window_sums(near)
        top, left = divmod(int(votes.argmax()), votes.shape[1])
        if votes[top, left] < _FEWEST_PIXELS:
            return things
        near[top : top + CELL, left : left + CELL] = False
        thing = _fit(planes, colour, top, left, reach=6)
        left, top = corner(thing)
        near[max(top - 2, 0) : top + CELL + 2, max(left - 2, 0) : left + CELL + 2] = False
        things.append(thing)


def _window_sums(near: Mask) -> npt.NDArray[np.int32]:
    """How many pixels are set in every 16 x 16 window: shape (81, 81)."""
    total = np.zeros((PIXELS + 1, PIXELS + 1), dtype=np.int32)
    near.cumsum(0, dtype=np.int32).cumsum(1, out=total[1:, 1:])
    return total[CELL:, CELL:] - total[:-CELL, CELL:] - total[CELL:, :-CELL] + total[:-CELL, :-CELL]


def _fit(planes: Floats, colour: str, top: int, left: int, reach: int) -> Thing:
    """The thing that explains the picture best, up to `reach` pixels from a first guess: coarse search, then fine.

    `planes`, shape (96, 96, 7): the picture less the empty scene, the empty scene, and 1 where pixels count.
    """
    shape = SHAPES[0]
    masks, pictures = _sprites(colour)
    for far, stride in ((reach, 2), (1, 1)):
        rows, columns = _around(top, far, stride), _around(left, far, stride)
        area = np.s_[rows[0] : rows[-1] + CELL, columns[0] : columns[-1] + CELL]
        windows = _windows(planes[area], stride)
        seen, behind, weight = windows[..., :3], windows[..., 3:6], windows[..., 6:]
        # axes: rows, columns, shapes, and those of a window, which the coarse search thins out as well
        fit = (seen - masks[:, ::stride, ::stride] * (pictures[:, ::stride, ::stride] - behind)) * weight
        # what the thing leaves unexplained, less what the empty scene does
        costs = np.square(fit, out=fit).sum((3, 4, 5)) - (np.square(seen) * weight).sum((3, 4, 5))
        y, x, index = np.unravel_index(int(costs.argmin()), costs.shape)
        shape, top, left = SHAPES[index], rows[y], columns[x]
    return Thing(colour, shape, left / CELL, (PIXELS - CELL - top) / CELL)


def _around(middle: int, reach: int, stride: int) -> range:
    """Starts of windows up to `reach` pixels to each side that lie inside the picture."""
    return range(max(middle - reach, 0), min(middle + reach, PIXELS - CELL) + 1, stride)


def _windows(area: npt.NDArray[Any], stride: int) -> npt.NDArray[Any]:
    """The windows of an area, `stride` apart and thinned as much: (rows, columns, 1, 16 / stride, .., channels)."""
    windows = np.lib.stride_tricks.sliding_window_view(area, (CELL, CELL), axis=(0, 1))[::stride, ::stride]
    return windows.transpose(0, 1, 3, 4, 2)[:, :, None, ::stride, ::stride]


@cache
def _sprites(colour: str) -> tuple[Floats, Floats]:
    """The masks (from 0 to 1) and the pictures of the shapes: shapes (3, 16, 16, 1) and (3, 16, 16, 3)."""
    pairs = [sprite(colour, shape) for shape in SHAPES]
    masks = np.stack([np.asarray(mask, dtype=np.float32) / np.float32(255) for _, mask in pairs])
    return masks[..., None], np.stack([np.asarray(image, dtype=np.float32) for image, _ in pairs])


def _shelf(picture: Floats) -> tuple[int, ...]:
    """The columns where the plank's band is nearer to wood than to the wall."""
    top = (GRID - 1 - SHELF_ROW) * CELL
    band = picture[top : top + PLANK_PIXELS].reshape(PLANK_PIXELS, GRID, CELL, 3)
    wood, wall = (_band(shelf) for shelf in (True, False))
    off_wood, off_wall = (np.abs(band - b).mean(axis=(0, 2, 3)) for b in (wood, wall))
    return tuple(int(x) for x in np.flatnonzero((off_wood < off_wall) & (off_wood < 40)))


@cache
def _band(shelf: bool) -> Floats:
    top = (GRID - 1 - SHELF_ROW) * CELL
    whole = np.asarray(backdrop((0,) if shelf else ()), dtype=np.float32)
    return whole[top : top + PLANK_PIXELS, None, :CELL]

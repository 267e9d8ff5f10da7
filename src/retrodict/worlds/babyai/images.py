"""Images of one room and back: any image is read tile by tile."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image

from retrodict.worlds.babyai import engine
from retrodict.worlds.babyai.tiles import GRID, TILES, UNKNOWN, State

TILE = 8  # pixels
SIDE = GRID * TILE

_FARTHEST = 16.0  # mean absolute difference (of 255) of an image from a tile that it shows; compression costs 8 at most


@cache
def _tiles() -> npt.NDArray[np.uint8]:
    """Every tile as the engine draws it: [42, 8, 8, 3]."""
    return engine.tile_images(TILE)


@lru_cache(maxsize=4)
def _templates(size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Every tile in every cell, as it looks in an image of that size that is brought to ours: [49, 42, 96]."""
    scaled = (draw(bytes([tile] * GRID * GRID)) for tile in range(TILES))
    if size != (SIDE, SIDE):
        scaled = (image.resize(size, Image.Resampling.BICUBIC) for image in scaled)
    return np.stack([_patches(image) for image in scaled], axis=1)


def draw(state: State) -> Image.Image:
    """The engine's image of a state, 56 x 56."""
    tiles = _tiles()[np.frombuffer(state, np.uint8).reshape(GRID, GRID)]
    return Image.fromarray(tiles.transpose(0, 2, 1, 3, 4).reshape(SIDE, SIDE, 3))


def read(images: Sequence[Image.Image]) -> list[State]:
    """The tiles that images of any size show: the nearest one in each cell, and `UNKNOWN` where none is near."""
    return [_read(image) for image in images]


def _read(image: Image.Image) -> State:
    patches_LD, templates_LKD = _patches(image), _templates(image.size)
    # The nearest template t of p: argmin |p - t|^2 = argmin |t|^2 - 2 p t.
    products_LK = np.matmul(templates_LKD, patches_LD[..., None])[..., 0]
    ids_L = (np.square(templates_LKD).sum(-1) - 2 * products_LK).argmin(-1)
    off_L = np.abs(patches_LD - templates_LKD[np.arange(len(ids_L)), ids_L]).mean(-1)
    return np.where(off_L > _FARTHEST, UNKNOWN, ids_L).astype(np.uint8).tobytes()


def _patches(image: Image.Image) -> npt.NDArray[np.float32]:
    """The cells of an image, [49, 96]: brightness of every pixel, and colour of every four, as JPEG keeps them."""
    if image.size != (SIDE, SIDE):
        image = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX)
    planes_HWC = np.asarray(image.convert("YCbCr"), np.float32)
    cells = planes_HWC.reshape(GRID, TILE, GRID, TILE, 3).transpose(0, 2, 1, 3, 4).reshape(GRID * GRID, TILE, TILE, 3)
    colour = cells[..., 1:].reshape(-1, TILE // 2, 2, TILE // 2, 2, 2).mean((2, 4))
    return np.concatenate([cells[..., 0].reshape(len(cells), -1), colour.reshape(len(cells), -1)], axis=1)

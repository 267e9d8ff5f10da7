"""Exact patches of predicted frames, without an exact state: read through an image tokenizer whose tokens come back.

Shape suffixes: N items, L patches of an image, one for each image token.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from retrodict.models.small.image_tokenizer import resized
from retrodict.models.token_family import IntArray, TokenFamily
from retrodict.transitions import Transition

LEAST = 0.9  # share of changed patches that have to come back exactly; else nothing is said of exactness
BATCH = 64  # images encoded at a time

Mask = npt.NDArray[np.bool_]


class Patches:
    """Which patches of a prediction are exactly those of the target.

    A patch is right where the prediction's image token is the target's, and that token comes back as the target's
    patch to the last bit. So the score of the target's own round trip is a ceiling, and a copy gets no changed patch.
    """

    def __init__(self, family: TokenFamily, items: Sequence[Transition]) -> None:
        self._family = family
        self._target_NL = [np.empty(0, dtype=np.int64)] * len(items)
        self._exact_NL = [np.empty(0, dtype=np.bool_)] * len(items)
        self._changed_NL = [np.empty(0, dtype=np.bool_)] * len(items)
        known = [i for i, t in enumerate(items) if t.target is not None]
        for start in range(0, len(known), BATCH):
            part = known[start : start + BATCH]
            targets = [items[i].target_image for i in part]
            codes_NL = family.encode(targets).codes_NL
            backs = family.decode(codes_NL)
            for i, target, codes_L, back in zip(part, targets, codes_NL, backs, strict=True):
                true, source = (resized(image, back.size) for image in (target, items[i].source_image))
                self._target_NL[i] = codes_L
                self._exact_NL[i] = _same(true, back, family.spec.grid)
                self._changed_NL[i] = ~_same(true, source, family.spec.grid)

    @property
    def share(self) -> float:
        """Share of the changed patches that come back exactly; NaN where nothing changes."""
        exact = [e[c] for e, c in zip(self._exact_NL, self._changed_NL, strict=True)]
        joined = np.concatenate(exact) if exact else np.empty(0)
        return float(joined.mean()) if len(joined) else math.nan

    @property
    def can_tell(self) -> bool:
        return self.share >= LEAST

    def right(self, i: int, images: Sequence[Image.Image]) -> list[tuple[float, float]]:
        """For each image of item `i`: 1 if all its patches are right, else 0; and the share of right changed ones."""
        if not len(self._target_NL[i]):
            return [(math.nan, math.nan)] * len(images)
        changed_L = self._changed_NL[i]
        rows: list[tuple[float, float]] = []
        for codes_L in self._family.encode(images).codes_NL if images else ():
            right_L = self._right(i, codes_L)
            rows.append((float(right_L.all()), float(right_L[changed_L].mean()) if changed_L.any() else math.nan))
        return rows

    def _right(self, i: int, codes_L: IntArray) -> Mask:
        right_L: Mask = (codes_L == self._target_NL[i]) & self._exact_NL[i]
        return right_L


def _same(a: Image.Image, b: Image.Image, grid: tuple[int, int]) -> Mask:
    """Which cells of a grid two images have in common, to the last bit; none where it does not divide them."""
    rows, columns = grid
    width, height = a.size
    if height % rows or width % columns:
        return np.zeros(rows * columns, dtype=np.bool_)
    equal = (np.asarray(a) == np.asarray(b)).reshape(rows, height // rows, columns, -1)
    same_L: Mask = equal.all((1, 3)).reshape(-1)
    return same_L

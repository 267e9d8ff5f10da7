"""How right predictions are: by exact state where a world owns the rows, else only whether they merely copy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from PIL import Image

from retrodict.evaluation.metrics import l1
from retrodict.evaluation.pool import Scored, Scorer, exact_scorer, no_state
from retrodict.models.token_family import TokenFamily
from retrodict.transitions import Transition
from retrodict.worlds import world_of

SAME = 0.5 / 255  # images that differ by less show the same tokens


def scorer(test: Sequence[Transition], family: TokenFamily) -> Scorer:
    """The most exact scorer of these transitions: their world's, else one that only detects copies."""
    world = world_of(test)
    return _CopyScorer(family) if world is None else exact_scorer(world)


class _CopyScorer:
    """Says of a frame only whether it is the source again, as it is or through the image tokenizer."""

    def __init__(self, family: TokenFamily) -> None:
        self._family = family
        self._sources: dict[str, tuple[Image.Image, Image.Image]] = {}

    def __call__(self, image: Image.Image, row: Transition) -> Scored:
        if row.id not in self._sources:
            source = row.source_image
            self._sources = {row.id: (source, round_trip(self._family, [source])[0])}  # an item's frames come together
        copies = any(s.size == image.size and l1(image, s) < SAME for s in self._sources[row.id])
        return replace(no_state(image, row), copy=float(copies))


def round_trip(family: TokenFamily, images: Sequence[Image.Image]) -> list[Image.Image]:
    """The images after the image tokenizer alone."""
    return list(family.decode(family.encode(images).codes_NL, [image.size for image in images]))

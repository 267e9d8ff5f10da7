"""Predictions and all that is known about them: for each item one greedy frame and a pool of sampled ones.

One pool of n answers every question about best-of-k for k <= n and every selector, on the same candidates. So all
scores of all candidates are kept.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from PIL import Image

from retrodict.dynamics.best_of_n import choose
from retrodict.images import encode_png
from retrodict.transitions import Transition
from retrodict.worlds.base import World

BATCH = 32  # items that are predicted and scored together

Measure = Literal["score", "es", "me", "copy"]
MEASURES: tuple[Measure, ...] = ("score", "es", "me", "copy")


@dataclass(frozen=True)
class Scored:
    """One predicted frame. Scores lie in [0, 1]; NaN, with the reason, where none could be computed.

    `copy` is 1 when the frame shows the source unchanged. `verifiers` holds one score per verifier, by name.
    """

    image: bytes = b""  # PNG; empty when there is no image
    es: float = math.nan  # editing success
    me: float = math.nan  # minimal editing
    score: float = math.nan  # min(es, me)
    copy: float = math.nan
    reason: str = ""
    verifiers: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ItemResult:
    id: str
    category: str
    group: str
    action: str
    greedy: Scored
    pool: tuple[Scored, ...] = ()


Scorer = Callable[[Image.Image, Transition], Scored]


def exact_scorer(world: World) -> Scorer:
    """Scores frames of rows that the world owns by their exact state."""

    def scorer(image: Image.Image, transition: Transition) -> Scored:
        exact = world.score(image, transition)
        return Scored(es=exact.es, me=exact.me, score=exact.score, copy=float(world.is_copy(image, transition)))

    return scorer


def no_state(image: Image.Image, transition: Transition) -> Scored:
    """The scorer of rows without an exact state."""
    return Scored(reason="no exact state")


def chosen(item: ItemResult, verifier: str) -> int | None:
    """Which candidate the verifier scores highest; None where it could score none, or there are none."""
    scores = [frame.verifiers.get(verifier, math.nan) for frame in item.pool]
    return None if all(map(math.isnan, scores)) else choose(scores)


def score_frame(image: Image.Image, transition: Transition, scorer: Scorer) -> Scored:
    """One image as a scored frame; a `ValueError` of the scorer becomes the reason why it has no score."""
    try:
        scored = scorer(image, transition)
    except ValueError as error:
        scored = Scored(reason=str(error))
    return replace(scored, image=encode_png(image))


def score_images(images: Sequence[Image.Image], transitions: Sequence[Transition], scorer: Scorer) -> list[ItemResult]:
    """Given images as greedy predictions without a pool: ground truth, a tokenizer round trip, other programs."""
    rows = zip(images, transitions, strict=True)
    return [item_result(transition, score_frame(image, transition, scorer)) for image, transition in rows]


def reason_counts(reasons: Iterable[str]) -> dict[str, int]:
    """How often each kind of reason occurs: what comes before the words, or the details, of one item."""
    kinds = (re.sub(r"\s*['\"(].*", " ...", re.split(r"[.:] ", reason)[0]).strip(" ,") for reason in reasons)
    return dict(sorted(Counter(kinds).items()))


def item_result(transition: Transition, greedy: Scored, pool: tuple[Scored, ...] = ()) -> ItemResult:
    t = transition
    return ItemResult(t.id, t.category, t.cluster, t.action, greedy, pool)

"""Baselines in a table of predictions: copy, tokenizer round trips, ground truth, random target, nearest neighbour.

`copy`, the image tokenizer's round trips of source and of target (a token model's honest copy and its ceiling),
`ground_truth`, and `random_target` (the target of another item of the subset) say how far a metric can be trusted.
`nearest`, where training data is at hand, is what remembering alone would show.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
from PIL import Image

from retrodict.dynamics.unified import UnifiedModel
from retrodict.evaluation.pool import ItemResult, Scored, chosen
from retrodict.models.protocol import ForwardModel
from retrodict.training.data import Stored
from retrodict.transitions import Transition, decode_image

COPY, GROUND_TRUTH, RANDOM_TARGET = "copy", "ground_truth", "random_target"
ROUND_TRIP_SOURCE, ROUND_TRIP_TARGET = "round_trip_source", "round_trip_target"
NEAREST = "nearest"
KNOWN = (COPY, ROUND_TRIP_SOURCE, ROUND_TRIP_TARGET, GROUND_TRUTH, RANDOM_TARGET, NEAREST)
SIDE, MOST = 16, 5000  # pixels at which sources are compared, and training transitions that are looked at


@dataclass(frozen=True, eq=False)
class Predicted:
    """What a system predicted for the items of a benchmark.

    Attributes:
        system: its name in tables and files.
        forward: the model; None for given images.
        verifiers: names of those that scored the candidates, the default one last.
        items: what was predicted.
        results: one for each item.
        best: the row of the best candidates; by default `<system>.k<n>.<verifier>`.
    """

    system: str
    forward: ForwardModel | None
    verifiers: Sequence[str]
    items: Sequence[Transition]
    results: Sequence[ItemResult]
    best: str = ""

    @property
    def size(self) -> int:
        """Candidates that every item has."""
        return min((len(item.pool) for item in self.results), default=0)

    @property
    def verifier(self) -> str:
        """What chooses among them; empty where nothing does."""
        return self.verifiers[-1] if self.verifiers and self.size else ""

    @property
    def verified(self) -> str:
        """The row of what it chose; empty where nothing does."""
        return (self.best or f"{self.system}.k{self.size}.{self.verifier}") if self.verifier else ""

    def greedy(self, i: int) -> Image.Image | None:
        return _image(self.results[i].greedy)

    def chosen(self, i: int) -> Image.Image | None:
        """The candidate of item `i` that the verifier likes best."""
        best = chosen(self.results[i], self.verifier)
        return None if best is None else _image(self.results[i].pool[best])


@dataclass(frozen=True, eq=False)
class Images:
    """All images of one item. `rows` has one for each row's name; None where there is none."""

    source: Image.Image
    target: Image.Image | None
    round_trip: Image.Image | None  # the source through the system's image tokenizer
    rows: Mapping[str, Image.Image | None]


class Rows:
    """Makes the images of one item at a time, as native ones are large.

    Args:
        systems: predictions of the same items; round trips are through the image tokenizer of the first that has one.
        training: what the systems learned from, where it is at hand.
    """

    def __init__(self, systems: Sequence[Predicted], training: Sequence[Transition] = ()) -> None:
        self._systems, self._items = systems, systems[0].items
        self.model = next((s.forward for s in systems if isinstance(s.forward, UnifiedModel)), None)
        self._strangers = other_targets(self._items)
        self._nearest = nearest_targets(self._items, training) if training else []
        trips = (ROUND_TRIP_SOURCE, ROUND_TRIP_TARGET) if self.model else ()
        own = [name for s in systems if s.system != COPY for name in (s.system, s.verified) if name]
        self.names = (COPY, *trips, GROUND_TRUTH, RANDOM_TARGET, *([NEAREST] if self._nearest else []), *own)

    def images(self, i: int) -> Images:
        transition, stranger = self._items[i], self._strangers[i]
        source = transition.source_image
        target = transition.target_image if transition.target is not None else None
        make: dict[str, Callable[[], Image.Image | None]] = {}
        for one in self._systems:
            make |= {one.system: partial(one.greedy, i), one.verified: partial(one.chosen, i)}
        make |= {
            COPY: lambda: source,  # after the systems' own, of which one may be Copy
            ROUND_TRIP_SOURCE: lambda: self._round_trip(source),
            ROUND_TRIP_TARGET: lambda: self._round_trip(target),
            GROUND_TRUTH: lambda: target,
            RANDOM_TARGET: lambda: None if stranger is None else self._items[stranger].target_image,
            NEAREST: lambda: self._nearest[i].target_image,
        }
        rows = {name: make[name]() for name in self.names}
        return Images(source, target, rows.get(ROUND_TRIP_SOURCE), rows)

    def _round_trip(self, image: Image.Image | None) -> Image.Image | None:
        if self.model is None or image is None:
            return None
        return self.model.family.decode(self.model.codes([image]), [image.size])[0]


def nearest_targets(items: Sequence[Transition], training: Sequence[Transition]) -> list[Transition]:
    """For each item the training transition whose source is most like its own: of those with the same action, in the
    same words, where there are any. At most `MOST` are looked at, by the hash of their ids."""
    rows = training.rows if isinstance(training, Stored) else training
    order = sorted(range(len(rows)), key=lambda i: hashlib.sha256(rows[i].id.encode()).digest())[:MOST]
    taken = training.only(order) if isinstance(training, Stored) else [training[i] for i in order]
    thumbs_RF = np.stack([_thumb(one) for one in taken])
    words = [_words(rows[i]) for i in order]
    nearest = []
    for item in items:
        same = [r for r, said in enumerate(words) if said == _words(item)] or list(range(len(order)))
        distance_R = np.abs(thumbs_RF[same] - _thumb(item)).mean(1)
        nearest.append(same[int(distance_R.argmin())])
    return taken.only(nearest)[:] if isinstance(taken, Stored) else [taken[r] for r in nearest]


def _thumb(transition: Transition) -> npt.NDArray[np.float32]:
    small = transition.source_image.resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float32).reshape(-1)


def _words(transition: Transition) -> list[str]:
    return transition.action.casefold().split()


def other_targets(transitions: Sequence[Transition]) -> list[int | None]:
    """For each item another one of its subset whose target is not its own, by the hash of the two ids."""
    subsets: dict[str, list[int]] = {}
    for i, transition in enumerate(transitions):
        if transition.target is not None:
            subsets.setdefault(transition.category, []).append(i)

    def order(i: int, j: int) -> bytes:
        return hashlib.sha256(f"{transitions[i].id}/{transitions[j].id}".encode()).digest()

    nearest: list[int | None] = []
    for i, transition in enumerate(transitions):
        peers = [j for j in subsets.get(transition.category, ()) if transitions[j].target != transition.target]
        nearest.append(min((j for j in peers if j != i), key=partial(order, i), default=None))
    return nearest


def _image(frame: Scored) -> Image.Image | None:
    return decode_image(frame.image, "prediction") if frame.image else None

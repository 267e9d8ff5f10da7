"""Baselines in a table of predictions: copy, tokenizer round trips, ground truth, random target.

`copy`, the image tokenizer's round trips of source and of target (a token model's honest copy and its ceiling),
`ground_truth`, and `random_target` (the target of another item of the subset) say how far a metric can be trusted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from PIL import Image

from retrodict.dynamics.unified import UnifiedModel
from retrodict.evaluation.pool import ItemResult, Scored, chosen
from retrodict.models.protocol import ForwardModel
from retrodict.transitions import Transition, decode_image

COPY, GROUND_TRUTH, RANDOM_TARGET = "copy", "ground_truth", "random_target"
ROUND_TRIP_SOURCE, ROUND_TRIP_TARGET = "round_trip_source", "round_trip_target"
KNOWN = (COPY, ROUND_TRIP_SOURCE, ROUND_TRIP_TARGET, GROUND_TRUTH, RANDOM_TARGET)


@dataclass(frozen=True, eq=False)
class Predicted:
    """What a system predicted for the items of a benchmark.

    Attributes:
        system: its name in tables and files.
        forward: the model; None for given images.
        verifiers: names of those that scored the candidates, the default one last.
        items: what was predicted.
        results: one for each item.
    """

    system: str
    forward: ForwardModel | None
    verifiers: Sequence[str]
    items: Sequence[Transition]
    results: Sequence[ItemResult]


@dataclass(frozen=True, eq=False)
class Images:
    """All images of one item. `rows` has one for each row's name; None where there is none."""

    source: Image.Image
    target: Image.Image | None
    round_trip: Image.Image | None  # the source through the system's image tokenizer
    rows: Mapping[str, Image.Image | None]


class Rows:
    """Makes the images of one item at a time, as native ones are large."""

    def __init__(self, predicted: Predicted) -> None:
        self._predicted = predicted
        self._model = predicted.forward if isinstance(predicted.forward, UnifiedModel) else None
        self._strangers = other_targets(predicted.items)
        self._verifier = predicted.verifiers[-1] if predicted.verifiers else ""
        size = max((len(item.pool) for item in predicted.results), default=0)
        system = predicted.system
        self.verified = f"{system}.k{size}.{self._verifier}" if self._verifier and size else ""
        trips = (ROUND_TRIP_SOURCE, ROUND_TRIP_TARGET) if self._model else ()
        own = () if system == COPY else (system, *([self.verified] if self.verified else []))
        self.names = (COPY, *trips, GROUND_TRUTH, RANDOM_TARGET, *own)

    def images(self, i: int) -> Images:
        items = self._predicted.items
        transition, item, stranger = items[i], self._predicted.results[i], self._strangers[i]
        source = transition.source_image
        target = transition.target_image if transition.target is not None else None
        make: dict[str, Callable[[], Image.Image | None]] = {
            self._predicted.system: lambda: _image(item.greedy),
            self.verified: lambda: self._verified(item),
            COPY: lambda: source,  # after the system's own, which may be Copy
            ROUND_TRIP_SOURCE: lambda: self._round_trip(source),
            ROUND_TRIP_TARGET: lambda: self._round_trip(target),
            GROUND_TRUTH: lambda: target,
            RANDOM_TARGET: lambda: None if stranger is None else items[stranger].target_image,
        }
        rows = {name: make[name]() for name in self.names}
        return Images(source, target, rows.get(ROUND_TRIP_SOURCE), rows)

    def _verified(self, item: ItemResult) -> Image.Image | None:
        best = chosen(item, self._verifier)
        return None if best is None else _image(item.pool[best])

    def _round_trip(self, image: Image.Image | None) -> Image.Image | None:
        if self._model is None or image is None:
            return None
        return self._model.family.decode(self._model.codes([image]))[0]


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

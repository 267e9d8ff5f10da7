"""AURORA-Bench without a judge: L1 to the target beside what copying and the image tokenizer alone would get.

There is no exact state to compare with, so nothing here says whether the action was done. The rows say how far L1 can
be trusted: where Copy is as good as a prediction, the metric measures copying.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from retrodict.dynamics.unified import UnifiedModel
from retrodict.dynamics.verify import Verifier, choose
from retrodict.evaluation.metrics import L1_PROTOCOL, l1
from retrodict.evaluation.pool import ItemResult, Scored, reason_counts
from retrodict.evaluation.predictions import write_lines
from retrodict.evaluation.stats import mean_interval
from retrodict.models.protocol import ForwardModel
from retrodict.transitions import Transition, decode_image

Row = dict[str, float]  # item id -> L1; NaN where there is none


def measure(
    system: str,
    forward: ForwardModel | None,
    verifiers: Sequence[Verifier],
    transitions: Sequence[Transition],
    results: Sequence[ItemResult],
    out: Path,
) -> dict[str, Any]:
    """L1 per row and subset: `copy`, the tokenizer's round trips, the system's greedy and verified predictions.

    Writes `items/<system>.jsonl`: `{"id", "class", "action", "l1": {row: number or null}, "reason"}` per line.
    """
    rows: dict[str, Row] = {"copy": _distances(transitions, lambda i: transitions[i].source_image)}
    if isinstance(forward, UnifiedModel):
        model = forward
        rows["round_trip_source"] = _distances(transitions, lambda i: _round_trip(model, transitions[i].source_image))
        rows["round_trip_target"] = _distances(transitions, lambda i: _round_trip(model, transitions[i].target_image))
    if system != "copy":
        rows[system] = _distances(transitions, lambda i: _picture(results[i].greedy))
    if verifiers:
        name = verifiers[-1].name
        size = max(len(item.pool) for item in results)
        rows[f"{system}.k{size}.{name}"] = _distances(transitions, lambda i: _chosen(results[i], name))
    write_lines(out / "items" / f"{system}.jsonl", list(_records(transitions, results, rows)))
    subsets = list(dict.fromkeys(t.category for t in transitions))
    parts = {subset: [t for t in transitions if t.category == subset] for subset in subsets}
    return {
        "protocol": L1_PROTOCOL,
        "subsets": {
            subset: {name: _estimate(part, row) for name, row in rows.items()} for subset, part in parts.items()
        },
        "all": {name: _estimate(transitions, row) for name, row in rows.items()},
        "unscored": _reasons(transitions, results),
    }


def _distances(transitions: Sequence[Transition], picture: Callable[[int], Image.Image | None]) -> Row:
    """L1 of `picture(i)` to the target of item i. Pictures are made one at a time, as native ones are large."""
    row: Row = {}
    for i, transition in enumerate(transitions):
        predicted = None if transition.target is None else picture(i)
        row[transition.id] = math.nan if predicted is None else l1(predicted, transition.target_image)
    return row


def _round_trip(model: UnifiedModel, picture: Image.Image) -> Image.Image:
    return model.family.decode(model.codes([picture]))[0]


def _picture(frame: Scored) -> Image.Image | None:
    return decode_image(frame.image, "prediction") if frame.image else None


def _chosen(item: ItemResult, verifier: str) -> Image.Image | None:
    scores = [frame.verifiers.get(verifier, math.nan) for frame in item.pool]
    if all(math.isnan(score) for score in scores):
        return None
    return _picture(item.pool[choose(scores)])


def _estimate(transitions: Sequence[Transition], row: Row) -> dict[str, Any]:
    groups = [t.group for t in transitions]
    found = mean_interval([row[t.id] for t in transitions], groups)
    return {"l1": found.mean, "ci95": [found.low, found.high], "n": found.n, "n_unscored": found.n_unscored}


def _reason(transition: Transition, item: ItemResult) -> str:
    if transition.target is None:
        return "no target picture"
    return "" if item.greedy.image else item.greedy.reason


def _reasons(transitions: Sequence[Transition], results: Sequence[ItemResult]) -> dict[str, int]:
    found = (_reason(t, item) for t, item in zip(transitions, results, strict=True))
    return reason_counts(reason for reason in found if reason)


def _records(
    transitions: Sequence[Transition], results: Sequence[ItemResult], rows: Mapping[str, Row]
) -> Iterator[dict[str, Any]]:
    for transition, item in zip(transitions, results, strict=True):
        values = {name: row[transition.id] for name, row in rows.items()}
        yield {
            "id": transition.id,
            "class": transition.category,
            "action": transition.action,
            "l1": {name: None if math.isnan(value) else value for name, value in values.items()},
            "reason": _reason(transition, item),
        }

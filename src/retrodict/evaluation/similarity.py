"""A benchmark without exact state or judge: similarity to the target, beside what copying alone would get.

Nothing here says whether the action was done. The rows say how far each metric can be trusted: where Copy is as good
as a prediction, the metric measures copying.

Items are also split into a half where much moves and one where little does, at the median of their subset: a global one
nearly splits AURORA-Bench into its subsets (47 of 48 Something-Something items are above it and 47 of 50 of Kubric's
below). The global split is reported too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Literal

import numpy as np
import numpy.typing as npt

from retrodict.evaluation.baselines import COPY, Images, Predicted, Rows
from retrodict.evaluation.benchmarks import written
from retrodict.evaluation.features import Embedder
from retrodict.evaluation.metrics import FLOW_METHOD, L1_PROTOCOL, METRICS, Compared, flow_magnitude, l1
from retrodict.evaluation.pool import ItemResult, reason_counts
from retrodict.evaluation.summary import best_of_k, pool_sizes
from retrodict.files import JsonObject, write_lines
from retrodict.progress import Progress
from retrodict.stats import Values, holm, macro_interval, mean_interval, paired_difference
from retrodict.transitions import Transition, decode_image

Half = Literal["high", "low", ""]
Table = dict[str, dict[str, Values]]  # metric -> row -> one value per item; NaN where there is none


def measure(
    predicted: Predicted,
    out: Path,
    *,
    protocol: str = L1_PROTOCOL,
    embedders: Sequence[Embedder] = (),
    captions: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> JsonObject:
    """Every metric of every row, per subset, over all and as the mean of the subsets' means.

    `captions` says in words what targets show, by item id (for CLIP-T; those in the benchmark's own records are known).
    Writes `items/<system>.jsonl`; docs/evaluation.md describes it and what is returned.
    """
    transitions, results, rows = predicted.items, predicted.results, Rows(predicted)
    words = _captions(transitions) | dict(captions or {})
    table: Table = {}
    for i, transition in enumerate(transitions):
        images = rows.images(i)
        for name, values in _values(images, transition, protocol, embedders, words.get(transition.id)).items():
            for metric, value in values.items():
                column = table.setdefault(metric, {}).setdefault(name, np.full(len(transitions), np.nan))
                column[i] = value
        if progress is not None:
            progress.advance(i + 1, len(transitions))
    flow = magnitudes(transitions)
    halves = {
        "within_subset": split_by_motion(flow, [t.category for t in transitions]),
        "global": split_by_motion(flow, [""] * len(transitions)),
    }
    write_lines(out / "items" / f"{predicted.system}.jsonl", list(_records(transitions, results, table, flow, halves)))
    others = {metric: _by_subset(transitions, values, "value") for metric, values in table.items() if metric != "l1"}
    return {
        "protocol": protocol,
        **_by_subset(transitions, table["l1"], "l1"),
        "metrics": others,
        "higher_is_better": {metric: METRICS[metric].higher_is_better for metric in table},
        "embeddings": {e.kind: e.metadata for e in embedders},
        "motion": {"method": FLOW_METHOD, **_by_motion(transitions, table["l1"], halves)},
        "k_curve": _k_curve(results, transitions, predicted.verifiers, protocol),
        "comparisons": _against_copy(predicted.system, transitions, table["l1"]),
        "unscored": _reasons(transitions, results),
    }


def _values(
    images: Images,
    transition: Transition,
    protocol: str,
    embedders: Sequence[Embedder],
    caption: str | None,
) -> dict[str, dict[str, float]]:
    """metric -> value for each row."""
    target, names = images.target, [name for name, image in images.rows.items() if image is not None]
    shown = [image for image in images.rows.values() if image is not None]
    values: dict[str, dict[str, float]] = {name: {} for name in images.rows}
    computed = {key: metric.value for key, metric in METRICS.items() if metric.value is not None}
    for name, image in images.rows.items():
        if target is None or image is None:
            values[name] = dict.fromkeys(computed, math.nan)
        else:
            compared = Compared(image, images.source, target, images.round_trip, protocol)
            values[name] = {key: value(compared) for key, value in computed.items()}
    for embedder in embedders:
        vectors = embedder.images([*([target] if target is not None else []), *shown])
        own = vectors[1:] if target is not None else vectors
        if target is not None:
            key = "clip_i" if embedder.kind == "clip" else embedder.kind
            _put(values, names, key, own @ vectors[0])
        if embedder.kind == "clip":
            texts = {"clip_instruction": transition.action} | ({"clip_t": caption} if caption else {})
            for key, text in texts.items():
                _put(values, names, key, own @ embedder.texts([text])[0])
    return values


def _put(
    table: dict[str, dict[str, float]], names: Sequence[str], metric: str, values: npt.NDArray[np.floating]
) -> None:
    for name, value in zip(names, values, strict=True):
        table[name][metric] = float(value)


def _captions(transitions: Sequence[Transition]) -> dict[str, str]:
    known = {t.id: written(t, "caption") for t in transitions}
    return {name: caption for name, caption in known.items() if caption}


def _by_subset(transitions: Sequence[Transition], rows: Mapping[str, Values], key: str) -> JsonObject:
    """`{"subsets": {subset: {row: entry}}, "all": {row: entry}, "macro": {row: entry}}`."""
    categories = np.array([t.category for t in transitions])
    groups = np.array([t.cluster for t in transitions])

    def table(chosen: npt.NDArray[np.bool_]) -> JsonObject:
        return {name: mean_interval(v[chosen], groups[chosen].tolist()).entry(key) for name, v in rows.items()}

    subsets = list(dict.fromkeys(categories.tolist()))
    return {
        "subsets": {subset: table(categories == subset) for subset in subsets},
        "all": table(np.full(len(transitions), True)),
        "macro": {name: macro_interval(v, categories.tolist(), groups.tolist()).entry(key) for name, v in rows.items()},
    }


def magnitudes(transitions: Sequence[Transition]) -> list[float]:
    """Optical flow of each item; NaN without a target."""
    return [math.nan if t.target is None else flow_magnitude(t.source_image, t.target_image) for t in transitions]


def split_by_motion(magnitude: Sequence[float], strata: Sequence[str]) -> list[Half]:
    """`high` above the median of the item's stratum, `low` at or below it, empty where there is no flow.

    With one stratum this is the global split.
    """
    values: dict[str, list[float]] = {}
    for value, stratum in zip(magnitude, strata, strict=True):
        if not math.isnan(value):
            values.setdefault(stratum, []).append(value)
    middle = {stratum: median(flows) for stratum, flows in values.items()}
    return [
        "" if math.isnan(value) else "high" if value > middle[stratum] else "low"
        for value, stratum in zip(magnitude, strata, strict=True)
    ]


def _by_motion(
    transitions: Sequence[Transition], rows: Mapping[str, Values], halves: Mapping[str, Sequence[str]]
) -> JsonObject:
    """L1 of the high and the low half under each split, and the subsets that make up the halves."""
    results: JsonObject = {}
    groups = np.array([t.cluster for t in transitions])
    for name, labels in halves.items():
        masks = {half: np.array([label == half for label in labels]) for half in ("high", "low")}
        results[name] = {
            half: {row: mean_interval(v[mask], groups[mask]).entry("l1") for row, v in rows.items()}
            for half, mask in masks.items()
        }
        results[name]["mix"] = {
            subset: {
                half: int(sum(m for m, t in zip(mask, transitions, strict=True) if t.category == subset))
                for half, mask in masks.items()
            }
            for subset in dict.fromkeys(t.category for t in transitions)
        }
    return results


def _k_curve(
    results: Sequence[ItemResult], transitions: Sequence[Transition], verifiers: Sequence[str], protocol: str
) -> JsonObject:
    """Expected L1 of the best of k by each selector, from one pool; the oracle chooses by L1 itself."""
    size = min((len(item.pool) for item in results), default=0)
    if not size:
        return {}

    def table(read: Callable[[int, int], float]) -> Values:
        return np.array([[read(i, j) for j in range(size)] for i in range(len(results))])

    def distance(i: int, j: int) -> float:
        frame, transition = results[i].pool[j], transitions[i]
        if not frame.image or transition.target is None:
            return math.nan
        return l1(decode_image(frame.image, "prediction"), transition.target_image, protocol)

    def verified(name: str, i: int, j: int) -> float:
        return results[i].pool[j].verifiers.get(name, math.nan)

    distances_IN = table(distance)
    scores: dict[str, Values] = {"oracle": -distances_IN}
    for name in verifiers:
        scores[name] = table(partial(verified, name))
    groups = [t.cluster for t in transitions]
    curve: JsonObject = {}
    for k in pool_sizes(size):
        values = {name: (best_of_k(s, k) * distances_IN).sum(1) for name, s in scores.items()}
        values["random"] = distances_IN.mean(1)
        curve[f"k{k}"] = {name: mean_interval(v, groups).entry("l1") for name, v in values.items()}
    return curve


def _against_copy(system: str, transitions: Sequence[Transition], rows: Mapping[str, Values]) -> JsonObject:
    """How much nearer than Copy the system is on each subset; p is Holm's over the subsets."""
    if system == COPY:
        return {}
    categories = np.array([t.category for t in transitions])
    groups = np.array([t.cluster for t in transitions])
    subsets = list(dict.fromkeys(categories.tolist()))
    differences = {}
    for subset in subsets:
        chosen = categories == subset
        differences[subset] = paired_difference(rows[COPY][chosen], rows[system][chosen], groups[chosen])
    adjusted = holm([one.p for one in differences.values()])
    entries = {}
    for (subset, one), p in zip(differences.items(), adjusted, strict=True):
        entries[f"l1_{subset}"] = one.entry(f"{system}, {subset} (L1 saved)", COPY) | {"p": p, "p_unadjusted": one.p}
        del entries[f"l1_{subset}"]["relative"]  # to the system's own L1: no share that anybody asks for
    return entries


def _reason(transition: Transition, item: ItemResult) -> str:
    if transition.target is None:
        return "no target image"
    return "" if item.greedy.image else item.greedy.reason


def _reasons(transitions: Sequence[Transition], results: Sequence[ItemResult]) -> dict[str, int]:
    reasons = (_reason(t, item) for t, item in zip(transitions, results, strict=True))
    return reason_counts(reason for reason in reasons if reason)


def _records(
    transitions: Sequence[Transition],
    results: Sequence[ItemResult],
    table: Table,
    flow: Sequence[float],
    halves: Mapping[str, Sequence[str]],
) -> Iterator[JsonObject]:
    for i, (transition, item) in enumerate(zip(transitions, results, strict=True)):
        values = {metric: {name: _or_null(v[i]) for name, v in rows.items()} for metric, rows in table.items()}
        yield {
            "id": transition.id,
            "class": transition.category,
            "group": transition.group,
            "action": transition.action,
            "l1": values.pop("l1"),
            "metrics": values,
            "motion": {"flow": _or_null(flow[i]), **{name: labels[i] for name, labels in halves.items()}},
            "reason": _reason(transition, item),
        }


def _or_null(value: float) -> float | None:
    return None if math.isnan(value) else float(value)

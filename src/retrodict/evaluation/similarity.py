"""A benchmark without exact state or judge: similarity to the target, beside what copying alone would get.

Nothing here says whether the action was done. The rows say how far each metric can be trusted: where Copy is as good
as a prediction, the metric measures copying.

Items are also split into a half where much moves and one where little does, at the median of their subset: a global one
nearly splits AURORA-Bench into its subsets (47 of 48 Something-Something items are above it and 47 of 50 of Kubric's
below). The global split is reported too.
"""

from __future__ import annotations

import json
import logging
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
from retrodict.evaluation.metrics import EXACT, FLOW_METHOD, L1_PROTOCOL, METRICS, Compared, flow_magnitude, l1
from retrodict.evaluation.patches import Patches
from retrodict.evaluation.pool import ItemResult, reason_counts
from retrodict.evaluation.summary import best_of_k, pool_sizes
from retrodict.files import JsonObject, write_json, write_lines
from retrodict.models.protocol import InverseModel
from retrodict.progress import Progress
from retrodict.stats import (
    UNIT,
    Estimate,
    Values,
    holm,
    macro_interval,
    mean_interval,
    paired_difference,
    share_interval,
)
from retrodict.transitions import Transition, decode_image

NO_CLASS = "no class"  # the subset of items that have none
Half = Literal["high", "low", ""]
Table = dict[str, dict[str, Values]]  # metric -> row -> one value per item; NaN where there is none


def measure(
    main: Predicted,
    out: Path,
    *,
    others: Sequence[Predicted] = (),
    training: Sequence[Transition] = (),
    reader: InverseModel | None = None,
    items_file: str = "",
    protocol: str = L1_PROTOCOL,
    embedders: Sequence[Embedder] = (),
    captions: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> JsonObject:
    """Every metric of every row, per subset, over all and as the mean of the subsets' means.

    Writes `items/<system>.jsonl`, and `explained_rows.json`, which a repeated run reads. docs/evaluation.md describes
    them and what is returned.

    Args:
        main: the system that this is about.
        out: the run's folder.
        others: more systems to set beside it, on the same items.
        training: what they learned from, where it is at hand: its nearest neighbours become a row.
        reader: an inverse model; which actions it reads off each row's images becomes a metric.
        items_file: the name of the file in `items/`, where it is not the system's.
        protocol: how L1 compares images of unequal size.
        embedders: models behind more metrics.
        captions: what targets show, in words, by item id (for CLIP-T; those in the benchmark's own records are known).
        progress: receives how many items are measured.
    """
    transitions, results = main.items, main.results
    rows = Rows([*others, main], training)
    patches = Patches(rows.model.family, transitions) if rows.model is not None else None
    words = _captions(transitions) | dict(captions or {})
    texts = _ReadOff(reader, out / "explained_rows.json")
    table: Table = {}
    for i, transition in enumerate(transitions):
        images = rows.images(i)
        by_row = _values(images, transition, protocol, embedders, words.get(transition.id))
        if patches is not None and patches.can_tell:
            for name, exact in _exact(patches, i, images).items():
                by_row[name] |= exact
        for name, said in texts.of(transition, images).items():
            by_row[name]["explained"] = said
        for name, values in by_row.items():
            for metric, value in values.items():
                column = table.setdefault(metric, {}).setdefault(name, np.full(len(transitions), np.nan))
                column[i] = value
        if progress is not None:
            progress.advance(i + 1, len(transitions))
    texts.keep()
    flow = magnitudes(transitions)
    halves = {
        "within_subset": split_by_motion(flow, [t.category for t in transitions]),
        "global": split_by_motion(flow, [""] * len(transitions)),
    }
    file = out / "items" / f"{items_file or main.system}.jsonl"
    write_lines(file, list(_records(transitions, results, table, flow, halves)))
    metrics = {
        metric: _by_subset(transitions, values, "value", metric) for metric, values in table.items() if metric != "l1"
    }
    curve = _k_curve(main, protocol, patches)
    return {
        "protocol": protocol,
        **_by_subset(transitions, table["l1"], "l1", "l1"),
        "metrics": metrics,
        **({} if patches is None else {"round_trip_exact": patches.share}),
        "higher_is_better": {metric: METRICS[metric].higher_is_better for metric in table},
        "embeddings": {e.kind: e.metadata for e in embedders},
        "motion": {"method": FLOW_METHOD, **_by_motion(transitions, table["l1"], halves)},
        **curve,
        "comparisons": _against_copy(main.system, transitions, table["l1"]) | _paired(main, others, table),
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


def _exact(patches: Patches, i: int, images: Images) -> dict[str, dict[str, float]]:
    """Whether each row shows the target to the last patch, and how many of the patches that change."""
    names = [name for name, image in images.rows.items() if image is not None and image is not images.target]
    right = patches.right(i, [image for name in names if (image := images.rows[name]) is not None])
    values = {name: dict(zip(EXACT, pair, strict=True)) for name, pair in zip(names, right, strict=True)}
    truth = {name for name, image in images.rows.items() if image is not None and image is images.target}
    return values | {name: dict.fromkeys(EXACT, 1.0) for name in truth}


class _ReadOff:
    """Which action an inverse model reads off a source and each row's image, kept in a file."""

    def __init__(self, reader: InverseModel | None, file: Path) -> None:
        self._reader, self._file = reader, file
        self._texts: dict[str, dict[str, str]] = json.loads(file.read_text()) if reader and file.is_file() else {}

    def of(self, transition: Transition, images: Images) -> dict[str, float]:
        """1 for each row off which it reads the item's action, in the same words, else 0."""
        if self._reader is None:
            return {}
        shown = {name: image for name, image in images.rows.items() if image is not None}
        if self._texts.get(transition.id, {}).keys() != shown.keys():
            try:
                read = self._reader.explain([(images.source, image) for image in shown.values()])
            except ValueError as error:  # is no reason to lose the other metrics
                logging.getLogger("retrodict").warning("retrodict: %s is not explained: %s", transition.id, error)
                return {}
            self._texts[transition.id] = {name: one.action for name, one in zip(shown, read, strict=True)}
        true = transition.action.casefold().split()
        return {name: float(text.casefold().split() == true) for name, text in self._texts[transition.id].items()}

    def keep(self) -> None:
        if self._texts:
            write_json(self._file, self._texts)


def _put(
    table: dict[str, dict[str, float]], names: Sequence[str], metric: str, values: npt.NDArray[np.floating]
) -> None:
    for name, value in zip(names, values, strict=True):
        table[name][metric] = float(value)


def _captions(transitions: Sequence[Transition]) -> dict[str, str]:
    known = {t.id: written(t, "caption") for t in transitions}
    return {name: caption for name, caption in known.items() if caption}


def _by_subset(transitions: Sequence[Transition], rows: Mapping[str, Values], key: str, metric: str) -> JsonObject:
    """`{"subsets": {subset: {row: entry}}, "all": {row: entry}, "macro": {row: entry}}`."""
    scale, is_share = METRICS[metric].scale, METRICS[metric].is_share
    of_values: Callable[[Values, Sequence[str]], Estimate] = partial(mean_interval, scale=scale)
    estimate = share_interval if is_share else of_values
    categories = np.array([t.category for t in transitions])
    groups = np.array([t.cluster for t in transitions])

    def table(chosen: npt.NDArray[np.bool_]) -> JsonObject:
        return {name: estimate(v[chosen], groups[chosen].tolist()).entry(key) for name, v in rows.items()}

    subsets = list(dict.fromkeys(categories.tolist()))
    return {
        "subsets": {subset or NO_CLASS: table(categories == subset) for subset in subsets},
        "all": table(np.full(len(transitions), True)),
        "macro": {
            name: macro_interval(v, categories.tolist(), groups.tolist(), scale, shares=is_share).entry(key)
            for name, v in rows.items()
        },
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
            half: {row: mean_interval(v[mask], groups[mask], UNIT).entry("l1") for row, v in rows.items()}
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


def _k_curve(predicted: Predicted, protocol: str, patches: Patches | None) -> JsonObject:
    """The best of k by each selector, from one pool: expected L1, and the share of changed patches that are exactly
    right where that can be told (`k_curve_exact`). The oracle chooses by the measure itself."""
    size, results, items = predicted.size, predicted.results, predicted.items
    if not size:
        return {"k_curve": {}}
    distances_IN, exact_IN = (np.full((len(results), size), np.nan) for _ in range(2))
    tells = patches is not None and patches.can_tell
    for i, (item, transition) in enumerate(zip(results, items, strict=True)):
        if transition.target is None:
            continue
        known = {frame.image: decode_image(frame.image, "prediction") for frame in item.pool[:size] if frame.image}
        target = transition.target_image
        near = {data: l1(image, target, protocol) for data, image in known.items()}
        right = dict(zip(known, patches.right(i, list(known.values())), strict=True)) if tells and patches else {}
        for j, frame in enumerate(item.pool[:size]):
            distances_IN[i, j] = near.get(frame.image, math.nan)
            exact_IN[i, j] = right.get(frame.image, (math.nan, math.nan))[1]
    verified = {
        name: np.array([[frame.verifiers.get(name, math.nan) for frame in item.pool[:size]] for item in results])
        for name in predicted.verifiers
    }
    groups = [t.cluster for t in items]

    def curve(values_IN: Values, key: str, sign: int) -> JsonObject:
        scores: dict[str, Values] = {"oracle": sign * values_IN, **verified}
        by_k: JsonObject = {}
        for k in pool_sizes(size):
            values = {name: (best_of_k(s, k) * values_IN).sum(1) for name, s in scores.items()}
            values["random"] = values_IN.mean(1)
            estimate = share_interval if sign > 0 else partial(mean_interval, scale=UNIT)
            by_k[f"k{k}"] = {name: estimate(v, groups).entry(key) for name, v in values.items()}
        return by_k

    return {
        "k_curve": curve(distances_IN, "l1", -1),
        **({"k_curve_exact": curve(exact_IN, "value", 1)} if tells else {}),
    }


def _paired(main: Predicted, others: Sequence[Predicted], table: Table) -> JsonObject:
    """The main system against the others, and its verified frames against its greedy ones, by the most exact measure
    that there is; p is Holm's over these."""
    measure = EXACT[1] if EXACT[1] in table else "l1"
    sign = 1 if METRICS[measure].higher_is_better else -1
    groups = [t.cluster for t in main.items]
    pairs = {f"{main.system}_vs_{one.system}": (main.system, one.system) for one in others}
    if main.verified:
        pairs["verified_vs_greedy"] = (main.verified, main.system)
    rows = table[measure]
    tested = {key: paired_difference(sign * rows[a], sign * rows[b], groups, UNIT) for key, (a, b) in pairs.items()}
    adjusted = holm([one.p for one in tested.values()])
    entries = {}
    for (key, one), p in zip(tested.items(), adjusted, strict=True):
        entries[key] = one.entry(*pairs[key]) | {"measure": measure, "p": p, "p_unadjusted": one.p}
        del entries[key]["relative"]
    return entries


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
        differences[subset] = paired_difference(rows[COPY][chosen], rows[system][chosen], groups[chosen], UNIT)
    adjusted = holm([one.p for one in differences.values()])
    entries = {}
    for (subset, one), p in zip(differences.items(), adjusted, strict=True):
        name = subset or NO_CLASS
        entries[f"l1_{name}"] = one.entry(f"{system}, {name} (L1 saved)", COPY) | {"p": p, "p_unadjusted": one.p}
        del entries[f"l1_{name}"]["relative"]  # to the system's own L1: no share that anybody asks for
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

"""Verdicts as numbers: the mean of min(ES, ME) with its interval, how much was scored, and what the rest could hide."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from retrodict.evaluation.judge.protocol import TOP, Verdict
from retrodict.files import JsonObject
from retrodict.stats import paired_difference, share_interval
from retrodict.transitions import Transition


def estimate(verdicts: Sequence[Verdict], items: Sequence[Transition]) -> JsonObject:
    """The entry of one row, with one of the same form per subset in `subsets`, and their mean as `macro`."""
    entry = _estimate(verdicts, items)
    subsets = list(dict.fromkeys(t.category for t in items))
    entry["subsets"] = {}
    for subset in subsets:
        part = [i for i, t in enumerate(items) if t.category == subset]
        entry["subsets"][subset] = _estimate([verdicts[i] for i in part], [items[i] for i in part])
    means = [part["score"] for part in entry["subsets"].values()]
    entry["macro"] = float(np.mean(means)) if means else math.nan
    return entry


def _estimate(verdicts: Sequence[Verdict], items: Sequence[Transition]) -> JsonObject:
    """`bounds`: the mean if every unscored item had scored 0, and if it had scored 10."""
    scores = [v.score for v in verdicts]
    estimate = share_interval(scores, groups(items), (0.0, TOP))
    total = len(scores)
    known = 0.0 if estimate.n == 0 else estimate.mean * estimate.n
    return {
        "score": estimate.mean,
        "es": _mean([v.es for v in verdicts]),
        "me": _mean([v.me for v in verdicts]),
        "ci95": estimate.ci95,
        "n": estimate.n,
        "n_total": total,
        "n_unscored": estimate.n_unscored,
        "bounds": [known / total, (known + TOP * estimate.n_unscored) / total] if total else [math.nan, math.nan],
        "unscored": dict(sorted(Counter(v.reason for v in verdicts if math.isnan(v.score)).items())),
        "answers": {"scored": sum(v.scored for v in verdicts), "asked": sum(v.repeats for v in verdicts)},
    }


def compare(
    a: Sequence[Verdict], b: Sequence[Verdict], items: Sequence[Transition], names: tuple[str, str]
) -> JsonObject:
    """a minus b on the same items, in the form of `comparisons` in `results.json`."""
    of_a, of_b = ([v.score for v in verdicts] for verdicts in (a, b))
    return paired_difference(of_a, of_b, groups(items), (0.0, TOP)).entry(*names)


def groups(items: Sequence[Transition]) -> list[str] | None:
    """Clusters for the intervals, or None where every item is its own."""
    clusters = [t.cluster for t in items]
    return clusters if len(set(clusters)) < len(clusters) else None


def _mean(values: Sequence[float]) -> float:
    scored = [value for value in values if not math.isnan(value)]
    return sum(scored) / len(scored) if scored else math.nan

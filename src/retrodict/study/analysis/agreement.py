"""How much raters agree with each other, with themselves, and with what they should see."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from retrodict.files import JsonObject
from retrodict.stats import share, share_interval
from retrodict.study.analysis.alpha import krippendorff_alpha
from retrodict.study.analysis.exclude import failed_check
from retrodict.study.analysis.panel import Panel, Values, row_scores
from retrodict.study.export import Record
from retrodict.study.plan import Check


def agreement(panel: Panel) -> JsonObject:
    """Between raters: alpha over candidates, and how often two raters of an item pick the same best; item bootstrap."""
    units = [
        [column[~np.isnan(column)] for column in panel.scores_IRS[i].T]
        for i in range(len(panel.items))
        if panel.judged[i].sum() > 1
    ]
    same = [_same_best(panel.scores_IRS[i]) for i in range(len(panel.items))]
    values = [value for value in same if not math.isnan(value)]
    same_best = share_interval(values)
    return {
        "alpha": krippendorff_alpha([unit for item in units for unit in item]),
        "alpha_ci95": _alpha_interval(units),
        "same_best": same_best.mean,
        "same_best_ci95": same_best.ci95,
        "same_best_chance": 1 / int((~np.isnan(panel.scores_IRS)).sum(2).max()),
        "n_items": len(units),
    }


def _same_best(scores_RS: Values) -> float:
    """The share of pairs of raters with the same best of the same systems; NaN without a pair that chose."""
    rows = [row for row in scores_RS if not np.isnan(row).all()]
    chose = [(tuple(np.isnan(row)), int(np.nanargmax(row))) for row in rows if (row == np.nanmax(row)).sum() == 1]
    pairs = [a[1] == b[1] for a, b in itertools.combinations(chose, 2) if a[0] == b[0]]
    return sum(pairs) / len(pairs) if pairs else math.nan


def _alpha_interval(units: Sequence[Sequence[Values]], resamples: int = 300) -> list[float]:
    if len(units) < 2:
        return [math.nan, math.nan]
    rng = np.random.default_rng(0)
    alphas = [
        krippendorff_alpha([unit for i in rng.integers(0, len(units), len(units)) for unit in units[i]])
        for _ in range(resamples)
    ]
    low, high = np.nanpercentile(alphas, [2.5, 97.5])
    return [float(low), float(high)]


def self_consistency(rows: Sequence[Record]) -> JsonObject:
    """How often a rater who sees an item again, in another order, picks the same best and the same worst."""
    first = {(row["rater"], row["item"], row["question"]): row for row in rows if row["kind"] == "item"}
    again = [row for row in rows if row["kind"] == "repeat"]
    both = [(first[at], row) for row in again if (at := (row["rater"], row["item"], row["question"])) in first]
    return {
        name: share([end(before) == end(after) and end(after) is not None for before, after in both])
        for name, end in (("best", partial(_end, side=1)), ("worst", partial(_end, side=-1)))
    }


def _end(row: Record, side: int) -> str | None:
    """The image that is ahead of all others (or behind, with `side` -1); None where several are."""
    scores = [side * score for score in row_scores(row)]
    ahead = [name for name, score in zip(row["order"], scores, strict=True) if score == max(scores)]
    return ahead[0] if len(ahead) == 1 else None


def attention(rows: Sequence[Record], checks: Mapping[str, Check]) -> JsonObject:
    """Failed checks: noise that was not worst, the truth that was. By rater and in all."""
    failed: dict[int | str, list[bool]] = {}
    for row in rows:
        if row["kind"] == "check":
            failed.setdefault(row["rater"], []).append(failed_check(row, checks[row["item"]]))
    return {
        "failed": share([one for outcomes in failed.values() for one in outcomes]),
        "raters": {str(rater): {"failed": sum(outcomes), "n": len(outcomes)} for rater, outcomes in failed.items()},
    }

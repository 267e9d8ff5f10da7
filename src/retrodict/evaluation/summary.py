"""From scored predictions to the numbers of `results.json`.

Shape suffixes: I items, N candidates of an item.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from retrodict.evaluation.pool import ItemResult, Measure, Scored, reason_counts
from retrodict.files import JsonObject
from retrodict.stats import (
    UNIT,
    Values,
    mean_interval,
    paired_difference,
    repeated,
    repeated_difference,
    share_interval,
)

KS = (1, 2, 4, 8)
MIN_COPY = "min_copy"  # picks the candidate farthest from the source: what a verifier must beat, never the default


def default_selector(verifiers: Iterable[str]) -> str:
    """The verifier whose choice is the result: the last one, "" without any."""
    return ([name for name in verifiers if name != MIN_COPY] or [""])[-1]


def item_values(
    items: Sequence[ItemResult], selector: str = "greedy", k: int = 1, measure: Measure = "score"
) -> Values:
    """One value per item: its greedy frame's, or what `selector` can expect to get out of k of its candidates.

    The expectation is over all subsets of k candidates of the pool (unbiased). Selectors: `greedy`, `random` (the
    pool's mean, whatever k), `oracle` (chooses by the true score), or a verifier's name. NaN where the item's frames,
    or the verifier, could not be scored.
    """
    if selector == "greedy":
        return np.array([getattr(item.greedy, measure) for item in items], dtype=np.float64)
    values = np.full(len(items), np.nan)
    for size in {len(item.pool) for item in items} - {0}:
        rows = [i for i, item in enumerate(items) if len(item.pool) == size]
        values_IN = _table([items[i] for i in rows], lambda frame: float(getattr(frame, measure)))
        if selector == "random":
            values[rows] = values_IN.mean(1)
        elif k <= size:
            scores_IN = _table([items[i] for i in rows], lambda frame: _selector_score(frame, selector))
            values[rows] = (best_of_k(scores_IN, k) * values_IN).sum(1)
    return values


def best_of_k(scores_IN: Values, k: int) -> Values:
    """How often each of N candidates is the best-scored of k, over all subsets of size k: weights [I, N].

    A candidate with `low` others below it and `high` at most at its own score (itself included) shares the
    C(high, k) - C(low, k) subsets whose best score is its own with its equals: unbiased, from one pool of N. NaN loses
    to any number; a row of nothing but NaN chose nothing, and its weights are NaN.
    """
    filled_IN = np.where(np.isnan(scores_IN), -np.inf, scores_IN)
    low_IN = (filled_IN[:, None, :] < filled_IN[:, :, None]).sum(2)
    high_IN = (filled_IN[:, None, :] <= filled_IN[:, :, None]).sum(2)
    size = scores_IN.shape[1]
    subsets = np.array([math.comb(i, k) for i in range(size + 1)], dtype=np.float64)
    weights_IN = (subsets[high_IN] - subsets[low_IN]) / subsets[size] / (high_IN - low_IN)
    return np.where(np.isnan(scores_IN).all(1, keepdims=True), np.nan, weights_IN)


def _table(items: Sequence[ItemResult], read: Callable[[Scored], float]) -> Values:
    return np.array([[read(frame) for frame in item.pool] for item in items], dtype=np.float64)


def _selector_score(frame: Scored, selector: str) -> float:
    return frame.score if selector == "oracle" else frame.verifiers.get(selector, math.nan)


def estimate(items: Sequence[ItemResult], selector: str = "greedy", k: int = 1) -> JsonObject:
    """`{"score", "es", "me", "ci95", "n", "n_unscored", "copy_rate"}`; the interval is that of the score."""
    scores = item_values(items, selector, k, "score")
    interval = share_interval(scores, groups_of(items))
    return {
        "score": interval.mean,
        "es": _mean(item_values(items, selector, k, "es")),
        "me": _mean(item_values(items, selector, k, "me")),
        "ci95": interval.ci95,
        "n": interval.n,
        "n_unscored": interval.n_unscored,
        "copy_rate": _mean(item_values(items, selector, k, "copy")),
    }


def _mean(values: Values) -> float:
    scored = values[~np.isnan(values)]
    return float(scored.mean()) if len(scored) else math.nan


def pool_sizes(size: int) -> list[int]:
    """For which k best-of-k is reported where items have `size` candidates: powers of two, and all of them."""
    return sorted({k for k in (*KS, size) if 0 < k <= size})


def summarise(
    items: Sequence[ItemResult], verifiers: Sequence[str] = (), ks: Sequence[int] | None = None
) -> JsonObject:
    """The entry of one system in `results.json`.

    `greedy` is one estimate. Each `k<k>` has an estimate per selector (the verifiers, `random`, `oracle`) and, at its
    own top level, the one of the default selector, named by `selector`: the last verifier, else `random`. `suites`
    repeats greedy and the default selector per category. `unscored` counts items whose greedy frame has no score, by
    reason.
    """
    size = min((len(item.pool) for item in items), default=0)
    chosen = default_selector(verifiers) or "random"
    ks = pool_sizes(size) if ks is None else [k for k in ks if k <= size]
    entry: JsonObject = {"greedy": estimate(items)}
    for k in ks:
        by_selector = {name: estimate(items, name, k) for name in dict.fromkeys([*verifiers, "random", "oracle"])}
        entry[f"k{k}"] = {**by_selector[chosen], "selector": chosen, **by_selector}
    entry["suites"] = {name: _suite(items, name, chosen, ks) for name in sorted({item.category for item in items})}
    entry["unscored"] = _reasons(items)
    return entry


def _suite(items: Sequence[ItemResult], name: str, chosen: str, ks: Sequence[int]) -> JsonObject:
    part = [item for item in items if item.category == name]
    return {"greedy": estimate(part), **{f"k{k}": estimate(part, chosen, k) for k in ks}}


def _reasons(items: Sequence[ItemResult]) -> dict[str, int]:
    return reason_counts(item.greedy.reason or "no score" for item in items if math.isnan(item.greedy.score))


def compare(
    a: Sequence[ItemResult],
    b: Sequence[ItemResult],
    *,
    names: tuple[str, str],
    selectors: tuple[str, str] = ("greedy", "greedy"),
    ks: tuple[int, int] = (1, 1),
) -> JsonObject:
    """A `comparisons` entry (`Paired.entry`): how much more a scores than b.

    The items are paired by position. Raises `ValueError` when they are not the same items.
    """
    return compare_runs([a], [b], names=names, selectors=selectors, ks=ks)


def compare_runs(
    a: Sequence[Sequence[ItemResult]],
    b: Sequence[Sequence[ItemResult]],
    *,
    names: tuple[str, str],
    selectors: tuple[str, str] = ("greedy", "greedy"),
    ks: tuple[int, int] = (1, 1),
) -> JsonObject:
    """The same of systems that were trained several times; as many runs count as both have.

    From two runs on, the entry says how many (`runs`), and its interval and p also hold for other training runs.
    """
    runs = min(len(a), len(b))
    first = a[0]
    if any([item.id for item in items] != [item.id for item in first] for items in (*a[:runs], *b[:runs])):
        raise ValueError(f"{names[0]} and {names[1]} were not measured on the same items.")
    groups = groups_of(first)
    of_a = [item_values(items, selectors[0], ks[0]) for items in a[:runs]]
    of_b = [item_values(items, selectors[1], ks[1]) for items in b[:runs]]
    if runs == 1:
        return paired_difference(of_a[0], of_b[0], groups, UNIT).entry(*names)
    return repeated_difference(of_a, of_b, groups, UNIT).entry(*names) | {"runs": runs}


def over_runs(runs: Sequence[Sequence[ItemResult]], selector: str = "greedy", k: int = 1) -> JsonObject:
    """`{"score", "ci95", "n", "n_unscored", "runs", "each"}`: the mean over several training runs of one system, whose
    interval also holds for other runs, and the score of each."""
    values = [item_values(items, selector, k) for items in runs]
    each = [mean_interval(one).mean for one in values]
    return repeated(values, groups_of(runs[0]), UNIT).entry("score") | {"runs": len(runs), "each": each}


def groups_of(items: Sequence[ItemResult]) -> list[str] | None:
    """The cluster of each item; None where every item is its own."""
    groups = [item.group for item in items]
    return groups if len(set(groups)) < len(groups) else None

"""Means with intervals, paired differences and shares: every number that is printed comes through here.

Items are what varies, so items are what is resampled (whole groups where items share a scene or a clip). Where models
were trained several times, training runs vary, too: `repeated` and `repeated_difference` count both. Values that are
NaN were not scored: they are left out of the mean and counted, and never turned into a number.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from retrodict.files import JsonObject

RESAMPLES = 2000
CONFIDENCE = 0.95
ALPHA = 0.05
FEW = 6  # groups: with fewer, no sign-flip test can reach `ALPHA`
_SEED = 20_250_606  # fixed, so that the same values always print the same interval

Values = npt.NDArray[np.float64]
Scale = tuple[float, float]  # where values can lie at all: no interval reaches beyond it
ANY: Scale = (-math.inf, math.inf)
UNIT: Scale = (0.0, 1.0)  # shares and scores
Entry = JsonObject  # a number of `results.json` with its interval and counts


@dataclass(frozen=True)
class Estimate:
    """A mean over `n` scored items with its 95 % interval; NaN where there is nothing to say."""

    mean: float
    low: float
    high: float
    n: int
    n_unscored: int = 0

    @property
    def ci95(self) -> list[float]:
        return [self.low, self.high]

    def entry(self, key: str) -> Entry:
        """How `results.json` holds it, with the mean under `key`: `{key, "ci95", "n", "n_unscored"}`."""
        return {key: self.mean, "ci95": self.ci95, "n": self.n, "n_unscored": self.n_unscored}


@dataclass(frozen=True)
class Paired:
    """The mean of `a - b` over items that both have, with its 95 % interval.

    `relative` is the difference as a share of b's mean (NaN where that is 0); `p` is the two-sided sign-flip test over
    `groups`, the clusters that the items fall into.
    """

    difference: float
    low: float
    high: float
    relative: float
    n: int
    p: float
    n_unscored: int = 0
    groups: int = 0

    @property
    def ci95(self) -> list[float]:
        return [self.low, self.high]

    def entry(self, a: str, b: str) -> Entry:
        """A member of `comparisons` in `results.json`; `a` and `b` name the two sides.

        Returns:
            `{"a", "b", "difference", "ci95", "relative", "n", "n_unscored", "groups", "p"}`.
        """
        return {
            "a": a,
            "b": b,
            "difference": self.difference,
            "ci95": self.ci95,
            "relative": self.relative,
            "n": self.n,
            "n_unscored": self.n_unscored,
            "groups": self.groups,
            "p": self.p,
        }


def mean_interval(
    values: Sequence[float] | Values, groups: Sequence[str] | None = None, scale: Scale = ANY
) -> Estimate:
    """The mean of the scored values with its interval: a bootstrap's, as wide as Student's t says (`_ends`).

    `groups` names the cluster of each value; clusters are then resampled as wholes. Values that are all equal have an
    interval of width 0; shares and scores have `share_interval`. `scale` is where values can lie at all: what is
    beyond its ends is left out of the interval, here and in the functions below.
    """
    array = np.asarray(values, dtype=np.float64)
    scored = ~np.isnan(array)
    sums, counts = _clusters(array[scored], None if groups is None else np.asarray(groups)[scored])
    n, unscored = int(scored.sum()), int((~scored).sum())
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, 0, unscored)
    return Estimate(float(sums.sum() / counts.sum()), *_within(_ends([(sums, counts)]), scale), n, unscored)


def share_interval(
    values: Sequence[float] | Values, groups: Sequence[str] | None = None, scale: Scale = UNIT
) -> Estimate:
    """`mean_interval` of shares and scores. Where all lie at one end of their scale, no resample differs, which says
    nothing of other items: the interval is then Wilson's for as many items, or clusters, as there are."""
    array = np.asarray(values, dtype=np.float64)
    scored = ~np.isnan(array)
    clusters = len(_clusters(array[scored], None if groups is None else np.asarray(groups)[scored])[0])
    return _at_an_end(mean_interval(array, groups, scale), clusters, scale)


def _at_an_end(estimate: Estimate, n: int, scale: Scale) -> Estimate:
    """The estimate; at an end of the scale with Wilson's interval of `n` successes, or of none."""
    low, high = scale
    if estimate.mean not in scale or math.isinf(high - low):
        return estimate
    ends = wilson(n if estimate.mean == high else 0, n)
    return replace(estimate, low=low + (high - low) * ends.low, high=low + (high - low) * ends.high)


def paired_difference(
    a: Sequence[float] | Values,
    b: Sequence[float] | Values,
    groups: Sequence[str] | None = None,
    scale: Scale = ANY,
) -> Paired:
    """How much better `a` is than `b` on the same items, in order; `scale` is that of both.

    Where they differ on no item, so does no resample: the interval is [0, 0], and p is 1. That says of these items
    alone that they are equal, and shows nothing.

    Raises `ValueError` when the lengths differ.
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.shape != second.shape:
        raise ValueError(f"A paired comparison needs the same items: {len(first)} values against {len(second)}.")
    difference = first - second
    estimate = mean_interval(difference, groups, of_differences(scale))
    scored = ~np.isnan(difference)
    base = float(second[scored].mean()) if estimate.n else math.nan
    relative = estimate.mean / base if base and not math.isnan(base) else math.nan
    sums, _ = _clusters(difference[scored], None if groups is None else np.asarray(groups)[scored])
    return Paired(
        estimate.mean,
        estimate.low,
        estimate.high,
        relative,
        estimate.n,
        _sign_flip(sums),
        estimate.n_unscored,
        len(sums),
    )


def repeated(values_RI: npt.ArrayLike, groups: Sequence[str] | None = None, scale: Scale = ANY) -> Estimate:
    """The mean of values of R training runs on the same I items; its interval holds for other runs and other items.

    Items that any run left unscored are left out of all. At an end of a bounded scale the interval is as wide as that
    of one run (`share_interval`): runs that agree are no more items.
    """
    error = _crossed(values_RI, groups)
    estimate = Estimate(error.mean, *_within(error.ends, scale), error.n, error.n_unscored)
    return _at_an_end(estimate, error.groups, scale)


def repeated_difference(
    a_RI: npt.ArrayLike, b_RI: npt.ArrayLike, groups: Sequence[str] | None = None, scale: Scale = ANY
) -> Paired:
    """How much better `a` is than `b`, each trained R times, on the same items; see `repeated`. `p` is that of its t.

    Raises `ValueError` when runs or items differ in number.
    """
    first, second = np.asarray(a_RI, dtype=np.float64), np.asarray(b_RI, dtype=np.float64)
    if first.shape != second.shape:
        raise ValueError(f"A paired comparison needs the same runs and items: {first.shape} against {second.shape}.")
    error = _crossed(first - second, groups)
    base = float(second[:, ~np.isnan(first - second).any(0)].mean()) if error.n else math.nan
    t = error.mean / error.standard_error if error.standard_error else math.copysign(math.inf, error.mean)
    p = 1.0 if error.mean == 0 else float(2 * stats.t.sf(abs(t), error.freedom))
    return Paired(
        error.mean,
        *_within(error.ends, of_differences(scale)),
        error.mean / base if base else math.nan,
        error.n,
        p,
        error.n_unscored,
        error.groups,
    )


@dataclass(frozen=True)
class _Crossed:
    mean: float
    standard_error: float
    freedom: float  # degrees of freedom
    n: int
    n_unscored: int
    groups: int

    @property
    def ends(self) -> tuple[float, float]:
        margin = float(stats.t.ppf((1 + CONFIDENCE) / 2, self.freedom)) * self.standard_error
        return self.mean - margin, self.mean + margin


def _crossed(values_RI: npt.ArrayLike, groups: Sequence[str] | None) -> _Crossed:
    """Standard error of the grand mean where both runs and items are random: two-way analysis of variance without
    replication, with Satterthwaite's degrees of freedom (H. Clark 1973, J. Verbal Learning 12, the F' of its appendix).
    """
    array = np.asarray(values_RI, dtype=np.float64)
    if len(array) < 2:
        raise ValueError("The noise between training runs shows from two runs on.")
    scored = ~np.isnan(array).any(0)
    n, unscored = int(scored.sum()), int((~scored).sum())
    names = None if groups is None else np.asarray(groups)[scored]
    sums_RG = np.stack([_clusters(row, names)[0] for row in array[:, scored]])
    runs, size = sums_RG.shape
    if size < 2:
        return _Crossed(float(sums_RG.mean()) / n if n else math.nan, math.nan, math.nan, n, unscored, size)
    cells_RG = sums_RG * size / n  # so that their mean is that of the items
    mean, by_run, by_item = cells_RG.mean(), cells_RG.mean(1), cells_RG.mean(0)
    residual_RG = cells_RG - by_run[:, None] - by_item[None, :] + mean
    interaction = float((residual_RG**2).sum()) / ((runs - 1) * (size - 1))
    of_runs = max(size * float(by_run.var(ddof=1)), interaction)
    of_items = max(runs * float(by_item.var(ddof=1)), interaction)
    total = of_runs + of_items - interaction
    spread = of_runs**2 / (runs - 1) + of_items**2 / (size - 1) + interaction**2 / ((runs - 1) * (size - 1))
    freedom = total**2 / spread if spread else math.inf
    return _Crossed(float(mean), math.sqrt(total / (runs * size)), freedom, n, unscored, size)


def macro_interval(
    values: Sequence[float] | Values,
    strata: Sequence[str],
    groups: Sequence[str] | None = None,
    scale: Scale = ANY,
    *,
    shares: bool = False,
) -> Estimate:
    """The mean of the strata's means with its interval; every stratum is resampled by itself.

    What the paper's tables call the average over subsets. NaN when a stratum has no scored value: a mean over the
    others would be of something else. With `shares` the ends of the scale are treated as in `share_interval`, every
    stratum counting as the smallest.
    """
    array, names = np.asarray(values, dtype=np.float64), np.asarray(strata)
    scored = ~np.isnan(array)
    parts = []
    for name in dict.fromkeys(strata):
        rows = scored & (names == name)
        parts.append(_clusters(array[rows], None if groups is None else np.asarray(groups)[rows]))
    if not parts:
        return Estimate(math.nan, math.nan, math.nan, 0, 0)
    mean = np.mean([sums.sum() / counts.sum() if len(sums) else math.nan for sums, counts in parts])
    estimate = Estimate(float(mean), *_within(_ends(parts), scale), int(scored.sum()), int((~scored).sum()))
    return _at_an_end(estimate, len(parts) * min(len(sums) for sums, _ in parts), scale) if shares else estimate


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment of the p-values of one family of comparisons; NaN stays NaN and is not counted."""
    known = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    adjusted, largest = [math.nan] * len(p_values), 0.0
    for rank, (p, i) in enumerate(known):
        largest = max(largest, min(1.0, p * (len(known) - rank)))
        adjusted[i] = largest
    return adjusted


def adjust(family: Iterable[Entry]) -> None:
    """Add `p_holm`, Holm's adjustment of their `p`, to the comparisons of one family."""
    entries = list(family)
    for entry, adjusted in zip(entries, holm([entry["p"] for entry in entries]), strict=True):
        entry["p_holm"] = adjusted


def shown(ci95: Sequence[float], p: float | None, null: float = 0.0) -> int:
    """Which side of `null` a result lies on. Every claim in words is made by this rule.

    The interval says how large an effect is and the test holds for a family of comparisons: both must say so.

    Args:
        ci95: the interval of the value; empty where there is none.
        p: the two-sided p-value against `null`, adjusted where it is one of several.
        null: the value of no effect.

    Returns:
        1 above, -1 below, 0 where nothing is shown.
    """
    if len(ci95) != 2 or p is None or not p < ALPHA:
        return 0
    return int(ci95[0] > null) - int(ci95[1] < null)


def wilson(successes: int, n: int, n_unscored: int = 0) -> Estimate:
    """A share with its 95 % Wilson interval, which also holds at 0 and 1. NaN when `n` is 0."""
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, 0, n_unscored)
    interval = stats.binomtest(successes, n).proportion_ci(CONFIDENCE, method="wilson")
    return Estimate(successes / n, float(interval.low), float(interval.high), n, n_unscored)


def share(outcomes: Sequence[bool | float]) -> Entry:
    """`{"share", "ci95", "n", "n_unscored"}` of outcomes that are true, false or NaN, for `results.json`."""
    values = np.asarray(outcomes, dtype=np.float64)
    scored = values[~np.isnan(values)]
    return wilson(int(scored.sum()), len(scored), len(values) - len(scored)).entry("share")


def _within(ends: tuple[float, float], scale: Scale) -> tuple[float, float]:
    low, high = np.clip(ends, *scale)
    return float(low), float(high)


def of_differences(scale: Scale) -> Scale:
    """Where the differences of values of a scale can lie."""
    return scale[0] - scale[1], scale[1] - scale[0]


def _clusters(values: Values, groups: npt.NDArray[np.generic] | None) -> tuple[Values, Values]:
    """Sum and count of the values of each group; one value each without groups."""
    if groups is None:
        return values, np.ones_like(values)
    _, index = np.unique(groups, return_inverse=True)
    return np.bincount(index, weights=values).astype(np.float64), np.bincount(index).astype(np.float64)


def _ends(parts: Sequence[tuple[Values, Values]]) -> tuple[float, float]:
    """The interval of the mean of the means of `parts`, each the sums and counts of its clusters.

    Percentiles of a bootstrap know how skewed values are, and are too near for few or uneven clusters; so they are
    stretched about the mean, by the jackknife's standard error over the bootstrap's and by Student's t over the normal
    quantile. Each end is the farther of these and of Student's own. The degrees of freedom are those of as many even
    clusters as weigh the same, (sum of counts)^2 / sum of counts^2 less one, and over several parts Satterthwaite's.
    """
    resampled, variances, freedoms = [], [], []
    for sums, counts in parts:
        if len(sums) < 2:
            return math.nan, math.nan
        mean = sums.sum() / counts.sum()
        plain = float(((sums - mean * counts) ** 2).sum() / counts.sum() ** 2)
        without = (sums.sum() - sums) / (counts.sum() - counts)  # the mean without each cluster in turn
        variances.append((len(sums) - 1) * float(without.var()))
        freedoms.append(max(float(counts.sum() ** 2 / (counts**2).sum()) - 1, 1.0))
        stretch = math.sqrt(variances[-1] / plain) if plain else 1.0
        resampled.append(mean + stretch * (_resampled_means(sums, counts) - mean))
    centre, tail = float(np.mean([sums.sum() / counts.sum() for sums, counts in parts])), (1 - CONFIDENCE) / 2
    low, high = np.quantile(np.mean(resampled, axis=0), [tail, 1 - tail])
    spread = sum(v**2 / freedom for v, freedom in zip(variances, freedoms, strict=True))
    freedom = sum(variances) ** 2 / spread if spread else math.inf
    quantile = float(stats.t.isf(tail, freedom))
    stretch, half = quantile / float(stats.norm.isf(tail)), quantile * math.sqrt(sum(variances)) / len(parts)
    return centre - max(stretch * float(centre - low), half), centre + max(stretch * float(high - centre), half)


def _resampled_means(sums: Values, counts: Values) -> Values:
    """Means of the bootstrap's resamples."""
    if np.ptp(sums / counts) == 0:
        return np.full(RESAMPLES, sums[0] / counts[0])
    return np.asarray(_bootstrap(sums, counts).bootstrap_distribution, dtype=np.float64)


def _bootstrap(sums: Values, counts: Values) -> Any:
    means = sums / counts

    def ratio(sums: Values, counts: Values, axis: int) -> Values:
        return np.asarray(sums.sum(axis=axis) / counts.sum(axis=axis))

    even = bool(np.ptp(counts) == 0)  # then the ratio is a mean, and resampling one array is enough
    return stats.bootstrap(
        (means,) if even else (sums, counts),
        np.mean if even else ratio,
        paired=not even,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        vectorized=True,
        rng=np.random.default_rng(_SEED),
    )


def _sign_flip(differences: Values) -> float:
    """Two-sided p-value of a mean of 0: the signs of whole clusters are exchangeable when a and b are alike."""
    moved = differences[differences != 0]  # a zero keeps its sum whatever its sign
    if len(moved) < 2:  # one difference alone is as extreme either way
        return 1.0 if len(differences) else math.nan
    result = stats.permutation_test(
        (moved,),
        np.sum,
        permutation_type="samples",
        n_resamples=RESAMPLES - 1,
        vectorized=True,
        rng=np.random.default_rng(_SEED),
    )
    return float(result.pvalue)

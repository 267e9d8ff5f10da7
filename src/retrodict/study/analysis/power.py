"""How many items and raters it takes to show a difference: simulated studies, read by the report's own tests."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from retrodict.stats import Estimate, shown, wilson
from retrodict.study.analysis.panel import Panel, Values
from retrodict.study.analysis.systems import pairs

_MOST = 1600  # items
_TRUTH = 200_000  # judgements from which the size of a preference is read


@dataclass(frozen=True)
class Assumption:
    """What is taken for true.

    Attributes:
        difference: of the best/worst scores of two systems; the others lie in the middle between them.
        systems: how many take part, all shown together.
        luck: what an image is worth by chance to all raters alike, in units of one rater's own whim.
        dropout: share of judgements that never come.
        items_per_rater: 0: all.
    """

    difference: float
    systems: int = 4
    luck: float = 0.5
    dropout: float = 0.0
    items_per_rater: int = 0

    def worth(self) -> Values:
        """What the systems are worth, so that the first is `difference` above the second; raises `ValueError`."""
        if not 0 < self.difference < 2:
            raise ValueError(
                f"--difference {self.difference}: two best/worst scores differ by more than 0 and less than 2."
            )
        low, high = 0.0, 20.0
        for _ in range(30):
            gap = (low + high) / 2
            scores_S = simulate(np.random.default_rng(0), self._between(gap), _TRUTH, 1, self.luck).mean((0, 1))
            low, high = (gap, high) if scores_S[0] - scores_S[1] < self.difference else (low, gap)
        return self._between((low + high) / 2)

    def _between(self, gap: float) -> Values:
        worth_S = np.zeros(self.systems)
        worth_S[:2] = gap / 2, -gap / 2
        return worth_S


def simulate(rng: np.random.Generator, worth: Values, items: int, raters: int, luck: float) -> Values:
    """Best (1) and worst (-1) of what each rater thinks of each image, [items, raters, systems].

    A thought is the system's worth, the image's luck (the same for all raters), and the rater's whim of deviation 1.
    """
    shape = (items, raters, len(worth))
    thought_IRS = np.asarray(worth) + luck * rng.normal(size=(items, 1, len(worth))) + rng.normal(size=shape)
    scores_IRS = np.zeros(shape)
    np.put_along_axis(scores_IRS, thought_IRS.argmax(2)[:, :, None], 1, axis=2)
    np.put_along_axis(scores_IRS, thought_IRS.argmin(2)[:, :, None], -1, axis=2)
    return scores_IRS


def simulated_panel(
    rng: np.random.Generator, worth: Values, items: int, per_item: int, *, luck: float, dropout: float, per_rater: int
) -> Panel:
    """A study in the balanced incomplete design: `per_rater` items each (0: all), `per_item` judgements of each."""
    raters = _raters(items, per_item, per_rater)
    scores_IRS = simulate(rng, worth, items, per_item, luck)
    if per_rater:
        spread_IRS, load_R = np.full((items, raters, len(worth)), np.nan), np.zeros(raters)
        for i in range(items):  # to those who have the fewest items, as even as the numbers allow
            order = rng.permutation(raters)
            chosen = order[np.argsort(load_R[order], kind="stable")[:per_item]]
            spread_IRS[i, chosen], load_R[chosen] = scores_IRS[i], load_R[chosen] + 1
        scores_IRS = spread_IRS
    scores_IRS[rng.random(scores_IRS.shape[:2]) < dropout] = np.nan
    ids = tuple(map(str, range(items)))
    panel = Panel(scores_IRS, tuple(map(str, range(len(worth)))), ids, ("",) * items, ids, tuple(range(raters)))
    return panel.keep([bool(row.any()) for row in panel.judged])


def _raters(items: int, per_item: int, per_rater: int) -> int:
    """How many it takes; nobody judges an item twice."""
    return max(per_item, -(-items * per_item // per_rater)) if per_rater else per_item


def power(assumption: Assumption, items: int, per_item: int, *, studies: int, seed: int) -> Estimate:
    """The share of studies whose report would say that the better of the two systems is preferred."""
    rng, worth = np.random.default_rng(seed), assumption.worth()
    hits = 0
    for _ in range(studies):
        panel = simulated_panel(
            rng,
            worth,
            items,
            per_item,
            luck=assumption.luck,
            dropout=assumption.dropout,
            per_rater=assumption.items_per_rater,
        )
        first = pairs(panel)[0]
        hits += shown(first["ci95"], first["p_holm"]) > 0
    return wilson(hits, studies)


def needed(assumption: Assumption, per_item: int, *, goal: float, studies: int, seed: int) -> str:
    """The fewest items (in steps of an eighth) with which `goal` of the studies show the difference, as a line."""
    low, high = 0, 10
    reached = power(assumption, high, per_item, studies=studies, seed=seed)
    while reached.mean < goal and high < _MOST:
        low, high = high, 2 * high
        reached = power(assumption, high, per_item, studies=studies, seed=seed)
    if reached.mean < goal:
        return f"{per_item:19} | more than {high} items: {reached.mean:.0%} with them"
    while high - low > max(1, high // 8):
        middle = (low + high) // 2
        tried = power(assumption, middle, per_item, studies=studies, seed=seed)
        if tried.mean < goal:
            low = middle
        else:
            high, reached = middle, tried
    raters = _raters(high, per_item, assumption.items_per_rater)
    return (
        f"{per_item:19} | {high:5} | {raters:6} | {high * per_item:10} | "
        f"{reached.mean:.0%} ({reached.low:.0%} to {reached.high:.0%})"
    )

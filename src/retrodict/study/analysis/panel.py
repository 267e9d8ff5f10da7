"""Judgements as arrays, and how they are resampled.

Shape suffixes: I items, R raters, S systems, B bootstrap draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from retrodict.study.export import Record
from retrodict.study.plan import Key

Values = npt.NDArray[np.float64]

RESAMPLES = 2000
TWO_WAY_FROM = 20  # items; with fewer, raters are not resampled
_SEED = 20_250_606


@dataclass(frozen=True)
class Panel:
    """Best (1), worst (-1) or neither (0) of every system, item and rater; NaN where a rater did not judge an item.

    A judgement of "can't tell" is 0 for all systems. `groups` names what items share (a photo, a clip).
    """

    scores_IRS: Values
    systems: tuple[str, ...]
    items: tuple[str, ...]
    subsets: tuple[str, ...]
    groups: tuple[str, ...]
    raters: tuple[int, ...]

    @property
    def judged(self) -> npt.NDArray[np.bool_]:
        """Which rater judged which item: [I, R]."""
        return np.asarray(~np.isnan(self.scores_IRS[:, :, 0]))

    @property
    def n_judgements(self) -> int:
        return int(self.judged.sum())

    @property
    def is_two_way(self) -> bool:
        return len(self.items) >= TWO_WAY_FROM and len(self.raters) > 1

    @property
    def item_scores(self) -> Values:
        """The mean over raters: [I, S]."""
        return np.asarray(weighted(self.scores_IRS, np.ones((1, len(self.raters))))[0])

    def subset(self, name: str) -> Panel:
        return self.keep([subset == name for subset in self.subsets])

    def keep(self, wanted: Sequence[bool]) -> Panel:
        """The panel of some items; raters who judged none of them are dropped."""
        rows = np.flatnonzero(wanted)
        scores_IRS = self.scores_IRS[rows]
        present_R = np.asarray((~np.isnan(scores_IRS[:, :, 0])).any(0))
        return Panel(
            scores_IRS[:, present_R],
            self.systems,
            tuple(self.items[i] for i in rows),
            tuple(self.subsets[i] for i in rows),
            tuple(self.groups[i] for i in rows),
            tuple(rater for rater, here in zip(self.raters, present_R, strict=True) if here),
        )


def make_panel(rows: Sequence[Record], key: Key) -> Panel:
    """The first showings of the items (no repeats, no checks), with the systems' names back."""
    rows = [row for row in rows if row["kind"] == "item"]
    items = sorted({row["item"] for row in rows})
    raters = sorted({row["rater"] for row in rows})
    scores_IRS = np.full((len(items), len(raters), len(key.systems)), np.nan)
    for row in rows:
        scores_IRS[items.index(row["item"]), raters.index(row["rater"])] = row_scores(row, key)
    keyed = [key.items[item] for item in items]
    return Panel(
        scores_IRS,
        key.systems,
        tuple(one.id for one in keyed),
        tuple(one.subset for one in keyed),
        tuple(one.group for one in keyed),
        tuple(raters),
    )


def row_scores(row: Record, key: Key) -> list[int]:
    """1, -1 or 0 of each system, in the key's order."""
    pictures = key.items[row["item"]].pictures
    by_system = {pictures[name]: int(name == row["best"]) - int(name == row["worst"]) for name in row["order"]}
    return [by_system[system] for system in key.systems]


def draws(panel: Panel, resamples: int = RESAMPLES) -> tuple[Values, Values]:
    """How often each item and each rater is in each draw: weights [B, I] and [B, R].

    Groups of items are drawn with replacement, and independently raters, when there are enough items for that to be
    worth anything (the pigeonhole bootstrap, Owen 2007); else raters all count once.
    """
    rng = np.random.default_rng(_SEED)
    names, group_I = np.unique(np.array(panel.groups), return_inverse=True)
    drawn_BG = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
    n = len(panel.raters)
    raters_BR = rng.multinomial(n, np.full(n, 1 / n), size=resamples) if panel.is_two_way else np.ones((resamples, n))
    return drawn_BG[:, group_I].astype(np.float64), raters_BR.astype(np.float64)


def weighted(values_IRX: Values, raters_BR: Values) -> Values:
    """The mean over raters of each item, [B, I, ...], under the raters' weights; NaN where no weight fell."""
    flat_IRX = values_IRX.reshape(*values_IRX.shape[:2], -1)
    known_IR = ~np.isnan(flat_IRX[:, :, 0])
    weight_BI = raters_BR @ known_IR.T
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_BIX = np.einsum("br,irx->bix", raters_BR, np.nan_to_num(flat_IRX)) / weight_BI[:, :, None]
    return np.asarray(mean_BIX.reshape(len(raters_BR), len(values_IRX), *values_IRX.shape[2:]))


def resampled(values_IRX: Values, weights: tuple[Values, Values]) -> Values:
    """The mean over items of the mean over raters in every draw: [B, ...]."""
    items_BI, raters_BR = weights
    if (raters_BR == 1).all():
        found_BIX = weighted(values_IRX, raters_BR[:1])
        weight_BI = items_BI * ~np.isnan(_first(found_BIX))
        total = np.tensordot(weight_BI, np.nan_to_num(found_BIX[0]), axes=(1, 0))
    else:
        found_BIX = weighted(values_IRX, raters_BR)
        weight_BI = items_BI * ~np.isnan(_first(found_BIX))
        total = np.einsum("bi,bi...->b...", weight_BI, np.nan_to_num(found_BIX))
    shape = (-1, *[1] * (total.ndim - 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(total / weight_BI.sum(1).reshape(shape))


def _first(found_BIX: Values) -> Values:
    return found_BIX.reshape(*found_BIX.shape[:2], -1)[:, :, 0]


def mean(values_IRX: Values) -> Values:
    """The mean over items of the mean over raters."""
    items, raters = values_IRX.shape[:2]
    return np.asarray(resampled(values_IRX, (np.ones((1, items)), np.ones((1, raters))))[0])


def interval(draws_BX: Values) -> list[list[float]]:
    """Percentile 95 % intervals, one per column; NaN where a draw is NaN throughout."""
    low, high = np.nanpercentile(draws_BX, [2.5, 97.5], axis=0)
    return [[float(a), float(b)] for a, b in zip(low, high, strict=True)]

"""Judgements as arrays, and how they are resampled.

Shape suffixes: I items, R raters, S systems, B bootstrap samples.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from retrodict.study.export import Record
from retrodict.study.plan import KeyedItem

Values = npt.NDArray[np.float64]

RESAMPLES = 2000
TWO_WAY_FROM = 20  # items; with fewer, raters are not resampled
_SEED = 20_250_606


@dataclass(frozen=True)
class Panel:
    """Best (1), worst (-1) or neither (0) of every system, item and rater, or its rating.

    NaN where a rater did not judge an item or was not shown the system. A judgement of "can't tell" is 0 for all
    systems shown, or no rating. `groups` names what items share (a photo, a clip).
    """

    scores_IRS: Values
    systems: tuple[str, ...]
    items: tuple[str, ...]
    subsets: tuple[str, ...]
    groups: tuple[str, ...]
    raters: tuple[int | str, ...]

    @property
    def judged(self) -> npt.NDArray[np.bool_]:
        """Which rater judged which item: [I, R]."""
        return np.asarray((~np.isnan(self.scores_IRS)).any(2))

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
        present_R = np.asarray((~np.isnan(scores_IRS)).any((0, 2)))
        return Panel(
            scores_IRS[:, present_R],
            self.systems,
            tuple(self.items[i] for i in rows),
            tuple(self.subsets[i] for i in rows),
            tuple(self.groups[i] for i in rows),
            tuple(rater for rater, here in zip(self.raters, present_R, strict=True) if here),
        )


def make_panel(rows: Sequence[Record], items: Mapping[str, KeyedItem], systems: Sequence[str]) -> Panel:
    """The first showings of the items (no repeats, no checks), with the systems' names back.

    Args:
        rows: judgements that answer one question.
        items: the key's items by their keys, of one study or of several that have items in common.
        systems: the order of the systems.
    """
    rows = [row for row in rows if row["kind"] == "item"]
    keyed = {items[row["item"]].id: items[row["item"]] for row in rows}
    ids = sorted(keyed)
    raters = sorted({row["rater"] for row in rows}, key=lambda one: (isinstance(one, str), one))
    at_item, at_rater = ({one: i for i, one in enumerate(known)} for known in (ids, raters))
    at_system = {system: i for i, system in enumerate(systems)}
    scores_IRS = np.full((len(ids), len(raters), len(systems)), np.nan)
    for row in rows:
        item = items[row["item"]]
        for name, score in zip(row["order"], row_scores(row), strict=True):
            scores_IRS[at_item[item.id], at_rater[row["rater"]], at_system[item.pictures[name]]] = score
    return Panel(
        scores_IRS,
        tuple(systems),
        tuple(ids),
        tuple(keyed[one].subset for one in ids),
        tuple(keyed[one].group for one in ids),
        tuple(raters),
    )


def row_scores(row: Record) -> list[float]:
    """1, -1 or 0 of each image, or its rating, in the order shown; NaN where nothing was rated."""
    if row["ratings"]:
        return [math.nan if value is None else float(value) for value in row["ratings"]]
    return [float(name == row["best"]) - float(name == row["worst"]) for name in row["order"]]


def samples(panel: Panel, resamples: int = RESAMPLES) -> tuple[Values, Values]:
    """How often each item and each rater is in each bootstrap sample: weights [B, I] and [B, R].

    Groups of items are sampled with replacement, and independently raters, when there are enough items for that to be
    worth anything (the pigeonhole bootstrap, Owen 2007); else raters all count once.
    """
    rng = np.random.default_rng(_SEED)
    names, group_I = np.unique(np.array(panel.groups), return_inverse=True)
    sampled_BG = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
    n = len(panel.raters)
    raters_BR = rng.multinomial(n, np.full(n, 1 / n), size=resamples) if panel.is_two_way else np.ones((resamples, n))
    return sampled_BG[:, group_I].astype(np.float64), raters_BR.astype(np.float64)


def weighted(values_IRX: Values, raters_BR: Values) -> Values:
    """The mean over raters of each item, [B, I, ...], under the raters' weights; NaN where no weight fell."""
    items, raters = values_IRX.shape[:2]
    flat_RX = values_IRX.swapaxes(0, 1).reshape(raters, -1)
    known_RX = ~np.isnan(flat_RX)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_BX = (raters_BR @ np.where(known_RX, flat_RX, 0.0)) / (raters_BR @ known_RX.astype(np.float64))
    return np.asarray(mean_BX.reshape(len(raters_BR), items, *values_IRX.shape[2:]))


def resampled(values_IRX: Values, weights: tuple[Values, Values]) -> Values:
    """The mean over items of the mean over raters in every bootstrap sample: [B, ...]."""
    items_BI, raters_BR = weights
    same = bool((raters_BR == 1).all())
    mean_BIX = weighted(values_IRX, raters_BR[:1] if same else raters_BR)
    known_BIX = ~np.isnan(mean_BIX)
    if same:
        total = np.tensordot(items_BI, np.nan_to_num(mean_BIX[0]), axes=(1, 0))
        weight = np.tensordot(items_BI, known_BIX[0].astype(np.float64), axes=(1, 0))
    else:
        total = np.einsum("bi,bi...->b...", items_BI, np.nan_to_num(mean_BIX))
        weight = np.einsum("bi,bi...->b...", items_BI, known_BIX)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(total / weight)


def mean(values_IRX: Values) -> Values:
    """The mean over items of the mean over raters."""
    items, raters = values_IRX.shape[:2]
    return np.asarray(resampled(values_IRX, (np.ones((1, items)), np.ones((1, raters))))[0])


def interval(sampled_BX: Values) -> list[list[float]]:
    """Percentile 95 % intervals, one per column; NaN where no sample has a value."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of a column of NaN
        low, high = np.nanpercentile(sampled_BX, [2.5, 97.5], axis=0)
    return [[float(a), float(b)] for a, b in zip(low, high, strict=True)]

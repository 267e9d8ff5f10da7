"""Which system is better: scores, pairwise tests, win rates, Bradley-Terry strengths.

Shape suffixes as in `panel`; T is another axis over systems.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
from scipy import stats

from retrodict.files import JsonObject
from retrodict.stats import holm, paired_difference
from retrodict.study.analysis.panel import Panel, Values, interval, mean, resampled, samples, weighted

ZERO_METHOD = "wilcox"  # pairs without a difference are left out, as in Wilcoxon's paper and scipy's default
PRIOR = 0.5  # wins that every system is given against every other, so that strengths stay finite


def scores(panel: Panel) -> JsonObject:
    """`{system: {"score", "ci95"}}` with `n_items`, `n_judgements` and how the interval was made."""
    means = mean(panel.scores_IRS)
    spans = interval(resampled(panel.scores_IRS, samples(panel))) if len(set(panel.groups)) > 1 else None
    return {
        "systems": {
            system: {"score": float(means[i]), "ci95": spans[i] if spans else [math.nan, math.nan]}
            for i, system in enumerate(panel.systems)
        },
        "n_items": len(panel.items),
        "n_raters": len(panel.raters),
        "n_judgements": panel.n_judgements,
        "interval": "two-way" if panel.is_two_way else "items",
    }


def pairs(panel: Panel) -> list[JsonObject]:
    """Every pair of systems: the difference with its interval, the item-level sign-flip test, the paper's Wilcoxon.

    `p_holm` takes the pairs of this panel as one family.
    """
    weights = samples(panel) if len(set(panel.groups)) > 1 else None
    rows: list[JsonObject] = []
    for a, b in itertools.combinations(range(len(panel.systems)), 2):
        difference_IR1 = (panel.scores_IRS[:, :, a] - panel.scores_IRS[:, :, b])[:, :, None]
        item_I = weighted(difference_IR1, np.ones((1, len(panel.raters))))[0, :, 0]
        paired = paired_difference(item_I, np.zeros(len(item_I)), list(panel.groups))
        judged = difference_IR1[~np.isnan(difference_IR1)]
        rows.append(
            {
                "a": panel.systems[a],
                "b": panel.systems[b],
                "difference": float(mean(difference_IR1)[0]),
                "ci95": interval(resampled(difference_IR1, weights))[0] if weights else [math.nan, math.nan],
                "p": paired.p,
                "n_items": paired.n,
                "p_wilcoxon_paper": wilcoxon(judged),
                "n_judgements": len(judged),
            }
        )
    for row, p in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["p_holm"] = p
    return rows


def wilcoxon(differences: Values) -> float:
    """The paper's test, over judgements as if they were independent; NaN when nothing differs."""
    moved = differences[differences != 0]
    if not len(moved):
        return math.nan
    return float(stats.wilcoxon(moved, zero_method=ZERO_METHOD, correction=False, method="asymptotic").pvalue)


def wins(panel: Panel) -> Values:
    """Whether S is placed above T, per item and rater: 1, 1/2 for a tie, 0; [I, R, S, T]."""
    difference_IRST = panel.scores_IRS[:, :, :, None] - panel.scores_IRS[:, :, None, :]
    return np.asarray((np.sign(difference_IRST) + 1) / 2)


def win_matrix(panel: Panel) -> Values:
    """Mean of `wins`, [S, T]: M + M^T = 1, and 1/2 on the diagonal."""
    return mean(wins(panel))


def bradley_terry(wins_BST: Values, rounds: int = 10_000, tolerance: float = 1e-10) -> Values:
    """Log strengths with mean 0, [B, S], by Hunter's MM algorithm (Annals of Statistics 2004) on counts of wins."""
    size = wins_BST.shape[-1]
    counts_BST = np.where(np.eye(size, dtype=bool), 0.0, wins_BST + PRIOR)
    games_BST = counts_BST + counts_BST.transpose(0, 2, 1)
    total_BS = counts_BST.sum(2)
    strength_BS = np.ones_like(total_BS)
    for _ in range(rounds):
        share_BST = games_BST / (strength_BS[:, :, None] + strength_BS[:, None, :])
        update_BS = total_BS / share_BST.sum(2)
        update_BS /= np.exp(np.log(update_BS).mean(1, keepdims=True))
        moved = np.abs(np.log(update_BS) - np.log(strength_BS)).max()
        strength_BS = update_BS
        if moved < tolerance:
            break
    return np.asarray(np.log(strength_BS))


def strengths(panel: Panel) -> dict[str, JsonObject]:
    """Bradley-Terry log strengths with bootstrap intervals, by system."""
    log_strengths = bradley_terry(win_matrix(panel)[None] * panel.n_judgements)[0]
    spans = [[math.nan, math.nan]] * len(panel.systems)
    if len(set(panel.groups)) > 1:
        sampled_BST = resampled(wins(panel), samples(panel, 500))
        spans = interval(bradley_terry(sampled_BST * panel.n_judgements, tolerance=1e-6))
    return {s: {"log_strength": float(log_strengths[i]), "ci95": spans[i]} for i, s in enumerate(panel.systems)}

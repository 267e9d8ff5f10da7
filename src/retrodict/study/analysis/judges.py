"""Do automatic judges see what people see? On the same images of the same items."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy import stats

from retrodict.files import JsonObject
from retrodict.stats import mean_interval
from retrodict.study.analysis.panel import Panel, Values

Rows = npt.NDArray[np.intp]
RESAMPLES = 500


def judge_table(panel: Panel, scores: dict[str, dict[str, float | None]]) -> Values:
    """A judge's scores [I, S] in the panel's order from `item id -> system -> score`; NaN where there is none."""
    rows = [[scores.get(item, {}).get(system) for system in panel.systems] for item in panel.items]
    return np.array([[math.nan if value is None else value for value in row] for row in rows], dtype=np.float64)


def against_people(panel: Panel, judge_IS: Values) -> JsonObject:
    """Spearman's rho at three levels, agreement on the best candidate with its chance level, the judge's win rates.

    Only items for which the judge scored every system take part; the others are counted. Levels: `judgement` (every
    judgement of every candidate), `item` (mean over raters), `system` (mean over items, too). Intervals resample items
    by group. rho is NaN when one side is constant.
    """
    known = np.asarray(~np.isnan(judge_IS).any(1))
    part, judge_IS = panel.keep(known.tolist()), judge_IS[known]
    if not len(part.items):
        return {"n_items": 0, "n_unscored": int((~known).sum())}
    groups = np.unique(np.array(part.groups), return_inverse=True)[1]
    members = [np.flatnonzero(groups == g) for g in range(groups.max() + 1)]
    rng = np.random.default_rng(0)
    samples = [
        np.concatenate([members[g] for g in rng.integers(0, len(members), len(members))]) for _ in range(RESAMPLES)
    ]
    scores_IS, every = part.item_scores, np.arange(len(part.items))
    levels: dict[str, Callable[[Rows], float]] = {
        "judgement": lambda rows: _by_judgement(part.scores_IRS[rows], judge_IS[rows]),
        "item": lambda rows: _rho(scores_IS[rows].ravel(), judge_IS[rows].ravel()),
        "system": lambda rows: _rho(scores_IS[rows].mean(0), judge_IS[rows].mean(0)),
    }
    correlations = {
        name: {
            "rho": rho(every),
            "ci95": _percentiles([rho(rows) for rows in samples]) if len(members) > 1 else [math.nan] * 2,
        }
        for name, rho in levels.items()
    }
    best = mean_interval(_best_agreement(part, judge_IS), list(part.groups))
    ahead_IST = (np.sign(judge_IS[:, :, None] - judge_IS[:, None, :]) + 1) / 2
    return {
        "n_items": len(part.items),
        "n_unscored": int((~known).sum()),
        "spearman": correlations,
        "best": {"share": best.mean, "ci95": best.ci95, "chance": 1 / len(part.systems), "n_items": best.n},
        "wins": ahead_IST.mean(0).tolist(),
    }


def _by_judgement(scores_IRS: Values, judge_IS: Values) -> float:
    judged = ~np.isnan(scores_IRS[:, :, 0])
    repeated_IRS = np.broadcast_to(judge_IS[:, None, :], scores_IRS.shape)
    return _rho(scores_IRS[judged].ravel(), repeated_IRS[judged].ravel())


def _rho(a: Values, b: Values) -> float:
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return math.nan
    return float(np.corrcoef(stats.rankdata(a), stats.rankdata(b))[0, 1])


def _percentiles(values: list[float]) -> list[float]:
    known = [value for value in values if not math.isnan(value)]
    return [float(v) for v in np.percentile(known, [2.5, 97.5])] if known else [math.nan, math.nan]


def _best_agreement(panel: Panel, judge_IS: Values) -> list[float]:
    """Per item, how often a rater's best is the judge's; a judge who puts m candidates first has 1/m of each."""
    shares = []
    for scores_RS, judge_S in zip(panel.scores_IRS, judge_IS, strict=True):
        top = judge_S == judge_S.max()
        picked = [top[row.argmax()] / top.sum() for row in scores_RS if row.max() == 1]
        shares.append(float(np.mean(picked)) if picked else math.nan)
    return shares

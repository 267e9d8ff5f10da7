"""Do automatic judges see what people see? On the same images of the same items."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy import stats

from retrodict.files import JsonObject
from retrodict.stats import mean_interval, share_interval
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
        "judgement": lambda rows: _rho(
            part.scores_IRS[rows], np.broadcast_to(judge_IS[rows, None], part.scores_IRS[rows].shape)
        ),
        "item": lambda rows: _rho(scores_IS[rows], judge_IS[rows]),
        "system": lambda rows: _rho(_mean(scores_IS[rows]), judge_IS[rows].mean(0)),
    }
    correlations = {
        name: {
            "rho": rho(every),
            "ci95": _percentiles([rho(rows) for rows in samples]) if len(members) > 1 else [math.nan] * 2,
        }
        for name, rho in levels.items()
    }
    shares, chances = _best_agreement(part, judge_IS)
    best = share_interval(shares, list(part.groups))
    ahead_IST = (np.sign(judge_IS[:, :, None] - judge_IS[:, None, :]) + 1) / 2
    return {
        "n_items": len(part.items),
        "n_unscored": int((~known).sum()),
        "spearman": correlations,
        "best": {"share": best.mean, "ci95": best.ci95, "chance": mean_interval(chances).mean, "n_items": best.n},
        "wins": ahead_IST.mean(0).tolist(),
    }


def disagreements(panel: Panel, judge_IS: Values) -> list[JsonObject]:
    """Items whose best candidate is another one for the judge than for people, the clearest for people first.

    Returns:
        `{"id", "subset", "people", "judge", "gap", "scores", "judge_scores", "n_raters"}`: `people` and `judge` name
        the best systems, `gap` is how far people put theirs above the judge's, and the scores are by system.
    """
    scores_IS = panel.item_scores
    rows: list[JsonObject] = []
    for i, item in enumerate(panel.items):
        known = ~np.isnan(judge_IS[i]) & ~np.isnan(scores_IS[i])
        if known.sum() < 2:
            continue
        people_S, judge_S = (np.where(known, of[i], -np.inf) for of in (scores_IS, judge_IS))
        theirs, other = int(people_S.argmax()), int(judge_S.argmax())
        if people_S[other] == people_S[theirs] or judge_S[theirs] == judge_S[other]:
            continue
        rows.append(
            {
                "id": item,
                "subset": panel.subsets[i],
                "people": panel.systems[theirs],
                "judge": panel.systems[other],
                "gap": float(people_S[theirs] - people_S[other]),
                "scores": {s: float(scores_IS[i, k]) for k, s in enumerate(panel.systems) if known[k]},
                "judge_scores": {s: float(judge_IS[i, k]) for k, s in enumerate(panel.systems) if known[k]},
                "n_raters": int(panel.judged[i].sum()),
            }
        )
    return sorted(rows, key=lambda row: (-row["gap"], row["id"]))


def _mean(scores_IS: Values) -> Values:
    known_IS = ~np.isnan(scores_IS)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.nan_to_num(scores_IS).sum(0) / known_IS.sum(0))


def _rho(a: Values, b: Values) -> float:
    known = ~(np.isnan(a) | np.isnan(b))
    a, b = a[known], b[known]
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return math.nan
    return float(np.corrcoef(stats.rankdata(a), stats.rankdata(b))[0, 1])


def _percentiles(values: list[float]) -> list[float]:
    known = [value for value in values if not math.isnan(value)]
    return [float(v) for v in np.percentile(known, [2.5, 97.5])] if known else [math.nan, math.nan]


def _best_agreement(panel: Panel, judge_IS: Values) -> tuple[list[float], list[float]]:
    """Per item, how often a rater's best is the judge's best of what the rater saw, and how often by chance.

    A judge who puts m candidates first has 1/m of each; a rater who puts several first says nothing.
    """
    shares, chances = [], []
    for scores_RS, judge_S in zip(panel.scores_IRS, judge_IS, strict=True):
        picked, chance = [], []
        for row in scores_RS:
            seen = ~np.isnan(row)
            if seen.sum() < 2 or (row[seen] == row[seen].max()).sum() > 1:
                continue
            top = seen & (judge_S == judge_S[seen].max())
            picked.append(top[np.nanargmax(row)] / top.sum())
            chance.append(1 / seen.sum())
        shares.append(float(np.mean(picked)) if picked else math.nan)
        chances.append(float(np.mean(chance)) if chance else math.nan)
    return shares, chances

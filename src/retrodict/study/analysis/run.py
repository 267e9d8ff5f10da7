"""Everything that `retrodict study report` says, as one dictionary."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from retrodict.files import JsonObject
from retrodict.stats import holm
from retrodict.study.analysis.agreement import agreement, attention, self_consistency
from retrodict.study.analysis.judges import against_people, judge_table
from retrodict.study.analysis.panel import Panel, make_panel
from retrodict.study.analysis.systems import PRIOR, ZERO_METHOD, pairs, scores, strengths, win_matrix
from retrodict.study.export import Record
from retrodict.study.plan import Key, Plan
from retrodict.study.sources import judge_scores


def analyse(plan: Plan, key: Key, rows: Sequence[Record]) -> JsonObject:
    """Raises `ValueError` when nobody has judged anything yet."""
    panel = make_panel(rows, key)
    if not panel.n_judgements:
        raise ValueError("Nobody has finished a judgement yet, so there is nothing to report.")
    subsets = sorted(set(panel.subsets))
    parts = {subset: panel.subset(subset) for subset in subsets}
    by_subset = {subset: pairs(part) for subset, part in parts.items()}
    _holm_over_subsets(by_subset)
    return {
        "kind": "study",
        "title": plan.title,
        "systems": list(key.systems),
        "design": {
            "items": len(plan.items),
            "raters": plan.raters,
            "repeat_share": plan.repeat_share,
            "checks": len(plan.checks),
            "seed": plan.seed,
            "left_out": dict(key.left_out),
        },
        "all": scores(panel),
        "subsets": {subset: scores(part) for subset, part in parts.items()},
        "pairs": pairs(panel),
        "pairs_by_subset": by_subset,
        "wins": win_matrix(panel).tolist(),
        "bradley_terry": strengths(panel),
        "agreement": agreement(panel),
        "self_consistency": self_consistency(rows),
        "attention": attention(rows, key),
        "cant_tell": _cant_tell(rows),
        "places": _places(rows, plan.candidates),
        "raters": _raters(rows),
        "judges": {name: against_people(panel, table) for name, table in _judges(panel, key).items()},
        "methods": {"wilcoxon_zero_method": ZERO_METHOD, "bradley_terry_prior": PRIOR},
    }


def _holm_over_subsets(by_subset: dict[str, list[JsonObject]]) -> None:
    """One family of all pairs of all subsets, so that looking into many of them costs what it should."""
    rows = [row for pairs_of_subset in by_subset.values() for row in pairs_of_subset]
    for row, p in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["p_holm"] = p


def _judges(panel: Panel, key: Key) -> JsonObject:
    """Scores from when the study was built, and those that judges have given since, where the runs still exist."""
    scores: dict[str, dict[str, dict[str, float | None]]] = {}
    for item in key.items.values():
        for judge, by_system in item.scores.items():
            scores.setdefault(judge, {}).setdefault(item.id, {}).update(by_system)
    for system, origin in key.inputs.items():
        frames = {item.id: item.frames[system] for item in key.items.values() if system in item.frames}
        for judge, by_item in (judge_scores(origin, frames) if Path(origin).is_file() else {}).items():
            for item_id, score in by_item.items():
                scores.setdefault(judge, {}).setdefault(item_id, {})[system] = score
    return {judge: judge_table(panel, table) for judge, table in sorted(scores.items())}


def _cant_tell(rows: Sequence[Record]) -> dict[str, int]:
    main = [row for row in rows if row["kind"] == "item"]
    return {"count": sum(row["cant_tell"] for row in main), "n": len(main)}


def _places(rows: Sequence[Record], candidates: int) -> dict[str, list[int]]:
    """How often each place on the page was best and worst: even, if order did not matter."""
    counted = {}
    for name in ("best", "worst"):
        counts = Counter(row["order"].index(row[name]) for row in rows if row["kind"] == "item" and row[name])
        counted[name] = [counts[i] for i in range(candidates)]
    return counted


def _raters(rows: Sequence[Record]) -> dict[str, JsonObject]:
    seconds: dict[int, list[float]] = {}
    for row in rows:
        seconds.setdefault(row["rater"], []).append(row["seconds"])
    return {
        str(rater): {"judgements": len(times), "median_seconds": round(statistics.median(times), 1)}
        for rater, times in sorted(seconds.items())
    }

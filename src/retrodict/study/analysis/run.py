"""Everything that `retrodict study report` says, as one dictionary."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from retrodict.files import JsonObject
from retrodict.stats import holm
from retrodict.study.analysis.agreement import agreement, attention, self_consistency
from retrodict.study.analysis.exclude import excluded, parse_rules
from retrodict.study.analysis.judges import against_people, disagreements, judge_table
from retrodict.study.analysis.panel import Panel, make_panel
from retrodict.study.analysis.pool import Pool
from retrodict.study.analysis.systems import PRIOR, ZERO_METHOD, pairs, scores, strengths, win_matrix
from retrodict.study.export import Record
from retrodict.study.sources import judge_scores


def analyse(pool: Pool, rules: Sequence[str] = ()) -> JsonObject:
    """What the judgements say.

    Args:
        pool: the judgements.
        rules: rules of exclusion beyond those that were fixed when the study was built.

    Raises:
        ValueError: nobody has judged anything yet, or the rules leave nobody.
    """
    plan, design = pool.plan, pool.plan.design
    fixed = list(dict.fromkeys(rule for one in pool.plans for rule in one.exclude))
    left_out = excluded(parse_rules([*fixed, *rules]), pool.rows, pool.checks)
    rows = [row for row in pool.rows if row["rater"] not in left_out]
    first = design.questions[0] if design.questions else ""
    panel = _panel(pool, rows, first)
    if not panel.n_judgements:
        why = (
            f"The rules of exclusion leave none of {len(left_out)} raters"
            if left_out
            else "Nobody has finished a judgement yet"
        )
        raise ValueError(f"{why}, so there is nothing to report.")
    parts = {subset: panel.subset(subset) for subset in sorted(set(panel.subsets))}
    by_subset = {subset: pairs(part) for subset, part in parts.items()}
    _holm_over_subsets(by_subset)
    judges, actions = _judges(panel, pool), pool.actions()
    return {
        "kind": "study",
        "title": plan.title,
        "systems": list(panel.systems),
        "design": {
            "items": len({item.id for item in pool.items.values()}),
            "raters": sum(one.design.raters for one in pool.plans),
            "repeat_share": design.repeat_share,
            "checks": len(plan.checks),
            "seed": plan.seed,
            "left_out": pool.counts("left_out"),
            "reshaped": pool.counts("reshaped"),
            "method": design.method,
            "points": design.points if design.method == "rating" else None,
            "shown": plan.candidates,
            "question": first,
            "studies": len(pool.plans),
        },
        "all": scores(panel),
        "subsets": {subset: scores(part) for subset, part in parts.items()},
        "pairs": pairs(panel),
        "pairs_by_subset": by_subset,
        "wins": win_matrix(panel).tolist(),
        "bradley_terry": strengths(panel),
        "exclusion": _exclusion(pool, fixed, rules, left_out, first),
        "questions": {text: _brief(_panel(pool, rows, text)) for text in design.questions[1:]},
        "agreement": agreement(panel),
        "self_consistency": self_consistency(rows),
        "attention": attention(rows, pool.checks),
        "cant_tell": _cant_tell(rows),
        "places": _positions(rows, plan.candidates),
        "raters": _raters(rows),
        "comments": [pool.named(row) for row in rows if row["comment"]],
        "judges": {name: against_people(panel, table) for name, table in judges.items()},
        "disagreements": {
            name: [row | {"action": actions[row["id"]]} for row in disagreements(panel, table)]
            for name, table in judges.items()
        },
        "methods": {"wilcoxon_zero_method": ZERO_METHOD, "bradley_terry_prior": PRIOR},
    }


def _panel(pool: Pool, rows: Sequence[Record], question: str) -> Panel:
    return make_panel([row for row in rows if row["question"] == question], pool.items, pool.systems)


def _brief(panel: Panel) -> JsonObject:
    return {"all": scores(panel), "pairs": pairs(panel)} if panel.n_judgements else {}


def _exclusion(
    pool: Pool, fixed: Sequence[str], stated: Sequence[str], left_out: dict[str, str], question: str
) -> JsonObject:
    """The rules, whom they left out, and what everybody together would have said."""
    return {
        "fixed": list(fixed),
        "stated": list(stated),
        "raters": {str(rater): reason for rater, reason in left_out.items()},
        "without": _brief(_panel(pool, pool.rows, question)) if left_out else {},
    }


def _holm_over_subsets(by_subset: dict[str, list[JsonObject]]) -> None:
    """One family of all pairs of all subsets, so that looking into many of them costs what it should."""
    rows = [row for pairs_of_subset in by_subset.values() for row in pairs_of_subset]
    for row, p in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["p_holm"] = p


def _judges(panel: Panel, pool: Pool) -> JsonObject:
    """Scores from when the study was built, and those that judges have given since, where the runs still exist."""
    scores: dict[str, dict[str, dict[str, float | None]]] = {}
    for key in pool.keys:
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


def _positions(rows: Sequence[Record], candidates: int) -> dict[str, list[int]]:
    """How often each position on the page was best and worst: even, if order did not matter."""
    counted = {}
    for name in ("best", "worst"):
        counts = Counter(row["order"].index(row[name]) for row in rows if row["kind"] == "item" and row[name])
        counted[name] = [counts[i] for i in range(candidates)]
    return counted


def _raters(rows: Sequence[Record]) -> dict[str, JsonObject]:
    seconds: dict[int | str, list[float]] = {}
    for row in rows:
        seconds.setdefault(row["rater"], []).append(row["seconds"])
    return {
        str(rater): {"judgements": len(times), "median_seconds": round(statistics.median(times), 1)}
        for rater, times in seconds.items()
    }

"""How the study stands, from the database alone: who has done what, how fast, and how much raters agree."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from retrodict.files import JsonObject
from retrodict.study.analysis.agreement import krippendorff_alpha
from retrodict.study.export import Record, records
from retrodict.study.plan import Plan
from retrodict.study.store import Store

_SHORTEST = 300.0  # seconds over which a pace is taken at least


@dataclass(frozen=True)
class RaterStatus:
    id: int
    token: str
    done: int
    total: int
    seconds: float | None  # median per task
    seen: str
    state: str  # "not opened", "started", "finished" or "closed"


@dataclass(frozen=True)
class ItemStatus:
    subset: str
    action: str
    done: int
    agree: str  # "2 of 3" picked the same best; "" where fewer than two judged it


def status(store: Store, plan: Plan) -> JsonObject:
    """What the admin's page shows. `alpha` and `same_best` are None until two raters have judged the same item."""
    rows = records(store, plan)
    raters = _raters(store, rows)
    now = time.time()
    recent, since = store.rows("SELECT count(*), min(at) FROM judgement WHERE done = 1 AND at > ?", now - 3600)[0]
    pace = recent / max(now - since, _SHORTEST) if recent else 0.0
    left = sum(one.total - one.done for one in raters if one.state != "closed")
    by_item = _by_item(rows)
    return {
        "paused": store.paused,
        "raters": raters,
        "items": [_item(one.subset, one.action, by_item.get(one.key, [])) for one in plan.items],
        "done": sum(one.done for one in raters),
        "total": sum(one.total for one in raters),
        "recent": recent,
        "hours_left": left / pace / 3600 if pace and left else None,
        "alpha": _alpha(by_item),
        "same_best": _same_best(by_item),
        "now": time.strftime("%H:%M:%S"),
    }


def _raters(store: Store, rows: list[Record]) -> list[RaterStatus]:
    times = defaultdict(list)
    for row in rows:
        times[row["rater"]].append(row["seconds"])
    raters = store.rows(
        "SELECT rater.*, count(trial.id) AS total FROM rater JOIN trial ON trial.rater = rater.id GROUP BY rater.id"
    )
    return [
        RaterStatus(
            row["id"],
            row["token"],
            len(times[row["id"]]),
            row["total"],
            statistics.median(times[row["id"]]) if times[row["id"]] else None,
            _ago(row["seen_at"]),
            _standing(row, len(times[row["id"]])),
        )
        for row in raters
    ]


def _standing(row: Any, done: int) -> str:
    if row["closed"]:
        return "closed"
    if done == row["total"]:
        return "finished"
    return "not opened" if row["consented_at"] is None else "started"


def _ago(at: float | None) -> str:
    if at is None:
        return "never"
    minutes = int((time.time() - at) / 60)
    if minutes < 1:
        return "just now"
    return f"{minutes} min ago" if minutes < 120 else f"{minutes // 60} h ago"


def _by_item(rows: list[Record]) -> dict[str, list[Record]]:
    by_item = defaultdict(list)
    for row in rows:
        if row["kind"] == "item":
            by_item[row["item"]].append(row)
    return by_item


def _item(subset: str, action: str, rows: list[Record]) -> ItemStatus:
    best = [row["best"] for row in rows if row["best"]]
    agree = f"{max(best.count(one) for one in best)} of {len(best)}" if len(best) > 1 else ""
    return ItemStatus(subset, action, len(rows), agree)


def _alpha(by_item: dict[str, list[Record]]) -> float | None:
    """Over candidates: each is a unit that every rater of its item called best (1), worst (-1) or neither (0)."""
    units = []
    for rows in by_item.values():
        if len(rows) > 1:
            units += [
                [int(p == row["best"]) - int(p == row["worst"]) for row in rows] for p in sorted(rows[0]["order"])
            ]
    alpha = krippendorff_alpha(units) if units else float("nan")
    return alpha if alpha == alpha else None


def _same_best(by_item: dict[str, list[Record]]) -> float | None:
    """The share of pairs of raters of one item who picked the same best candidate."""
    pairs = [
        a["best"] == b["best"]
        for rows in by_item.values()
        for i, a in enumerate(rows)
        for b in rows[:i]
        if a["best"] and b["best"]
    ]
    return sum(pairs) / len(pairs) if pairs else None

"""How the study stands: who has done what, how fast, and how much raters agree.

Read by a connection of its own, so that no rater waits for it, and counted inside SQLite, so that it costs little
however many judgements there are.
"""

from __future__ import annotations

import json
import sqlite3
import statistics
import threading
import time
from collections import defaultdict
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from retrodict.files import JsonObject
from retrodict.study.analysis.alpha import alpha_of_counts
from retrodict.study.analysis.exclude import failed_check
from retrodict.study.plan import Plan
from retrodict.study.store import Store

_SHORTEST = 300.0  # seconds over which a pace is taken at least
_FRESH = 4.0  # seconds for which a status is shown again
_RATERS, _ITEMS = 200, 30  # rows on the page
_FAST = 1 / 3  # of the median rater's time per task, below which a rater is marked


@dataclass(frozen=True)
class RaterStatus:
    id: int
    token: str
    done: int
    total: int
    seconds: float | None  # median per task
    seen: str
    state: str  # "not opened", "started", "finished", "closed", "screened out" or "deleted"
    fast: bool
    failed: int
    checks: int


@dataclass(frozen=True)
class ItemStatus:
    subset: str
    action: str
    done: int


class Board:
    """The status of one study, made at most every few seconds however many pages ask for it."""

    def __init__(self, path: Path, plan: Plan) -> None:
        self._address, self._plan = f"file:{quote(str(path.absolute()))}?mode=ro", plan
        self._lock = threading.Lock()
        self._made, self._until = {}, 0.0  # type: JsonObject, float

    def status(self) -> JsonObject:
        """What the admin's page shows. `alpha` and `same_best` are None until two raters have judged the same item."""
        with self._lock:
            if time.monotonic() >= self._until:
                began = time.monotonic()
                with closing(sqlite3.connect(self._address, uri=True)) as db:
                    db.row_factory = sqlite3.Row
                    self._made = _status(db, self._plan)
                took = time.monotonic() - began
                self._until = time.monotonic() + max(_FRESH, 20 * took)
            return self._made

    def forget(self) -> None:
        """After a change that the page made itself."""
        self._until = 0.0


def _status(db: sqlite3.Connection, plan: Plan) -> JsonObject:
    raters = _raters(db, plan)
    now = time.time()
    recent, since = db.execute(
        "SELECT count(*), min(at) FROM judgement WHERE done = 1 AND at > ?", (now - 3600,)
    ).fetchone()
    pace = recent / max(now - since, _SHORTEST) if recent else 0.0
    ended = ("closed", "screened out", "deleted")
    left = sum(one.total - one.done for one in raters if one.state not in ended)
    counts, same_best, alpha = _agreement(db, plan)
    items = sorted(
        (ItemStatus(one.subset, one.action, counts.get(one.key, 0)) for one in plan.items), key=lambda i: i.done
    )
    order = {"started": 0, "not opened": 1}
    (paused,) = db.execute("SELECT value FROM setting WHERE name = 'paused'").fetchone()
    return {
        "paused": paused == "1",
        "raters": sorted(raters, key=lambda one: order.get(one.state, 2))[:_RATERS],
        "n_raters": len(raters),
        "levels": _levels([one.done for one in items]),
        "items": items[:_ITEMS],
        "n_items": len(items),
        "done": sum(one.done for one in raters),
        "total": sum(one.done if one.state in ended else one.total for one in raters),
        "recent": recent,
        "hours_left": left / pace / 3600 if pace and left else None,
        "alpha": alpha,
        "same_best": same_best,
        "now": time.strftime("%H:%M:%S"),
    }


def _levels(done: list[int]) -> list[tuple[int, int]]:
    """How many items have how many judgements, the fewest first."""
    levels: dict[int, int] = defaultdict(int)
    for one in done:
        levels[one] += 1
    return sorted(levels.items())


def _raters(db: sqlite3.Connection, plan: Plan) -> list[RaterStatus]:
    rows = db.execute(
        "SELECT rater, json_group_array(seconds) FROM judgement JOIN trial ON trial.id = trial WHERE done = 1 "
        "GROUP BY rater"
    )
    times: dict[int, list[float]] = defaultdict(list, {rater: json.loads(seconds) for rater, seconds in rows})
    medians = {rater: statistics.median(of_rater) for rater, of_rater in times.items()}
    usual = statistics.median(medians.values()) if medians else 0.0
    checks = _checks(db, plan)
    rows = db.execute(
        "SELECT rater.*, count(trial.id) AS total FROM rater LEFT JOIN trial ON trial.rater = rater.id "
        "GROUP BY rater.id"
    )
    return [
        RaterStatus(
            row["id"],
            row["token"],
            len(times[row["id"]]),
            row["total"],
            medians.get(row["id"]),
            _ago(row["seen_at"]),
            _standing(row, len(times[row["id"]])),
            medians.get(row["id"], usual) < _FAST * usual,
            *checks.get(row["id"], (0, 0)),
        )
        for row in rows
    ]


def _checks(db: sqlite3.Connection, plan: Plan, rater: int | None = None) -> dict[int, tuple[int, int]]:
    """Failed and answered attention checks by rater."""
    checks = {one.key: one for one in plan.checks}
    failures: dict[int, tuple[int, int]] = {}
    rows = db.execute(
        "SELECT rater, key, pictures, best, worst, ratings FROM judgement JOIN trial ON trial.id = judgement.trial "
        "LEFT JOIN detail ON detail.trial = judgement.trial AND detail.revision = judgement.revision "
        f"WHERE kind = 'check' AND done = 1 {'' if rater is None else 'AND rater = ?'}",
        () if rater is None else (rater,),
    )
    for row in rows:
        ratings = json.loads(row["ratings"]) if row["ratings"] else None
        judged = {"order": json.loads(row["pictures"]), "worst": row["worst"], "ratings": ratings}
        failed, n = failures.get(row["rater"], (0, 0))
        failures[row["rater"]] = failed + failed_check(judged, checks[row["key"]]), n + 1
    return failures


def failed_checks(store: Store, plan: Plan, rater: int) -> tuple[int, int]:
    """How many attention checks a rater has failed, and how many answered."""
    with store.transaction() as db:
        return _checks(db, plan, rater).get(rater, (0, 0))


def _standing(row: Any, done: int) -> str:
    for name, words in (("deleted", "deleted"), ("screened", "screened out"), ("closed", "closed")):
        if row[name]:
            return words
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


def _agreement(db: sqlite3.Connection, plan: Plan) -> tuple[dict[str, int], float | None, float | None]:
    """Judgements by item; the share of pairs of raters of one item with the same best; alpha over candidates.

    For alpha a candidate is a unit that every rater of its item called best (1), worst (-1) or neither (0).
    """
    query = (
        "SELECT key, {0}, count(*) FROM judgement JOIN trial ON trial.id = judgement.trial "
        "WHERE done = 1 AND kind = 'item' AND question = 0 GROUP BY key, {0}"
    )
    done: dict[str, int] = defaultdict(int)
    best: dict[tuple[str, str], int] = {}
    for key, name, count in db.execute(query.format("best")):
        done[key] += count
        if name:
            best[key, name] = count
    worst = {(key, name): count for key, name, count in db.execute(query.format("worst")) if name}
    shown: dict[tuple[str, str], int] = defaultdict(int)
    if plan.design.show:  # not everybody saw the same candidates
        for key, pictures, count in db.execute(query.format("pictures")):
            for name in json.loads(pictures):
                shown[key, name] += count
    else:
        shown |= {(item.key, name): done[item.key] for item in plan.items for name in item.candidates}
    chose: dict[str, int] = defaultdict(int)
    for (key, _), count in best.items():
        chose[key] += count
    same = sum(count * (count - 1) for count in best.values())
    pairs = sum(count * (count - 1) for count in chose.values())
    units = [
        (worst.get(one, 0), n - best.get(one, 0) - worst.get(one, 0), best.get(one, 0))
        for one, n in shown.items()
        if n > 1
    ]
    alpha = alpha_of_counts(np.array(units, dtype=np.float64)) if units and best else float("nan")
    return done, same / pairs if pairs else None, alpha if alpha == alpha else None

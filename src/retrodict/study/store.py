"""Who has judged what, in SQLite: nothing that was acknowledged is lost, and nothing is counted twice.

Every click is one row of `event`, whose key is the trial and a revision that the page counts up. A click that is sent
again, because the answer to it got lost, meets its own row and changes nothing. `judgement` is the latest state.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from retrodict.study.plan import Plan
from retrodict.study.schedule import schedule

_SCHEMA = """
CREATE TABLE IF NOT EXISTS setting (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS rater (
  id INTEGER PRIMARY KEY, token TEXT NOT NULL UNIQUE, closed INTEGER NOT NULL DEFAULT 0,
  consented_at REAL, trained_at REAL, seen_at REAL) STRICT;
CREATE TABLE IF NOT EXISTS trial (
  id INTEGER PRIMARY KEY, rater INTEGER NOT NULL REFERENCES rater, position INTEGER NOT NULL,
  key TEXT NOT NULL, kind TEXT NOT NULL, pictures TEXT NOT NULL, UNIQUE (rater, position)) STRICT;
CREATE TABLE IF NOT EXISTS event (
  trial INTEGER NOT NULL REFERENCES trial, revision INTEGER NOT NULL, at REAL NOT NULL, best TEXT, worst TEXT,
  cant_tell INTEGER NOT NULL, done INTEGER NOT NULL, seconds REAL NOT NULL,
  PRIMARY KEY (trial, revision)) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS judgement (
  trial INTEGER PRIMARY KEY REFERENCES trial, revision INTEGER NOT NULL, at REAL NOT NULL, best TEXT, worst TEXT,
  cant_tell INTEGER NOT NULL, done INTEGER NOT NULL, seconds REAL NOT NULL) STRICT;
"""
LONGEST_TRIAL = 24 * 3600.0  # seconds


@dataclass(frozen=True)
class Rater:
    id: int
    closed: bool
    consented: bool
    trained: bool


@dataclass(frozen=True)
class Answer:
    """A rater's choice so far. `best` and `worst` are places in the order shown, from 0; None where none is chosen."""

    revision: int = 0
    best: int | None = None
    worst: int | None = None
    cant_tell: bool = False
    done: bool = False
    seconds: float = 0.0

    def check(self, candidates: int) -> None:
        """Raises `ValueError` for what no page of ours would send."""
        places = [place for place in (self.best, self.worst) if place is not None]
        if any(not 0 <= place < candidates for place in places):
            raise ValueError("No such candidate.")
        if len(set(places)) < len(places):
            raise ValueError("The best and the worst must differ.")
        if self.cant_tell and places:
            raise ValueError("A judgement is either a choice or none.")
        if self.done and not self.cant_tell and len(places) < 2:
            raise ValueError("A finished judgement has a best and a worst.")
        if self.revision < 1 or not 0 <= self.seconds <= LONGEST_TRIAL:
            raise ValueError("Numbers out of range.")


@dataclass(frozen=True)
class State:
    """One trial as its rater sees it. `position` counts from 0; `current` is the first trial that is not done."""

    position: int
    current: int
    total: int
    key: str
    pictures: tuple[str, ...]
    answer: Answer


class Conflict(Exception):  # noqa: N818 (nothing went wrong)
    """The page did not know the latest state, which is `state`."""

    def __init__(self, state: State) -> None:
        super().__init__("The state has moved on.")
        self.state = state


class Store:
    """One connection, used by one thread at a time."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30)
        self._db.row_factory = sqlite3.Row
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")  # acknowledged means on disk, also when the power fails
        self._db.execute("PRAGMA foreign_keys = ON")
        self._db.executescript(_SCHEMA)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        with self._lock:
            self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def rows(self, query: str, *values: Any) -> list[sqlite3.Row]:
        with self._lock:
            return self._db.execute(query, values).fetchall()

    # --- raters and settings -------------------------------------------------------------------------------------

    def create(self, plan: Plan) -> None:
        """The admin's token and the plan's raters, once."""
        with self.transaction() as db:
            if db.execute("SELECT 1 FROM setting").fetchone() is None:
                settings = {"admin": secrets.token_urlsafe(24), "paused": "0"}
                db.executemany("INSERT INTO setting VALUES (?, ?)", settings.items())
                for _ in range(plan.raters):
                    _add_rater(db, plan)

    def add_rater(self, plan: Plan) -> None:
        with self.transaction() as db:
            _add_rater(db, plan)

    def set_closed(self, rater: int, closed: bool) -> None:
        with self.transaction() as db:
            db.execute("UPDATE rater SET closed = ? WHERE id = ?", (int(closed), rater))

    def setting(self, name: str) -> str:
        return str(self.rows("SELECT value FROM setting WHERE name = ?", name)[0]["value"])

    def set_paused(self, paused: bool) -> None:
        with self.transaction() as db:
            db.execute("UPDATE setting SET value = ? WHERE name = 'paused'", (str(int(paused)),))

    @property
    def paused(self) -> bool:
        return self.setting("paused") == "1"

    def rater(self, token: str) -> Rater | None:
        rows = self.rows("SELECT * FROM rater WHERE token = ?", token)
        return _rater(rows[0]) if rows else None

    def consent(self, rater: int) -> None:
        self._stamp("consented_at", rater)

    def trained(self, rater: int) -> None:
        self._stamp("trained_at", rater)

    def _stamp(self, column: str, rater: int) -> None:
        with self.transaction() as db:
            db.execute(f"UPDATE rater SET {column} = coalesce({column}, ?) WHERE id = ?", (time.time(), rater))

    # --- judgements ----------------------------------------------------------------------------------------------

    def state(self, rater: int, position: int | None = None) -> State | None:
        """A trial that the rater has reached, by default the current one; None when there is none (all done)."""
        with self._lock:
            return _state(self._db, rater, position)

    def ahead(self, rater: int, position: int, count: int) -> list[tuple[str, tuple[str, ...]]]:
        """Keys and images of the next trials, to be loaded before they are needed."""
        rows = self.rows(
            "SELECT key, pictures FROM trial WHERE rater = ? AND position > ? ORDER BY position LIMIT ?",
            rater,
            position,
            count,
        )
        return [(row["key"], tuple(json.loads(row["pictures"]))) for row in rows]

    def save(self, rater: int, position: int, answer: Answer) -> None:
        """Store one click. When this returns, it is on disk.

        Raises `Conflict` when another page has moved on meanwhile, or the trial was not reached; `ValueError` for
        values out of range.
        """
        with self.transaction() as db:
            state = _state(db, rater, position)
            if state is None:
                raise ValueError("No such trial.")
            answer.check(len(state.pictures))
            if answer.revision == state.answer.revision and _same(answer, state.answer):
                return  # sent twice
            if answer.revision != state.answer.revision + 1 or position > state.current:
                raise Conflict(state)
            row = _row(db, rater, position)
            assert row is not None, "a trial with a state has a row"
            best, worst = (None if i is None else state.pictures[i] for i in (answer.best, answer.worst))
            now = time.time()
            values = (
                row["id"], answer.revision, now, best, worst, int(answer.cant_tell), int(answer.done), answer.seconds
            )  # fmt: skip
            db.execute("INSERT INTO event VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)
            db.execute("INSERT OR REPLACE INTO judgement VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)
            db.execute("UPDATE rater SET seen_at = ? WHERE id = ?", (now, rater))


def _add_rater(db: sqlite3.Connection, plan: Plan) -> None:
    rater = db.execute("INSERT INTO rater (token) VALUES (?)", (secrets.token_urlsafe(16),)).lastrowid
    assert rater is not None
    db.executemany(
        "INSERT INTO trial (rater, position, key, kind, pictures) VALUES (?, ?, ?, ?, ?)",
        [(rater, i, t.key, t.kind, json.dumps(t.order)) for i, t in enumerate(schedule(plan, rater))],
    )


def _rater(row: sqlite3.Row) -> Rater:
    return Rater(row["id"], bool(row["closed"]), row["consented_at"] is not None, row["trained_at"] is not None)


def _row(db: sqlite3.Connection, rater: int, position: int) -> sqlite3.Row | None:
    row = db.execute("SELECT * FROM trial WHERE rater = ? AND position = ?", (rater, position)).fetchone()
    return row if row is None or isinstance(row, sqlite3.Row) else None


def _state(db: sqlite3.Connection, rater: int, position: int | None) -> State | None:
    (total,) = db.execute("SELECT count(*) FROM trial WHERE rater = ?", (rater,)).fetchone()
    (first,) = db.execute(
        "SELECT min(position) FROM trial LEFT JOIN judgement ON trial.id = judgement.trial "
        "WHERE rater = ? AND coalesce(done, 0) = 0",
        (rater,),
    ).fetchone()
    current = total if first is None else first
    position = current if position is None else position
    row = _row(db, rater, position)
    if row is None:
        return None
    pictures = tuple(json.loads(row["pictures"]))
    judgement = db.execute("SELECT * FROM judgement WHERE trial = ?", (row["id"],)).fetchone()
    answer = Answer() if judgement is None else _answer(judgement, pictures)
    return State(position, current, total, row["key"], pictures, answer)


def _answer(row: sqlite3.Row, pictures: tuple[str, ...]) -> Answer:
    best, worst = (None if row[name] is None else pictures.index(row[name]) for name in ("best", "worst"))
    return Answer(row["revision"], best, worst, bool(row["cant_tell"]), bool(row["done"]), row["seconds"])


def _same(a: Answer, b: Answer) -> bool:
    return (a.best, a.worst, a.cant_tell, a.done) == (b.best, b.worst, b.cant_tell, b.done)

"""Who has judged what, in SQLite: nothing that was acknowledged is lost, and nothing is counted twice.

Every click is one row of `event`, whose key is the trial and a revision that the page counts up. A click that is sent
again, because the answer to it got lost, meets its own row and changes nothing.
"""

from __future__ import annotations

import hashlib
import json
import random
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from retrodict.study.answers import Answer, Rater, StaleAnswerError, State
from retrodict.study.database import SCHEMA, connect, open_checked
from retrodict.study.plan import Plan
from retrodict.study.schedule import Load, assigned, schedule

PATIENCE = 3600.0  # seconds without a click after which somebody of a crowd has dropped out
LOGIN = 30 * 86400.0  # seconds that the admin stays logged in


class Store:
    """One connection, used by one thread at a time.

    Args:
        path: the database.
        new: make it where it is not there.
        called: what errors call it, where `path` is a copy.

    Raises:
        ValueError: it is missing or damaged.
    """

    def __init__(self, path: Path, *, new: bool = False, called: Path | None = None) -> None:
        self.path = path
        self._lock = threading.Lock()
        if new and not path.is_file():
            self._db = connect(path)
            self._db.executescript(SCHEMA)
        else:
            self._db = open_checked(path, called or path)

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

    # --- settings ------------------------------------------------------------------------------------------------

    def create(self, plan: Plan) -> None:
        """The admin's token and the plan's raters, once."""
        with self.transaction() as db:
            if db.execute("SELECT 1 FROM setting").fetchone() is None:
                settings = {"admin": secrets.token_urlsafe(24), "paused": "0"}
                db.executemany("INSERT INTO setting VALUES (?, ?)", settings.items())
                _add_raters(db, plan, plan.design.raters)

    def setting(self, name: str) -> str:
        return str(self.rows("SELECT value FROM setting WHERE name = ?", name)[0]["value"])

    def set_paused(self, paused: bool) -> None:
        with self.transaction() as db:
            db.execute("UPDATE setting SET value = ? WHERE name = 'paused'", (str(int(paused)),))

    @property
    def paused(self) -> bool:
        return self.setting("paused") == "1"

    def log_in(self) -> str:
        """A secret for a cookie, of which only the hash is kept: the admin's token itself goes nowhere."""
        secret = secrets.token_urlsafe(24)
        with self.transaction() as db:
            db.execute("DELETE FROM login WHERE until < ?", (time.time(),))
            db.execute("INSERT INTO login VALUES (?, ?)", (_hash(secret), time.time() + LOGIN))
        return secret

    def is_logged_in(self, secret: str) -> bool:
        return bool(self.rows("SELECT 1 FROM login WHERE digest = ? AND until > ?", _hash(secret), time.time()))

    def log_out(self, secret: str) -> None:
        with self.transaction() as db:
            db.execute("DELETE FROM login WHERE digest = ?", (_hash(secret),))

    def new_admin_token(self) -> str:
        """Another token; whoever is logged in is logged out."""
        token = secrets.token_urlsafe(24)
        with self.transaction() as db:
            db.execute("UPDATE setting SET value = ? WHERE name = 'admin'", (token,))
            db.execute("DELETE FROM login")
        return token

    # --- raters --------------------------------------------------------------------------------------------------

    def add_raters(self, plan: Plan, count: int = 1) -> int:
        """How many were added: fewer than `count` where every item has its judgements."""
        with self.transaction() as db:
            return len(_add_raters(db, plan, count))

    def enter(self, plan: Plan, person: str, parameters: Mapping[str, str]) -> str | None:
        """The token of whoever comes through the common link; None where every item has its judgements.

        `person` says who somebody is to a platform: the same person gets the same link. Empty: nobody knows.
        """
        with self.transaction() as db:
            if person:
                known = db.execute("SELECT token FROM rater WHERE person = ?", (person,)).fetchone()
                if known is not None:
                    return str(known["token"])
            added = _add_raters(db, plan, 1, {"person": person or None, "parameters": json.dumps(parameters)})
            if not added:
                return None
            return str(db.execute("SELECT token FROM rater WHERE id = ?", added).fetchone()["token"])

    def set_closed(self, rater: int, closed: bool) -> None:
        with self.transaction() as db:
            db.execute("UPDATE rater SET closed = ? WHERE id = ? AND NOT deleted", (int(closed), rater))

    def screen(self, rater: int) -> None:
        """End a rater's part: their items go to others."""
        with self.transaction() as db:
            db.execute("UPDATE rater SET screened = 1 WHERE id = ?", (rater,))

    def forget(self, rater: int) -> int:
        """Delete all that a rater has given and all that is known of them; the number of judgements.

        Their number stays taken, so that nobody else gets it. Raises `ValueError` when there is no such rater.
        """
        with self.transaction() as db:
            if db.execute("SELECT 1 FROM rater WHERE id = ? AND NOT deleted", (rater,)).fetchone() is None:
                raise ValueError(f"There is no rater {rater}.")
            count = db.execute(
                "SELECT count(*) FROM judgement JOIN trial ON trial.id = judgement.trial WHERE rater = ?", (rater,)
            ).fetchone()[0]
            for table in ("event", "detail", "judgement"):
                db.execute(f"DELETE FROM {table} WHERE trial IN (SELECT id FROM trial WHERE rater = ?)", (rater,))
            db.execute("DELETE FROM trial WHERE rater = ?", (rater,))
            db.execute(
                "UPDATE rater SET token = ?, closed = 1, consented_at = NULL, trained_at = NULL, seen_at = NULL, "
                "person = NULL, parameters = NULL, code = NULL, deleted = 1 WHERE id = ?",
                (secrets.token_urlsafe(16), rater),
            )
        self.rows("PRAGMA wal_checkpoint(TRUNCATE)")  # nothing of it stays in the log
        return int(count)

    def rater(self, token: str) -> Rater | None:
        rows = self.rows("SELECT * FROM rater WHERE token = ?", token)
        return Rater.of(rows[0]) if rows else None

    def consent(self, rater: int) -> None:
        self._stamp("consented_at", rater)

    def trained(self, rater: int) -> None:
        self._stamp("trained_at", rater)

    def failed_training(self, rater: int) -> int:
        """How often a rater has now answered the examples wrongly."""
        with self.transaction() as db:
            db.execute("UPDATE rater SET tries = tries + 1, seen_at = ? WHERE id = ?", (time.time(), rater))
            return int(db.execute("SELECT tries FROM rater WHERE id = ?", (rater,)).fetchone()[0])

    def _stamp(self, column: str, rater: int) -> None:
        now = time.time()
        with self.transaction() as db:
            db.execute(
                f"UPDATE rater SET {column} = coalesce({column}, ?), seen_at = ? WHERE id = ?", (now, now, rater)
            )

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

    def save(self, rater: int, position: int, answer: Answer, points: int = 0) -> None:
        """Store one click. When this returns, it is on disk.

        A finished judgement stays finished until something in it is changed.

        Raises:
            StaleAnswerError: another page has moved on meanwhile, or the trial was not reached.
            ValueError: values out of range; `points` as in `Answer.check`.
        """
        with self.transaction() as db:
            state = _state(db, rater, position)
            if state is None:
                raise ValueError("No such trial.")
            answer.check(len(state.images), points)
            before = state.answer
            done = answer.done or (before.done and answer.choice == before.choice)
            if answer.revision == before.revision and (answer.choice, done) == (before.choice, before.done):
                return  # sent twice
            if answer.revision != before.revision + 1 or position > state.current:
                raise StaleAnswerError(state)
            (trial,) = db.execute("SELECT id FROM trial WHERE rater = ? AND position = ?", (rater, position)).fetchone()
            best, worst = (None if i is None else state.images[i] for i in (answer.best, answer.worst))
            now = time.time()
            values = (trial, answer.revision, now, best, worst, int(answer.cant_tell), int(done), answer.seconds)
            db.execute("INSERT INTO event VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)
            db.execute("INSERT OR REPLACE INTO judgement VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)
            if answer.ratings or answer.comment:
                ratings = json.dumps(answer.ratings) if answer.ratings else None
                db.execute("INSERT INTO detail VALUES (?, ?, ?, ?)", (trial, answer.revision, ratings, answer.comment))
            db.execute("UPDATE rater SET seen_at = ? WHERE id = ?", (now, rater))


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _add_raters(
    db: sqlite3.Connection, plan: Plan, count: int, who: Mapping[str, str | None] | None = None
) -> list[int]:
    load, added = _load(db, plan), []
    for _ in range(count):
        number = db.execute("SELECT coalesce(max(id), 0) + 1 FROM rater").fetchone()[0]
        rng = random.Random(f"{plan.seed}/{number}")
        items = assigned(plan, load, rng)
        if not items:
            break
        code = (plan.crowd.code or secrets.token_hex(4).upper()) if plan.crowd else None
        entered = time.time() if who is not None else None
        db.execute(
            "INSERT INTO rater (id, token, seen_at, person, parameters, code) VALUES (?, ?, ?, ?, ?, ?)",
            (number, secrets.token_urlsafe(16), entered, *((who or {}).get(n) for n in ("person", "parameters")), code),
        )
        db.executemany(
            "INSERT INTO trial (rater, position, key, kind, pictures, question) VALUES (?, ?, ?, ?, ?, ?)",
            [
                (number, i, t.key, t.kind, json.dumps(t.order), t.question)
                for i, t in enumerate(schedule(plan, items, load, rng))
            ],
        )
        added.append(number)
    return added


def _load(db: sqlite3.Connection, plan: Plan) -> Load:
    """What is judged, and what those who have not dropped out are about to judge."""
    load = Load()
    design = plan.design
    if not (design.items_per_rater or design.raters_per_item or design.show):
        return load  # everybody sees everything
    rows = db.execute(
        "SELECT key, pictures FROM trial JOIN rater ON rater.id = trial.rater "
        "LEFT JOIN judgement ON judgement.trial = trial.id "
        "WHERE kind = 'item' AND question = 0 AND NOT screened AND (coalesce(done, 0) OR NOT (closed OR "
        "(parameters IS NOT NULL AND coalesce(seen_at, 0) < ?)))",
        (time.time() - PATIENCE,),
    )
    for row in rows:
        load.add(row["key"], json.loads(row["pictures"]))
    return load


def _state(db: sqlite3.Connection, rater: int, position: int | None) -> State | None:
    (total,) = db.execute("SELECT count(*) FROM trial WHERE rater = ?", (rater,)).fetchone()
    (first,) = db.execute(
        "SELECT min(position) FROM trial LEFT JOIN judgement ON trial.id = judgement.trial "
        "WHERE rater = ? AND coalesce(done, 0) = 0",
        (rater,),
    ).fetchone()
    current = total if first is None else first
    position = current if position is None else position
    row = db.execute(
        "SELECT trial.id, key, pictures, question, judgement.*, detail.ratings, coalesce(comment, '') AS comment "
        "FROM trial LEFT JOIN judgement ON judgement.trial = trial.id "
        "LEFT JOIN detail ON detail.trial = judgement.trial AND detail.revision = judgement.revision "
        "WHERE rater = ? AND position = ?",
        (rater, position),
    ).fetchone()
    if row is None:
        return None
    images = tuple(json.loads(row["pictures"]))
    answer = Answer() if row["revision"] is None else _answer(row, images)
    return State(position, current, total, row["key"], images, row["question"], answer)


def _answer(row: sqlite3.Row, images: tuple[str, ...]) -> Answer:
    best, worst = (None if row[name] is None else images.index(row[name]) for name in ("best", "worst"))
    ratings = tuple(json.loads(row["ratings"] or "[]"))
    return Answer(
        row["revision"], best, worst, bool(row["cant_tell"]), bool(row["done"]), row["seconds"], ratings, row["comment"]
    )

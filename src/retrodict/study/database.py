"""The study's SQLite file: its tables, and whether it still holds what was put in.

`event` is the truth: one row per click. `judgement`, the latest state of each trial, is a copy of parts of it for quick
reading, and is made again from it wherever the two differ.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

from retrodict.study.plan import DATABASE

SCHEMA = """
CREATE TABLE IF NOT EXISTS setting (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS rater (
  id INTEGER PRIMARY KEY, token TEXT NOT NULL UNIQUE, closed INTEGER NOT NULL DEFAULT 0,
  consented_at REAL, trained_at REAL, seen_at REAL,
  person TEXT UNIQUE, parameters TEXT, code TEXT, tries INTEGER NOT NULL DEFAULT 0,
  screened INTEGER NOT NULL DEFAULT 0, deleted INTEGER NOT NULL DEFAULT 0) STRICT;
CREATE TABLE IF NOT EXISTS trial (
  id INTEGER PRIMARY KEY, rater INTEGER NOT NULL REFERENCES rater, position INTEGER NOT NULL,
  key TEXT NOT NULL, kind TEXT NOT NULL, pictures TEXT NOT NULL, question INTEGER NOT NULL DEFAULT 0,
  UNIQUE (rater, position)) STRICT;
CREATE TABLE IF NOT EXISTS event (
  trial INTEGER NOT NULL REFERENCES trial, revision INTEGER NOT NULL, at REAL NOT NULL, best TEXT, worst TEXT,
  cant_tell INTEGER NOT NULL, done INTEGER NOT NULL, seconds REAL NOT NULL,
  PRIMARY KEY (trial, revision)) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS detail (
  trial INTEGER NOT NULL REFERENCES trial, revision INTEGER NOT NULL, ratings TEXT, comment TEXT NOT NULL,
  PRIMARY KEY (trial, revision)) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS judgement (
  trial INTEGER PRIMARY KEY REFERENCES trial, revision INTEGER NOT NULL, at REAL NOT NULL, best TEXT, worst TEXT,
  cant_tell INTEGER NOT NULL, done INTEGER NOT NULL, seconds REAL NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS login (digest TEXT PRIMARY KEY, until REAL NOT NULL) STRICT;
"""
_TRUTH = ("setting", "rater", "trial", "event", "detail", "login")
_LATEST = (
    "SELECT event.* FROM event "
    "JOIN (SELECT trial, max(revision) AS revision FROM event GROUP BY trial) USING (trial, revision)"
)


def connect(path: Path) -> sqlite3.Connection:
    """A connection whose commits are on disk when they return, also when the power fails then."""
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30)
    db.row_factory = sqlite3.Row
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA foreign_keys = ON")
        db.execute("PRAGMA secure_delete = ON")  # a rater's data that is deleted is gone
    except BaseException:  # a file that is no database
        db.close()
        raise
    return db


def open_checked(path: Path, called: Path) -> sqlite3.Connection:
    """The database in `path` with all its clicks, or an error that names it as `called`.

    Raises:
        ValueError: it is missing, damaged, or in a folder that cannot be written.
    """
    _check_there(path, called)
    try:
        db = connect(path)
        try:
            if _faults(db):
                _rescue(db, path)
                db.close()
                db = connect(path)
            db.executescript(SCHEMA)
            _mend(db)
        except BaseException:
            db.close()
            raise
    except sqlite3.OperationalError as error:
        if any(word in str(error) for word in ("readonly", "unable to open")):
            raise ValueError(f"{called} cannot be written ({error}): serving needs a folder that can be.") from None
        raise _damaged(called, error) from None
    except sqlite3.DatabaseError as error:
        raise _damaged(called, error) from None
    return db


def _check_there(path: Path, called: Path) -> None:
    if not path.is_file() or not path.stat().st_size:
        raise ValueError(
            f"{called} is missing or empty, and with it all links and judgements: bring it back from a backup "
            f"({called.name} and, if there is one, {called.name}-wal)."
        )


def _damaged(called: Path, error: object) -> ValueError:
    return ValueError(f"{called} is damaged ({error}): bring it back from a backup.")


def _faults(db: sqlite3.Connection, table: str = "") -> str:
    """What SQLite finds wrong with all, or with one table; empty where nothing is."""
    try:
        (verdict,) = db.execute(f"PRAGMA quick_check({table})" if table else "PRAGMA quick_check").fetchone()
    except sqlite3.DatabaseError as error:
        return str(error)
    return "" if verdict == "ok" else str(verdict)


def _rescue(db: sqlite3.Connection, path: Path) -> None:
    """A whole file from a damaged one in which all tables that hold the truth are sound; the damaged one is kept."""
    for table in _TRUTH:
        if fault := _faults(db, table):
            raise sqlite3.DatabaseError(fault)
    fresh = path.with_name(f"{path.name}.rescued")
    fresh.unlink(missing_ok=True)
    with closing(sqlite3.connect(fresh, isolation_level=None)) as target:
        target.executescript(SCHEMA)
        target.execute("BEGIN")
        for table in _TRUTH:
            rows = db.execute(f"SELECT * FROM {table}").fetchall()
            if rows:
                target.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(rows[0]))})", map(tuple, rows))
        target.execute("COMMIT")
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    shutil.copy2(path, path.with_name(f"{path.name}.damaged"))
    fresh.chmod(0o600)
    fresh.replace(path)


def _mend(db: sqlite3.Connection) -> None:
    """Make `judgement` again where it is not the latest state of `event`."""
    differ = f"SELECT * FROM judgement EXCEPT {_LATEST}", f"{_LATEST} EXCEPT SELECT * FROM judgement"
    if any(db.execute(f"SELECT 1 FROM ({query}) LIMIT 1").fetchone() for query in differ):
        db.execute("BEGIN IMMEDIATE")
        db.execute("DELETE FROM judgement")
        db.execute(f"INSERT INTO judgement {_LATEST}")
        db.execute("COMMIT")


@contextmanager
def copied(path: Path) -> Iterator[Path]:
    """A copy of the database as it is at this moment, also of one that is being served or cannot be written.

    Raises:
        ValueError: it is missing.
    """
    _check_there(path, path)
    with tempfile.TemporaryDirectory(prefix="retrodict-study-") as folder:
        copy = Path(folder) / DATABASE
        try:
            address = f"file:{quote(str(path.absolute()))}?mode=ro"
            with closing(sqlite3.connect(address, uri=True)) as source, closing(sqlite3.connect(copy)) as target:
                source.backup(target)
        except sqlite3.Error:  # on a read-only medium, where nobody writes, or damaged, as the check will find
            for end in ("", "-wal"):
                file = path.with_name(path.name + end)
                if file.is_file():
                    shutil.copyfile(file, copy.with_name(copy.name + end))
        yield copy

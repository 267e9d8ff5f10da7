"""Raw answers on disk: one SQLite file, one committed row per answer, so that nothing is asked or paid twice.

Raw answers are kept, never scores: they can be read again by a better parser without network. What did not arrive is
not kept, so that the next run asks again; only that it failed is, so that it is asked last.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from retrodict.files import JsonMapping

_VERSION = 1
_TABLE = """
CREATE TABLE IF NOT EXISTS answers (
    key TEXT PRIMARY KEY,
    made TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now')),
    request TEXT NOT NULL, -- JSON: what the key is the hash of
    body TEXT NOT NULL,    -- JSON as the server sent it
    how TEXT NOT NULL      -- JSON: by which way, with or without a schema
)
"""
_FAILED = "CREATE TABLE IF NOT EXISTS failed (key TEXT PRIMARY KEY)"


class CacheInUseError(ValueError):
    """Another process has the cache."""


@dataclass(frozen=True)
class Answer:
    body: JsonMapping
    how: JsonMapping


class AnswerCache:
    """Open one with `open_cache`. One process at a time: two would ask, and pay, for the same answers."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def get(self, key: str) -> Answer | None:
        row = self._connection.execute("SELECT body, how FROM answers WHERE key = ?", (key,)).fetchone()
        return None if row is None else Answer(json.loads(row[0]), json.loads(row[1]))

    def put(self, key: str, request: JsonMapping, body: JsonMapping, how: JsonMapping) -> None:
        """Keep an answer; it is on disk when this returns."""
        row = (key, *(json.dumps(part) for part in (request, body, how)))  # in ASCII: bodies may hold half characters
        self._connection.execute("INSERT OR REPLACE INTO answers (key, request, body, how) VALUES (?, ?, ?, ?)", row)
        self._connection.execute("DELETE FROM failed WHERE key = ?", (key,))

    def note_failure(self, key: str) -> None:
        """Remember that a question got no answer."""
        self._connection.execute("INSERT OR IGNORE INTO failed (key) VALUES (?)", (key,))

    def failures(self) -> set[str]:
        """Keys of questions that got no answer when they were last asked."""
        return {key for (key,) in self._connection.execute("SELECT key FROM failed")}

    def take(self, other: Path) -> None:
        """Keep every answer of another cache that is not here, and that others failed."""
        self._connection.execute("ATTACH ? AS other", (str(other),))
        columns = "key, made, request, body, how"
        self._connection.execute(f"INSERT OR IGNORE INTO answers ({columns}) SELECT {columns} FROM other.answers")
        self._connection.execute("INSERT OR IGNORE INTO failed SELECT key FROM other.failed")
        self._connection.execute("DELETE FROM failed WHERE key IN (SELECT key FROM answers)")
        self._connection.execute("DETACH other")

    def __len__(self) -> int:
        return int(self._connection.execute("SELECT count(*) FROM answers").fetchone()[0])


IN_MEMORY = Path(":memory:")  # SQLite's name for a cache that ends when it is closed
_in_memory: ContextVar[bool] = ContextVar("in_memory", default=False)


@contextmanager
def kept_in_memory() -> Iterator[None]:
    """While the block runs, models are made whose answers are kept for one call and never on disk."""
    token = _in_memory.set(True)
    try:
        yield
    finally:
        _in_memory.reset(token)


def user_cache(name: str) -> Path:
    """A file in the user's cache folder, or `IN_MEMORY`."""
    if _in_memory.get():
        return IN_MEMORY
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "retrodict" / name


@contextmanager
def open_cache(path: Path) -> Iterator[AnswerCache]:
    """Open or make a cache.

    Raises:
        CacheInUseError: Another process has it.
        ValueError: It is no cache, or turns out to be damaged, or its disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, isolation_level=None, timeout=1.0)  # every statement commits itself
    try:
        _prepare(connection, path)
        yield AnswerCache(connection)
    except sqlite3.DatabaseError as error:
        raise ValueError(
            f"{path} cannot be read or written ({error}): where it is damaged, bring it back from a backup, or give "
            f"another --cache; `sqlite3 {path} .dump` prints the answers that can still be read."
        ) from error
    finally:
        connection.close()


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    try:
        # The lock ends with the process, however that ends. FULL: an answer that was paid for survives a power cut.
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, _VERSION):
            raise ValueError(
                f"{path} was written by a newer version (format {version}): update, or name another --cache."
            )
        connection.execute("BEGIN EXCLUSIVE")
        connection.execute(_TABLE)
        connection.execute(_FAILED)
        connection.execute(f"PRAGMA user_version = {_VERSION}")
        connection.execute("COMMIT")
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            raise CacheInUseError(f"{path} is in use by another run: wait for it, or name another --cache.") from None
        raise ValueError(f"{path} cannot be opened: {error}") from None
    except sqlite3.DatabaseError as error:
        raise ValueError(f"{path} is no cache of answers: {error}") from None

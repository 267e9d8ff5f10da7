"""What is known of a rater, and one judgement as its page sees it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LONGEST_TRIAL = 24 * 3600.0  # seconds
LONGEST_COMMENT = 900  # characters, of up to four bytes


@dataclass(frozen=True)
class Rater:
    id: int
    closed: bool
    consented: bool
    trained: bool
    screened: bool
    code: str
    parameters: Mapping[str, str]

    @classmethod
    def of(cls, row: sqlite3.Row) -> Rater:
        return cls(
            row["id"],
            bool(row["closed"]),
            row["consented_at"] is not None,
            row["trained_at"] is not None,
            bool(row["screened"]),
            row["code"] or "",
            json.loads(row["parameters"] or "{}"),
        )


@dataclass(frozen=True)
class Answer:
    """A rater's choice so far.

    `best` and `worst` are positions in the order shown, from 0; None where none is chosen. `ratings` has a value from 1
    for each candidate in that order, None where there is none yet; it is empty where nothing is rated.
    """

    revision: int = 0
    best: int | None = None
    worst: int | None = None
    cant_tell: bool = False
    done: bool = False
    seconds: float = 0.0
    ratings: tuple[int | None, ...] = ()
    comment: str = ""

    def check(self, candidates: int, points: int) -> None:
        """Raises `ValueError` for what no page of ours sends. `points` of the rating scale; 0: best and worst."""
        chosen = [position for position in (self.best, self.worst) if position is not None]
        if any(not 0 <= position < candidates for position in chosen):
            raise ValueError("No such candidate.")
        if len(set(chosen)) < len(chosen):
            raise ValueError("The best and the worst must differ.")
        if self.cant_tell and (chosen or any(self.ratings)):
            raise ValueError("A judgement is either a choice or none.")
        if points and (chosen or len(self.ratings) != candidates):
            raise ValueError("Every candidate is rated.")
        if any(value is not None and not 1 <= value <= points for value in self.ratings):
            raise ValueError("No such point of the scale.")
        complete = None not in self.ratings if points else len(chosen) == 2
        if self.done and not self.cant_tell and not complete:
            raise ValueError("A finished judgement is whole.")
        if self.revision < 1 or not 0 <= self.seconds <= LONGEST_TRIAL or len(self.comment) > LONGEST_COMMENT:
            raise ValueError("Out of range.")

    @property
    def choice(self) -> tuple[Any, ...]:
        return self.best, self.worst, self.cant_tell, self.ratings, self.comment


@dataclass(frozen=True)
class State:
    """One trial as its rater sees it. `position` counts from 0; `current` is the first trial that is not done."""

    position: int
    current: int
    total: int
    key: str
    images: tuple[str, ...]
    question: int
    answer: Answer


class StaleAnswerError(Exception):
    """The page did not know the latest state, which is `state`."""

    def __init__(self, state: State) -> None:
        super().__init__("The state has moved on.")
        self.state = state

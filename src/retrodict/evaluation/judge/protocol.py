"""What a judge is: it looks at a source, an action and a predicted frame, and says how well the action was done.

A judge that could not say is not guessed for: the verdict is NaN with a reason, and is counted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from retrodict.chat.parsing import Reason
from retrodict.files import JsonMapping, visible
from retrodict.progress import Progress

TOP = 10.0  # scores lie in [0, TOP]; those of a prompt with another scale are brought to it


@dataclass(frozen=True, eq=False)
class Question:
    """One predicted frame to judge; images are encoded bytes (PNG, JPEG), `prediction` None where there is none."""

    id: str
    source: bytes
    action: str
    prediction: bytes | None

    def __post_init__(self) -> None:
        if not visible(self.action):
            raise ValueError(f"Item {self.id} has no instruction: a judge's score without one would mean nothing.")


@dataclass(frozen=True)
class Verdict:
    """Editing success and minimal editing from 0 to 10, and the score made of them (`verdict`); NaN with a reason where
    unscored.

    Of several repeats, each field is the mean over those that were scored (`score` is the mean of the minima), and
    `reason` is that of the first failure where none was. `answers` are the cache keys of the raw replies.
    """

    es: float = math.nan
    me: float = math.nan
    score: float = math.nan
    reason: Reason = ""
    detail: str = ""
    repeats: int = 1
    scored: int = 0
    answers: tuple[str, ...] = ()
    replies: tuple[str, ...] = ()


def verdict(*numbers: float, answers: tuple[str, ...] = (), replies: tuple[str, ...] = ()) -> Verdict:
    """One number is the score. Of two, editing success and minimal editing, the score is the lesser. A third, the
    quality of the image, counts as much as that: the score is their geometric mean, as in VIEScore and EditScore."""
    if len(numbers) == 1:
        return Verdict(score=numbers[0], scored=1, answers=answers, replies=replies)
    es, me, *quality = numbers
    score = math.sqrt(min(es, me) * quality[0]) if quality else min(es, me)
    return Verdict(es, me, score, scored=1, answers=answers, replies=replies)


def unscored(reason: Reason, detail: str = "", answers: tuple[str, ...] = (), replies: tuple[str, ...] = ()) -> Verdict:
    return Verdict(reason=reason, detail=detail, answers=answers, replies=replies)


def merge(repeats: Sequence[Verdict]) -> Verdict:
    """One verdict out of several of the same question."""
    if len(repeats) == 1:
        return repeats[0]
    scored = [r for r in repeats if not math.isnan(r.score)]
    failed = next((r for r in repeats if math.isnan(r.score)), None)

    def mean(values: Sequence[float]) -> float:
        return sum(values) / len(values) if values else math.nan

    return Verdict(
        mean([r.es for r in scored]),
        mean([r.me for r in scored]),
        mean([r.score for r in scored]),
        "" if scored or failed is None else failed.reason,
        "" if failed is None else failed.detail,
        len(repeats),
        len(scored),
        tuple(a for r in repeats for a in r.answers),
        tuple(a for r in repeats for a in r.replies),
    )


class Judge(Protocol):
    """Scores predicted frames."""

    @property
    def metadata(self) -> JsonMapping:
        """Everything that a number of this judge depends on, for `results`: kind, model, prompt and its hash."""
        ...

    def score(self, questions: Sequence[Question], progress: Progress | None = None) -> list[Verdict]:
        """One verdict per question, in order. Raises `ValueError` where no question at all can be answered."""
        ...

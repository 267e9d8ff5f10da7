"""The simulated world's own judge: it reads the scenes off the pictures and applies the action to the source.

It needs no model and makes no mistakes, so it shows what the judging of a run looks like, and what others miss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from retrodict.evaluation.judge.protocol import TOP, Question, Verdict, unscored, verdict
from retrodict.progress import Progress
from retrodict.transitions import Transition, decode_image


class ExactJudge:
    """Judges questions about *tabletop* items. Raises `ValueError` for transitions that the world did not make."""

    def __init__(self, transitions: Sequence[Transition]) -> None:
        records = {t.id: t.provenance.get("tabletop") for t in transitions}
        if strangers := [name for name, record in records.items() if record is None]:
            raise ValueError(f"The exact judge knows tabletop's own items only, not {strangers[0]}.")
        self._sizes = {name: record["source"].get("size", "cells") for name, record in records.items() if record}

    @property
    def facts(self) -> Mapping[str, Any]:
        return {"kind": "exact", "model": "tabletop state", "prompt": None}

    def score(self, questions: Sequence[Question], progress: Progress | None = None) -> list[Verdict]:
        found = []
        for i, question in enumerate(questions):
            found.append(self._score(question))
            if progress is not None:
                progress.advance(i + 1, len(questions))
        return found

    def _score(self, question: Question) -> Verdict:
        from retrodict.worlds import tabletop

        if question.prediction is None:
            return unscored("missing", "no picture")
        size = self._sizes[question.id]
        source = tabletop.parse(decode_image(question.source, f"source of {question.id}"), size)
        action = tabletop.parse_action(question.action)
        target = None if action is None else tabletop.apply(source, action)
        if target is None:
            return unscored("parse", "the action cannot happen in this scene")
        predicted = tabletop.parse(decode_image(question.prediction, f"prediction for {question.id}"), size)
        found = tabletop.score_state(predicted, source, target)
        return verdict(TOP * found.es, TOP * found.me)

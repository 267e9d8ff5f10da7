"""The judge that knows: the world of the items reads the images and applies the action to the source.

It needs no model and makes no mistakes, so it shows what the judging of a run looks like, and what others miss.
"""

from __future__ import annotations

from collections.abc import Sequence

from retrodict.evaluation.judge.protocol import TOP, Question, Verdict, unscored, verdict
from retrodict.files import JsonMapping
from retrodict.progress import Progress
from retrodict.transitions import Transition, decode_image
from retrodict.worlds import world_of


class ExactJudge:
    """Judges questions about items of one world. Raises `ValueError` for items that no world owns."""

    def __init__(self, transitions: Sequence[Transition]) -> None:
        world = world_of(transitions)
        if world is None:
            raise ValueError("The exact judge knows the items of a simulated world only: these have no exact state.")
        self._world, self._rows = world, {t.id: t for t in transitions}

    @property
    def metadata(self) -> JsonMapping:
        return {"kind": "exact", "model": f"{self._world.name} state", "prompt": None}

    def score(self, questions: Sequence[Question], progress: Progress | None = None) -> list[Verdict]:
        verdicts = []
        for i, question in enumerate(questions):
            verdicts.append(self._score(question))
            if progress is not None:
                progress.advance(i + 1, len(questions))
        return verdicts

    def _score(self, question: Question) -> Verdict:
        if question.prediction is None:
            return unscored("missing", "no image")
        source = decode_image(question.source, f"source of {question.id}")
        prediction = decode_image(question.prediction, f"prediction for {question.id}")
        exact = self._world.score_action(prediction, source, question.action, self._rows[question.id])
        if exact is None:
            return unscored("parse", "the action cannot happen in this scene")
        return verdict(TOP * exact.es, TOP * exact.me)

"""Judges that are prompted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from retrodict.chat.client import Chat
from retrodict.chat.parsing import Failure, Reason, Reply
from retrodict.chat.request import Request, build
from retrodict.evaluation.judge.parsing import read_scores
from retrodict.evaluation.judge.protocol import Question, Verdict, merge, unscored, verdict
from retrodict.progress import Progress


@dataclass
class ChatJudge(Chat):
    """A judge of single predictions."""

    def __post_init__(self) -> None:
        if self.prompt.answer != "scores":
            raise ValueError(f"The prompt {self.prompt.id} asks for a {self.prompt.answer}: it gives no scores.")

    def requests(self, questions: Sequence[Question]) -> list[Request]:
        """One per question that has an image, and repeat."""
        return [request for question in questions for request in self._requests(question)]

    def _requests(self, question: Question) -> list[Request]:
        if question.prediction is None:
            return []
        images = {"source": question.source, "prediction": question.prediction}
        return [
            build(question.id, self.prompt, self.settings, question.action, images, repeat)
            for repeat in range(self.settings.repeats)
        ]

    def score(self, questions: Sequence[Question], progress: Progress | None = None) -> list[Verdict]:
        asked = [self._requests(question) for question in questions]
        self.fetch([request for requests in asked for request in requests], progress)
        return [
            merge([self._read(request) for request in requests]) if requests else unscored("missing", "no image")
            for requests in asked
        ]

    def failure(self, reply: Reply) -> Reason:
        scores = self._scores(reply)
        return scores.reason if isinstance(scores, Failure) else ""

    def _read(self, request: Request) -> Verdict:
        reply = self.reply(request)
        scores = self._scores(reply)
        answers, replies = ((request.key,), (reply.text,)) if request.key in self.used else ((), ())
        if isinstance(scores, Failure):
            return unscored(scores.reason, scores.detail, answers, replies)
        return verdict(*scores, answers=answers, replies=replies)

    def _scores(self, reply: Reply) -> tuple[float, ...] | Failure:
        return read_scores(reply, len(self.prompt.scores), self.prompt.scale)

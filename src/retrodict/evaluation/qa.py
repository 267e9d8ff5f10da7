"""`retrodict qa`: multiple-choice questions about space, answered by likelihood and in writing.

Published accuracies on these sets are often those of a parser: a model that answers in no form that it expects falls
below chance. So the likeliest option stands beside the written answer, written answers that name no single option are
counted, and chance, the best constant answer and a control without the image are printed with every number.
"""

from __future__ import annotations

import math
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from PIL import Image

from retrodict.data.questions import READERS, Question
from retrodict.evaluation.pool import BATCH, reason_counts
from retrodict.files import JsonObject, made_once, write_json, write_lines
from retrodict.models.protocol import LogProb
from retrodict.models.vlm import GREEDY, VisionLanguageModel, message
from retrodict.progress import Progress
from retrodict.prompts import QUESTIONS
from retrodict.run_folder import RECORD, check
from retrodict.stats import share
from retrodict.transitions import decode_image
from retrodict.versions import versions

if TYPE_CHECKING:
    from transformers import BatchFeature

PROMPT = "qa-options-1"
WAYS = ("likelihood_mean", "likelihood_sum", "generation", "blind_mean")


class Answerer(Protocol):
    """Answers questions about an image or, as a control, about none."""

    def write(self, image: Image.Image | None, question: str) -> str:
        """The answer in words."""
        ...

    def score(self, image: Image.Image | None, question: str, answers: Sequence[str]) -> list[LogProb]:
        """log p(answer | image, question) of each, without the end of the turn: options are compared as beginnings."""
        ...


class VLMAnswerer:
    """A vision-language model, under its own chat template. Raises `ValueError` when it cannot be loaded."""

    def __init__(self, model: str | Path, *, max_tokens: int = 32) -> None:
        self._vlm = VisionLanguageModel.load(model)
        self._max_tokens = max_tokens

    def write(self, image: Image.Image | None, question: str) -> str:
        """The greedy answer."""
        answers = self._vlm.generate(self._ask(image, question), self._max_tokens, **GREEDY)
        return " ".join(self._vlm.texts(answers)[0].split())

    def score(self, image: Image.Image | None, question: str, answers: Sequence[str]) -> list[LogProb]:
        inputs = self._ask(image, question)
        return [self._vlm.score(inputs, [self._vlm.tokens(answer)])[0] for answer in answers]

    def _ask(self, image: Image.Image | None, question: str) -> BatchFeature:
        return self._vlm.ask([[message([question] if image is None else [image, question])]])


@dataclass(frozen=True)
class Answered:
    """What a model said to one question. Choices are indices of options; None where there is none."""

    choices: dict[str, int | None]
    written: str
    parsed: bool
    logprobs: list[LogProb]
    reason: str = ""


def run_qa(
    bench: str,
    *,
    data: Path,
    images: Path,
    model: str,
    out: Path,
    limit: int | None = None,
    answerer: Answerer | None = None,
    progress: Progress | None = None,
) -> JsonObject:
    """Ask `model` the questions of `bench` ("spatialmqa", "embspatial") and return what `results.json` holds.

    `data` is the set's own file and `images` the folder of its images. `answerer` takes the place of loading `model`.
    Writes `results.json` and `items/answers.jsonl` to `out`. The same call again resumes from what
    `out/answers` holds; what failed is retried. Raises `ValueError` for unknown names, unusable files, and an `out`
    that holds a run with other settings.
    """
    if bench not in READERS:
        raise ValueError(f'No questions "{bench}": use one of {", ".join(READERS)}.')
    began = time.monotonic()
    questions = READERS[bench](data, images)[:limit]
    if not questions:
        raise ValueError(f"{data} holds no questions.")
    if progress is not None:
        progress.stage("ask", f"{len(questions)} questions")
    settings = {"bench": bench, "model": model, "limit": limit, "retrodict": versions().get("retrodict")}
    record = check(out, "qa", settings, inputs={"model weights": model, "data": data, "images": images})
    asked = answerer or VLMAnswerer(model)
    write_json(out / RECORD, record)
    answers: list[Answered] = []
    for number, start in enumerate(range(0, len(questions), BATCH)):
        batch = questions[start : start + BATCH]
        answers += _ask_once(out / "answers" / f"{number:05}.json", asked, batch)
        if progress is not None:
            progress.advance(len(answers), len(questions))
    if progress is not None:
        progress.done(f"{len(questions)} answers")
    write_lines(out / "items" / "answers.jsonl", [_record(q, a) for q, a in zip(questions, answers, strict=True)])
    return _finish(out, bench, model, questions, answers, began, {"model": model, "data": str(data), "limit": limit})


def _ask_once(file: Path, model: Answerer, questions: Sequence[Question]) -> list[Answered]:
    """The answers in `file`, which is written when none failed."""
    records = made_once(
        file,
        lambda: [asdict(_ask(model, question)) for question in questions],
        whole=lambda answers: not any(answer["reason"] for answer in answers),
    )
    return [Answered(**{**one, "logprobs": [LogProb(**logprob) for logprob in one["logprobs"]]}) for one in records]


def _ask(model: Answerer, question: Question) -> Answered:
    options = ", ".join(question.options)
    text = QUESTIONS[PROMPT].format(question=question.text.strip(), options=options)
    try:
        image = decode_image(question.image, f"image of {question.id}")
        seen = model.score(image, text, question.options)
        blind = model.score(None, text, question.options)
        written = model.write(image, text)
    except (ValueError, OSError) as error:
        return Answered(dict.fromkeys(WAYS), "", False, [], str(error))
    named = parse_answer(written, question.options)
    choices = {
        "likelihood_mean": _likeliest([logprob.mean for logprob in seen]),
        "likelihood_sum": _likeliest([logprob.sum for logprob in seen]),
        "generation": named,
        "blind_mean": _likeliest([logprob.mean for logprob in blind]),
    }
    return Answered(choices, written, named is not None, seen)


def _likeliest(scores: Sequence[float]) -> int | None:
    """The option with the highest score; None where one has no score or two share the highest."""
    if any(math.isnan(score) for score in scores):
        return None
    best = max(scores)
    return scores.index(best) if list(scores).count(best) == 1 else None


def parse_answer(text: str, options: Sequence[str]) -> int | None:
    """The one option that an answer names; None where it names none or several.

    An option inside a longer one that is named too ("left" in "left of") does not count.
    """
    said = _plain(text)
    exact = [i for i, option in enumerate(options) if _plain(option) == said]
    if len(exact) == 1:
        return exact[0]
    spans = [(i, m.span()) for i, option in enumerate(options) for m in _whole(option).finditer(said)]
    named = {i for i, (a, b) in spans if not any(c <= a and b <= d and (c, d) != (a, b) for _, (c, d) in spans)}
    return named.pop() if len(named) == 1 else None


def _plain(text: str) -> str:
    return " ".join(re.sub(r"[^\w/]+", " ", text.casefold()).split())


def _whole(option: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![\w/]){re.escape(_plain(option))}(?![\w/])")


def _accuracy(questions: Sequence[Question], answers: Sequence[Answered]) -> JsonObject:
    """Share of right answers by each way; an answer that names no option is wrong, one that failed is unscored."""

    def right(way: str, question: Question, answer: Answered) -> float:
        if answer.reason:
            return math.nan
        return float(answer.choices[way] == question.answer)

    return {way: share([right(way, q, a) for q, a in zip(questions, answers, strict=True)]) for way in WAYS}


def chance(questions: Sequence[Question]) -> float:
    return float(np.mean([1 / len(q.options) for q in questions]))


def majority(questions: Sequence[Question]) -> float:
    """What the best constant answer reaches, be it a word or a position."""
    keys: tuple[Callable[[Question], str | int], ...] = (lambda q: q.options[q.answer], lambda q: q.answer)
    return max(Counter(key(q) for q in questions).most_common(1)[0][1] for key in keys) / len(questions)


def _finish(
    out: Path,
    bench: str,
    model: str,
    questions: Sequence[Question],
    answers: Sequence[Answered],
    began: float,
    config: JsonObject,
) -> JsonObject:
    from retrodict.versions import provenance

    kept = [a for a in answers if not a.reason]
    lost = sum(not a.parsed for a in kept)
    subsets = {}
    for kind in sorted({q.kind for q in questions}):
        part = [i for i, q in enumerate(questions) if q.kind == kind]
        own, said = [questions[i] for i in part], [answers[i] for i in part]
        subsets[kind] = {"accuracy": _accuracy(own, said), "chance": chance(own), "majority": majority(own)}
    results = {
        "kind": "qa",
        "bench": bench,
        "system": Path(model).name or model,
        "prompt": PROMPT,
        "items": len(questions),
        "accuracy": _accuracy(questions, answers),
        "chance": chance(questions),
        "majority": majority(questions),
        "parse_failures": {"count": lost, "n": len(kept), "share": lost / len(kept) if kept else math.nan},
        "subsets": subsets,
        "unscored": reason_counts(a.reason for a in answers if a.reason),
        **provenance(time.monotonic() - began, config=config),
    }
    write_json(out / "results.json", results)
    return results


def _record(question: Question, answer: Answered) -> JsonObject:
    return {
        "id": question.id,
        "kind": question.kind,
        "question": question.text,
        "options": list(question.options),
        "answer": question.answer,
        "choices": answer.choices,
        "written": answer.written,
        "logprobs": [{"sum": one.sum, "tokens": one.count} for one in answer.logprobs],
        **({"reason": answer.reason} if answer.reason else {}),
    }

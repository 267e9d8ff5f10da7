"""Scores and choices out of a judge's answers; what is not certainly one is a failure with a reason."""

from __future__ import annotations

import json
import math

from retrodict.chat.parsing import Failure, Reply, read_answer, shorten
from retrodict.evaluation.judge.protocol import TOP


def read_scores(reply: Reply) -> tuple[float, float] | Failure:
    """The two scores of an answer."""
    value = read_answer(reply, "score")
    if isinstance(value, Failure):
        return value
    numbers = value if isinstance(value, list) else []
    if len(numbers) != 2 or not all(_is_number(n) for n in numbers):
        return Failure("parse", f"score is not two numbers: {shorten(json.dumps(value, default=str))}")
    if not all(0 <= n <= TOP for n in numbers):
        return Failure("range", shorten(f"score outside 0 to 10: {numbers[0]}, {numbers[1]}"))
    return float(numbers[0]), float(numbers[1])


def read_choice(reply: Reply) -> str | Failure:
    """Which of two is better: first, second, or tie."""
    value = read_answer(reply, "choice")
    if isinstance(value, Failure):
        return value
    if value not in ("first", "second", "tie"):
        return Failure("parse", f"choice is not first, second or tie: {shorten(json.dumps(value, default=str))}")
    return str(value)


def _is_number(value: object) -> bool:
    if isinstance(value, bool):
        return False
    return isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))

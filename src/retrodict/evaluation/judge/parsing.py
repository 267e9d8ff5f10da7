"""Scores and choices out of a judge's answers; what is not certainly one is a failure with a reason."""

from __future__ import annotations

import json
import math
from typing import Any

from retrodict.chat.parsing import Failure, Reply, read_answer, shorten
from retrodict.evaluation.judge.protocol import TOP


def read_scores(reply: Reply, count: int = 2, scale: float = TOP) -> tuple[float, ...] | Failure:
    """The scores of an answer, `count` of them, brought from a scale of 0 to `scale` to 0 to 10.

    Where one is asked for, it may stand alone or in a list.
    """
    value = read_answer(reply, "score")
    if isinstance(value, Failure):
        return value
    numbers: list[Any] = value if isinstance(value, list) else [value] if count == 1 else []
    if len(numbers) != count or not all(_is_number(n) for n in numbers):
        asked = {1: "one number", 2: "two numbers", 3: "three numbers"}[count]
        return Failure("parse", f"score is not {asked}: {shorten(json.dumps(value, default=str))}")
    if not all(0 <= n <= scale for n in numbers):
        return Failure("range", shorten(f"score outside 0 to {scale:g}: {', '.join(map(str, numbers))}"))
    return tuple(float(n) * (TOP / scale) for n in numbers)


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

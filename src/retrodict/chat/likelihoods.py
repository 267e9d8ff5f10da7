"""How likely servers find an answer: `logprobs` of one that they gave, vLLM's `prompt_logprobs` of a given one.

Whatever they send costs this answer's likelihood alone, never the answer: it is NaN with the reason.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

from retrodict.chat.parsing import DROPPED
from retrodict.files import JsonMapping
from retrodict.models.protocol import LogProb

_VALUE = re.compile(r'"action"\s*:\s*"((?:[^"\\]|\\.)*)"')


def unknown(reason: str) -> LogProb:
    """No likelihood, and why."""
    return LogProb(math.nan, 0, reason)


def of_answer(body: JsonMapping) -> LogProb:
    """log p of the words of an answer and of the token that ended it, where the server counts that among them.

    Of an answer that is a JSON object, only the tokens of its action count, with the quote that ends it.
    """
    choice = body["choices"][0]
    message, kept = choice.get("message") or {}, choice.get("logprobs")
    entries = kept.get("content") if isinstance(kept, dict) else None
    if not isinstance(entries, list) or not entries:
        return unknown("the server sends no logprobs")
    if message.get("reasoning_content") or message.get("reasoning") or "</think" in str(message.get("content")):
        return unknown("the model thinks before it answers, which is no part of the action")
    tokens = [str(entry.get("token")) if isinstance(entry, dict) else "" for entry in entries]
    values = [_value(entry) for entry in entries]
    text = str(message.get("content") or "")
    if text.lstrip().startswith("{"):
        joined = "".join(tokens)
        at = _VALUE.search(joined)
        if at is None or not joined.startswith(text.rstrip()):
            return unknown("the tokens of the answer are not those of its text")
        starts = [0]
        for token in tokens:
            starts.append(starts[-1] + len(token))
        first, last = at.start(1), at.end(1)  # the quote behind it
        values = [v for v, a, b in zip(values, starts, starts[1:], strict=False) if b > first and a <= last]
    return _sum(values)


class Read(NamedTuple):
    """What a server says of the tokens that a prompt ends with."""

    length: int  # tokens of the whole prompt
    ids: Sequence[int]  # of the last ones
    values: Sequence[float]  # their log-probabilities


def of_prompt(body: JsonMapping) -> Read | None:
    """What the server says of the prompt; None where it says nothing that can be read."""
    entries, dropped = body.get("prompt_logprobs"), body.get(DROPPED, 0)
    if not isinstance(entries, list):
        return None
    ids, values = [], []
    for entry in entries:  # the prompt's own token comes first; nothing is said of the first token of all
        name = next(iter(entry), "") if isinstance(entry, dict) else ""
        ids.append(int(name) if name.isdigit() else -1)
        values.append(_value(entry[name]) if name else math.nan)
    return Read(len(entries) + int(dropped), ids, values)


class Ruler(NamedTuple):
    """The tokens that follow a question where an answer is given: the answer's, the one that ends it, and what the chat
    template writes behind it."""

    ids: tuple[int, ...]
    counted: int  # the answer's tokens and the one that ends it

    def measure(self, read: Read | None) -> LogProb:
        """log p(answer, end of turn) out of a prompt that ends with them."""
        if read is None:
            return unknown("the server sends no prompt_logprobs")
        count = len(self.ids)
        if count > len(read.ids) or tuple(read.ids[-count:]) != self.ids:
            return unknown("the server reads the action as other tokens behind images than without them")
        return _sum(list(read.values[-count:])[: self.counted])


def ruler(question: Read | None, closed: Read | None, opened: Read | None, ends: int | None) -> Ruler | str:
    """How to find an answer in a prompt, or why that cannot be.

    Args:
        question: The words alone, up to where an answer would begin.
        closed: The same with the answer, its turn ended.
        opened: The same, its turn not ended; None where `ends` is known.
        ends: Tokens that end a turn.
    """
    if question is None or closed is None or (opened is None and ends is None):
        return "the server sends no prompt_logprobs"
    count = closed.length - question.length
    if opened is not None:
        ends = closed.length - opened.length
    assert ends is not None
    whole = question.length == len(question.ids) and closed.length == len(closed.ids)
    follows = not whole or closed.ids[1 : question.length] == question.ids[1:]
    if not (follows and 0 <= ends < count <= len(closed.ids)):
        return "the server does not put an answer where it would write one: its chat template forbids it"
    return Ruler(tuple(closed.ids[-count:]), count - max(0, ends - 1))


def _value(entry: object) -> float:
    value = entry.get("logprob") if isinstance(entry, dict) else None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan


def _sum(values: Sequence[float]) -> LogProb:
    total = sum(values)
    if not values or not math.isfinite(total) or max(values) > 1e-3:
        return unknown("the server sends log-probabilities that are none")
    return LogProb(total, len(values))

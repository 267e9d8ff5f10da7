"""What a judge's number depends on, for whoever wants to get the same number again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from retrodict.chat.cache import AnswerCache
from retrodict.chat.cost import Prices
from retrodict.chat.images import ENCODING
from retrodict.chat.parsing import PARSER, read_body
from retrodict.chat.prompt import JudgePrompt
from retrodict.chat.request import Settings


def chat_facts(kind: str, prompt: JudgePrompt, settings: Settings) -> dict[str, Any]:
    return {
        "kind": kind,
        "model": settings.model,
        "served": settings.served,
        "prompt": prompt.id,
        "prompt_sha256": prompt.sha256,
        "prompt_origin": prompt.origin,
        "parser": PARSER,
        "encoding": ENCODING,
        "max_side": settings.max_side,
        "detail": settings.detail,
        "temperature": settings.temperature,
        "seed": settings.seed,
        "max_tokens": settings.max_tokens,
        "schema": settings.schema,
        "repeats": settings.repeats,
    }


def usage(keys: Iterable[str], fresh: set[str], cache: AnswerCache, prices: Prices | None) -> dict[str, Any]:
    """Tokens and cost of the answers behind a result, as the server counted them, and who gave them.

    `cost` is over all of them, `cost_now` over those that this run asked for. Answers that the server counted no
    tokens for are `without_count`, and cost nothing here.
    """
    found = {key: answer for key in dict.fromkeys(keys) if (answer := cache.get(key)) is not None}
    replies = {key: read_body(answer.body) for key, answer in found.items()}

    def tokens(keys: Iterable[str]) -> tuple[int, int]:
        part = [replies[key] for key in keys]
        return sum(r.prompt_tokens or 0 for r in part), sum(r.completion_tokens or 0 for r in part)

    everything, now = tokens(replies), tokens(key for key in replies if key in fresh)
    return {
        "answers": len(found),
        "from_cache": sum(key not in fresh for key in found),
        "prompt_tokens": everything[0],
        "completion_tokens": everything[1],
        "without_count": sum(r.prompt_tokens is None for r in replies.values()),
        "prices": None if prices is None else {"prompt": prices.prompt, "completion": prices.completion},
        "cost": None if prices is None else prices.of(*everything),
        "cost_now": None if prices is None else prices.of(*now),
        "served_as": dict(Counter(r.model for r in replies.values() if r.model)),
        "with_schema": sum(bool(answer.how.get("schema")) for answer in found.values()),
    }

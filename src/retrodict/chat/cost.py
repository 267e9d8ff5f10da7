"""What requests cost: estimated before, bounded while they run, added up afterwards. Prices are the user's to give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from retrodict.chat.request import Request
from retrodict.files import JsonObject

_MILLION = 1_000_000


@dataclass(frozen=True)
class Prices:
    """Money per million tokens, in any one currency."""

    prompt: float
    completion: float

    def __post_init__(self) -> None:
        if not (self.prompt >= 0 and self.completion >= 0):
            raise ValueError("Prices are 0 or more, per million tokens.")

    def of(self, prompt_tokens: float, completion_tokens: float) -> float:
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / _MILLION


class Budget:
    """Lets a request go only when what is spent, what is on its way and its own worst case stay within `limit`.

    The worst case is the longest answer that is allowed, and the larger of the estimated prompt and the largest that
    the server has counted so far. An answer that was lost on its way counts as paid, at that worst case.
    """

    def __init__(self, limit: float, prices: Prices) -> None:
        if not limit > 0:
            raise ValueError("--max-cost is more than 0.")
        self.limit, self.prices = limit, prices
        self.spent = 0.0
        self._reserved = 0.0
        self._ratio = 1.0  # counted over estimated prompt tokens, at its largest

    def reserve(self, request: Request) -> float | None:
        """Reserve the worst-case cost of a request; None when the budget does not allow it now."""
        worst = self.prices.of(request.prompt_tokens * self._ratio, request.settings.max_tokens)
        if self.spent + self._reserved + worst > self.limit:
            return None
        self._reserved += worst
        return worst

    def settle(self, request: Request, reserved: float, paid: float, prompt_tokens: int | None = None) -> None:
        """Replace a reservation by what the request did cost."""
        self._reserved = max(0.0, self._reserved - reserved)
        self.spent += paid
        if prompt_tokens:
            self._ratio = max(self._ratio, prompt_tokens / max(1, request.prompt_tokens))


def estimate(requests: Sequence[Request], prices: Prices | None) -> JsonObject:
    """What sending these would take at most: estimated prompt tokens, and answers of the greatest allowed length."""
    prompt = sum(r.prompt_tokens for r in requests)
    completion = sum(r.settings.max_tokens for r in requests)
    return {
        "requests": len(requests),
        "prompt_tokens": prompt,
        "completion_tokens_at_most": completion,
        "cost_at_most": None if prices is None else prices.of(prompt, completion),
        "note": "estimated: text at 4 characters a token, images by the tile rule published for gpt-4o",
    }

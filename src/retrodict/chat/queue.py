"""Having questions answered: many at a time, within a budget, every answer on disk before anything else happens."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from retrodict.chat.cache import AnswerCache
from retrodict.chat.cost import Budget
from retrodict.chat.endpoint import Outcome, RefusedError
from retrodict.chat.parsing import Reason, Reply, read_body
from retrodict.chat.request import Request
from retrodict.progress import Progress

GIVE_UP = 16  # questions lost in a row, none answered between them: the endpoint is down


class Source(Protocol):
    """Where answers come from."""

    counts: Counter[str]

    async def ask(self, request: Request, may_pay_again: Callable[[], bool]) -> Outcome: ...

    async def close(self) -> None: ...


@dataclass
class Tally:
    """What happened to requests that had no answer yet, over all calls: why, by key, and counts."""

    failed: dict[str, tuple[Reason, str]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    fresh: set[str] = field(default_factory=set)  # keys that were answered now, not found in the cache


class _Queue:
    """Sends requests, `width` at a time. Every answer is kept before the next thing happens."""

    def __init__(
        self, source: Source, cache: AnswerCache, budget: Budget | None, tally: Tally, progress: Progress | None
    ) -> None:
        self._source, self._cache, self._budget = source, cache, budget
        self._tally, self._progress = tally, progress
        self._settled = asyncio.Condition()
        self._going = 0
        self._lost_in_a_row = 0
        self._refused: RefusedError | None = None
        self._stopped = ""

    async def run(self, requests: Sequence[Request], width: int) -> None:
        waiting, total = deque(requests), len(requests)
        try:
            await asyncio.gather(*(self._work(waiting, total) for _ in range(min(width, total))))
        finally:
            self._tally.counts.update(self._source.counts)
            await self._source.close()
        for request in waiting:
            self._tally.failed[request.key] = ("unsent", self._stopped)
        if self._refused is not None:
            raise self._refused

    async def _work(self, waiting: deque[Request], total: int) -> None:
        while waiting and not self._stopped:
            request = waiting.popleft()
            reserved = await self._reserve(request)
            if reserved is None:
                waiting.appendleft(request)
                return
            try:
                await self._one(request, reserved)
            except RefusedError as error:
                # Others that are on their way may still be answered, and were perhaps paid: they finish.
                self._refused, self._stopped = error, str(error)
                waiting.appendleft(request)
            finally:
                await self._release()
            if self._progress is not None:
                self._progress.advance(total - len(waiting) - self._going, total)

    async def _reserve(self, request: Request) -> float | None:
        """What is set aside for a request, as soon as the budget allows it; None when it never will."""
        async with self._settled:
            while True:
                if self._stopped:
                    return None
                reserved = 0.0 if self._budget is None else self._budget.reserve(request)
                if reserved is not None:
                    self._going += 1
                    return reserved
                if not self._going:  # nothing on its way could still turn out cheaper
                    self._stopped = "the budget of --max-cost is used up"
                    return None
                await self._settled.wait()

    async def _release(self) -> None:
        async with self._settled:
            self._going -= 1
            self._settled.notify_all()

    async def _one(self, request: Request, reserved: float) -> None:
        held = [reserved]  # one per attempt that may have to be paid

        def may_pay_again() -> bool:
            more = 0.0 if self._budget is None else self._budget.reserve(request)
            if more is not None:
                held.append(more)
            return more is not None

        paid, counted = reserved, None  # should it be broken off, it may have been paid
        try:
            outcome = await self._source.ask(request, may_pay_again)
            paid = reserved * outcome.lost_paid
            if outcome.body is None:
                self._lose(request, outcome.detail)
                return
            self._cache.put(request.key, request.identity, outcome.body, outcome.how)
            self._tally.fresh.add(request.key)
            self._lost_in_a_row = 0
            reply = read_body(outcome.body)
            counted = reply.prompt_tokens
            if self._budget is not None:
                paid += paid_for(reply, request, self._budget)
        finally:
            if self._budget is not None:
                self._budget.settle(request, sum(held), paid, counted)

    def _lose(self, request: Request, detail: str) -> None:
        self._tally.failed[request.key] = ("transport", detail)
        self._lost_in_a_row += 1
        if self._lost_in_a_row >= GIVE_UP:
            self._stopped = f"the endpoint does not answer ({detail})"


def paid_for(reply: Reply, request: Request, budget: Budget) -> float:
    """What an answer cost; where the server counts no tokens, the most that it can have cost."""
    prompt = request.prompt_tokens if reply.prompt_tokens is None else reply.prompt_tokens
    completion = request.settings.max_tokens if reply.completion_tokens is None else reply.completion_tokens
    return budget.prices.of(prompt, completion)


def missing(requests: Sequence[Request], cache: AnswerCache) -> list[Request]:
    """Requests without an answer, each key once."""
    unique = {request.key: request for request in requests}
    return [request for key, request in unique.items() if cache.get(key) is None]


def answer(
    requests: Sequence[Request],
    cache: AnswerCache,
    source: Source,
    tally: Tally,
    *,
    width: int = 8,
    budget: Budget | None = None,
    progress: Progress | None = None,
) -> None:
    """Ask what the cache does not know. Raises `RefusedError` when the source refuses everything; answers are kept."""
    asked = missing(requests, cache)
    if not asked:
        return

    async def run() -> None:
        await _Queue(source, cache, budget, tally, progress).run(asked, width)

    asyncio.run(run())

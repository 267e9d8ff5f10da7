"""The chat client: concurrent requests within a budget; every answer is cached on disk before it is read.

Answers come from a `Source`, an endpoint or a model on this machine, and stay in the cache; reading them needs no
network.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from retrodict.chat.cache import AnswerCache
from retrodict.chat.cost import Budget, Prices
from retrodict.chat.endpoint import Outcome, RefusedError
from retrodict.chat.parsing import PARSER, Reason, Reply, read_body
from retrodict.chat.request import ENCODING, Request, Settings
from retrodict.files import JsonMapping, JsonObject
from retrodict.progress import Progress
from retrodict.prompts.chat import ChatPrompt

GIVE_UP = 16  # questions in a row to which the endpoint was silent: it is down


class Source(Protocol):
    """Where answers come from."""

    counts: Counter[str]

    async def ask(self, request: Request, may_pay_again: Callable[[], bool]) -> Outcome:
        """A raw answer, or why there is none.

        Args:
            request: The question.
            may_pay_again: Is asked before a request is repeated whose answer was lost and may have been charged.

        Raises:
            RefusedError: Every request would fare alike.
        """
        ...

    async def close(self) -> None:
        """Is called in the event loop that `ask` was called in."""
        ...


@dataclass
class Tally:
    """Uncached requests over all calls: reasons of failures by key, and counts."""

    failed: dict[str, tuple[Reason, str]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    fresh: set[str] = field(default_factory=set)  # keys that were answered now, not found in the cache


@dataclass
class Chat:
    """A chat model and the cache of its answers. Without a `source` the cache alone answers."""

    prompt: ChatPrompt
    settings: Settings
    cache: AnswerCache
    kind: str = "endpoint"
    source: Callable[[], Source] | None = None  # one per call, as it belongs to an event loop
    width: int = 8
    budget: Budget | None = None
    again: Collection[Reason] = ()  # kept answers that are of no use for these reasons are asked for anew
    tally: Tally = field(default_factory=Tally)
    used: dict[str, None] = field(default_factory=dict)  # keys of all answers that were read, in order

    @property
    def metadata(self) -> JsonMapping:
        """What an answer depends on, for whoever wants to get the same again."""
        return {
            "kind": self.kind,
            "model": self.settings.model,
            "served": self.settings.served,
            "prompt": self.prompt.id,
            "prompt_sha256": self.prompt.sha256,
            "prompt_origin": self.prompt.origin,
            "parser": PARSER,
            "encoding": ENCODING,
            "max_side": self.settings.max_side,
            "detail": self.settings.detail,
            "temperature": self.settings.temperature,
            "seed": self.settings.seed,
            "max_tokens": self.settings.max_tokens,
            "schema": self.settings.schema,
            "repeats": self.settings.repeats,
        }

    def fetch(self, requests: Sequence[Request], progress: Progress | None = None) -> None:
        """Request the answers that are not cached, where there is a source."""
        if self.source is not None:
            answer(
                requests,
                self.cache,
                self.source(),
                self.tally,
                width=self.width,
                budget=self.budget,
                again=self.is_wanted_again,
                progress=progress,
            )

    def failure(self, reply: Reply) -> Reason:
        """Why a reply is of no use; empty where it is of use."""
        return reply.reason

    def is_wanted_again(self, key: str, body: JsonMapping) -> bool:
        """Whether a kept answer is asked for once more: those of this run never are."""
        return bool(self.again) and key not in self.tally.fresh and self.failure(read_body(body)) in self.again

    def reply(self, request: Request) -> Reply:
        """The cached answer, or why there is none."""
        kept = self.cache.get(request.key)
        if kept is None:
            reason, detail = self.tally.failed.get(request.key, ("unsent", "not asked yet"))
            return Reply(reason=reason, detail=detail)
        self.used[request.key] = None
        return read_body(kept.body)


def usage(keys: Iterable[str], fresh: set[str], cache: AnswerCache, prices: Prices | None) -> JsonObject:
    """Tokens and cost of the answers behind a result, as the server counted them, and who gave them.

    `cost` is over all of them, `cost_now` over those that this run asked for. Answers that the server counted no
    tokens for are `without_count`, and cost nothing here.
    """
    answers = {key: answer for key in dict.fromkeys(keys) if (answer := cache.get(key)) is not None}
    replies = {key: read_body(answer.body) for key, answer in answers.items()}

    def tokens(keys: Iterable[str]) -> tuple[int, int]:
        part = [replies[key] for key in keys]
        return sum(r.prompt_tokens or 0 for r in part), sum(r.completion_tokens or 0 for r in part)

    everything, now = tokens(replies), tokens(key for key in replies if key in fresh)
    return {
        "answers": len(answers),
        "from_cache": sum(key not in fresh for key in answers),
        "prompt_tokens": everything[0],
        "completion_tokens": everything[1],
        "without_count": sum(r.prompt_tokens is None for r in replies.values()),
        "prices": None if prices is None else {"prompt": prices.prompt, "completion": prices.completion},
        "cost": None if prices is None else prices.of(*everything),
        "cost_now": None if prices is None else prices.of(*now),
        "served_as": dict(Counter(r.model for r in replies.values() if r.model)),
        "with_schema": sum(bool(answer.how.get("schema")) for answer in answers.values()),
        "without": dict(Counter(name for answer in answers.values() for name in answer.how.get("without") or ())),
    }


class _Queue:
    """Sends requests, `width` at a time. Every answer is cached before the next thing happens."""

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
        reservations = [reserved]  # one per attempt that may have to be paid

        def may_pay_again() -> bool:
            more = 0.0 if self._budget is None else self._budget.reserve(request)
            if more is not None:
                reservations.append(more)
            return more is not None

        paid, counted = reserved, None  # should it be broken off, it may have been paid
        try:
            outcome = await self._source.ask(request, may_pay_again)
            paid = reserved * outcome.lost_paid
            if outcome.body is None:
                self._lose(request, outcome.detail, outcome.silent)
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
                self._budget.settle(request, sum(reservations), paid, counted)

    def _lose(self, request: Request, detail: str, silent: bool) -> None:
        """A question without an answer. Whatever is said to it alone shows that the endpoint is there."""
        self._tally.failed[request.key] = ("transport", detail)
        self._cache.note_failure(request.key)
        self._lost_in_a_row = self._lost_in_a_row + 1 if silent else 0
        if self._lost_in_a_row >= GIVE_UP:
            self._stopped = f"the endpoint does not answer ({detail})"


def paid_for(reply: Reply, request: Request, budget: Budget) -> float:
    """What an answer cost; where the server counts no tokens, the most that it can have cost."""
    prompt = request.prompt_tokens if reply.prompt_tokens is None else reply.prompt_tokens
    completion = request.settings.max_tokens if reply.completion_tokens is None else reply.completion_tokens
    return budget.prices.of(prompt, completion)


def missing(
    requests: Sequence[Request],
    cache: AnswerCache,
    again: Callable[[str, JsonMapping], bool] = lambda key, body: False,
) -> list[Request]:
    """Requests without an answer, or with one that is wanted again; each key once, and last what failed last time, so
    that it cannot keep the others from being asked."""
    unique = {request.key: request for request in requests}
    failed = cache.failures()

    def lacks(key: str) -> bool:
        kept = cache.get(key)
        return kept is None or read_body(kept.body).reason == "transport" or again(key, kept.body)

    return sorted((r for key, r in unique.items() if lacks(key)), key=lambda request: request.key in failed)


def answer(
    requests: Sequence[Request],
    cache: AnswerCache,
    source: Source,
    tally: Tally,
    *,
    width: int = 8,
    budget: Budget | None = None,
    again: Callable[[str, JsonMapping], bool] = lambda key, body: False,
    progress: Progress | None = None,
) -> None:
    """Ask what the cache does not know. Raises `RefusedError` when the source refuses everything; answers are kept."""
    asked = missing(requests, cache, again)
    if not asked:
        return

    async def run() -> None:
        await _Queue(source, cache, budget, tally, progress).run(asked, width)

    asyncio.run(run())

"""OpenAI-compatible endpoints: one request in, one raw answer out, retried where that makes sense.

Asked again, after a growing random wait or the one that the server names: rate limits, server errors, time-outs,
broken connections, bodies that are cut off. Not retried: a filter's or a model's no (an answer like any other),
a wrong key, an unknown model. What a server finds wrong with one question costs that question alone.
"""

from __future__ import annotations

import asyncio
import email.utils
import json
import os
import random
import re
import time
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from retrodict.chat.parsing import is_filtered, only_end, read_body
from retrodict.chat.request import BEYOND, OPENAI, Request, Settings, check_served
from retrodict.errors import UnansweredError
from retrodict.files import JsonMapping, JsonObject

if TYPE_CHECKING:
    from openai import APIStatusError, AsyncOpenAI
    from tenacity import RetryCallState

KEYS = ("RETRODICT_JUDGE_KEY", "OPENAI_API_KEY")
LONGEST_WAIT = 120.0  # seconds; a server that asks for more is asked in another run
_AGAIN = (408, 409, 425, 429)
_OURS = (401, 402, 403, 404)
_DOWN = (429, 502, 503, 504, 529)  # a server that says so is as good as silent
_STRANGERS = 8  # answers of another model, and none of the right one, after which no more are asked for
_NEVER_SENT = ("ConnectError", "ConnectTimeout", "PoolTimeout")


class RefusedError(UnansweredError):
    """The endpoint refuses every request alike: a wrong key, an unknown model, an empty account."""


class LostError(Exception):
    """No answer this time. `paid` says whether the provider may have charged for it, `wait` when to ask again, `silent`
    whether nothing was said that is about this one question."""

    def __init__(
        self,
        detail: str,
        kind: str,
        *,
        wait: float | None = None,
        paid: bool = False,
        again: bool = True,
        silent: bool = False,
    ) -> None:
        super().__init__(detail)
        self.detail, self.kind, self.wait, self.paid, self.silent = detail, kind, wait, paid, silent
        self.again = again and (wait or 0) <= LONGEST_WAIT


@dataclass(frozen=True)
class Outcome:
    """A raw body, or None with the reason why none arrived after all attempts."""

    body: JsonMapping | None
    how: JsonMapping
    detail: str = ""
    lost_paid: int = 0  # attempts whose answer was lost and may have been charged
    silent: bool = False  # the endpoint said nothing about this question: it may be down


R = TypeVar("R")


@dataclass
class Server:
    """One of the addresses under which a model is served, and how it fares."""

    url: str
    client: AsyncOpenAI
    not_before: float = 0.0  # it asked not to be asked earlier
    resting: float = 0.0  # it failed: others are asked until then
    failures: int = 0  # in a row
    under_way: int = 0
    refused: RefusedError | None = None

    def fail(self, lost: LostError) -> None:
        now = time.monotonic()
        if lost.wait is not None and lost.wait <= LONGEST_WAIT:  # else others would wait as long
            self.not_before = max(self.not_before, now + lost.wait)
        if lost.silent:
            self.failures += 1
            self.resting = now + min(30.0, 0.05 * 2**self.failures)


class Caller(ABC, Generic[R]):
    """Use inside one event loop, and `close` it there. `counts` says what was sent and why it was sent again.

    `served` is an address, or several with commas between them: each attempt goes to the least busy of those that work,
    so that another server does what one cannot.
    """

    def __init__(self, served: str, *, timeout: float, attempts: int, slowest: float = 60.0) -> None:
        try:
            from openai import AsyncOpenAI
        except ImportError:
            raise ImportError("A model behind an endpoint needs: pip install 'retrodict[judge]'") from None
        self._key = next((value for name in KEYS if (value := os.environ.get(name))), "")
        urls = check_served(served).split(",")
        if not self._key and OPENAI in urls:
            raise RefusedError(f"{OPENAI} answers nobody without a key: set it in RETRODICT_JUDGE_KEY.")
        self._servers = [
            Server(url, AsyncOpenAI(api_key=self._key or "none", base_url=url, max_retries=0, timeout=timeout))
            for url in urls
        ]
        self._timeout, self._attempts, self._slowest = timeout, attempts, slowest
        self.counts: Counter[str] = Counter()

    async def close(self) -> None:
        for server in self._servers:
            await server.client.close()

    async def ask(self, request: R, may_pay_again: Callable[[], bool]) -> Outcome:
        """Raises `RefusedError`; every other failure is an `Outcome` without a body.

        `may_pay_again` is asked before a request is repeated whose answer was lost and may have been charged.
        """
        from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt

        lost_paid = 0
        retrying = AsyncRetrying(
            stop=stop_after_attempt(self._attempts),
            wait=self._wait,
            retry=retry_if_exception(
                lambda e: isinstance(e, LostError) and e.again and (not e.paid or may_pay_again())
            ),
            reraise=True,
        )
        try:
            async for attempt in retrying:
                with attempt:
                    try:
                        body, how = await self._try(request, self._choose())
                    except LostError as lost:
                        lost_paid += lost.paid
                        self.counts[lost.kind] += 1
                        raise
        except LostError as lost:
            return Outcome(None, {}, self._clean(lost.detail), lost_paid, lost.silent)
        return Outcome(body, {**how, "attempts": attempt.retry_state.attempt_number}, lost_paid=lost_paid)

    def _choose(self) -> Server:
        """The least busy of the servers that work; of those that do not, the one that is to be tried next."""
        now = time.monotonic()
        able = [server for server in self._servers if server.refused is None] or self._servers
        return min(able, key=lambda s: (max(s.not_before - now, s.resting - now, 0.0), s.under_way))

    async def _try(self, request: R, server: Server) -> tuple[JsonMapping, JsonObject]:
        server.under_way += 1
        try:
            if (pause := server.not_before - time.monotonic()) > 0:  # all requests wait when one was asked to
                await asyncio.sleep(pause + random.uniform(0, min(1.0, 0.25 * pause + 0.05)))
            answer: tuple[JsonMapping, JsonObject] = await self._once(request, server)
        except LostError as lost:
            server.fail(lost)
            raise
        except RefusedError as error:
            server.refused = error
            if all(other.refused is not None for other in self._servers):
                raise
            raise LostError(f"{server.url}: {error}", "refused", wait=0.0) from None
        finally:
            server.under_way -= 1
        server.failures, server.resting = 0, 0.0
        return answer

    @abstractmethod
    async def _once(self, request: R, server: Server) -> tuple[JsonMapping, JsonObject]:
        """One answer, and how it was had. Raises `LostError`, `RefusedError`."""

    def _wait(self, state: RetryCallState) -> float:
        from tenacity import wait_random_exponential

        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, LostError) and error.wait is not None:
            return 0.0  # whoever asks this server next waits
        return wait_random_exponential(multiplier=min(1.0, self._slowest), max=self._slowest)(state)

    async def _call(self, create: Callable[..., Awaitable[Any]], body: JsonMapping) -> tuple[int, JsonObject]:
        """Status and JSON of one call: 200, or an error about this one request. Raises `LostError`, `RefusedError`."""
        import openai

        self.counts["sent"] += 1
        try:
            async with asyncio.timeout(self._timeout):
                response = await create(**body)
                text = self._clean(response.http_response.content.decode("utf-8", "replace"))
        except openai.APIStatusError as error:
            return self._status(error)
        except (openai.APITimeoutError, TimeoutError):
            raise LostError(f"no answer within {self._timeout:g} s", "timeout", paid=True, silent=True) from None
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            sent = type(cause).__name__ not in _NEVER_SENT
            detail = f"connection: {cause}" if str(cause) else "connection broke"
            raise LostError(detail, "connection", paid=sent, silent=True) from None
        try:
            answer = json.loads(text)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            raise LostError("the body is not JSON, or was cut off", "broken body", paid=True)
        self.counts["answered"] += 1
        return 200, answer

    def _status(self, error: APIStatusError) -> tuple[int, JsonObject]:
        status, inner = error.status_code, error.body
        inner = json.loads(self._clean(json.dumps(inner))) if isinstance(inner, dict) else {"message": error.message}
        body = {"error": inner}
        if is_filtered(inner):
            return status, body
        detail = f"HTTP {status}: {self._clean(read_body(body).detail)}"
        if status == 403 and self.counts["answered"]:  # the key is right: this question is not wanted
            raise LostError(detail, f"http {status}", again=False)
        if status in _OURS or inner.get("code") in ("insufficient_quota", "billing_hard_limit_reached"):
            raise RefusedError(_remedy(status, detail, bool(self._key)))
        if status in _AGAIN or (status >= 500 and not _names(body, "schema")):
            silent = status in _DOWN or not self.counts["answered"]
            raise LostError(detail, f"http {status}", wait=retry_after(error.response.headers), silent=silent)
        return status, body

    def _clean(self, text: str) -> str:
        """Servers repeat what they are sent; what is kept or shown must not hold the key."""
        return text.replace(self._key, "***") if self._key else text


@dataclass(frozen=True)
class Way:
    """How a request is put, which a server may make us change."""

    schema: bool
    tokens_as: str = "max_tokens"
    without: tuple[str, ...] = ()  # settings that are not sent

    def simpler(self, status: int, error: JsonMapping) -> Way | None:
        """What to try when a server finds a request wrong: without what it names, else without a schema."""
        if not (status in (400, 422) or status >= 500) or is_filtered(error.get("error")):
            return None
        if self.tokens_as == "max_tokens" and _names(error, "max_tokens"):
            return replace(self, tokens_as="max_completion_tokens")
        for name in ("temperature", "seed", "repetition_penalty", "logprobs"):
            if name not in self.without and _names(error, name):
                return replace(self, without=(*self.without, name))
        return replace(self, schema=False) if self.schema else None


class Endpoint(Caller[Request]):
    """A chat endpoint."""

    def __init__(self, settings: Settings, *, timeout: float = 120.0, attempts: int = 8, slowest: float = 60.0) -> None:
        super().__init__(settings.served, timeout=timeout, attempts=attempts, slowest=slowest)
        self._ways: defaultdict[str, Way] = defaultdict(lambda: Way(schema=settings.schema == "auto"))  # by server

    async def _once(self, request: Request, server: Server) -> tuple[JsonMapping, JsonObject]:
        """One answer, with what this server turned out not to know left out."""
        way = self._ways[server.url]
        status, body = await self._send(request, way, server)
        while status != 200 and (simpler := way.simpler(status, body)):
            way = simpler
            status, body = await self._send(request, way, server)
        if status == 200:  # only what helped is kept: a 400 may be about one request alone
            self._ways[server.url] = way
        if status != 200 and not is_filtered(body.get("error")):
            raise LostError(f"HTTP {status}: {read_body(body).detail}", f"http {status}", again=False)
        if read_body(body).reason == "transport":
            raise LostError(read_body(body).detail, "no answer in the body", paid=True)
        if status == 200 and request.settings.logprobs:
            self._check_model(request.settings.model, read_body(body).model)
        if status == 200 and request.given is not None:
            body = only_end(body)
            if not body.get("prompt_logprobs"):  # there may be others that know them
                raise LostError("it sends no prompt_logprobs", "no prompt_logprobs", wait=0.0)
        without = {"without": list(way.without)} if way.without else {}
        return body, {"by": "endpoint", "schema": way.schema, "status": status, **without}

    def _check_model(self, asked: str, said: str) -> None:
        """Likelihoods are those of one model. Raises `LostError`; `RefusedError` when no answer was that model's."""
        a, b = (name.casefold().rpartition("/")[2] for name in (asked, said))
        if not b or a.startswith(b) or b.startswith(a):  # gpt-4o answers as gpt-4o-2024-08-06
            self.counts["by the model"] += 1
            return
        detail = f"the endpoint answers as {said}, not as {asked}"
        if not self.counts["by the model"] and self.counts["another model"] >= _STRANGERS:
            raise RefusedError(f"{detail}: give the name that it uses.")
        raise LostError(detail, "another model", paid=True, wait=0.0)

    async def _send(self, request: Request, way: Way, server: Server) -> tuple[int, JsonObject]:
        body = request.body(way.schema, way.tokens_as, way.without)
        extra = {name: body.pop(name) for name in BEYOND if name in body}
        create = server.client.chat.completions.with_raw_response.create
        return await self._call(create, {**body, "extra_body": extra} if extra else body)


def _names(error: JsonMapping, setting: str) -> bool:
    """Whether an error speaks of a setting of the request."""
    words = {"schema": r"schema|response_format|grammar", "max_tokens": "max_tokens"}.get(setting, rf"\b{setting}\b")
    return re.search(words, json.dumps(error), re.I) is not None


def _remedy(status: int, detail: str, has_key: bool) -> str:
    if status in (401, 403):
        what = "check the key" if has_key else "set the key in RETRODICT_JUDGE_KEY"
        return f"The endpoint refuses us ({detail}): {what}."
    if status == 404:
        return f"The endpoint does not know this model or address ({detail}): check --model and --base-url."
    return f"The endpoint refuses to go on ({detail}): check the account."


def retry_after(headers: Mapping[str, str], now: Callable[[], float] = time.time) -> float | None:
    """Seconds that a server asks to wait (as seconds, milliseconds or a date), or None."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            seconds = float(value) / unit
        except ValueError:
            try:
                seconds = email.utils.parsedate_to_datetime(value).timestamp() - now()
            except (TypeError, ValueError):
                continue
        if seconds == seconds and seconds >= 0:
            return seconds
    return None

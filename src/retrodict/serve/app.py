"""The application: what every request passes, the playground, and what is told about the server itself."""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import torch
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from retrodict.files import text_lines
from retrodict.serve import api, playground
from retrodict.serve.api import Service
from retrodict.serve.engine import Engine
from retrodict.serve.forms import Limits, Memory, Refusal
from retrodict.serve.metrics import Metrics
from retrodict.serve.models import Models
from retrodict.serve.playground import Playground
from retrodict.web.address import LOOPBACK
from retrodict.web.safety import HEADERS, TooLargeError, discard, is_from_another_site, read_body, with_body
from retrodict.worlds import DEFAULT

OPEN = ("/", "/healthz")  # and whatever the playground shows: the rest needs a key where there are keys


def create_app(
    models: Models,
    *,
    world: str = DEFAULT,
    keys: Sequence[str] = (),
    hosts: tuple[str, ...] = LOOPBACK,
    limits: Limits | None = None,
) -> Starlette:
    """The server as an ASGI application.

    Args:
        models: what answers.
        world: whose examples, pieces and actions the playground offers.
        keys: one of them must come with every request, as `Authorization: Bearer KEY`; without any, all are answered.
        hosts: names that it answers to; "*": any.
        limits: what a request may be; by default `Limits()`.
    """
    limits = limits or Limits()
    begin = partial(torch.set_num_threads, 1) if models.threads > 1 else bool
    service = Service(models, Engine(limits.queue, models.threads, begin), limits, Memory(limits.memory))

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.engine.close)

    app = Starlette(
        routes=[*api.routes, *playground.routes, Route("/healthz", _health), Route("/metrics", _metrics)],
        middleware=[
            Middleware(Guard, service=service, keys=keys),
            Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False),
        ],
        exception_handlers={Refusal: _refused, HTTPException: _not_there},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    app.state.service, app.state.metrics, app.state.playground = service, Metrics(), Playground(world)
    return app


def read_keys(path: Path) -> list[str]:
    """Keys, one a line; empty lines and those that begin with # count for nothing. Raises `ValueError` without any."""
    lines = [line.strip() for line in text_lines(path)]
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys or not all(key.isascii() and key.isprintable() and " " not in key for key in keys):
        raise ValueError(f"{path} holds no keys: write one a line, of letters, digits and signs.")
    return keys


class Guard:
    """ASGI middleware: keys, limits on bytes and time, strict headers, and an end to what nobody waits for any more."""

    def __init__(self, app: ASGIApp, service: Service, keys: Sequence[str]) -> None:
        self.app, self.service = app, service
        self._keys = [key.encode() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request, began = Request(scope), asyncio.get_running_loop().time()
        metrics: Metrics = scope["app"].state.metrics
        status = 499  # nobody waited for the answer
        started = False

        async def headed(message: Message) -> None:
            nonlocal status, started
            if message["type"] == "http.response.start":
                status, started = message["status"], True
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
                headers.setdefault("Referrer-Policy", "no-referrer")
                headers.setdefault("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
            await send(message)

        try:
            await self._answer(request, receive, headed)
        except Refusal as refusal:
            if not started:
                await _answer_of(refusal)(scope, receive, headed)
        except Exception:  # logged whole; the client gets an answer in the form that its SDK reads
            logging.getLogger("retrodict").exception("retrodict: a request failed")
            if not started:
                await _answer_of(Refusal(500, "This is our fault: the server's log says more."))(scope, receive, headed)
        finally:
            route = scope.get("route")
            metrics.note(getattr(route, "path", "other"), status, asyncio.get_running_loop().time() - began)

    async def _answer(self, request: Request, receive: Receive, send: Send) -> None:
        limits, memory = self.service.limits, self.service.memory
        request.state.client = self._client(request)
        if request.method != "POST":
            await self.app(request.scope, receive, send)
            return
        announced = request.headers.get("content-length", "")
        if not (announced.isascii() and announced.isdecimal()):
            announced = str(limits.body)  # it says nothing: it may be the most
        too_large = Refusal(413, f"A request may have {limits.body:,} bytes.")
        if len(announced) > 18 or int(announced) > limits.body:
            await discard(receive, 4 * limits.body, limits.arrival)  # the answer is read after the body is sent
            raise too_large
        with memory.holding(int(announced)):
            try:
                body = await read_body(receive, limits.body, limits.arrival)
            except TooLargeError:
                await discard(receive, 4 * limits.body, limits.arrival)
                raise too_large from None
            except TimeoutError:
                raise Refusal(408, f"The request took more than {limits.arrival:g} s to arrive.") from None
            await self._while_awaited(request, body, receive, send)

    async def _while_awaited(self, request: Request, body: bytes, receive: Receive, send: Send) -> None:
        """Answer, unless the client leaves or the time is over before."""
        left = asyncio.Event()
        answer = asyncio.ensure_future(self.app(request.scope, with_body(body, _until(left)), send))
        leaving = asyncio.ensure_future(_gone(receive, left))
        try:
            await asyncio.wait({answer, leaving}, timeout=self.service.limits.answer, return_when="FIRST_COMPLETED")
            if answer.done():
                answer.result()
            elif not leaving.done():
                raise Refusal(504, f"There was no answer within {self.service.limits.answer:g} s.")
        finally:
            for task in (answer, leaving):
                task.cancel()
                with suppress(asyncio.CancelledError, Exception):
                    await task

    def _client(self, request: Request) -> str:
        """Who asks: the key, else the address. Raises `Refusal`."""
        if request.method == "POST" and is_from_another_site(request):
            raise Refusal(403, "Not from another site.")
        address = request.client.host if request.client else "?"
        if not self._keys or request.url.path in OPEN or request.url.path.startswith("/play"):
            return address
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        known = [hmac.compare_digest(given.strip().encode(), key) for key in self._keys]
        if scheme.lower() != "bearer" or not any(known):
            raise Refusal(401, "Send one of the server's keys, as `Authorization: Bearer KEY`.")
        return f"key {known.index(True)}"


async def _gone(receive: Receive, left: asyncio.Event) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    left.set()


def _until(left: asyncio.Event) -> Receive:
    async def receive() -> Message:
        await left.wait()
        return {"type": "http.disconnect"}

    return receive


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return _answer_of(error)


async def _not_there(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    said = {404: f"There is nothing at {request.url.path[:100]}.", 405: f"{request.method} is not answered here."}
    answer = _answer_of(Refusal(error.status_code, said.get(error.status_code, error.detail)))
    answer.headers.update(error.headers or {})
    return answer


def _answer_of(refusal: Refusal) -> JSONResponse:
    headers = {"Retry-After": str(refusal.seconds)} if refusal.seconds else {}
    if refusal.status in (408, 413):
        headers["Connection"] = "close"
    if refusal.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(refusal.body, refusal.status, headers)


async def _health(_: Request) -> Response:
    return JSONResponse({"status": "ok"})


async def _metrics(request: Request) -> Response:
    state = request.app.state
    return PlainTextResponse(state.metrics.text(state.service), media_type="text/plain; version=0.0.4")

"""What every request passes and every response carries: limits, and headers that keep browsers strict."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LARGEST_BODY = 4096  # bytes; a judgement has about 150, with the longest comment 3,800
BODY_SECONDS = 10.0  # for a body to arrive
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",  # links carry the rater's token, which no other site is told
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Robots-Tag": "noindex, nofollow",
    "X-Study": "1",  # by which a page knows that no login page of a network answers in its place
}


@dataclass
class Bucket:
    """So many requests per second over time, and `burst` at once, for each of at most `most` callers."""

    rate: float
    burst: float
    most: int = 10_000
    _levels: OrderedDict[str, tuple[float, float]] = field(default_factory=OrderedDict)

    def allows(self, caller: str) -> bool:
        now = time.monotonic()
        level, at = self._levels.pop(caller, (self.burst, now))
        level = min(self.burst, level + (now - at) * self.rate)
        granted = level >= 1
        self._levels[caller] = (level - granted, now)
        if len(self._levels) > self.most:
            self._levels.popitem(last=False)
        return granted


class Guard:
    """ASGI middleware: headers on every response, limits per link and per address, no large or cross-site bodies.

    `prefix` is the path under which a proxy shows the study: requests come with it or without. A slash at the end of an
    address is left out, so that nobody is redirected to an address that may not be the one they came by.
    """

    def __init__(self, app: ASGIApp, prefix: str = "", host: str = "") -> None:
        self.app, self.prefix, self.host = app, prefix, host
        self.by_link = Bucket(rate=20, burst=60)
        self.by_address = Bucket(rate=600, burst=2000)  # raters of one institute share an address
        self.entering = Bucket(rate=0.5, burst=100)  # new raters of a crowd
        self.misses = Bucket(rate=0.2, burst=20)  # wrong links and wrong admin tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"].removeprefix(self.prefix) if scope["path"].startswith(f"{self.prefix}/") else scope["path"]
        scope = {**scope, "path": path.rstrip("/") or "/"}
        request, address = Request(scope), str((scope.get("client") or ("?",))[0])
        dropped = False

        async def headed(message: Message) -> None:
            nonlocal dropped
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
                if message["status"] in (401, 404) and not self.misses.allows(address):
                    dropped = True
                    await _too_many(60)(scope, receive, send)
            if not dropped:
                await send(message)

        refusal = self._refusal(request, address)
        if refusal is not None:
            await refusal(scope, receive, headed)
        elif request.method != "POST":
            await self.app(scope, receive, headed)
        else:
            body = await _body(receive)
            if isinstance(body, bytes):
                await self.app(scope, _given(body), headed)
            else:
                await body(scope, receive, headed)

    def _refusal(self, request: Request, address: str) -> PlainTextResponse | None:
        path = request.url.path.split("/")
        link = path[2] if len(path) > 2 and path[1] == "r" else ""
        is_file = path[1] in ("pictures", "static")
        if not self.by_address.allows(address) or not (is_file or self.by_link.allows(address + link)):
            return _too_many(2)
        length = request.headers.get("content-length", "" if request.method == "POST" else "0")
        most = LARGEST_BODY if request.method == "POST" else 0
        if "transfer-encoding" in request.headers or not length.isdecimal() or int(length) > most:
            return _too_large()
        if request.method == "POST":
            if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
                return PlainTextResponse("Not from another site.", 403)
            origin = request.headers.get("origin")
            if origin is not None and urlsplit(origin).netloc not in {request.headers.get("host"), self.host} - {""}:
                return PlainTextResponse("Not from another site.", 403)
            if path[1] == "enter" and not self.entering.allows(address):
                return _too_many(60)
        return None


async def _body(receive: Receive) -> bytes | PlainTextResponse:
    """The body, counted as it arrives, whatever was announced; or the refusal of what is too large or too slow."""
    body = b""
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while True:
                message = await receive()
                body += bytes(message.get("body", b""))
                if len(body) > LARGEST_BODY:
                    return _too_large()
                if message["type"] == "http.disconnect" or not message.get("more_body"):
                    return body
    except TimeoutError:
        return PlainTextResponse("Too slow.", 408, {"Connection": "close"})


def _given(body: bytes) -> Receive:
    parts: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        return parts.pop() if parts else {"type": "http.disconnect"}

    return receive


def _too_large() -> PlainTextResponse:
    return PlainTextResponse("Too large, or of unknown length.", 413, {"Connection": "close"})


def _too_many(seconds: int) -> PlainTextResponse:
    return PlainTextResponse("Too many requests. Wait a moment.", 429, {"Retry-After": str(seconds)})

"""What every request passes and every response carries: limits, and headers that keep browsers strict."""

from __future__ import annotations

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from retrodict.web import safety
from retrodict.web.safety import Bucket, TooLargeError, is_from_another_site, read_body, with_body

LARGEST_BODY = 4096  # bytes; a judgement has about 150, with the longest comment 3,800
BODY_SECONDS = 10.0  # for a body to arrive
HEADERS = safety.HEADERS | {
    "Content-Security-Policy": "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "same-origin",  # links carry the rater's token, which no other site is told
    "X-Study": "1",  # by which a page knows that no login page of a network answers in its place
}


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
        if refusal is None and request.method == "POST":
            try:
                receive = with_body(await read_body(receive, LARGEST_BODY, BODY_SECONDS), receive)
            except TooLargeError:
                refusal = _too_large()
            except TimeoutError:
                refusal = PlainTextResponse("Too slow.", 408, {"Connection": "close"})
        await (refusal or self.app)(scope, receive, headed)

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
            if is_from_another_site(request, (self.host,)):
                return PlainTextResponse("Not from another site.", 403)
            if path[1] == "enter" and not self.entering.allows(address):
                return _too_many(60)
        return None


def _too_large() -> PlainTextResponse:
    return PlainTextResponse("Too large, or of unknown length.", 413, {"Connection": "close"})


def _too_many(seconds: int) -> PlainTextResponse:
    return PlainTextResponse("Too many requests. Wait a moment.", 429, {"Retry-After": str(seconds)})

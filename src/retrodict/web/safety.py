"""Limits and headers: what no request may exceed, and what keeps browsers strict."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.types import Message, Receive

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Robots-Tag": "noindex, nofollow",
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


class TooLargeError(Exception):
    """A body has more bytes than are taken."""


async def read_body(receive: Receive, most: int, seconds: float) -> bytes:
    """The body, counted as it arrives, whatever was announced.

    Raises:
        TooLargeError: it has more than `most` bytes.
        TimeoutError: it did not arrive within `seconds`.
    """
    body = bytearray()
    async with asyncio.timeout(seconds):
        while True:
            message = await receive()
            body += message.get("body", b"")
            if len(body) > most:
                raise TooLargeError
            if message["type"] == "http.disconnect" or not message.get("more_body"):
                return bytes(body)


async def discard(receive: Receive, most: int, seconds: float) -> None:
    """Read on and keep nothing, as a client reads the answer only when it has sent everything; up to `most` bytes."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while most > 0:
                message = await receive()
                most -= len(message.get("body", b""))
                if message["type"] == "http.disconnect" or not message.get("more_body"):
                    return


def with_body(body: bytes, receive: Receive) -> Receive:
    """`receive` of a request whose body was read already."""
    parts: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return parts.pop() if parts else await receive()

    return again


def is_from_another_site(request: Request, hosts: Collection[str] = ()) -> bool:
    """Whether a browser says that a page of another site sends it; `hosts` are ours beside the one that was asked."""
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return True
    origin = request.headers.get("origin")
    return origin is not None and urlsplit(origin).netloc not in {request.headers.get("host"), *hosts} - {""}

"""uvicorn, with an end to its connections: in number, and in how long a request may take to arrive."""

from __future__ import annotations

import asyncio

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

MOST = 4000
_FILES = 64  # kept for everything that is no connection


def listen(
    app: ASGIApp, *, host: str, port: int, trusted: str = "", arrival: float = 15.0, closing: float | None = None
) -> None:
    """Serve until SIGINT or SIGTERM, and then until what was begun is answered. Requests are not logged.

    Args:
        app: the application.
        host: address to listen on.
        port: port to listen on.
        trusted: addresses of proxies, with commas, whose X-Forwarded-For is believed.
        arrival: seconds for a request, head and body, to arrive whole.
        closing: seconds for what was begun to be answered; None: as long as it takes.
    """
    most = most_connections()
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=limited(most, arrival),
        ws="none",
        backlog=min(128, max(8, most // 8)),
        access_log=False,
        log_level="error",
        server_header=False,
        proxy_headers=bool(trusted),
        forwarded_allow_ips=trusted,
        timeout_graceful_shutdown=None if closing is None else round(closing),
    )
    uvicorn.Server(config).run()


def most_connections() -> int:
    """How many connections the limit on open files leaves room for."""
    try:
        import resource
    except ImportError:  # Windows, which has no such limit
        return MOST
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST + 2 * _FILES
    if soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return int(min(MOST, max(16, soft - 2 * _FILES if soft > 4 * _FILES else soft // 2)))


def limited(most: int, arrival: float) -> type[H11Protocol]:
    """The protocol of a server with at most `most` connections, on which a request, head and body, has `arrival`
    seconds to arrive whole.

    One too many ends the connection that has waited longest for its request: those who send half of one do not keep
    others out.
    """
    waiting: dict[Limited, asyncio.TimerHandle] = {}

    class Limited(H11Protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._watch()
            if len(self.connections) > most:
                oldest = next(iter(waiting))
                oldest._arrived()  # now: its end comes a turn of the loop later, and others may come in this one
                oldest.transport.abort()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            self._arrived()

        def _watch(self) -> None:
            if self.transport.is_closing() or self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):
                self._arrived()
            elif self not in waiting:
                waiting[self] = self.loop.call_later(arrival, self.transport.abort)

        def _arrived(self) -> None:
            handle = waiting.pop(self, None)
            if handle is not None:
                handle.cancel()

    return Limited

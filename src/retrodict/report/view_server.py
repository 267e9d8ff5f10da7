"""The viewer on loopback: `retrodict view`. The standard library is enough for one reader."""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

from retrodict.report.viewer import Viewer

HOST = "127.0.0.1"
_NAMES = {HOST, "localhost"}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self' data:; style-src 'self'; script-src 'self'; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


def server(viewer: Viewer, port: int) -> ThreadingHTTPServer:
    """A server of the viewer's page, listening on loopback only; `serve_forever` runs it.

    Only loopback's own names are answered, so that no site on the web can reach it by a name of its own.

    Args:
        viewer: what to show.
        port: where to listen; 0 takes a free one.

    Raises:
        ValueError: the port is taken.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            named = urlsplit(f"//{self.headers.get('Host', '')}").hostname
            answer = viewer.get(unquote(urlsplit(self.path).path).lstrip("/")) if named in _NAMES else None
            data, kind = answer or (b"There is nothing here.\n", "text/plain; charset=utf-8")
            self.send_response(200 if answer else 404)
            for name, value in {**_HEADERS, "Content-Type": kind, "Content-Length": str(len(data))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    try:
        listening = ThreadingHTTPServer((HOST, port), Handler)
    except OSError as error:
        raise ValueError(f"Cannot listen on port {port} ({error.strerror}): name another with --port.") from None
    listening.daemon_threads = True
    return listening

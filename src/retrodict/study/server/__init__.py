"""The study's web server: `retrodict study serve`, the application behind uvicorn in one process."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from retrodict.study.plan import DATABASE, read_plan
from retrodict.study.store import Store


def serve(folder: Path, *, host: str, port: int, base: str = "", say: Callable[[str], object] = print) -> None:
    """Serve until interrupted. `say` gets the links, a line each; requests are not logged, as addresses hold tokens."""
    try:
        import uvicorn

        from retrodict.study.server.app import LOOPBACK, create_app
    except ImportError as error:
        raise ImportError(f"The study's server needs its extra: pip install 'retrodict[study]' ({error}).") from None
    if base and (urlsplit(base).scheme not in ("http", "https") or not urlsplit(base).hostname):
        raise ValueError(f"--public-url {base} is no address: write it as https://study.example.org")
    _check_free(host, port)
    app = create_app(folder, hosts=_hosts(host, base, LOOPBACK), base=base)
    for line in links(folder, base or f"http://{host}:{port}"):
        say(line)
    config = uvicorn.Config(
        app, host=host, port=port, access_log=False, log_level="warning", server_header=False, proxy_headers=False
    )
    uvicorn.Server(config).run()


def _check_free(host: str, port: int) -> None:
    """Raises `ValueError` in place of uvicorn's several lines."""
    try:
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            pass
    except OSError as error:
        raise ValueError(f"Cannot listen on {host} port {port} ({error.strerror}): name another with --port.") from None


def _hosts(host: str, base: str, loopback: tuple[str, ...]) -> tuple[str, ...]:
    """On loopback only its names are answered, so that no other site can reach the server by a name of its own."""
    if host in ("127.0.0.1", "localhost", "::1"):
        named = urlsplit(base).hostname
        return (*loopback, named) if named else loopback
    return ("*",)


def links(folder: Path, base: str) -> list[str]:
    """The admin's address and token, and one personal link per rater."""
    read_plan(folder)
    with Store(folder / DATABASE) as store:
        base = base.rstrip("/")
        raters = store.rows("SELECT id, token, closed FROM rater ORDER BY id")
        lines = [f"Admin: {base}/admin  token: {store.setting('admin')}"]
        lines += [f"Rater {row['id']}: {base}/r/{row['token']}" for row in raters if not row["closed"]]
    return lines

"""The study's web server: `retrodict study serve`, the application behind uvicorn in one process."""

from __future__ import annotations

import re
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from retrodict.study.plan import DATABASE, read_plan
from retrodict.study.store import Store

_LOCAL = ("127.0.0.1", "localhost", "::1")


def serve(
    folder: Path, *, host: str, port: int, base: str = "", proxy: str = "", say: Callable[[str], object] = print
) -> None:
    """Serve until interrupted. Requests are not logged, as addresses hold tokens.

    Args:
        folder: the study.
        host: address to listen on.
        port: port to listen on.
        base: address that raters use, where a proxy stands in front; it may have a path.
        proxy: addresses of proxies, with commas, whose X-Forwarded-For is believed. By default those of this machine
            when `base` is given and nothing else can reach the server.
        say: gets the links, a line each. The admin's token is among them on a terminal only, so that no log has it.

    Raises:
        ValueError: the study or an address is wrong, or the port is taken.
        ImportError: the extra is not installed.
    """
    try:
        import uvicorn

        from retrodict.study.server.app import LOOPBACK, create_app
        from retrodict.study.server.connections import limited, most_connections
    except ImportError as error:
        raise ImportError(f"The study's server needs its extra: pip install 'retrodict[study]' ({error}).") from None
    check_address(base)
    _check_free(host, port)
    app = create_app(folder, hosts=_hosts(host, base, LOOPBACK), base=base)
    for line in links(folder, base or f"http://{host}:{port}", secret=sys.stdout.isatty()):
        say(line)
    trusted = proxy or ("127.0.0.1,::1" if base and host in _LOCAL else "")
    most = most_connections()
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=limited(most),
        ws="none",
        backlog=min(128, max(8, most // 8)),
        access_log=False,
        log_level="error",
        server_header=False,
        proxy_headers=bool(trusted),
        forwarded_allow_ips=trusted or "",
    )
    uvicorn.Server(config).run()


def check_address(base: str) -> None:
    """Raises `ValueError` for what is no address of a web site, with or without a path."""
    try:
        parts = urlsplit(base)
        good = parts.scheme in ("http", "https") and bool(
            re.fullmatch(r"[\w.-]+(:\d+)?|\[[\da-fA-F:]+\](:\d+)?", parts.netloc)
        )
        good = (
            good
            and parts.port != 0
            and bool(re.fullmatch(r"[\w.~/-]*", parts.path))
            and not parts.query + parts.fragment
        )
    except ValueError:  # a port that is no number of a port
        good = False
    if base and not good:
        raise ValueError(f"--public-url {base} is no address: write it as https://study.example.org or .../path.")


def _check_free(host: str, port: int) -> None:
    """Raises `ValueError` in place of uvicorn's several lines."""
    try:
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            pass
    except OSError as error:
        raise ValueError(f"Cannot listen on {host} port {port} ({error.strerror}): name another with --port.") from None


def _hosts(host: str, base: str, loopback: tuple[str, ...]) -> tuple[str, ...]:
    """On loopback only its names are answered, so that no other site can reach the server by a name of its own."""
    if host in _LOCAL:
        named = urlsplit(base).hostname
        return (*loopback, named) if named else loopback
    return ("*",)


def links(folder: Path, base: str, *, secret: bool = True) -> list[str]:
    """The admin's address, with its token if `secret`, the common link of a crowd, and one personal link per rater."""
    plan, base = read_plan(folder), base.rstrip("/")
    with Store(folder / DATABASE) as store:
        token = f"token: {store.setting('admin')}" if secret else f"(token: retrodict study links {folder})"
        lines = [f"Admin: {base}/admin  {token}"]
        if plan.crowd is not None:
            lines.append(f"Everybody: {base}/enter")
        raters = store.rows("SELECT id, token FROM rater WHERE NOT closed AND parameters IS NULL ORDER BY id")
        lines += [f"Rater {row['id']}: {base}/r/{row['token']}" for row in raters]
    return lines

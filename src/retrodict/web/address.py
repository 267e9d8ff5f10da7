"""Where a server listens and to which names it answers. Needs no extra."""

from __future__ import annotations

import re
import socket
from urllib.parse import urlsplit

LOCAL = ("127.0.0.1", "localhost", "::1")
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")  # as the Host header writes them


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


def check_free(host: str, port: int) -> None:
    """Raises `ValueError` in place of uvicorn's several lines."""
    try:
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            pass
    except OSError as error:
        raise ValueError(f"Cannot listen on {host} port {port} ({error.strerror}): name another with --port.") from None


def hosts_answered(host: str, base: str = "") -> tuple[str, ...]:
    """Names that a server answers to. On loopback only its own, so that no other site can reach it by a name of its
    own; `base` is the public address where a proxy stands in front."""
    if host in LOCAL:
        named = urlsplit(base).hostname
        return (*LOOPBACK, named) if named else LOOPBACK
    return ("*",)

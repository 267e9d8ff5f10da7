"""The study's web server: `retrodict study serve`, the application behind uvicorn in one process."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from retrodict.study.plan import DATABASE, read_plan
from retrodict.study.store import Store


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
        from retrodict.study.server.app import create_app
        from retrodict.web.address import LOCAL, check_address, check_free, hosts_answered
        from retrodict.web.connections import listen
    except ImportError as error:
        raise ImportError(f"The study's server needs its extra: pip install 'retrodict[study]' ({error}).") from None
    check_address(base)
    check_free(host, port)
    app = create_app(folder, hosts=hosts_answered(host, base), base=base)
    for line in links(folder, base or f"http://{host}:{port}", secret=sys.stdout.isatty()):
        say(line)
    listen(app, host=host, port=port, trusted=proxy or ("127.0.0.1,::1" if base and host in LOCAL else ""))


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

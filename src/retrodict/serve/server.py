"""`retrodict serve` and `retrodict play`: the application behind uvicorn, one process."""

from __future__ import annotations

import socket
import threading
import time
import webbrowser
from collections.abc import Callable
from pathlib import Path

from retrodict.errors import check_count
from retrodict.loading import world_of_model
from retrodict.web.address import check_free, hosts_answered
from retrodict.worlds import DEFAULT

CLOSING = 120.0  # seconds in which what was begun is answered after SIGTERM


def serve(
    *,
    model: str = "small",
    inverse: str = "",
    n: int = 8,
    verifier: str = "",
    world: str = "",
    host: str = "127.0.0.1",
    port: int = 8000,
    key_file: Path | None = None,
    browse: bool = False,
    say: Callable[[str], object] = print,
) -> None:
    """Serve until SIGINT or SIGTERM, and then until what was begun is answered.

    Args:
        model: the forward model, as for `retrodict.load`.
        inverse: the inverse model behind the verifier; by default the one in `model`.
        n: candidates of each prediction, unless a request says otherwise.
        verifier: what chooses; by default "idm_fdm", or "idm" where the forward model gives no likelihoods.
        world: whose examples, pieces and actions the playground offers; by default the one that the model comes from.
        host: address to listen on.
        port: port to listen on; 0: a free one.
        key_file: a file of keys, of which each request must bring one.
        browse: open the playground in the browser.
        say: gets what is told, a line each.

    Raises:
        ValueError: a model, a verifier or the file of keys is wrong, or the port is taken.
        ImportError: the extra is not installed.
    """
    try:
        from retrodict.serve.api import MOST_CANDIDATES
        from retrodict.serve.app import create_app, read_keys
        from retrodict.serve.forms import Limits
        from retrodict.serve.models import Models
        from retrodict.web.connections import listen
    except ImportError as error:
        raise ImportError(f"The server needs its extra: pip install 'retrodict[serve]' ({error}).") from None
    port = port or _free_port(host)
    check_free(host, port)
    keys = read_keys(key_file) if key_file else []
    check_count("n", n, MOST_CANDIDATES)
    limits = Limits()
    models = Models(model, inverse, verifier, n)
    app = create_app(
        models, world=world or world_of_model(model) or DEFAULT, keys=keys, hosts=hosts_answered(host), limits=limits
    )
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    say(f"Playground: {address}/\nAPI:        {address}/v1")
    if host not in ("127.0.0.1", "localhost", "::1") and not keys:
        say("Anybody who reaches this address is answered: give --api-key-file to ask for keys.")
    if browse:
        threading.Thread(target=_browse, args=(host, port, f"{address}/"), daemon=True).start()
    listen(app, host=host, port=port, arrival=limits.arrival + 5, closing=CLOSING)


def _free_port(host: str) -> int:
    with socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        return int(probe.getsockname()[1])


def _browse(host: str, port: int, address: str) -> None:
    """Open the browser as soon as the server listens."""
    for _ in range(100):
        try:
            socket.create_connection((host, port), timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            webbrowser.open(address)
            return

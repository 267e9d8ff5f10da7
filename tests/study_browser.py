"""What the tests of the human study's pages share: a browser, a server of its own, links."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from loopback import free_port

from retrodict.study.plan import DATABASE
from retrodict.study.store import Store

FLAGS = ["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
PATIENCE = 120_000  # milliseconds for whatever a page is waited for: machines that test may be busy


def tokens(study: Path) -> list[str]:
    with Store(study / DATABASE) as store:
        return [row["token"] for row in store.rows("SELECT token FROM rater ORDER BY id")]


def chromium() -> str:
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return path
    pytest.skip("no Chromium on this machine: the browser test needs one")


def wait_for(port: int, process: subprocess.Popen[Any]) -> None:
    """Until the process listens there."""
    for _ in range(900):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            assert process.poll() is None
            time.sleep(0.1)
    raise AssertionError("the server does not listen")


@contextmanager
def served(study: Path, *options: str, port: int = 0) -> Iterator[str]:
    """A server of its own, on a free port, with its address."""
    port = port or free_port()
    command = [sys.executable, "-m", "retrodict", "study", "serve", str(study), "--port", str(port), *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        wait_for(port, process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()

"""Helper processes that start quickly and end with the process that started them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Sequence
from multiprocessing.context import BaseContext


def quick_context(preload: Sequence[str]) -> BaseContext:
    """How to start processes that all use the same modules: forked from one that has loaded them, where that is safe.

    That is the default of Python 3.14 on Linux, too. The modules must start no thread when they are imported.
    """
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    return context


def follow_parent() -> None:
    """What a helper process does first: leave Ctrl-C to its parent, and end when that is gone, so that a killed run
    leaves nobody behind who still writes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "called in a helper process"
    parent.join()
    os._exit(1)

"""The live view of a terminal: a table of stages, what each is for, how far it is and how long everything will take."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from retrodict.progress import Board, EventProgress, PlainProgress, Progress, QuietProgress, Row, clock


class RichProgress(EventProgress):
    """A live table for terminals. Use it as a context manager."""

    def __init__(self, console: Console, title: str = "", board: Board | None = None) -> None:
        self.board = board or Board()
        super().__init__(self.board.handle)
        self._console = console
        self._title = title
        self._live = Live(console=console, get_renderable=self.render, refresh_per_second=4)

    def __enter__(self) -> RichProgress:
        self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.board.stop()
        self._live.stop()

    def render(self) -> RenderableType:
        """The table as it is now."""
        board = self.board
        now = board.now()
        rows = list(board.rows.values())
        if not rows:
            return Text()
        head = Table.grid(expand=True)
        head.add_column(ratio=1)
        head.add_column(justify="right")
        left = f"   about {clock(seconds)} left" if (seconds := board.left()) >= 1 else ""
        head.add_row(Text(self._title, "bold"), Text(f"{clock(board.elapsed())} elapsed{left}", "bold"))
        roomy = self._console.height > 2 * len(rows) + 3
        body = Table.grid(expand=True, padding=(0, 2, 0, 0))
        body.add_column(no_wrap=True)
        body.add_column(no_wrap=True, max_width=14)
        body.add_column(ratio=4, no_wrap=not roomy, overflow="ellipsis")
        body.add_column(ratio=3, no_wrap=not roomy, overflow="ellipsis")
        body.add_column(justify="right", no_wrap=True, min_width=5)
        marks = _MARKS if self._console.encoding.startswith("utf") else _ASCII_MARKS
        for row in rows:
            body.add_row(*_cells(row, now, marks))
        return Group(Text(), head, body)


_MARKS = {"waiting": "○", "running": "●", "done": "✓", "stopped": "✗"}
_ASCII_MARKS = {"waiting": ".", "running": ">", "done": "+", "stopped": "x"}
_STYLES = {"waiting": "dim", "running": "bold cyan", "done": "green", "stopped": "yellow"}


def _cells(row: Row, now: float, marks: Mapping[str, str]) -> list[RenderableType]:
    style = _STYLES[row.state]
    status: RenderableType = Text(row.summary)
    took = clock(row.seconds(now))
    if row.state == "waiting":
        took = f"~{clock(row.stage.seconds)}" if row.stage.seconds else ""
    elif row.state == "stopped":
        status = Text("stopped", "yellow")
    elif row.state == "running":
        status = _bar(row)
    name_style = style if row.state != "done" else ""
    purpose = Text(row.stage.purpose, "" if row.state == "running" else "dim")
    return [Text(marks[row.state], style), Text(row.stage.name, name_style), purpose, status, Text(took, style)]


def _bar(row: Row) -> RenderableType:
    bar = Table.grid(expand=True, padding=(0, 1, 0, 0))
    bar.add_column(ratio=1)
    bar.add_column(width=4, justify="right")
    # Without steps to count, the bar only shows that work goes on.
    bar.add_row(
        ProgressBar(
            total=row.total or None,
            completed=row.done,
            pulse=not row.total,
            complete_style="cyan",
            finished_style="cyan",
        ),
        f"{100 * row.done // row.total}%" if row.total else "",
    )
    return Group(bar, Text(row.note, "dim", no_wrap=True, overflow="ellipsis")) if row.note else bar


@contextmanager
def open_progress(quiet: bool = False, title: str = "") -> Iterator[Progress]:
    """The progress that fits: a live table in a terminal, plain lines in a log, nothing when quiet."""
    if quiet:
        yield QuietProgress()
    elif sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
        with RichProgress(Console(), title) as progress:
            yield progress
    else:
        yield PlainProgress(partial(print, flush=True))

"""Progress: what the views say and how the time left is estimated."""

from __future__ import annotations

import io
import queue
import threading

from rich.console import Console

from retrodict.progress import Board, EventProgress, PlainProgress, Progress, Stage, receive
from retrodict.progress.view import RichProgress


class Clock:
    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


PLAN = [
    Stage("mine", "find pairs", seconds=10),
    Stage("ft", "labelled only", seconds=100, group="forward"),
    Stage("fdm", "all", seconds=140, group="forward"),
]


def mine(progress: Progress, clock: Clock) -> None:
    progress.plan(PLAN)
    progress.stage("mine")
    clock.time += 20
    progress.done("7 pairs")


def test_plain_lines_one_per_begin_and_end() -> None:
    clock, lines = Clock(), []
    progress = PlainProgress(lines.append, Board(clock))
    mine(progress, clock)
    progress.stage("ft")
    progress.advance(1, 2)
    # Twice as slow as planned on little evidence: (20 + 10) / (10 + 10) times the longer of the two side by side.
    assert lines == [
        "[0:00] mine: find pairs",
        "[0:20] mine: done in 0:20: 7 pairs (about 3:30 left)",
        "[0:20] ft: labelled only",
    ]


def test_time_left_follows_the_steps_since_a_resume() -> None:
    clock = Clock()
    board = Board(clock)
    progress = EventProgress(board.handle)
    progress.stage("train")
    progress.advance(50, 100)
    clock.time += 10
    progress.advance(60, 100)
    assert board.left() == 40


def test_two_processes_show_in_one_table() -> None:
    clock = Clock()
    console = Console(width=100, height=40, file=io.StringIO(), record=True, force_terminal=True)
    view = RichProgress(console, "retrodict demo", Board(clock))
    mine(view, clock)
    events: queue.Queue[object] = queue.Queue()

    def work(name: str) -> None:
        worker = EventProgress(events.put)
        worker.stage(name)
        worker.advance(25, 100, f"loss of {name}")

    with receive(events, view):
        workers = [threading.Thread(target=work, args=(name,)) for name in ("ft", "fdm")]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    console.print(view.render())
    text = console.export_text()
    assert text.count("●") == 2 and text.count(" 25%") == 2 and text.count("✓") == 1
    assert "loss of fdm" in text and "7 pairs" in text and "left" in text

"""Progress reporting for long-running work: stages, what each is for, how far it is, and the time left.

Code calls a `Progress`. In another process it calls `EventProgress(queue.put)`, and `receive` feeds the events to the
view in this one, so that stages that run side by side show in one place:

    with open_progress(title="retrodict demo") as progress:
        progress.plan([Stage("mine", "find moments where something happened", seconds=10)])
        progress.stage("mine")
        progress.advance(3, 40)
        progress.done("120 pairs")
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Literal, Protocol

from retrodict.files import JsonMapping

Event = JsonMapping


@dataclass(frozen=True)
class Stage:
    """One stage, as planned."""

    name: str
    purpose: str = ""  # one short sentence
    seconds: float = 0.0  # expected; 0 where nobody knows
    group: str = ""  # stages next to each other in one group run side by side


class Progress(Protocol):
    """What long-running code reports to."""

    def plan(self, stages: Sequence[Stage]) -> None:
        """Announce all stages in order; optional, but only planned work can be counted in the time left."""

    def stage(self, name: str, purpose: str = "") -> None:
        """A stage begins. What follows is about it."""

    def advance(self, done: int, total: int, note: str = "") -> None:
        """So many of so many steps are done; `note` is a few words such as the loss."""

    def done(self, summary: str = "") -> None:
        """The stage is over; `summary` is a few words such as what it made."""

    def handle(self, event: Event) -> None:
        """An event from the `EventProgress` of another process."""


class EventProgress:
    """Turns calls into events: plain dictionaries that can be sent between processes."""

    def __init__(self, send: Callable[[Event], None]) -> None:
        self._send = send
        self._stage = ""

    def plan(self, stages: Sequence[Stage]) -> None:
        self._send({"event": "plan", "stages": [asdict(stage) for stage in stages]})

    def stage(self, name: str, purpose: str = "") -> None:
        self._stage = name
        self._send({"event": "stage", "stage": name, "purpose": purpose})

    def advance(self, done: int, total: int, note: str = "") -> None:
        self._send({"event": "advance", "stage": self._stage, "done": done, "total": total, "note": note})

    def done(self, summary: str = "") -> None:
        self._send({"event": "done", "stage": self._stage, "summary": summary})

    def handle(self, event: Event) -> None:
        self._send(event)


class EventQueue(Protocol):
    """A `multiprocessing` or `queue` queue."""

    def get(self) -> Event | None: ...
    def put(self, item: Event | None) -> None: ...


@contextmanager
def receive(queue: EventQueue, progress: Progress) -> Iterator[None]:
    """While the block runs, pass the events that arrive in `queue` on to `progress`."""

    def pump() -> None:
        while (event := queue.get()) is not None:
            progress.handle(event)

    thread = threading.Thread(target=pump, daemon=True)
    thread.start()
    try:
        yield
    finally:
        queue.put(None)
        thread.join()


@dataclass
class Row:
    """A stage as it goes."""

    stage: Stage
    state: Literal["waiting", "running", "done", "stopped"] = "waiting"
    began: float = 0.0
    ended: float = 0.0
    first: tuple[int, float] | None = None  # steps done at the first report (more than 0 after a resume), and when
    done: int = 0
    total: int = 0
    note: str = ""
    summary: str = ""

    def seconds(self, now: float) -> float:
        return {"waiting": 0.0, "running": now - self.began}.get(self.state, self.ended - self.began)

    def left(self, now: float, pace: float) -> float:
        if self.state in ("done", "stopped"):
            return 0.0
        if self.first and self.total and (made := self.done - self.first[0]) >= 0.03 * self.total:
            return max(self.total - self.done, 0) * (now - self.first[1]) / made
        return max(self.stage.seconds * pace - self.seconds(now), 0.0)


class Board:
    """The state of all stages, changed by events."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self.now = now
        self._lock = threading.Lock()
        self._began = now()
        self.rows: dict[str, Row] = {}

    def handle(self, event: Event) -> None:
        with self._lock:
            now = self.now()
            if event["event"] == "plan":
                for planned in event["stages"]:
                    self.rows.setdefault(planned["name"], Row(Stage(**planned)))
                return
            row = self.rows.setdefault(event["stage"], Row(Stage(event["stage"], event.get("purpose", ""))))
            if event["event"] == "stage":
                purpose = event["purpose"] or row.stage.purpose
                planned = Stage(row.stage.name, purpose, row.stage.seconds, row.stage.group)
                self.rows[row.stage.name] = Row(planned, "running", began=now)
            elif event["event"] == "advance":
                row.first = row.first or (event["done"], now)
                row.done, row.total, row.note = event["done"], event["total"], event["note"]
            elif event["event"] == "done":
                row.state, row.ended, row.summary = "done", now, event["summary"]

    def stop(self) -> None:
        """Mark what still runs as stopped."""
        with self._lock:
            for row in self.rows.values():
                if row.state == "running":
                    row.state, row.ended = "stopped", self.now()

    def elapsed(self) -> float:
        return self.now() - self._began

    def left(self) -> float:
        """Expected seconds until all planned stages are done."""
        with self._lock:
            now, pace, total = self.now(), self._pace(), 0.0
            groups: dict[str, list[float]] = {}
            for name, row in self.rows.items():
                groups.setdefault(row.stage.group or f" {name}", []).append(row.left(now, pace))
            for side_by_side in groups.values():
                total += max(*side_by_side, sum(side_by_side) / 2)
            return total

    def _pace(self) -> float:
        """How much slower than expected this machine is, from what is done; stages that were kept do not count."""
        ran = [r for r in self.rows.values() if r.state == "done" and r.seconds(0) > 0.1 * r.stage.seconds > 0]
        expected = sum(r.stage.seconds for r in ran)
        pace = (sum(r.seconds(0) for r in ran) + 10) / (expected + 10)
        return min(max(pace, 0.25), 8.0)


class QuietProgress(EventProgress):
    """Shows nothing."""

    def __init__(self) -> None:
        super().__init__(lambda event: None)


class PlainProgress(EventProgress):
    """One line when a stage begins and one when it ends: for logs."""

    def __init__(self, write: Callable[[str], None], board: Board | None = None) -> None:
        super().__init__(self._show)
        self._write = write
        self._board = board or Board()

    def _show(self, event: Event) -> None:
        board = self._board
        board.handle(event)
        if event["event"] == "stage":
            row = board.rows[event["stage"]]
            self._write(f"[{clock(board.elapsed())}] {row.stage.name}: {row.stage.purpose or 'begins'}")
        elif event["event"] == "done":
            row = board.rows[event["stage"]]
            summary = f": {row.summary}" if row.summary else ""
            left = f" (about {clock(seconds)} left)" if (seconds := board.left()) >= 1 else ""
            took = clock(row.ended - row.began)
            self._write(f"[{clock(board.elapsed())}] {row.stage.name}: done in {took}{summary}{left}")


def clock(seconds: float) -> str:
    """`0:09`, `12:34` or `1:02:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"

"""Threads in which models run, and the queue before them: bounded, fair, in batches across clients."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class FullError(Exception):
    """The queue is full. `seconds`: after which it is likely not to be."""

    def __init__(self, seconds: int) -> None:
        super().__init__("The queue is full.")
        self.seconds = seconds


@dataclass(frozen=True)
class Work(Generic[T, R]):
    """What a model does to some items at once. Items of equal works share a batch, whoever asked.

    Attributes:
        do: items and settings in, one result for each item out.
        settings: what else `do` is given.
        at_once: items in one batch, at most.
    """

    do: Callable[..., Sequence[R]]
    settings: tuple[Hashable, ...] = ()
    at_once: int = 1


@dataclass(eq=False)
class _Job:
    work: Work[Any, Any]
    item: Any
    answer: Future[Any] = field(default_factory=Future)


class Engine:
    """Runs works. Clients take turns: each batch is filled with one item of each client that has some, again and again,
    up to a thread's share of what waits.

    Where the queue is full, a client with fewer items in it takes the place of the last of whoever has most.

    Args:
        most: items in the queue.
        threads: batches that run at a time.
        begin: called in each thread before its first batch.
    """

    def __init__(self, most: int, threads: int = 1, begin: Callable[[], object] = lambda: None) -> None:
        self._most, self._begin = most, begin
        self._queues: OrderedDict[str, deque[_Job]] = OrderedDict()
        self._changed = threading.Condition()
        self._closed = False
        self.batches, self.items, self.busy = 0, 0, 0.0  # so far; seconds
        self._threads = [threading.Thread(target=self._run, name="models", daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """Items in the queue."""
        with self._changed:
            return self._waiting()

    async def run(self, work: Work[T, R], item: T, client: str) -> R:
        """What `work` makes of one item. When this is cancelled before its turn, the item leaves the queue.

        Raises:
            FullError: the queue is full.
            Exception: what `work` raises.
        """
        job = _Job(work, item)
        with self._changed:
            queue = self._queues.get(client, deque())
            if self._waiting() >= self._most:
                self._make_room(len(queue))
            self._queues.setdefault(client, queue).append(job)
            self._changed.notify()
        try:
            result: R = await asyncio.wrap_future(job.answer)
        except asyncio.CancelledError:
            self._remove(client, job)
            raise
        return result

    def close(self) -> None:
        """End the threads after their batches. What waits is cancelled."""
        with self._changed:
            self._closed = True
            for queue in self._queues.values():
                for job in queue:
                    job.answer.cancel()
            self._queues.clear()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _waiting(self) -> int:
        return sum(map(len, self._queues.values()))

    def _make_room(self, mine: int) -> None:
        """Raises `FullError` for whoever has as many items as anybody else."""
        longest = max(self._queues.values(), key=len)
        each = self.busy / self.items if self.items else 1.0
        refusal = FullError(max(1, math.ceil(self._waiting() * each / len(self._threads))))
        if len(longest) <= mine + 1:
            raise refusal
        longest.pop().answer.set_exception(refusal)

    def _remove(self, client: str, job: _Job) -> None:
        with self._changed:
            queue = self._queues.get(client, deque())
            if job in queue:
                queue.remove(job)
            if not queue:
                self._queues.pop(client, None)

    def _run(self) -> None:
        self._begin()
        while batch := self._next():
            began = time.monotonic()
            _do([job for job in batch if job.answer.set_running_or_notify_cancel()])
            with self._changed:
                self.busy += time.monotonic() - began
                self.batches += 1
                self.items += len(batch)

    def _next(self) -> list[_Job]:
        """The next batch, as soon as there is one; empty at the end."""
        with self._changed:
            while not self._queues and not self._closed:
                self._changed.wait()
            batch: list[_Job] = []
            share = -(-self._waiting() // len(self._threads))
            while self._queues and not self._closed:
                took = len(batch)
                for client in list(self._queues):
                    queue = self._queues[client]
                    if batch and (len(batch) >= min(share, batch[0].work.at_once) or queue[0].work != batch[0].work):
                        continue
                    batch.append(queue.popleft())
                    if queue:
                        self._queues.move_to_end(client)
                    else:
                        del self._queues[client]
                if len(batch) == took:
                    break
            return batch


def _do(batch: list[_Job]) -> None:
    """Run a batch; if it fails, one by one, so that nobody fails for another's item."""
    if not batch:
        return
    work = batch[0].work
    try:
        results = work.do([job.item for job in batch], *work.settings)
    except Exception as error:  # whatever it is belongs to the one who asked, and the thread goes on for the others
        if len(batch) > 1:
            for job in batch:
                _do([job])
        else:
            batch[0].answer.set_exception(error)
        return
    for job, result in zip(batch, results, strict=True):
        job.answer.set_result(result)

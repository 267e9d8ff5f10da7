"""Stages of a run: each is done once, two run side by side, and the same command resumes where the last one stopped.

Under `torchrun` they run one after the other instead: on all ranks those that share their work, on rank 0 the others.

A stage is a module-level function `run(context, progress) -> summary` that reads and writes the run's folder. When it
returns, its record `stages/<name>.json` is written; a stage with a record is not run again. A stage that was killed
starts anew and finds what it had finished by itself (shards, checkpoints).
"""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from multiprocessing.managers import SyncManager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Generic, TypeVar

import psutil

from retrodict.files import JsonObject, write_json
from retrodict.processes import follow_parent, quick_context
from retrodict.progress import EventProgress, EventQueue, Progress, receive
from retrodict.progress import Stage as Planned
from retrodict.training.distributed import RankError, agreed, is_main, meet, process_count

C = TypeVar("C")  # what a run's stages share; it must be picklable
Watch = Callable[[Sequence[str]], None]

MEMORY = "memory.json"
_LOADED = ("retrodict.bootstrap.stages", "retrodict.training.trainer")  # what takes a worker seconds to import


@dataclass(frozen=True)
class Stage(Generic[C]):
    """One stage. `run` is called in a worker process with the run's context."""

    name: str
    purpose: str  # one short sentence for people
    seconds: float  # expected, on one core
    run: Callable[[C, Progress], str]
    needs: tuple[str, ...] = ()
    shared: bool = False  # whether all ranks take part


def record_path(out: Path, name: str) -> Path:
    return out / "stages" / f"{name}.json"


def read_records(out: Path) -> dict[str, JsonObject]:
    """What finished stages left: `{name: {"seconds", "summary"}}`."""
    return {path.stem: json.loads(path.read_text()) for path in sorted((out / "stages").glob("*.json"))}


def run_stages(
    stages: Sequence[Stage[C]],
    out: Path,
    context: C,
    progress: Progress,
    workers: int = 2,
    watch: Watch = lambda running: None,
) -> None:
    """Run every stage that has no record, each as soon as what it needs is done, in `workers` processes of one thread.

    The first failure stops the run: running stages are ended, and the error is raised here. `memory.json` keeps the
    most memory that this process and its workers held at one time. `watch` is called here with the names of the stages
    that run, whenever one has begun or ended.
    """
    progress.plan([Planned(s.name, s.purpose, s.seconds, group="run") for s in stages])
    done = {s.name for s in stages if record_path(out, s.name).is_file()}
    for stage in stages:
        if stage.name in done:
            progress.stage(stage.name, stage.purpose)
            progress.done("done before")
    waiting = [s for s in stages if s.name not in done]
    if process_count() > 1:
        with watch_memory(out / MEMORY) if is_main() else nullcontext():
            _run_together(agreed(waiting), agreed(done), out, context, progress, watch)
        return
    if not waiting:
        return
    manager = SyncManager(ctx=multiprocessing.get_context("spawn"))
    manager.start(follow_parent)
    with manager:
        queue = manager.Queue()
        environment = dict(os.environ)
        pool = ProcessPoolExecutor(
            workers, mp_context=quick_context(_LOADED), initializer=_start_worker, initargs=(environment,)
        )
        with receive(queue, progress), watch_memory(out / MEMORY):
            try:
                _run_all(pool, waiting, done, out, context, queue, workers, watch)
            except BaseException:
                _kill(pool)
                raise
        pool.shutdown()


@contextmanager
def watch_memory(file: Path) -> Iterator[None]:
    """While the block runs, look at the resident memory of this process and its descendants twice a second.

    `file` holds the peak in MB; a later run in the same folder raises it or leaves it. Pages that processes share are
    counted in each, so the figure is an upper bound.
    """
    peak = json.loads(file.read_text())["peak_memory_mb"] if file.is_file() else 0
    stop = threading.Event()

    def look() -> None:
        nonlocal peak
        while not stop.wait(0.5):
            peak = max(peak, _resident_mb())

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        write_json(file, {"peak_memory_mb": peak})


def _resident_mb() -> int:
    total, me = 0, psutil.Process()
    for process in (me, *me.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            total += process.memory_info().rss
    return total >> 20


def _run_together(
    waiting: list[Stage[C]], done: set[str], out: Path, context: C, progress: Progress, watch: Watch
) -> None:
    """Run the stages one after the other, each on the ranks that take part in it."""
    while waiting:
        stage = next(stage for stage in waiting if done.issuperset(stage.needs))
        waiting.remove(stage)
        failed: BaseException | None = None
        began, summary = time.monotonic(), ""
        if is_main():
            watch([stage.name])
        try:
            if stage.shared or is_main():
                progress.stage(stage.name, stage.purpose)
                summary = stage.run(context, progress)
        except RankError:
            raise
        except Exception as error:
            failed = error
        meet(failed)
        if failed is not None:
            raise failed
        if is_main():
            _record(stage, out, began, summary)
        done.add(stage.name)
        progress.done(summary)


def _run_all(
    pool: ProcessPoolExecutor,
    waiting: list[Stage[C]],
    done: set[str],
    out: Path,
    context: C,
    queue: EventQueue,
    workers: int,
    watch: Watch,
) -> None:
    running: dict[Future[None], Stage[C]] = {}
    while waiting or running:
        # Only what can start at once is handed over, so that the order of the list decides who goes first.
        for stage in [s for s in waiting if done.issuperset(s.needs)][: workers - len(running)]:
            waiting.remove(stage)
            running[pool.submit(_run_stage, stage, out, context, queue)] = stage
        watch([stage.name for stage in running.values()])
        assert running, f"stages wait for what no stage makes: {[s.name for s in waiting]}"
        finished, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in finished:
            future.result()
            done.add(running.pop(future).name)


def _run_stage(stage: Stage[C], out: Path, context: C, queue: EventQueue) -> None:
    progress = EventProgress(queue.put)
    progress.stage(stage.name, stage.purpose)
    began = time.monotonic()
    summary = stage.run(context, progress)
    _record(stage, out, began, summary)
    progress.done(summary)


def _record(stage: Stage[C], out: Path, began: float, summary: str) -> None:
    record = {"seconds": round(time.monotonic() - began, 1), "summary": summary}
    write_json(record_path(out, stage.name), record)


def _start_worker(environment: Mapping[str, str]) -> None:
    follow_parent()
    os.environ.clear()  # a worker may be forked from a process that is older than what the caller set since
    # One thread each: two processes of one thread beat two threads in each of two processes.
    os.environ.update({**environment, "OMP_NUM_THREADS": "1"})
    import torch

    torch.set_num_threads(1)


def _kill(pool: ProcessPoolExecutor) -> None:
    processes: Mapping[int, BaseProcess] = getattr(pool, "_processes", None) or {}
    for process in list(processes.values()):
        process.kill()
    pool.shutdown(wait=False, cancel_futures=True)

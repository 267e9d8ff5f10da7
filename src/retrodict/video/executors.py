"""Where clips are mined on one machine: in this process, or in worker processes that outlive a clip. The output is the
same, and a clip may crash or hang its worker without harm to the run."""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import select
import subprocess
import sys
import threading
from collections.abc import Generator, Iterable, Iterator
from typing import IO, Protocol, TypeAlias

import psutil

from retrodict.video.clip_miner import process_clip
from retrodict.video.clips import ClipRef, ClipResult
from retrodict.video.config import MineConfig
from retrodict.video.worker import HEADER, TICK, send

_CHUNK = 1 << 20

Tasks: TypeAlias = "queue.SimpleQueue[tuple[int, ClipRef] | None]"
Results: TypeAlias = "queue.SimpleQueue[tuple[int, ClipResult | BaseException]]"


class Executor(Protocol):
    """Mines clips and yields their results in the order given."""

    def map(self, refs: Iterable[ClipRef]) -> Generator[ClipResult, None, None]: ...


class Serial:
    """In this process, one after the other. A clip that crashes a codec takes the run with it: for debugging."""

    def __init__(self, config: MineConfig) -> None:
        self._config = config

    def map(self, refs: Iterable[ClipRef]) -> Generator[ClipResult, None, None]:
        for ref in refs:
            yield process_clip(ref, self._config)


def executor(name: str, config: MineConfig, *, workers: int | None, timeout: float, retries: int) -> Executor:
    """The executor of that name, by default with a worker per usable core. Raises `ValueError` when there is none."""
    if name == "serial":
        return Serial(config)
    if name == "processes":
        return Pool(config, workers=workers or _cores(), timeout=timeout, retries=retries)
    raise ValueError(f"executor is {name!r}: choose one of serial, processes, ray.")


def _cores() -> int:
    """Those that this process may use; all where the system does not say."""
    usable = getattr(os, "sched_getaffinity", None)
    return len(usable(0)) if usable else os.cpu_count() or 1


class WorkerLostError(Exception):
    """The worker ended or was silent for too long; the message says which."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class Worker:
    """One worker process, started at the first clip and again after each loss."""

    def __init__(self, config: MineConfig, timeout: float) -> None:
        self._config, self._timeout = config, timeout
        self._process: subprocess.Popen[bytes] | None = None
        self._buffer = bytearray()
        self._closed = False
        self._lock = threading.Lock()  # `close` is called from another thread than `run`

    def run(self, ref: ClipRef) -> ClipResult:
        """Mine one clip. Raises `WorkerLostError` when the process dies or hangs (see `_wait`)."""
        process = self._process or self._start()
        assert process.stdin is not None
        try:
            send(process.stdin, ref)
            while (answer := self._answer(process)) == TICK:
                pass
        except BrokenPipeError:
            raise self._lost(process) from None
        assert isinstance(answer, ClipResult)
        return answer

    def close(self) -> None:
        """End the process for good, even amid a clip, and from another thread; `run` then raises `WorkerLostError`."""
        with self._lock:
            self._closed = True
            if self._process is not None:
                self._process.kill()  # it holds nothing: a result is either received whole or not at all

    def stop(self) -> None:
        with self._lock:
            process, self._process = self._process, None
            if process is not None:
                process.kill()
                process.wait()
                for pipe in (process.stdin, process.stdout):
                    _close(pipe)

    def _start(self) -> subprocess.Popen[bytes]:
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }
        command = [sys.executable, "-P", "-m", "retrodict.video.worker"]
        with self._lock:
            if self._closed:
                raise WorkerLostError("closed", "the run was stopped")
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
            self._process = process
        self._buffer.clear()
        assert process.stdin is not None
        send(process.stdin, self._config)
        return process

    def _answer(self, process: subprocess.Popen[bytes]) -> object:
        length = HEADER.unpack(self._read(process, HEADER.size))[0]
        return pickle.loads(self._read(process, length))

    def _read(self, process: subprocess.Popen[bytes], length: int) -> bytes:
        """Exactly `length` bytes, or `WorkerLostError`, also when the worker stops half-way through an answer."""
        assert process.stdout is not None
        descriptor = process.stdout.fileno()
        while len(self._buffer) < length:
            self._wait(process, descriptor)
            data = os.read(descriptor, _CHUNK)
            if not data:
                raise self._lost(process)
            self._buffer += data
        taken = bytes(self._buffer[:length])
        del self._buffer[:length]
        return taken

    def _wait(self, process: subprocess.Popen[bytes], descriptor: int) -> None:
        """Until there is something to read. The timeout counts the worker's own computing, as on a busy machine it may
        hardly run; one that does not run at all hangs."""
        began = last = _computed(process)
        while not select.select([descriptor], [], [], self._timeout)[0]:
            now = _computed(process)
            if now == last or now - began > self._timeout:
                self.stop()
                raise WorkerLostError("hung", f"no progress for {self._timeout:g} s")
            last = now

    def _lost(self, process: subprocess.Popen[bytes]) -> WorkerLostError:
        code = process.wait()
        self.stop()
        return WorkerLostError(
            "crashed", f"worker ended by signal {-code}" if code < 0 else f"worker exited with {code}"
        )


def _computed(process: subprocess.Popen[bytes]) -> float:
    """Seconds of CPU time that a process has had; 0 for one that is gone."""
    try:
        times = psutil.Process(process.pid).cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)


class Pool:
    """Mines clips in `workers` processes; results come in the order of the clips.

    A clip that crashes its worker, or lets it hang, is tried `retries` times more and then given up with that reason.
    """

    def __init__(self, config: MineConfig, *, workers: int, timeout: float, retries: int) -> None:
        self._config, self._workers, self._timeout, self._retries = config, workers, timeout, retries

    def map(self, refs: Iterable[ClipRef]) -> Generator[ClipResult, None, None]:
        tasks: Tasks = queue.SimpleQueue()
        results: Results = queue.SimpleQueue()
        refs = list(refs)
        workers = [Worker(self._config, self._timeout) for _ in range(min(self._workers, len(refs)))]
        stopped = threading.Event()
        threads = [
            threading.Thread(target=self._serve, args=(worker, tasks, results, stopped), daemon=True)
            for worker in workers
        ]
        for thread in threads:
            thread.start()
        try:
            yield from _in_order(enumerate(refs), tasks, results, ahead=4 * self._workers)
        finally:
            stopped.set()
            for _ in threads:
                tasks.put(None)
            for worker in workers:
                worker.close()
            for thread in threads:
                thread.join()

    def _serve(self, worker: Worker, tasks: Tasks, results: Results, stopped: threading.Event) -> None:
        while (task := tasks.get()) is not None and not stopped.is_set():
            number, ref = task
            try:
                results.put((number, self._persist(worker, ref, stopped)))
            except BaseException as error:  # handed to the caller, who raises it
                results.put((number, error))
        worker.stop()

    def _persist(self, worker: Worker, ref: ClipRef, stopped: threading.Event) -> ClipResult:
        last = WorkerLostError("closed", "the run was stopped")
        for _ in range(self._retries + 1):
            if stopped.is_set():
                break
            try:
                return worker.run(ref)
            except WorkerLostError as lost:
                last = lost
        return ClipResult(ref=ref, reason=last.reason, detail=f"{last}; tried {self._retries + 1} times")


def _in_order(refs: Iterator[tuple[int, ClipRef]], tasks: Tasks, results: Results, ahead: int) -> Iterator[ClipResult]:
    """Feed tasks, at most `ahead` of what was handed out, and hand out results in order."""
    waiting: dict[int, ClipResult] = {}
    fed = given = 0
    exhausted = False
    while True:
        while not exhausted and fed - given < ahead:
            task = next(refs, None)
            exhausted = task is None
            if task is not None:
                tasks.put(task)
                fed += 1
        if given == fed:
            return
        while given not in waiting:
            number, result = results.get()
            if isinstance(result, BaseException):
                raise result
            waiting[number] = result
        yield waiting.pop(given)
        given += 1


def _close(pipe: IO[bytes] | None) -> None:
    with contextlib.suppress(BrokenPipeError):  # unsent bytes for a process that is gone
        if pipe is not None:
            pipe.close()

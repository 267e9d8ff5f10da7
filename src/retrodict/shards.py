"""Shares of work: files are the queue.

A stage that makes one file of each part of its input can be shared by any number of processes that see the same
folders. Each makes the files of its share, one part in memory at a time; a file appears whole or not at all and is
left alone where it is there, so a process that died is started again and repeats nothing but the file that it was at.
Whoever finds all files there finishes the stage. On a Ray cluster actors take the parts one by one instead.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, NamedTuple

from retrodict.placement import DEVICE, DTYPE
from retrodict.progress import Progress


class Share(NamedTuple):
    """Which process this is, from 0, of how many."""

    number: int = 0
    total: int = 1

    def takes(self, part: int) -> bool:
        """Whether the part of this number is this process's."""
        return part % self.total == self.number


ALL = Share()


def share_of_process(shard: str = "") -> Share:
    """The share that was asked for, else that of a launcher, else everything.

    Args:
        shard: "2/8", the second of eight processes, which may run anywhere and at any time.

    Returns:
        Without `shard`, what `torchrun` says (`RANK`, `WORLD_SIZE`), or a Slurm job array (`SLURM_ARRAY_TASK_*`).

    Raises:
        ValueError: `shard` does not say so.
    """
    if shard:
        if not (said := re.fullmatch(r"(\d+)/(\d+)", shard)) or not 1 <= int(said[1]) <= int(said[2]):
            raise ValueError(f'"{shard}" is no share: --shard 2/8 is the second of eight.')
        return Share(int(said[1]) - 1, int(said[2]))
    variables = os.environ
    if "RANK" in variables and "WORLD_SIZE" in variables:
        return Share(int(variables["RANK"]), int(variables["WORLD_SIZE"]))
    if "SLURM_ARRAY_TASK_ID" in variables and "SLURM_ARRAY_TASK_COUNT" in variables:
        first, step = (int(variables.get(f"SLURM_ARRAY_TASK_{name}", default)) for name, default in _ARRAY)
        return Share((int(variables["SLURM_ARRAY_TASK_ID"]) - first) // step, int(variables["SLURM_ARRAY_TASK_COUNT"]))
    return ALL


_ARRAY = (("MIN", "0"), ("STEP", "1"))


@dataclass(frozen=True)
class OnRay:
    """Actors on a Ray cluster (extra `retrodict[ray]`): that of `RAY_ADDRESS`, else this machine.

    Files must have the same path on every node. Only numbers of shards and of rows go between the processes.

    Attributes:
        workers: how many actors; by default as many as the cluster has cores, or GPUs for.
        gpus: how many GPUs an actor has, or which part of one.
        retries: how often a shard is tried again whose actor or node died.

    Raises:
        ImportError: Ray is not installed.
    """

    workers: int | None = None
    gpus: float = 0.0
    retries: int = 2

    def __post_init__(self) -> None:
        try:
            import_module("ray")
        except ImportError:
            raise ImportError("The executor 'ray' needs Ray: pip install 'retrodict[ray]'.") from None


Where = Share | OnRay


@dataclass(frozen=True, kw_only=True)
class Sharing:
    """How the work of a command is shared, as its options say."""

    shard: str = field(
        default="",
        metadata={
            "help": "I/N: only the I-th of N shares of the work, in a folder that all processes see; whoever is last "
            "finishes. By default the share that torchrun or a Slurm array gives, else all."
        },
    )
    executor: Literal["serial", "ray"] = field(
        default="serial", metadata={"help": "Where the work is done: in this process, or by actors on a Ray cluster."}
    )
    workers: int | None = field(
        default=None, metadata={"help": "How many Ray actors; by default one per core, or GPU, of the cluster."}
    )
    gpus_per_worker: float = field(default=0.0, metadata={"help": "GPUs of each Ray actor, such as 1 or 0.5."})

    def where(self) -> Where:
        """Where that is. Raises `ValueError` for options that do not go together."""
        if self.executor == "ray":
            if self.shard:
                raise ValueError("--shard is for processes that you start yourself: leave it out with --executor ray.")
            if (self.workers is not None and self.workers < 1) or self.gpus_per_worker < 0:
                raise ValueError("--workers must be at least 1, --gpus-per-worker at least 0.")
            return OnRay(self.workers, self.gpus_per_worker)
        if self.workers is not None or self.gpus_per_worker:
            raise ValueError("--workers and --gpus-per-worker are for --executor ray; without it, see --shard.")
        return share_of_process(self.shard)


@dataclass(frozen=True)
class Shard:
    """A part of a stage's work, which gives one file.

    Attributes:
        is_made: whether the file is there, made of what the part is now.
        make: makes it; is told how to say how many rows are done.
        rows: how many rows the part has.
    """

    is_made: Callable[[], bool]
    make: Callable[[Callable[[int], None]], object]
    rows: int


Plan = Callable[[], Sequence[Shard]]


def run_shards(shards: Sequence[Shard], where: Where, progress: Progress, plan: Plan | None = None) -> int:
    """Make what is missing of a share, or on a Ray cluster all of it.

    Args:
        shards: all parts of the work.
        where: which share of it is this process's, or the cluster.
        progress: advances with the rows.
        plan: gives the same shards in another process. It is sent to Ray's actors, each of which calls it once.

    Returns:
        How many shards are not made yet: others are still at their shares. The stage is finished by every process that
        finds 0.

    Raises:
        ValueError: what a shard raised; or a shard whose actor died each time it was tried.
    """
    if isinstance(where, OnRay):
        assert plan is not None, "what runs on Ray says how its shards are made elsewhere"
        _run_on_ray(shards, where, progress, plan)
    else:
        _run_here(shards, where, progress)
    return sum(not shard.is_made() for shard in shards)


def _run_here(shards: Sequence[Shard], share: Share, progress: Progress) -> None:
    total, done = sum(shard.rows for shard in shards), 0
    for number, shard in enumerate(shards):

        def tell(rows: int, before: int = done) -> None:
            progress.advance(before + rows, total)

        if share.takes(number) and not shard.is_made():
            shard.make(tell)
        done += shard.rows
        progress.advance(done, total)


class _Maker:
    """A Ray actor: it loads what a stage needs once, and makes shards."""

    def __init__(self, plan: Plan, folder: Path, environment: dict[str, str]) -> None:
        os.environ.update(environment)
        if folder.is_dir():  # relative paths mean what they mean to the driver
            os.chdir(folder)
        self._plan = plan

    def begin(self) -> None:
        self._shards = self._plan()

    def make(self, number: int) -> None:
        shard = self._shards[number]
        if not shard.is_made():  # else by an actor that died before it could say so
            shard.make(lambda rows: None)


def _run_on_ray(shards: Sequence[Shard], cluster: OnRay, progress: Progress, plan: Plan) -> None:
    """Hand out one shard at a time to each actor that has begun. One that died is replaced, where there is room."""
    made = [shard.is_made() for shard in shards]
    waiting = [number for number in reversed(range(len(shards))) if not made[number]]
    if not waiting:
        return
    ray: Any = import_module("ray")
    if not ray.is_initialized():
        ray.init(log_to_driver=False)
    has = ray.cluster_resources()
    if cluster.gpus > has.get("GPU", 0):
        raise ValueError(f"The Ray cluster has {has.get('GPU', 0):g} GPUs, and a worker is to have {cluster.gpus:g}.")
    room = has["GPU"] / cluster.gpus if cluster.gpus else has.get("CPU", 1)
    kind = ray.remote(num_cpus=0 if cluster.gpus else 1, num_gpus=cluster.gpus)(_Maker)
    environment = {name: os.environ[name] for name in (DEVICE, DTYPE) if name in os.environ}
    running: dict[Any, tuple[Any, int]] = {}  # what is awaited: whose it is, and of which shard

    def begin() -> None:
        actor = kind.remote(plan, Path.cwd(), environment)
        running[actor.begin.remote()] = actor, _NONE

    for _ in range(min(cluster.workers or max(1, int(room)), len(waiting))):
        begin()
    lost: Counter[int] = Counter()
    total = sum(shard.rows for shard in shards)
    done = total - sum(shards[number].rows for number in waiting)
    while waiting or any(number != _NONE for _, number in running.values()):
        (answer,), _ = ray.wait(list(running))
        actor, number = running.pop(answer)
        try:
            ray.get(answer)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except ray.exceptions.RayActorError as error:
            lost[number] += 1
            if lost[number] > cluster.retries:
                what = "Workers end while they load" if number == _NONE else f"Shard {number} ended its worker"
                said = str(error).strip().splitlines()[0]
                raise ValueError(f"{what}, {lost[number]} times (out of memory?); what is made stays: {said}") from None
            if number != _NONE:
                waiting.append(number)
            begin()
            continue
        if number != _NONE:
            done += shards[number].rows
            progress.advance(done, total)
        if waiting:
            following = waiting.pop()
            running[actor.make.remote(following)] = actor, following


_NONE = -1

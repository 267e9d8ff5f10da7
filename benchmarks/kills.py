"""Processes that share annotate, bench and generate, and are killed: every row once, and the bytes of a calm run.

    python benchmarks/kills.py --times 20

Each time 4 processes make 64 files, 3 of them get SIGKILL at random moments and are started again. Stand-ins for models
take their time without computing, and the processes are forks, so that a trial costs its work and not its imports.
Prints for each stage in how many trials all files were those of one undisturbed process.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from retrodict.bootstrap import annotate as labels
from retrodict.data import generate
from retrodict.evaluation import predict
from retrodict.evaluation.pool import Scored
from retrodict.models.editors import CopyModel
from retrodict.models.protocol import Candidate, Explanation, LogProb, Pair
from retrodict.progress import QuietProgress
from retrodict.sampling import Sampling
from retrodict.shards import ALL, Share, run_shards
from retrodict.transitions import FramePair, write_rows
from retrodict.worlds import get_world

FILES, PROCESSES, KILLED = 64, 4, 3
WORK = 0.02  # seconds of a file
WORLD = get_world("tabletop")
Stage = Callable[[Path, Share], object]


class Slow(CopyModel):
    """A model of both kinds: the next frame is the source, and the action a number of the target's."""

    def explain(self, pairs: Sequence[Pair]) -> list[Explanation]:
        time.sleep(WORK)
        sums = [int(np.asarray(target).sum()) for _, target in pairs]
        return [Explanation(f"do {n % 7}", LogProb(-float(n % 1000), 3), "stub") for n in sums]

    def sample(self, *given: Any, **settings: Any) -> list[list[Candidate]]:
        time.sleep(WORK / 2)
        return super().sample(*given, **settings)


def stages(folder: Path) -> dict[str, Stage]:
    """What each process does with its share, given where to write."""
    rows = WORLD.sample(2 * FILES, 0, namespace="kills")
    for number in range(FILES):
        write_rows(folder / "pairs" / f"{number:02d}.parquet", rows[2 * number : 2 * number + 2], FramePair)
    predict.BATCH, generate.ROWS, labels.load = 2, 4, lambda name, role: Slow()  # type: ignore
    settings: Any = {"scorer": lambda *given: Scored(), "n": 1, "seed": 0, "verifiers": (), "sampling": Sampling()}

    def annotate(out: Path, share: Share) -> None:
        labels.annotate_dir(folder / "pairs", model="stub", out=out, where=share)

    def bench(out: Path, share: Share) -> None:
        keep = out / "predictions.parquet"
        shards = predict.prediction_shards(Slow(), rows, keep=keep, **settings)
        if not run_shards(shards, share, QuietProgress()):
            predict.evaluate(Slow(), rows, keep=keep, **settings)

    def generated(out: Path, share: Share) -> None:
        generate.generate_dir("tabletop", out, pairs=4 * FILES, where=share)

    return {"annotate": annotate, "bench": bench, "generate": generated}


def begin(stage: Stage, out: Path, share: Share) -> int:
    if pid := os.fork():
        return pid
    try:
        stage(out, share)
    except BaseException as error:
        sys.stderr.write(f"{share}: {error!r}\n")
        os._exit(1)
    os._exit(0)


def disturbed(stage: Stage, out: Path, seconds: float, rng: random.Random) -> int:
    """One trial; how many processes were killed amid their work."""
    shares = {begin(stage, out, share): share for number in range(PROCESSES) if (share := Share(number, PROCESSES))}
    moments = sorted((rng.uniform(0, seconds), pid) for pid in rng.sample(list(shares), KILLED))
    began, killed = time.monotonic(), 0
    for moment, pid in moments:
        time.sleep(max(0.0, began + moment - time.monotonic()))
        os.kill(pid, signal.SIGKILL)  # it may be a zombie that has finished
    again = dict(shares)
    while again:
        ended = {pid: os.waitpid(pid, 0)[1] for pid in again}
        died = [again[pid] for pid, status in ended.items() if os.WIFSIGNALED(status)]
        assert not any(os.WIFEXITED(status) and os.WEXITSTATUS(status) for status in ended.values())
        killed += len(died)
        again = {begin(stage, out, share): share for share in died}
    return killed


def contents(folder: Path) -> dict[str, bytes]:
    files = [file for file in folder.rglob("*") if file.is_file() and not file.name.startswith(".")]
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--stages", nargs="+", default=["annotate", "bench", "generate"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        every = stages(folder)
        for stage in options.stages:
            rng, began = random.Random(0), time.monotonic()
            every[stage](folder / stage / "calm", ALL)
            seconds, calm = time.monotonic() - began, contents(folder / stage / "calm")
            equal = killed = left = 0
            for trial in range(options.times):
                out = folder / stage / str(trial)
                killed += disturbed(every[stage], out, seconds, rng)
                equal += contents(out) == calm
                left += sum(1 for _ in out.rglob(".*.tmp"))
            used = sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
            print(
                f"{stage}: {equal} of {options.times} trials equal to the byte to a calm run of {len(calm)} files; "
                f"{killed} processes died at work; {left} unfinished files left behind; {used:.0f} CPU-s so far",
                flush=True,
            )


if __name__ == "__main__":
    main()

"""Shares of work: who makes what, and several processes that are killed and started again."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrodict.evaluation.pool import BATCH
from retrodict.progress import QuietProgress
from retrodict.shards import ALL, Shard, Share, run_shards, share_of_process

SLURM = {"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MIN": "1"}


@pytest.mark.parametrize(
    ("shard", "variables", "share"),
    [
        ("", {}, ALL),
        ("2/8", {}, Share(1, 8)),
        ("1/1", {"RANK": "3", "WORLD_SIZE": "4"}, ALL),  # what is asked for wins
        ("", {"RANK": "3", "WORLD_SIZE": "4"}, Share(3, 4)),
        ("", SLURM | {"SLURM_ARRAY_TASK_STEP": "2"}, Share(3, 4)),  # --array=1-7:2
        ("", {"SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_TASK_COUNT": "3"}, Share(0, 3)),
    ],
)
def test_a_share_is_asked_for_or_the_launchers(
    shard: str, variables: dict[str, str], share: Share, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RANK", "WORLD_SIZE", *SLURM, "SLURM_ARRAY_TASK_STEP"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert share_of_process(shard) == share


@pytest.mark.parametrize("shard", ["0/4", "5/4", "1-4", "1/0", "a/b"])
def test_what_is_no_share_is_refused(shard: str) -> None:
    with pytest.raises(ValueError, match="is the second of eight"):
        share_of_process(shard)


@given(st.integers(1, 9), st.lists(st.booleans(), max_size=40), st.randoms())
def test_every_shard_is_made_once_and_the_last_process_knows(
    count: int, there: list[bool], order: random.Random
) -> None:
    made = {number for number, is_there in enumerate(there) if is_there}
    made_here: list[int] = []

    def shard(number: int) -> Shard:
        def make(tell: object) -> None:
            made_here.append(number)
            made.add(number)

        return Shard(lambda: number in made, make, 1)

    shards = [shard(number) for number in range(len(there))]
    shares = [Share(number, count) for number in range(count)]
    order.shuffle(shares)
    left = [run_shards(shards, share, QuietProgress()) for share in shares]
    assert left[-1] == 0 and left == sorted(left, reverse=True)
    assert sorted(made_here) == [number for number, is_there in enumerate(there) if not is_there]


@pytest.mark.slow
def test_processes_that_are_killed_cost_what_they_were_at(tmp_path: Path) -> None:
    def bench(out: str, shard: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "retrodict", "bench", "--items", str(4 * BATCH), "-n", "2", "-q"]
        command += ["--out", str(tmp_path / out), *(["--shard", shard] if shard else [])]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})

    alone = bench("alone", "")
    first = [bench("shared", f"{number}/2") for number in (1, 2)]
    parts = tmp_path / "shared" / "predictions" / "small-parts"
    while not list(parts.glob("*.parquet")):
        assert first[0].poll() is None, first[0].communicate()
        time.sleep(0.01)
    first[0].kill()
    first[0].communicate()

    first[1].communicate()
    again = bench("shared", "1/2")
    said, wrong = again.communicate(timeout=600)
    assert again.returncode == 0, wrong
    assert "Report:" in said
    alone.communicate(timeout=600)
    assert alone.returncode == 0
    one, other = (tmp_path / name / "predictions" / "small.parquet" for name in ("alone", "shared"))
    assert one.read_bytes() == other.read_bytes()
    assert not parts.exists()

"""Shares of work: who makes what, and several processes that are killed and started again."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrodict.bootstrap.annotate import annotate_dir
from retrodict.data.convert import write_transitions
from retrodict.data.generate import generate_dir
from retrodict.data.items import Item
from retrodict.evaluation import predict
from retrodict.evaluation.pool import BATCH, ItemResult, Scored
from retrodict.evaluation.probe_run import run_probe
from retrodict.models.editors import CopyModel
from retrodict.progress import QuietProgress
from retrodict.sampling import Sampling
from retrodict.shards import ALL, OnRay, Shard, Share, Sharing, _Maker, run_shards, share_of_process
from retrodict.transitions import Transition, read_transitions, write_rows
from retrodict.worlds import get_world

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


class Ref(NamedTuple):
    number: int


class Cluster:
    """What `run_shards` asks of Ray: actors that run at once, some of which die at their first call."""

    def __init__(self, fatal: Sequence[int], gpus: int) -> None:
        self.exceptions = SimpleNamespace(RayTaskError=ZeroDivisionError, RayActorError=ConnectionError)
        self.deaths, self.gpus = list(fatal), gpus
        self.begun: list[dict[str, float]] = []
        self.calls: list[tuple[int, Callable[[], None]]] = []

    def is_initialized(self) -> bool:
        return True

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 64.0, "GPU": self.gpus}

    def remote(self, **resources: float) -> Callable[..., SimpleNamespace]:
        def actor(*arguments: Any) -> SimpleNamespace:
            self.begun.append(resources)
            made = _Maker(*arguments)
            make = SimpleNamespace(remote=lambda number: self.call(number, partial(made.make, number)))
            return SimpleNamespace(begin=SimpleNamespace(remote=lambda: self.call(-1, made.begin)), make=make)

        return lambda kind: SimpleNamespace(remote=actor)

    def call(self, number: int, run: Callable[[], None]) -> Ref:
        self.calls.append((number, run))
        return Ref(len(self.calls) - 1)

    def wait(self, refs: list[Ref]) -> tuple[list[Ref], list[Ref]]:
        return [refs[0]], refs[1:]

    def get(self, ref: Ref) -> None:
        number, run = self.calls[ref.number]
        if number in self.deaths:
            self.deaths.remove(number)
            raise ConnectionError("The actor died.")
        run()


@pytest.fixture
def ray_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it is installed or not: what is tested is what happens around it."""
    monkeypatch.setattr("retrodict.shards.import_module", lambda name: SimpleNamespace())


def on(cluster: Cluster, where: OnRay, monkeypatch: pytest.MonkeyPatch) -> tuple[int, list[int]]:
    """How many of five shards are left, and what was made."""
    made: list[int] = []
    shards = [Shard(lambda n=n: n in made, lambda tell, n=n: made.append(n), 1) for n in range(5)]  # type: ignore[misc]
    monkeypatch.setattr("retrodict.shards.import_module", lambda name: cluster)
    return run_shards(shards, where, QuietProgress(), lambda: shards), made


def test_an_actor_that_dies_costs_its_shard(monkeypatch: pytest.MonkeyPatch, ray_is_there: None) -> None:
    cluster = Cluster([3, 3, -1], gpus=8)
    assert on(cluster, OnRay(workers=2, gpus=0.5), monkeypatch) == (0, [0, 1, 2, 4, 3])
    assert cluster.begun == [{"num_cpus": 0, "num_gpus": 0.5}] * 5, "two, and one for each that died"


def test_as_many_actors_as_asked_for_or_as_have_room(monkeypatch: pytest.MonkeyPatch, ray_is_there: None) -> None:
    for where, count in ((OnRay(workers=2), 2), (OnRay(), 5), (OnRay(gpus=1), 3), (OnRay(gpus=2), 1)):
        cluster = Cluster([], gpus=3)
        assert on(cluster, where, monkeypatch) == (0, [0, 1, 2, 3, 4])
        assert len(cluster.begun) == count, where


def test_a_shard_that_always_ends_its_actor_is_named(monkeypatch: pytest.MonkeyPatch, ray_is_there: None) -> None:
    with pytest.raises(ValueError, match=r"Shard 3 ended its worker, 3 times .* The actor died"):
        on(Cluster([3] * 9, gpus=0), OnRay(), monkeypatch)
    with pytest.raises(ValueError, match="has 0 GPUs, and a worker is to have 1"):
        on(Cluster([], gpus=0), OnRay(gpus=1), monkeypatch)


def test_import_and_generate_give_what_one_process_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In any order, and where one was killed in the middle of a file."""
    monkeypatch.setattr("retrodict.data.convert._ITEMS", 3)
    monkeypatch.setattr("retrodict.data.generate.ROWS", 3)
    read: list[str] = []

    def item(number: int, killed_at: str = "") -> Item:
        def row() -> Transition:
            name = f"item {number}"
            if name == killed_at:
                raise KeyboardInterrupt
            read.append(name)
            return Transition(id=name, action="go")

        return Item(f"item {number}", lambda: f"key {number}", row)

    def imported(out: str, share: Share, killed_at: str = "") -> object:
        items = [item(number, killed_at) for number in range(14)]
        return write_transitions(items, tmp_path / out, source={}, share=share)

    def contents(out: str) -> dict[str, bytes]:
        return {file.name: file.read_bytes() for file in (tmp_path / out).iterdir()}

    assert imported("alone", ALL) == {}
    read.clear()
    with pytest.raises(KeyboardInterrupt):
        imported("shared", Share(0, 2), killed_at="item 7")
    assert imported("shared", Share(1, 2)) is None
    assert imported("shared", Share(0, 2)) == {}
    assert Counter(read) == Counter([f"item {number}" for number in range(14)] + ["item 6"])
    assert contents("shared") == contents("alone")

    made = [
        generate_dir("tabletop", tmp_path / out, pairs=8, where=share)
        for out, share in (("one", ALL), ("two", Share(1, 2)), ("two", Share(0, 2)))
    ]
    assert made == [True, False, True] and contents("one") == contents("two")
    rows = read_transitions(tmp_path / "two")
    assert len({(row.source, row.target) for row in rows}) == len({row.id for row in rows}) == 8


def test_processes_that_collect_predictions_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One finds all batches there and reads them while another writes the whole and removes them."""
    keep, rows = tmp_path / "copy.parquet", get_world("tabletop").sample(2 * BATCH, 0, namespace="train")
    settings: Any = {"scorer": lambda *given: Scored(), "n": 0, "seed": 0, "keep": keep}
    shards = predict.prediction_shards(CopyModel(), rows, **settings, verifiers=(), sampling=Sampling())
    assert run_shards(shards, ALL, QuietProgress()) == 0
    read = predict.read_predictions

    def slow_read(file: Path) -> list[ItemResult]:
        if file.name == "00001.parquet" and file.is_file():
            monkeypatch.setattr(predict, "read_predictions", read)
            predict.evaluate(CopyModel(), rows, **settings)
            assert not file.is_file()
        return read(file)

    for _ in range(2):  # at first it looks whether the batch is there
        monkeypatch.setattr(predict, "read_predictions", slow_read)
        assert len(predict.evaluate(CopyModel(), rows, **settings)) == len(rows)
    assert all(shard.is_made() for shard in shards)


def test_a_probe_is_shared(tmp_path: Path, tiny_model: Path) -> None:
    probe = partial(run_probe, "tabletop", model=str(tiny_model / "inverse"), items=20)
    alone = probe(out=tmp_path / "alone")
    assert probe(out=tmp_path / "shared", where=Share(0, 2)) == {}
    shared = probe(out=tmp_path / "shared", where=Share(1, 2))
    assert shared["probe"] == alone["probe"] and shared["unscored"] == alone["unscored"]
    assert len(list((tmp_path / "shared" / "answers").iterdir())) > 2


def test_options_that_do_not_go_together(ray_is_there: None) -> None:
    assert Sharing(executor="ray", workers=3, gpus_per_worker=1).where() == OnRay(3, 1)
    for wrong in (Sharing(executor="ray", shard="1/2"), Sharing(workers=2), Sharing(executor="ray", workers=0)):
        with pytest.raises(ValueError, match=r"--workers|--shard"):
            wrong.where()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # Ray warns of its own settings
def test_a_killed_actor_of_ray_changes_no_byte(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # else 15: on a busy machine actors hardly run
    rows = get_world("tabletop").sample(48, 0, namespace="train")
    for number in range(8):
        write_rows(tmp_path / "pairs" / f"{number}.parquet", rows[number * 6 : number * 6 + 6])
    model = str(tiny_model / "inverse")
    annotate_dir(tmp_path / "pairs", model=model, out=tmp_path / "alone")
    out, killed = tmp_path / "out", []

    def kill() -> None:
        while not killed:
            for process in psutil.process_iter(["name"]):
                if str(process.info["name"]).startswith("ray::_Maker.mak") and list(out.glob("*.parquet")):
                    process.kill()
                    killed.append(process.pid)
                    return
            time.sleep(0.05)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    assert annotate_dir(tmp_path / "pairs", model=model, out=out, where=OnRay(workers=1))
    thread.join(1)
    assert killed
    for file in (tmp_path / "alone").iterdir():
        assert (out / file.name).read_bytes() == file.read_bytes(), file.name


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

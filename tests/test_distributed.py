"""Two processes that share a step have the gradients and the weights of one process that does it alone.

Real processes, which talk through gloo on the CPU; sharding is FSDP2 through accelerate, as on accelerators.
"""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from loopback import free_port
from safetensors.torch import load_file
from torch.utils.data import SequentialSampler

from retrodict.models.small.family import SmallFamily
from retrodict.prompts import Direction
from retrodict.training import checkpoints, distributed
from retrodict.training.config import TrainConfig
from retrodict.training.trainer import FILLER, EvenBatches, training_arguments

WORKER = Path(__file__).with_name("distributed_worker.py")


def launch(out: Path, how: str, processes: int = 2) -> dict[str, torch.Tensor]:
    """Run the worker as several processes, as `torchrun` does, and read what the first one wrote."""
    shared = os.environ | {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    started = [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(out), how],
            env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(processes)
    ]
    try:
        said = [process.communicate(timeout=1800)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0] * processes, "\n".join(said)
    return load_file(out)


@cache
def alone(name: str, direction: Direction) -> dict[str, torch.Tensor]:
    """One process, one padded batch."""
    from distributed_worker import FAMILIES, one_step

    return one_step(FAMILIES[name](), direction, 1)


def check_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], case: str) -> None:
    assert found.keys() == expected.keys(), case
    assert max(float(tensor.abs().max()) for name, tensor in expected.items() if "gradient" in name) > 0.02
    for name, tensor in expected.items():
        torch.testing.assert_close(
            found[name], tensor, rtol=1e-5, atol=1e-5, msg=lambda m, name=name: f"{case}, {name}: {m}"
        )


@pytest.mark.slow
@pytest.mark.parametrize("how", ["ddp", "fsdp"])
def test_two_processes_are_as_good_as_one(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(WORKER.parent))
    from distributed_worker import CASES

    together = launch(tmp_path / "together.safetensors", how)
    for name, direction, accumulate in CASES:
        case = f"{name} {direction} {accumulate}"
        found = {key.partition("|")[2]: tensor for key, tensor in together.items() if key.startswith(f"{case}|")}
        check_equal(found, alone(name, direction), case)


def steps_of(rows: int, accumulate: int, ranks: int) -> list[list[int]]:
    """The sequences of each step of an epoch in batches of 2, which accelerate hands out to the ranks."""
    steps: list[list[int]] = []
    for rank in range(ranks):
        batches = EvenBatches(SequentialSampler(range(rows)), 2, rows >= 2, ranks)
        shard = list(BatchSamplerShard(batches, ranks, rank) if ranks > 1 else batches)
        share = accumulate // ranks
        taken = [[row for batch in shard[i : i + share] for row in batch] for i in range(0, len(shard), share)]
        steps = [a + b for a, b in zip(steps, taken, strict=True)] if steps else taken
    return [sorted(index for index in step if index != FILLER) for step in steps]


def test_a_step_has_the_same_sequences_whatever_the_number_of_ranks() -> None:
    assert steps_of(10, 2, 1) == steps_of(10, 2, 2) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    for rows in range(1, 20):
        assert steps_of(rows, 4, 4) == steps_of(rows, 4, 2) == steps_of(rows, 4, 1), rows


@pytest.mark.parametrize("accumulate", [4, 8])
def test_split_batches_without_padding_are_as_good_as_one_with(
    accumulate: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(WORKER.parent))
    from distributed_worker import FAMILIES, one_step

    found = one_step(FAMILIES["chameleon"](), "forward", accumulate)
    check_equal(found, alone("chameleon", "forward"), f"chameleon forward {accumulate}")


def test_what_processes_cannot_share(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, family: SmallFamily) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="2 ranks cannot share 3 forward passes a step"):
        training_arguments(family, TrainConfig(steps=1, gradient_accumulation_steps=3), tmp_path, 8)
    with pytest.raises(ValueError, match="Muon needs whole matrices"):
        training_arguments(family, TrainConfig(steps=1, gradient_accumulation_steps=2, fsdp=True), tmp_path, 8)
    with pytest.raises(ValueError, match="The family small is too small to be spread"):
        training_arguments(
            family, TrainConfig(steps=1, gradient_accumulation_steps=2, fsdp=True, optimizer="adamw"), tmp_path, 8
        )


def test_a_deepspeed_configuration_is_checked_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, family: SmallFamily
) -> None:
    def refused(text: str, error: type[Exception] = ValueError) -> str:
        (tmp_path / "ds.json").write_text(text)
        config = TrainConfig(steps=1, optimizer="adamw", deepspeed=tmp_path / "ds.json")
        with pytest.raises(error) as caught:
            training_arguments(family, config, tmp_path, 8)
        return str(caught.value)

    assert "is not JSON" in refused("{")
    assert "zero_optimization.stage to 1 or 2" in refused('{"zero_optimization": {"stage": 3}}')
    assert "the recipe does that" in refused('{"zero_optimization": {"stage": 2}, "optimizer": {}}')
    shipped = (Path(__file__).parents[1] / "recipes" / "paper" / "deepspeed-zero2.json").read_text()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install deepspeed" in refused(shipped, ImportError)


def test_what_is_put_together_of_uneven_parts_can_be_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five rows on two ranks are twice three with padding, which is not saved."""
    module = torch.nn.Embedding(5, 2)
    monkeypatch.setattr(checkpoints, "DTensor", torch.nn.Parameter)
    monkeypatch.setattr(checkpoints, "whole", lambda tensor: torch.cat([tensor, torch.zeros(1, 2)])[:5])
    expected = module.weight.detach().clone()
    checkpoints.gather(module, keep=True)
    assert module.weight.equal(expected)
    assert module.weight.untyped_storage().nbytes() == expected.untyped_storage().nbytes()


def test_a_rank_that_waits_says_so_and_gives_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RETRODICT_PATIENCE", "0.3")
    monkeypatch.setattr(distributed, "SAY_AFTER", 0.1)
    (tmp_path / "a").touch()
    distributed.wait_for([tmp_path / "a"], "files")
    with pytest.raises(
        ValueError, match=r"gives up: for 0 s no other rank has made any of 1 of 2 files, such as .*b\."
    ):
        distributed.wait_for([tmp_path / "a", tmp_path / "b"], "files")
    assert "rank 0 waits for 1 of 2 files" in capfd.readouterr().err

"""Where models run and in which type, for every command; on a machine whose CUDA is made up."""

from __future__ import annotations

import json
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from retrodict import placement
from retrodict.cli import app
from retrodict.images import write_image
from retrodict.loading import load, load_family
from retrodict.models.registry import tiny_family
from retrodict.training import recipe as recipe_module
from retrodict.transitions import FramePair, write_rows
from retrodict.worlds import get_world

ACTION = "push the red ball to the left"


@pytest.fixture
def moves(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Where whole models were moved. Those that go to a GPU stay where they are, as there is none."""
    seen: list[str] = []
    real = nn.Module.to

    def to(self: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
        target = str(kwargs.get("device", args[0] if args else ""))
        if not target.startswith("cuda"):
            return real(self, *args, **kwargs)
        seen.append(target)
        return self

    monkeypatch.setattr(nn.Module, "to", to)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    return seen


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (row,) = get_world("tabletop").sample(1, 0, namespace="bench")
    write_image(tmp_path / "a.png", row.source_image)
    write_image(tmp_path / "b.png", row.target_image)
    pair = FramePair(id="pair", source=row.source, target=row.target)
    write_rows(tmp_path / "pairs" / "part-00000.parquet", [pair], FramePair)
    tasks = json.dumps({"file_name": "a.png", "action": ACTION, "candidates": ["b.png"]})
    (tmp_path / "tasks.jsonl").write_text(tasks)
    return tmp_path


COMMANDS = {
    "predict": ["{d}/a.png", ACTION, "--out", "{d}/n.png", "-n", "2"],
    "explain": ["{d}/a.png", "{d}/b.png"],
    "rollout": ["{d}/a.png", ACTION, "--out", "{d}/steps", "-n", "2"],
    "rerank": ["--tasks", "{d}/tasks.jsonl", "--out", "{d}/ranked", "-q"],
    "annotate": ["{d}/pairs", "--out", "{d}/labelled", "-q"],
    "bench": ["--out", "{d}/run", "-n", "2", "--items", "2", "-q"],
    "probe": ["--out", "{d}/probe", "--items", "2", "-q"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_moves_each_of_its_models_to_the_gpu_once(
    command: str, files: Path, moves: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = files / "model"  # one published checkpoint in both roles: one model
    torch.manual_seed(0)
    tiny_family("liquid")([ACTION]).save(folder)
    given = [part.format(d=files) for part in COMMANDS[command]]
    monkeypatch.setenv("LOCAL_RANK", "3")
    done = CliRunner().invoke(app, [command, *given, "--model", str(folder)])
    assert done.exit_code == 0, done.output
    assert moves == ["cuda:3"]
    moves.clear()
    CliRunner().invoke(app, [command, *given, "--model", str(folder), "--device", "cpu"])
    assert moves == []
    assert placement.DEVICE not in placement.os.environ


def test_types_and_devices_that_are_asked_for(tiny_model: Path, tmp_path: Path) -> None:
    stored, half = load(tiny_model, "forward"), load(tiny_model, "forward", dtype="bfloat16")
    types = [next(model.family.module.parameters()).dtype for model in (stored, half)]  # type: ignore[attr-defined]
    assert types == [torch.float32, torch.bfloat16]
    with pytest.raises(ValueError, match="There is no device 'gpu'"):
        load(tiny_model, "forward", device="gpu")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="has no device 'cuda:0'"):
            load(tiny_model, "forward", device="cuda")
    run = ["probe", "--model", str(tiny_model), "--items", "2", "--out", str(tmp_path / "p"), "-q"]
    assert CliRunner().invoke(app, run).exit_code == 0
    again = CliRunner().invoke(app, [*run, "--dtype", "bfloat16"])
    assert (again.exit_code, "dtype None and not bfloat16" in again.output) == (2, True)


def test_an_adapter_serves_as_it_was_trained_and_merges_without_rounding(tmp_path: Path) -> None:
    """Logits of the trained model, of the loaded one beside a base in bfloat16, and of the merged one."""
    from retrodict.loading import save_model
    from retrodict.training.config import LoraConfig
    from retrodict.training.lora import add_adapter

    torch.manual_seed(0)
    base = tiny_family("liquid")([ACTION])
    base.module.to(torch.bfloat16)
    base.save(tmp_path / "base")
    trained = load_family(tmp_path / "base")
    adapter = add_adapter(trained, LoraConfig(rank=4, alpha=4), str(tmp_path / "base"))
    for name, parameter in trained.module.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.002)  # far less than bfloat16 tells apart
    trained.module.eval()
    save_model(trained, "forward", tmp_path / "adapter", adapter=adapter, base=str(tmp_path / "base"))
    ids_BT = torch.arange(3, 40)[None]

    def hidden(family: Any) -> torch.Tensor:
        with torch.no_grad():
            found: torch.Tensor = family.hidden(ids_BT).float()
        return found

    served, whole = load_family(tmp_path / "adapter"), load_family(tmp_path / "adapter", merge=True)
    torch.testing.assert_close(hidden(served), hidden(trained), rtol=0, atol=0)
    assert next(whole.module.parameters()).dtype == torch.float32
    assert not any("lora" in name for name, _ in whole.module.named_parameters())
    exact = load_family(tmp_path / "base")
    exact.module.float()
    unchanged = hidden(exact)
    assert float((hidden(whole) - unchanged).abs().max()) > 0


def test_training_never_holds_two_whole_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the trained model is loaded again to be measured, the one that was trained is gone."""
    torch.manual_seed(0)
    tiny_family("liquid")([ACTION]).save(tmp_path / "base")
    rows = get_world("tabletop").sample(6, 0, namespace="bench")
    write_rows(tmp_path / "rows" / "rows.parquet", rows)
    (tmp_path / "recipe.yaml").write_text(
        "{direction: forward, family: liquid, init: base, lora: {rank: 2}, data: {train: [rows], val_share: 0.3},"
        " training: {steps: 1, per_device_batch_size: 2, warmup_steps: 0}}"
    )
    alive: list[weakref.ref[nn.Module]] = []
    at_load: list[int] = []
    real = load_family

    def counted(*args: Any, **kwargs: Any) -> Any:
        at_load.append(sum(one() is not None for one in alive))
        family = real(*args, **kwargs)
        alive.append(weakref.ref(family.module))
        return family

    monkeypatch.setattr(recipe_module, "load_family", counted)
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["train", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "out"), "-q"])
    assert done.exit_code == 0, done.output
    assert at_load == [0, 0]

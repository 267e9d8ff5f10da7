"""`retrodict train`: what it leaves behind, and what the same or another command does with that."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import retrodict
from retrodict.loading import load
from retrodict.transitions import write_rows
from retrodict.worlds import tabletop

TINY = """
direction: inverse
data: {train: [one, two]}
tokenizer: {image_size: 24, patch: 8, codes: 8, warm_steps: 2, steps: 2, batch_size: 2}
model: {hidden: 8, layers: 1, heads: 2}
training: {steps: 2, per_device_batch_size: 4, lr_scheduler: constant, warmup_steps: 1}
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("train")
    rows = [e.transition() for e in tabletop.sample(50, 0)]
    for name, part in (("one", rows[:30]), ("two", rows[30:])):
        write_rows(folder / name / "rows.parquet", part)
    (folder / "recipe.yaml").write_text(TINY)
    assert run(folder, "out") == (0, "")
    return folder


def run(folder: Path, out: str, *overrides: str) -> tuple[int, str]:
    from retrodict.cli import app

    changes = [part for override in overrides for part in ("--set", override)]
    command = ["train", str(folder / "recipe.yaml"), "--out", str(folder / out), "--quiet", *changes]
    result = CliRunner().invoke(app, command)
    return result.exit_code, result.stderr


def test_a_model_its_recipe_and_its_numbers(trained: Path) -> None:
    results = json.loads((trained / "out" / "results.json").read_text())
    assert results["transitions"] == {"train": 45, "val": 5}
    found = results["val"]["nll_per_token"]
    assert found["n"] + found["n_unscored"] == 5
    assert 0 < found["mean"] < results["val"]["nll"]["mean"]
    model = load(trained / "out", role="inverse")
    assert model.family.spec.size == 24  # type: ignore[attr-defined]
    assert not list((trained / "out").rglob("*checkpoint*"))
    assert (trained / "out" / "recipe.yaml").is_file()


def test_the_same_command_changes_nothing_and_another_recipe_is_refused(trained: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (trained / "out").rglob("*")}
    assert run(trained, "out")[0] == 0
    retrodict.train(str(trained / "recipe.yaml"), out=str(trained / "out"))
    code, line = run(trained, "out", "training.steps=3")
    assert (code, "holds a run with training.steps 2 and not 3" in line) == (2, True)
    assert {path: path.stat().st_mtime_ns for path in (trained / "out").rglob("*")} == before


def test_training_goes_on_from_a_model(trained: Path) -> None:
    assert run(trained, "more", f"init={trained / 'out'}", "training.learning_rate=1e-9")[0] == 0
    first, second = (load(trained / name, role="inverse").family for name in ("out", "more"))  # type: ignore[attr-defined]
    assert first.tokenizer == second.tokenizer
    for a, b in zip(first.module.parameters(), second.module.parameters(), strict=True):
        assert float((a - b).detach().abs().max()) < 1e-6


def test_a_tokenizer_is_used_again(trained: Path) -> None:
    """Both directions speak of the same image tokens, and an image is encoded once for both."""
    assert run(trained, "again", f"tokenizer={trained / 'out'}", "direction=forward")[0] == 0
    first = load(trained / "out", role="inverse").family  # type: ignore[attr-defined]
    second = load(trained / "again", role="forward").family  # type: ignore[attr-defined]
    assert (first.tokenizer, first.spec) == (second.tokenizer, second.spec)
    assert first.images.round_trip == second.images.round_trip


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["tokenizer=none"], "There is no image tokenizer"),
        (["init=copy", "direction=forward"], '"copy" has no weights to start from.'),
        (["init=out", "direction=forward"], "There is no model 'out'"),
        (["data.train=[]"], "--set data.train: value should have at least 1 item"),
        (["data.train=[none]"], "none holds no .parquet files"),
        (["model.heads=3"], "--set model.heads: 3 heads cannot share hidden, which is 8, in equal and even parts"),
        (["tokenizer.patch=7"], "--set tokenizer.patch: 7 does not divide image_size, which is 24"),
        (["training.optimiser=adamw"], "--set training.optimiser: unknown key; did you mean `training.optimizer`?"),
        (["data.train=[{path: one, row: 3}]"], "--set data.train.0.row: unknown key; did you mean"),
        (["family=liquid"], "recipe.yaml: family liquid needs `init`, the model to start from"),
        (["lora={}"], "recipe.yaml: `lora` adapts a model, and there is no `init` that names one"),
        (["lora={}", "init=small"], "The family small is trained whole: leave `lora` out."),
        (["lora={rnak: 4}"], "--set lora.rnak: unknown key; did you mean `lora.rank`?"),
    ],
)
def test_recipes_that_cannot_be_trained(trained: Path, overrides: list[str], line: str) -> None:
    code, said = run(trained, "refused", *overrides)
    assert code == 2
    assert line in said
    assert said.count("\n") == 1
    assert not list((trained / "refused").rglob("*.safetensors"))

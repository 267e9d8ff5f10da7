"""Pushing to the Hub: what goes is what was listed, with a card, and it comes back under its hub id."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hub import hub_with, online
from PIL import Image

import retrodict
from retrodict import hub
from retrodict.evaluation.benchmarks import open_benchmark
from retrodict.files import write_json
from retrodict.models.registry import CARD
from retrodict.recipes import load_recipe
from retrodict.training.config import TrainRecipe
from retrodict.transitions import Transition, read_transitions, write_manifest, write_rows
from retrodict.worlds import get_world


def metadata(card: str) -> dict[str, object]:
    return yaml.safe_load(card.split("---\n")[1])


def rows(folder: Path, *, drawn: bool) -> list[Transition]:
    made = get_world("tabletop").sample(3, 0, namespace="hub")
    made = [replace(row, logprob=-1.0, tokens=2, **({} if drawn else {"provenance": {}})) for row in made]
    folder.mkdir()
    write_rows(folder / "transitions-00000.parquet", made)
    write_manifest(folder, kind="transitions", config={}, kept=len(made), dropped={"unlike": 2})
    return made


@pytest.mark.slow
def test_a_model_comes_back_under_its_hub_id_and_predicts_the_same(tiny_model: Path, tmp_path: Path) -> None:
    pushed = hub.prepare(tiny_model, "some/model")
    files: dict[str, bytes] = {}
    Image.new("RGB", (96, 96), "white").save(tmp_path / "a.png")
    with hub_with("some/model", files) as (address, _):
        done = online(address, tmp_path, "push", str(tiny_model), "some/model")
        assert done.returncode == 0, done.stderr
        asked = json.loads(files.pop("(created)"))
        assert set(files) == {"README.md", *pushed.files}
        action = "push the red ball to the left"
        again = online(address, tmp_path, "predict", "a.png", action, "-n2", "--model=some/model", "--out=b.png")
        assert again.returncode == 0, again.stderr
    assert asked["name"] == "model" and asked["organization"] == "some" and asked["visibility"] == "private"
    assert not [name for name in files if "run.json" in name or "checkpoint" in name]
    here = retrodict.predict(tmp_path / "a.png", action, n=2, model=tiny_model)
    with Image.open(tmp_path / "b.png") as image:
        assert image.convert("RGB").tobytes() == here.image.resize(image.size).tobytes()


def test_rows_of_a_world_go_with_images_and_others_only_when_asked(tmp_path: Path) -> None:
    made = rows(tmp_path / "drawn", drawn=True)
    pushed = hub.prepare(tmp_path / "drawn", "some/rows", public=True)
    assert (pushed.kind, pushed.private, pushed.left_out) == ("dataset", False, {})
    assert metadata(pushed.card)["configs"] == [
        {"config_name": "default", "data_files": [{"split": "train", "path": "*.parquet"}]}
    ]
    assert f"{len(made)} transitions" in pushed.card and "2 unlike" in pushed.card

    others = rows(tmp_path / "others", drawn=False)
    pushed = hub.prepare(tmp_path / "others", "some/rows")
    assert list(pushed.left_out) == ["images of transitions-00000.parquet"]
    content = pushed.files["transitions-00000.parquet"]
    assert isinstance(content, bytes) and others[0].source is not None and others[0].source not in content
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "transitions-00000.parquet").write_bytes(content)
    kept = read_transitions(tmp_path / "copy")
    assert [(row.action, row.source) for row in kept] == [(row.action, None) for row in others]
    assert hub.prepare(tmp_path / "others", "some/rows", pictures=True).left_out == {}


def test_stages_read_rows_by_their_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = rows(tmp_path / "rows", drawn=True)
    files = {"transitions-00000.parquet": (tmp_path / "rows" / "transitions-00000.parquet").read_bytes()}
    command = ("select", "some/rows", "--top-k", "2", "--out", "chosen")
    with hub_with("some/rows", files, kind="dataset") as (address, fetched):
        done = online(address, tmp_path, *command)
    assert fetched == ["transitions-00000.parquet"]
    assert done.returncode == 0, done.stderr

    asked = []
    monkeypatch.setattr("retrodict.models.hub.fetch", lambda part: asked.append(part) or tmp_path / "rows")
    (tmp_path / "recipe.yaml").write_text("direction: inverse\ndata: {train: 'hf://datasets/some/rows'}\n")
    (source,) = load_recipe(tmp_path / "recipe.yaml", TrainRecipe).data.train
    assert source.path == tmp_path / "rows"
    for name in ("some/rows", "hf://datasets/some/rows"):
        assert len(open_benchmark(name).items) == len(made)
    assert {(part.repository, part.kind) for part in asked} == {("some/rows", "dataset")}


def test_a_run_is_told_with_n_and_intervals(tmp_path: Path) -> None:
    entry = {"score": 0.25, "es": 0.25, "me": 1.0, "ci95": [0.1, 0.4], "n": 40, "n_unscored": 0, "copy_rate": 0.0}
    results = {
        "kind": "bench",
        "bench": "tabletop",
        "systems": {"small": {"greedy": entry}},
        "command": "retrodict bench",
    }
    write_json(tmp_path / "results.json", results)
    (tmp_path / "items").mkdir()
    (tmp_path / "items" / "small.jsonl").write_text("{}\n")
    (tmp_path / "run.json").write_text("{}")
    pushed = hub.prepare(tmp_path, "some/run")
    assert set(pushed.files) == {"results.json", "items/small.jsonl"}
    assert "0.250  [0.100 to 0.400]" in pushed.card and "n = 40" in pushed.card and "`retrodict bench`" in pushed.card
    assert metadata(pushed.card)["configs"][0]["data_files"][0]["path"] == "items/small.jsonl"  # type: ignore[index]
    write_json(tmp_path / CARD, {"family": "small", "direction": "forward"})
    index = metadata(hub.prepare(tmp_path, "some/model").card)["model-index"]
    (measured,) = index[0]["results"][0]["metrics"]  # type: ignore[index]
    assert (measured["value"], measured["args"]) == (0.25, {"ci95": [0.1, 0.4], "n": 40})


@pytest.mark.parametrize(
    ("card", "said"),
    [({"family": "chameleon", "base": "/models/anole"}, "push the base first"), (None, "nothing to push")],
)
def test_what_cannot_be_pushed_is_said(card: dict[str, str] | None, said: str, tmp_path: Path) -> None:
    if card:
        write_json(tmp_path / CARD, card)
    with pytest.raises(ValueError, match=said):
        hub.prepare(tmp_path, "some/model")


def test_an_adapter_names_its_base_and_licence(tmp_path: Path) -> None:
    write_json(tmp_path / CARD, {"family": "chameleon", "direction": "forward", "base": "GAIR/Anole-7b-v0.1"})
    said = metadata(hub.prepare(tmp_path, "some/adapter").card)
    assert (said["base_model"], said["library_name"]) == ("GAIR/Anole-7b-v0.1", "peft")
    assert said["license"] == "other" and "no commercial use" in str(said["license_name"])

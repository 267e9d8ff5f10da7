"""Candidates of other programs: one action at a time, many in a file, and a benchmark's items handed out and scored."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from retrodict import api
from retrodict.cli import app
from retrodict.dynamics.verify import InverseLikelihood, Pool
from retrodict.evaluation.benchmarks import open_benchmark
from retrodict.images import write_image
from retrodict.loading import load
from retrodict.models.protocol import Candidate
from retrodict.worlds import get_world

ACTION = "push the red ball to the left"


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    """Two actions; of five images one is none, and one is missing."""
    for name, row in zip(("a", "b", "c"), get_world("tabletop").sample(3, 0, namespace="bench"), strict=True):
        write_image(tmp_path / "images" / f"{name}.png", row.source_image)
    (tmp_path / "images" / "broken.png").write_bytes(b"no image")
    lines = [
        {"id": "one", "file_name": "a.png", "action": ACTION, "candidates": ["a.png", "broken.png", "b.png", "c.png"]},
        {"source": "b.png", "action": f"{ACTION} <b>", "candidates": ["missing.png", "a.png"]},
    ]
    (tmp_path / "images" / "tasks.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return tmp_path / "images" / "tasks.jsonl"


def test_one_bad_image_costs_only_itself(tasks: Path, tiny_model: Path, caplog: pytest.LogCaptureFixture) -> None:
    good, broken = tasks.parent / "b.png", tasks.parent / "broken.png"
    ranked = api.rerank(tasks.parent / "a.png", ACTION, [broken, good], model=tiny_model)
    assert [path for path, _ in ranked] == [good, broken]
    assert math.isnan(ranked[1][1]) and "broken.png is no image" in caplog.text
    for alone in ([broken], [broken, broken]):
        with pytest.raises(ValueError, match=r"is no image|Not one of the candidates"):
            api.rerank(good, ACTION, alone, model=tiny_model)


def test_a_file_of_tasks_gives_scores_and_a_contact_sheet(tasks: Path, tiny_model: Path, tmp_path: Path) -> None:
    command = ["rerank", "--tasks", str(tasks), "--out", str(tmp_path / "out"), "--model", str(tiny_model), "-q"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "2 actions, 6 candidates; not scored, with their reasons: 2" in done.output
    first, second = map(json.loads, (tmp_path / "out" / "ranked.jsonl").read_text().splitlines())
    images = {name: Image.open(tasks.parent / f"{name}.png") for name in "abc"}
    verifier = InverseLikelihood(load(tiny_model, role="inverse"))
    (scores,) = verifier.scores([Pool(images["a"], ACTION, [Candidate(images[name]) for name in "abc"])])
    expected = sorted(zip((f"{name}.png" for name in "abc"), scores, strict=True), key=lambda pair: -pair[1])
    assert [(entry["image"], entry.get("score")) for entry in first["ranked"]] == [
        *((name, pytest.approx(score, abs=1e-4)) for name, score in expected),
        ("broken.png", None),
    ]
    assert second["id"] == "2"
    assert second["ranked"][1] == {"image": "missing.png", "reason": "No such file or directory"}
    page = (tmp_path / "out" / "index.html").read_text()
    assert "&lt;b&gt;" in page and "<b>" not in page


def test_only_what_is_new_or_changed_is_scored_again(
    tasks: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    scores = InverseLikelihood.scores

    def counting(self: InverseLikelihood, pools: list[Pool]) -> list[list[float]]:
        asked.extend(pool.action for pool in pools)
        return scores(self, pools)

    monkeypatch.setattr(InverseLikelihood, "scores", counting)

    def run() -> list[str]:
        asked.clear()
        api.rerank_tasks(tasks, out=tmp_path / "out", model=str(tiny_model))
        return list(asked)

    assert run() == [ACTION, f"{ACTION} <b>"]
    assert run() == []
    write_image(tasks.parent / "missing.png", Image.new("RGB", (96, 96)))
    assert run() == [f"{ACTION} <b>"]
    with (tmp_path / "out" / "ranked.jsonl").open("a") as file:
        file.write('{"x": 1}\n[1]\n{"id')  # nothing that was scored
    assert run() == []
    (tasks.parent / "missing.png").unlink()
    os.mkfifo(tasks.parent / "missing.png")  # it is not waited for
    assert run() == [f"{ACTION} <b>"]
    with pytest.raises(ValueError, match="holds a run with verifier idm and not contrast"):
        api.rerank_tasks(tasks, out=tmp_path / "out", model=str(tiny_model), verifier="contrast")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("[]", "line 1: this is no JSON object"),
        ('{"file_name": "a.png", "action": " ", "candidates": ["b.png"]}', "`file_name` and `action`"),
        ('{"file_name": "a.png", "action": "x", "candidates": []}', "`candidates` must be a list"),
        ('{"id": 1, "file_name": "a.png", "action": "x", "candidates": ["b.png"]}\n' * 2, "line 2: a second task"),
        ("", "holds no tasks"),
        ("{", "line 1: "),
    ],
)
def test_what_is_no_task_is_named_by_its_line(line: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "tasks.jsonl").write_text(line)
    done = CliRunner().invoke(app, ["rerank", "--tasks", str(tmp_path / "tasks.jsonl"), "--out", str(tmp_path / "out")])
    assert done.exit_code == 2
    assert said in done.output
    assert not (tmp_path / "out").exists()


def test_exported_items_come_back_as_predictions(tmp_path: Path) -> None:
    bench = ["bench", "--bench", "tabletop", "--items", "6", "--seed", "3"]
    done = CliRunner().invoke(app, [*bench, "--export", "--out", str(tmp_path / "items")])
    assert done.exit_code == 0, done.output
    items = {item.id: item for item in open_benchmark("tabletop", items=6, seed=3).items}
    lines = [json.loads(line) for line in (tmp_path / "items" / "metadata.jsonl").read_text().splitlines()]
    assert [(line["id"], line["action"]) for line in lines] == [(item.id, item.action) for item in items.values()]
    for line in lines:
        with Image.open(tmp_path / "items" / line["file_name"]) as image:
            assert image.tobytes() == items[line["id"]].source_image.tobytes()
        write_image(tmp_path / "made" / f"{line['id']}.png", items[line["id"]].target_image)
    done = CliRunner().invoke(
        app, [*bench, "--predictions", str(tmp_path / "made"), "--out", str(tmp_path / "run"), "-q"]
    )
    assert done.exit_code == 0, done.output
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["systems"]["made"]["greedy"]["score"] == 1

"""Comparing runs from the files that they wrote."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from retrodict.cli import app
from retrodict.evaluation.compare import compare_runs
from retrodict.files import write_json, write_lines
from retrodict.report import write_report
from retrodict.stats import holm


def run(folder: Path, scores: dict[str, list[float | None]], *, bench: str = "tabletop") -> Path:
    """A run of one system with a greedy score per item and a pool of two, of which the verifier prefers the first."""

    def frame(score: float | None, liked: float = 0.0) -> dict[str, Any]:
        return {"es": score, "me": 1.0, "score": score, "copy": 0.0, "verifiers": {"idm": liked}}

    names = [(suite, i, score) for suite, values in scores.items() for i, score in enumerate(values)]
    records = [
        {
            "id": f"{suite}-{i}",
            "class": suite,
            "group": f"{suite}-{i}",
            "action": "go",
            "greedy": frame(score),
            "pool": [frame(1.0, 1.0), frame(0.0)],
            "l1": {"mine": score, "copy": 0.5},
        }
        for suite, i, score in names
    ]
    write_json(folder / "results.json", {"kind": "bench", "bench": bench, "system": "mine"})
    write_lines(folder / "items" / "mine.jsonl", records)
    judged = [{"row": "mine", "id": f"{s}-{i}", "class": s, "group": f"{s}-{i}", "score": x} for s, i, x in names]
    write_lines(folder / "judge" / "strict.jsonl", judged)
    return folder


def test_a_run_is_not_overwritten_by_what_it_is_compared_with(tmp_path: Path) -> None:
    a, b = run(tmp_path / "a", {"x": [0.5, 0.9]}), run(tmp_path / "b", {"x": [0.4, 0.7]})
    numbers = (a / "results.json").read_bytes()
    with pytest.raises(ValueError, match="is the input"):
        compare_runs(a, b, measure="score", out=a)
    assert (a / "results.json").read_bytes() == numbers


def test_differences_per_subset_by_hand(tmp_path: Path) -> None:
    a = run(tmp_path / "a", {"x": [0.5, 0.9, 0.7, 1.0, 0.6, None], "y": [0.5] * 6})
    b = run(tmp_path / "b", {"x": [0.4, 0.7, 0.4, 0.6, 0.1, 0.5], "y": [0.5] * 6, "z": [1.0]})
    found = compare_runs(a, b, measure="score", out=tmp_path / "out")
    x, y = found["subsets"]["x"], found["subsets"]["y"]
    assert (x["difference"], x["n"], x["n_unscored"], x["p"]) == (pytest.approx(0.3), 5, 1, pytest.approx(2 / 32))
    assert (y["difference"], y["p"]) == (0, 1)
    assert [x["p_holm"], y["p_holm"]] == holm([x["p"], y["p"]]) == [pytest.approx(0.125), 1]
    assert found["items"] == {"common": 12, "only_a": 0, "only_b": 1}
    assert found["all"]["difference"] == pytest.approx(1.5 / 11)
    assert x["mean_b"] == pytest.approx(0.44)  # over the items that both have, not also over the sixth
    assert found["macro"]["difference"] == pytest.approx(0.15)
    write_report(tmp_path / "out")
    assert "+0.300" in (tmp_path / "out" / "report.md").read_text()
    write_report([tmp_path / "a", tmp_path / "b"], tmp_path / "both.html")  # two runs on one page are compared, too
    assert "+0.300" in (tmp_path / "both.md").read_text()
    write_report([tmp_path / "a", tmp_path / "b", tmp_path / "b"], tmp_path / "three.html")
    assert (tmp_path / "three.md").read_text().count("+0.300") == 2
    assert "0.250" in (tmp_path / "three.md").read_text()  # four tests are one family: 4 * 2 / 32
    assert json.loads((tmp_path / "out" / "results.json").read_text())["measure"] == "score"
    assert compare_runs(b, a, measure="score")["subsets"]["x"]["difference"] == pytest.approx(-0.3)


def test_rows_and_measures(tmp_path: Path) -> None:
    a, b = run(tmp_path / "a", {"x": [0.5, 0.25]}), run(tmp_path / "b", {"x": [0.5, 0.5]})
    assert compare_runs(a, b)["measure"] == "judge:strict"  # a judge that both have comes first
    assert compare_runs(a, b)["all"]["difference"] == -0.125
    best = compare_runs(a, a, measure="score", rows=("mine.k2.idm", "mine.k2"))
    assert (best["all"]["mean_a"], best["all"]["mean_b"]) == (1, 0.5)
    assert compare_runs(a, a, measure="score", rows=("mine.k2.oracle", "mine.greedy"))["all"]["mean_a"] == 1
    lower = compare_runs(run(tmp_path / "l", {"x": [0.25, 0.5]}, bench="aurora"), b, measure="l1", rows=("copy", ""))
    assert (lower["all"]["mean_a"], lower["higher_is_better"]) == (0.5, False)
    missing = {"judge:mild": "does not hold judge/mild", "clip_i": "has no clip_i", "verb": "explained"}
    for measure, message in missing.items():
        with pytest.raises(ValueError, match=message):
            compare_runs(a, b, measure=measure)
    with pytest.raises(ValueError, match="no item in common"):
        compare_runs(a, run(tmp_path / "c", {"other": [1.0]}), measure="score")


def test_a_subset_without_scores_is_not_zero(tmp_path: Path) -> None:
    a, b = run(tmp_path / "a", {"x": [None, None], "y": [0.1]}), run(tmp_path / "b", {"x": [0.5, 0.5], "y": [0.5]})
    found = compare_runs(a, b, measure="score")["subsets"]["x"]
    assert math.isnan(found["difference"])
    assert math.isnan(found["mean_b"])
    assert (found["n"], found["n_unscored"]) == (0, 2)


def test_the_command_prints_a_table(tmp_path: Path) -> None:
    a, b = run(tmp_path / "a", {"x": [0.5, 1.0, 0.75]}), run(tmp_path / "b", {"x": [0.5, 0.5, 0.5]})
    result = CliRunner().invoke(app, ["compare", str(a), str(b), "--measure", "score"])
    assert result.exit_code == 0
    assert "+0.250" in result.stdout
    assert CliRunner().invoke(app, ["compare", str(a), str(tmp_path / "none")]).exit_code == 2


def test_what_cannot_be_compared_is_one_line(tmp_path: Path) -> None:
    a, b = run(tmp_path / "a", {"x": [0.5, None]}), run(tmp_path / "b", {"x": [None, 0.5]})
    result = CliRunner().invoke(app, ["compare", str(a), str(b), "--measure", "score"])
    assert result.exit_code == 2 and "None of the 2 common items has score in both runs (1 in" in result.output
    result = CliRunner().invoke(app, ["compare", str(a / "results.json"), str(b)])
    assert result.exit_code == 2 and "holds no results.json: name a folder" in result.output


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("items/mine.jsonl", '{"x": 1}\n', "KeyError: 'id'"),
        ("items/mine.jsonl", "[1]\n", "TypeError"),
        ("items/mine.jsonl", '{"id', "JSONDecodeError"),
        ("results.json", '{"kind": "bench", "comparisons": 3}', "AttributeError"),
    ],
)
def test_a_run_that_was_changed_by_hand_is_named(file: str, text: str, says: str, tmp_path: Path) -> None:
    a, b = run(tmp_path / "a", {"x": [0.5]}), run(tmp_path / "b", {"x": [0.4]})
    (a / file).write_text(text)
    command = ["compare", a, b, "--measure", "score"] if file.startswith("items") else ["report", a]
    result = CliRunner().invoke(app, [str(part) for part in command])
    assert result.exit_code == 2
    said = " ".join(result.output.split())
    assert str(a) in said and "holds something that no run writes" in said and says in said

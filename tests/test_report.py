"""The report: what it says follows from the numbers, what it shows is escaped, and what is missing is said to be."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from retrodict.evaluation.bench import (
    evaluate,
    score_images,
    summarise,
    tabletop_scorer,
    write_predictions,
)
from retrodict.evaluation.pool import ItemResult, Scored
from retrodict.evaluation.report import figures, write_report
from retrodict.evaluation.report.charts import spread
from retrodict.evaluation.report.run import Run, hashed
from retrodict.evaluation.report.words import claims, duration, number, spoken
from retrodict.models.editors import CopyModel
from retrodict.transitions import Transition, write_json, write_rows
from retrodict.worlds import tabletop

ATTACK = "<script>alert('x')</script>"


def with_pool(item: ItemResult, right: Scored, wrong: Scored) -> ItemResult:
    """Two wrong candidates that the verifier dislikes and a right one that it likes."""
    pool = [replace(wrong, verifiers={"idm": -3.0}), replace(right, verifiers={"idm": -1.0})]
    return replace(item, pool=(*pool, replace(wrong, verifiers={"idm": -2.0})))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run with every kind of file, in which FT copies and the verified FDM is always right."""
    out = tmp_path_factory.mktemp("run")
    examples = tabletop.sample(12, 0, namespace="test")
    test = [example.transition("test") for example in examples]
    test[0] = replace(test[0], action=ATTACK)
    copies = evaluate(CopyModel(), test, scorer=tabletop_scorer, n=0, seed=0)
    truth = score_images([t.target_image for t in test], test, tabletop_scorer)
    fdm = [with_pool(wrong, right.greedy, wrong.greedy) for wrong, right in zip(copies, truth, strict=True)]
    write_rows(out / "test" / "test.parquet", test)
    write_predictions(out / "predictions" / "ft.parquet", copies)
    write_predictions(out / "predictions" / "fdm.parquet", fdm)
    mined = [example.transition() for example in tabletop.sample(8, 0, namespace="video")]
    labelled = [replace(t, action_source="idm", logprob=-0.5) for t in mined]
    labelled[0] = replace(labelled[0], action=ATTACK)
    write_rows(out / "annotated" / "a.parquet", labelled)
    write_json(out / "recognition.json", [{"id": test[0].id, "grid": [2, 2], "weights": [0.0, 1.0, 2.0, 4.0]}])
    results = {
        "kind": "demo",
        "systems": {"copy": summarise(copies), "ft": summarise(copies), "fdm": summarise(fdm, ["idm"], (1, 2, 3))},
        "comparisons": {"one": comparison(0.2, 0.1, 0.3), "two": comparison(0.05, -0.01, 0.11)},
        "annotation": {"exact": 0.5, "ci95": [0.4, 0.6], "n": 8, "by_confidence": []},
        "command": ATTACK,
        "config": {"labels": ATTACK},
    }
    write_json(out / "results.json", results)
    return out


def comparison(difference: float, low: float, high: float) -> dict[str, Any]:
    return {
        "a": "fdm.k8.idm_fdm",
        "b": "ft",
        "difference": difference,
        "ci95": [low, high],
        "relative": 0.5,
        "n": 300,
        "p": 0.01,
    }


def test_the_page_is_self_contained_and_escaped(folder: Path) -> None:
    page = write_report(folder).read_text(encoding="utf-8")
    assert ATTACK not in page
    assert page.count("&lt;script&gt;") >= 4  # the action, the wrong label, the command, the setting
    assert "<script" not in page
    links = re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"')\s>]+)""", page)
    assert links
    assert all(link.startswith("data:image/") for link in links)
    assert "@import" not in page
    assert ATTACK not in (folder / "report.md").read_text(encoding="utf-8")


def test_a_claim_is_what_its_interval_allows(folder: Path) -> None:
    run = Run.open(folder)

    def claim(difference: float, low: float, high: float) -> Any:
        results = {"comparisons": {"x": comparison(difference, low, high)}}
        return claims(Run(folder, results))[0]

    found = claim(0.2, 0.1, 0.3)
    assert (found.state, found.headline) == (
        "ahead",
        "FDM (best of 8 by IDM + FDM) beats FT by 0.200 (+50\N{NO-BREAK SPACE}%).",
    )
    assert "95 % interval 0.100 to 0.300" in found.detail
    assert claim(0.05, -0.01, 0.11).state == "level"
    assert claim(0.05, -0.01, 0.11).headline.startswith("No difference is shown")
    assert claim(-0.2, -0.3, -0.1).headline.startswith("FDM (best of 8 by IDM + FDM) falls short of FT by 0.200")
    assert claim(0.2, float("nan"), float("nan")).state == "level"
    assert [c.state for c in claims(run)] == ["ahead", "level"]


def test_pictures_are_chosen_by_hash_and_by_the_verifier(folder: Path) -> None:
    run = Run.open(folder)
    assert [c.title for c in figures.columns(run)] == ["FT", "FDM", "Verified"]
    rows = figures.sample(run)
    order = sorted(run.test.values(), key=lambda t: hashed(t.id))
    assert [row.action for row in rows] == [t.action for t in order[: figures.SAMPLE]]
    assert {tuple(shown.score for shown in row.predictions) for row in rows} == {(0.0, 0.0, 1.0)}
    assert rows[0].predictions[0].copy
    labels = figures.labels(run)
    assert labels is not None
    assert [pair.action for pair in labels["wrong"]] == [ATTACK]
    assert labels["wrong"][0].truth  # what happened in truth is read off the pictures
    assert [cell[4] for cell in figures.heatmaps(run)[0].cells] == [0.25, 0.5, 1.0]


def test_what_was_not_measured_is_said_to_be(tmp_path: Path) -> None:
    write_json(tmp_path / "results.json", {"kind": "demo"})
    assert write_report(tmp_path).read_text().count("Not measured in this run.") >= 6
    for text in ("[1]", "{"):
        (tmp_path / "results.json").write_text(text)
        with pytest.raises(ValueError, match="results"):
            write_report(tmp_path)
    with pytest.raises(ValueError, match=r"holds no results\.json"):
        write_report(tmp_path / "absent")


def test_several_runs_on_one_page(folder: Path, tmp_path: Path) -> None:
    page = write_report([folder, folder], tmp_path / "both.html").read_text(encoding="utf-8")
    assert "2 runs side by side" in page
    assert (tmp_path / "both.md").is_file()


def test_an_older_run_is_rendered_from_its_numbers_alone(folder: Path, tmp_path: Path) -> None:
    results = json.loads((folder / "results.json").read_text())
    write_json(tmp_path / "results.json", results)
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert "What each step adds" in page


def test_numbers_as_text() -> None:
    assert (number(-0.25, 2), number(float("nan"))) == ("\N{MINUS SIGN}0.25", "\N{EN DASH}")
    assert (duration(8.44), duration(125), duration(3720)) == ("8.4 s", "2 min 05 s", "1 h 02 min")
    assert spoken("any.model-2.5.k1") == "any.model-2.5 (one sample)"
    assert spoken("my own words") == "my own words"
    assert spread({"a": 10, "b": 12, "c": 100}, 15) == {"a": 10, "b": 25, "c": 100}


def test_a_label_without_a_picture_is_left_out(tmp_path: Path, folder: Path) -> None:
    write_rows(tmp_path / "annotated" / "a.parquet", [Transition(id="x", action="y", action_source="idm")])
    assert figures.labels(Run(tmp_path, {})) is None

"""The report: what it says follows from the numbers, what it shows is escaped, and what is missing is said to be."""

from __future__ import annotations

import itertools
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
    write_predictions,
)
from retrodict.evaluation.pool import ItemResult, Scored, exact_scorer
from retrodict.files import write_json
from retrodict.models.editors import CopyModel
from retrodict.report import figures, write_report
from retrodict.report.kit.charts import spread
from retrodict.report.kit.format import brief, duration, number, spoken
from retrodict.report.kit.images import hashed
from retrodict.report.kit.tables import Cell, Table, claim, claims, markdown_table
from retrodict.report.run import Run
from retrodict.transitions import Transition, write_rows
from retrodict.worlds import get_world, tabletop

SCORER = exact_scorer(get_world("tabletop"))

ATTACK = "<script>alert('x')</script>"


def in_order(page: str) -> bool:
    """Whether no heading is more than one level below the one before, as who listens to a page needs it."""
    levels = [int(level) for level in re.findall(r"<h([1-6])", page)]
    return levels[0] == 1 and all(after <= before + 1 for before, after in itertools.pairwise(levels))


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
    copies = evaluate(CopyModel(), test, scorer=SCORER, n=0, seed=0)
    truth = score_images([t.target_image for t in test], test, SCORER)
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


def comparison(difference: float, low: float, high: float, p: float = 0.01) -> dict[str, Any]:
    return {
        "a": "fdm.k8.idm_fdm",
        "b": "ft",
        "difference": difference,
        "ci95": [low, high],
        "relative": 0.5,
        "n": 300,
        "p": p,
    }


def test_the_page_is_self_contained_and_escaped(folder: Path) -> None:
    page = write_report(folder).read_text(encoding="utf-8")
    assert ATTACK not in page
    assert page.count("&lt;script&gt;") >= 4  # the action, the wrong label, the command, the setting
    assert "<script" not in page
    assert in_order(page)
    links = re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"')\s>]+)""", page)
    assert links
    assert all(link.startswith("data:image/") for link in links)
    assert "@import" not in page
    assert ATTACK not in (folder / "report.md").read_text(encoding="utf-8")


def test_a_claim_is_what_its_interval_and_its_test_allow(folder: Path) -> None:
    def found(difference: float, low: float, high: float, p: float = 0.01) -> Any:
        return claim(comparison(difference, low, high, p))

    ahead = found(0.2, 0.1, 0.3)
    assert (ahead.state, ahead.headline) == (
        "ahead",
        "FDM (best of 8 by IDM + FDM) beats FT by 0.200 (+50\N{NO-BREAK SPACE}%).",
    )
    assert "95 % interval 0.100 to 0.300" in ahead.detail
    assert found(-0.2, -0.3, -0.1).headline.startswith("FDM (best of 8 by IDM + FDM) falls short of FT by 0.200")
    assert found(0.05, -0.01, 0.11).headline.startswith("No difference is shown")
    assert found(0.2, float("nan"), float("nan")).state == "level"
    assert found(-0.2, -0.3, -0.1, p=0.3).state == "level"  # few clusters: a narrow interval that the test rejects
    assert found(-0.2, -0.3, -0.1, p=float("nan")).state == "level"
    adjusted = claim(comparison(0.2, 0.1, 0.3, p=0.01) | {"p_holm": 0.06})
    assert (adjusted.state, adjusted.detail[-16:]) == ("level", "p = 0.060 (Holm)")
    assert [c.state for c in claims(Run.open(folder).get("comparisons").values())] == ["ahead", "level"]


def test_images_are_chosen_by_hash_and_by_the_verifier(folder: Path) -> None:
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
    assert labels["wrong"][0].truth  # what happened in truth is read off the images
    assert [cell[4] for cell in figures.heatmaps(run)[0].cells] == [0.25, 0.5, 1.0]


def test_what_was_not_measured_is_said_to_be(tmp_path: Path) -> None:
    write_json(tmp_path / "results.json", {"kind": "demo"})
    assert "Not measured in this run: labels of mined pairs" in write_report(tmp_path).read_text()
    for text in ("[1]", "{"):
        (tmp_path / "results.json").write_text(text)
        with pytest.raises(ValueError, match="results"):
            write_report(tmp_path)
    with pytest.raises(ValueError, match=r"holds no results\.json"):
        write_report(tmp_path / "absent")


def test_several_runs_on_one_page(folder: Path, tmp_path: Path) -> None:
    page = write_report([folder, folder], tmp_path / "both.html").read_text(encoding="utf-8")
    assert "2 runs side by side" in page
    assert in_order(page)
    assert "By kind of action" in page
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


def test_a_name_with_a_pipe_stays_in_its_cell() -> None:
    told = markdown_table(Table(["a|b", "n"], [("push | pull", [Cell("1|2"), Cell("3")])]))
    assert [len(re.findall(r"(?<!\\)\|", line)) for line in told.splitlines()] == [4, 4, 4]


def test_a_label_without_an_image_is_left_out(tmp_path: Path, folder: Path) -> None:
    write_rows(tmp_path / "annotated" / "a.parquet", [Transition(id="x", action="y", action_source="idm")])
    assert figures.labels(Run(tmp_path, {})) is None


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("old_demo", ["What each step adds", "FDM on true labels", "0.738", "Best of 8"]),
        ("old_aurora", ["Copy on AURORA-Bench", "0.027", "0.069", "0.135", "0.039", "0.011", "no target picture"]),
    ],
)
def test_results_of_an_older_version_render_offline(name: str, says: list[str], tmp_path: Path) -> None:
    """Files that earlier versions wrote, kept as they were but for the command."""
    golden = Path(__file__).parent / "goldens" / "report" / f"{name}.json"
    (tmp_path / "results.json").write_bytes(golden.read_bytes())
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert [text for text in says if text not in page] == []
    assert "|---" in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_judges_stand_on_the_page_with_what_they_did_not_score(folder: Path, tmp_path: Path) -> None:
    write_json(tmp_path / "results.json", json.loads((folder / "results.json").read_text()))
    entry = {
        "score": 6.5,
        "ci95": [5.0, 8.0],
        "n": 9,
        "n_total": 10,
        "bounds": [5.85, 6.85],
        "es": 7.0,
        "me": 8.0,
        "unscored": {ATTACK: 1},
        "subsets": {"spatial": {"score": 6.25, "ci95": [5, 8]}},
        "macro": 6.25,
    }
    card = {"trusted": False, "why": ATTACK, "rows": {"ground_truth": entry, "copy": {**entry, "score": 6.4}}}
    judge = {"kind": "judge", "name": ATTACK, "rows": {"fdm": entry}, "card": card, "forced": True, "comparisons": {}}
    write_json(tmp_path / "judge" / "j.json", judge)
    write_json(tmp_path / "judge" / "j.card.json", card)
    wins = {"fdm": {"ft": 0.625}, "ft": {"fdm": 0.375}}
    write_json(tmp_path / "judge" / "pairs.json", {"kind": "pairwise", "name": "pairs", "wins": wins})
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert ATTACK not in page
    for text in ("62", "38", "Not trusted", "Used all the same", "9 of 10", "5.85 to 6.85", "6.25"):
        assert text in page
    summary = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert ATTACK not in summary
    assert "6.25" in summary


def test_a_page_of_a_benchmark_whose_images_are_elsewhere(tmp_path: Path) -> None:
    """Images are read where the benchmark lies; where it is gone, everything else stands."""
    from PIL import Image

    data = tmp_path / "data"
    records = []
    data.mkdir()
    for i in range(3):
        for side, shade in (("a", 10), ("b", 200)):
            Image.new("RGB", (40, 20), (shade, i, 0)).save(data / f"{side}{i}.png")
        records.append({"input": f"a{i}.png", "output": f"b{i}.png", "instruction": ATTACK, "task": "ag"})
    (data / "test.json").write_text(json.dumps(records))
    mine = tmp_path / "mine"
    mine.mkdir()
    for i in (1, 2):
        Image.new("RGB", (40, 20), (150, 0, 0)).save(mine / f"ag-00{i}.png")
    from retrodict.report.runs import bench

    out = tmp_path / "out"
    bench("aurora", out=out, data=data, predictions=mine)
    run = Run.open(out)
    rows = figures.sample(run)
    assert len(rows) == 3
    assert {row.shape for row in rows} == {2.0}
    remarks = [shown.remarks for row in rows for shown in row.predictions]
    assert sum(bool(fact) and fact[0].startswith("L1 0.") for fact in remarks) == 2
    assert [row.action for row in figures.worst(run)] == [ATTACK] * 2
    page = (out / "report.html").read_text()
    assert ATTACK not in page
    assert in_order(page)
    bench("aurora", out=tmp_path / "copied", data=data, model="copy")
    rows = figures.sample(Run.open(tmp_path / "copied"))  # what copying "predicts" can be looked at, too
    assert [row.predictions[0].image for row in rows] == [row.source for row in rows]
    assert rows[0].predictions[0].copy
    (data / "test.json").unlink()
    assert "How near, and is it more than a copy?" in write_report(out).read_text()
    assert figures.sample(Run.open(out)) == []


def test_runs_of_several_seeds_show_their_spread(folder: Path, tmp_path: Path) -> None:
    runs = []
    for score in (0.5, 0.7):
        results = json.loads((folder / "results.json").read_text())
        results["systems"]["fdm"]["greedy"]["score"] = score
        runs.append(tmp_path / str(score))
        write_json(runs[-1] / "results.json", results)
    page = write_report(runs, tmp_path / "both.html").read_text(encoding="utf-8")
    assert "mean of runs" in page
    assert "SD 0.141" in page


def test_a_comparison_has_a_page(tmp_path: Path) -> None:
    entry = {"mean_a": 0.5, "mean_b": 0.25, "difference": 0.25, "ci95": [0.1, 0.4], "n": 9, "p": 0.01}
    found = {
        "kind": "compare",
        "a": {"run": ATTACK, "row": "fdm"},
        "b": {"run": "b", "row": "ft"},
        "measure": "score",
        "higher_is_better": True,
        "subsets": {"x": {**entry, "p_holm": 0.02}},
        "all": entry,
        "macro": {"difference": 0.25, "ci95": [0.1, 0.4], "n": 9},
    }
    write_json(tmp_path / "results.json", found)
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert ATTACK not in page
    assert "0.020" in page


def test_long_reasons_are_cut() -> None:
    assert brief("This model does not know 'cat'. Its words are: a, b, c") == "This model does not know 'cat'"
    assert brief("word " * 40) == "word " * 15 + "word…"


def test_a_loop_without_an_exact_state_shows_distances_beside_copying(folder: Path, tmp_path: Path) -> None:
    run = Run.open(folder)
    unscored = [replace(item, greedy=Scored(image=item.greedy.image, reason="no exact state"), pool=()) for item in
                run.predictions("ft").values()]  # fmt: skip
    write_rows(tmp_path / "test" / "test.parquet", list(run.test.values()))
    write_predictions(tmp_path / "predictions" / "fdm.parquet", unscored)
    row = {"l1": 0.187, "ci95": [0.1, 0.3], "n": 3, "n_unscored": 9}
    rows = {"copy": {"l1": 0.023, "ci95": [0.01, 0.03], "n": 12}, "round_trip_target": {**row, "l1": 0.104}, "fdm": row}
    results = {
        "kind": "bootstrap",
        "systems": {"copy": summarise(unscored), "fdm": summarise(unscored)},
        "protocol": "native-lanczos",
        "all": rows,
        "subsets": {"spatial": rows},
    }
    write_json(tmp_path / "results.json", results)
    page = write_report(tmp_path).read_text(encoding="utf-8")
    for text in ("0.023", "0.104", "0.187", "n = 3, 9 without an image", "How far the predicted frame is"):
        assert text in page
    for text in ("not scored", "should be 0", "Edit success", "recognition weighting"):  # what cannot exist here
        assert text not in page
    shown = figures.sample(Run.open(tmp_path))[0].predictions[0]
    assert shown.remarks and shown.remarks[0].startswith("L1 0.0")
    other = tmp_path / "other"
    write_json(other / "results.json", {**results, "all": {**rows, "fdm": {**row, "l1": 0.211}}})
    both = write_report([tmp_path, other], tmp_path / "both.html").read_text(encoding="utf-8")
    assert "other: FDM" in both and "0.211" in both and "Its own model" not in both

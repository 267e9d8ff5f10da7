"""The statistics of the human study: numbers by hand, invariants, parity with other libraries, error rates."""

from __future__ import annotations

import json
import math
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import choix
import krippendorff
import numpy as np
import pytest

from retrodict.stats import paired_difference
from retrodict.study.analysis.agreement import agreement, attention, self_consistency
from retrodict.study.analysis.alpha import krippendorff_alpha
from retrodict.study.analysis.exclude import excluded, parse_rules
from retrodict.study.analysis.judges import against_people
from retrodict.study.analysis.panel import Panel, Values
from retrodict.study.analysis.power import Assumption, needed, simulate, simulated_panel
from retrodict.study.analysis.systems import PRIOR, bradley_terry, pairs, scores, strengths, win_matrix, wins
from retrodict.study.answers import Answer
from retrodict.study.build import Texts, build
from retrodict.study.export import records, to_jsonl
from retrodict.study.plan import DATABASE, Check, CheckKind, Design, read_key, read_plan
from retrodict.study.report import write_report
from retrodict.study.store import Store


def panel(scores_IRS: Values, groups: list[str] | None = None) -> Panel:
    items, raters, systems = scores_IRS.shape
    ids = tuple(f"item{i}" for i in range(items))
    return Panel(
        scores_IRS, tuple("abcdefgh"[:systems]), ids, ("all",) * items, tuple(groups or ids), tuple(range(raters))
    )


def simulated(rng: np.random.Generator, worth: list[float], items: int, raters: int, spread: float = 0.5) -> Panel:
    """Best and worst of what each rater thinks of each image: the system's worth, the image's luck, and a whim."""
    shape = (items, raters, len(worth))
    thought_IRS = np.array(worth) + spread * rng.normal(size=(items, 1, len(worth))) + rng.normal(size=shape)
    scores_IRS = np.zeros(shape)
    np.put_along_axis(scores_IRS, thought_IRS.argmax(2)[:, :, None], 1, axis=2)
    np.put_along_axis(scores_IRS, thought_IRS.argmin(2)[:, :, None], -1, axis=2)
    return panel(scores_IRS)


BY_HAND = panel(
    np.array(
        [
            [[1, -1, 0], [1, 0, -1]],  # both raters prefer a
            [[0, 1, -1], [math.nan, math.nan, math.nan]],  # the second rater did not judge this item
        ]
    )
)


def test_scores_and_win_rates_by_hand() -> None:
    found = scores(BY_HAND)
    assert [found["systems"][s]["score"] for s in "abc"] == [0.5, (-0.5 + 1) / 2, (-0.5 - 1) / 2]
    assert (found["n_items"], found["n_judgements"], found["interval"]) == (2, 3, "items")
    expected = [[0.5, (1 + 0) / 2, (1 + 1) / 2], [0.5, 0.5, (0.5 + 1) / 2], [0, 0.25, 0.5]]
    np.testing.assert_allclose(win_matrix(BY_HAND), expected)


def test_cant_tell_is_a_tie_of_all() -> None:
    tied = panel(np.zeros((3, 2, 4)))
    assert all(one["score"] == 0 for one in scores(tied)["systems"].values())
    assert (win_matrix(tied) == 0.5).all()
    assert all(math.isnan(row["p_wilcoxon_paper"]) for row in pairs(tied))


def test_scores_sum_to_zero_and_opposite_win_rates_to_one() -> None:
    found = simulated(np.random.default_rng(0), [0, 0.3, 0.6, 0.9], items=30, raters=3)
    found.scores_IRS[::4, 1] = np.nan
    assert sum(one["score"] for one in scores(found)["systems"].values()) == pytest.approx(0, abs=1e-12)
    matrix = win_matrix(found)
    np.testing.assert_allclose(matrix + matrix.T, 1)
    np.testing.assert_allclose(np.nansum(wins(found)[:, 0], axis=(1, 2)), 8)


def test_bradley_terry_is_what_choix_finds() -> None:
    rng = np.random.default_rng(1)
    counts = rng.integers(0, 40, (3, 5, 5)).astype(float)
    found = bradley_terry(counts)
    for wins_ST, mine in zip(counts, found, strict=True):
        matrix = np.where(np.eye(5, dtype=bool), 0, wins_ST + PRIOR)
        np.testing.assert_allclose(mine, choix.ilsr_pairwise_dense(matrix), atol=1e-6)


def test_alpha_is_what_krippendorff_finds() -> None:
    rng = np.random.default_rng(2)
    table = rng.integers(-1, 2, (4, 60)).astype(float)
    table[1:3] = np.where(rng.random((2, 60)) < 0.7, table[0], table[1:3])
    table[rng.random(table.shape) < 0.3] = np.nan
    expected = krippendorff.alpha(table, level_of_measurement="ordinal")
    units = [[value for value in column if not math.isnan(value)] for column in table.T]
    assert krippendorff_alpha(units) == pytest.approx(expected, abs=1e-12)
    assert math.isnan(krippendorff_alpha([[1, 1], [1, 1]]))
    assert krippendorff_alpha([[1, 1], [0, 0]]) == 1


def test_a_known_preference_is_found_in_order_and_size() -> None:
    """The intervals hold the truth, which is what very many raters of very many items would say."""
    worth = [0.0, 0.4, 0.8, 1.2]
    truth = simulated(np.random.default_rng(99), worth, items=20_000, raters=3).item_scores.mean(0)
    rng, held = np.random.default_rng(3), []
    for _ in range(12):
        found = simulated(rng, worth, items=100, raters=3)
        entry = scores(found)
        ranked = sorted(entry["systems"], key=lambda s: entry["systems"][s]["score"])
        assert ranked == ["a", "b", "c", "d"]
        for one, true in zip(entry["systems"].values(), truth, strict=True):
            assert one["ci95"][0] < one["score"] < one["ci95"][1]
            held.append(one["ci95"][0] <= true <= one["ci95"][1])
    assert entry["interval"] == "two-way"
    assert np.mean(held) >= 0.9
    assert next(row["p_holm"] for row in pairs(found) if (row["a"], row["b"]) == ("a", "d")) < 0.05
    found_bt = strengths(found)
    assert sorted(found_bt, key=lambda s: found_bt[s]["log_strength"]) == ["a", "b", "c", "d"]


def test_without_a_preference_the_item_level_test_errs_as_often_as_it_says() -> None:
    """One pair per study at the default design (5 x 20 items, 3 raters); a benchmark counts many more."""
    rng = np.random.default_rng(4)
    rejected = []
    for _ in range(300):
        scores_IS = simulated(rng, [0, 0, 0, 0], items=100, raters=3).item_scores
        rejected.append(paired_difference(scores_IS[:, 0], scores_IS[:, 1]).p < 0.05)
    assert 0.03 <= np.mean(rejected) <= 0.07


@pytest.mark.slow
def test_power_finds_a_design_that_shows_the_difference() -> None:
    assumption = Assumption(difference=0.8, systems=3, luck=0.0, dropout=0.3, items_per_rater=20)
    worth = assumption.worth()
    scores_S = simulate(np.random.default_rng(9), worth, 50_000, 1, 0.0).mean((0, 1))
    assert scores_S[0] - scores_S[1] == pytest.approx(0.8, abs=0.02)
    line = needed(assumption, 2, goal=0.8, studies=20, seed=0)
    items, raters = (int(part) for part in line.split("|")[1:3])
    assert 5 <= items <= 60 and raters == max(2, math.ceil(items * 2 / 20))
    panel = simulated_panel(np.random.default_rng(1), worth, 40, 2, luck=0, dropout=0, per_rater=20)
    assert (panel.judged.sum(1).tolist(), panel.judged.sum(0).tolist()) == ([2] * 40, [20] * 4)
    with pytest.raises(ValueError, match="differ by more than 0"):
        Assumption(difference=2).worth()


def test_the_papers_test_is_wilcoxon_over_judgements() -> None:
    from scipy import stats

    found = simulated(np.random.default_rng(5), [0, 1], items=10, raters=4)
    difference = (found.scores_IRS[:, :, 0] - found.scores_IRS[:, :, 1]).ravel()
    expected = stats.wilcoxon(difference, method="asymptotic").pvalue
    assert pairs(found)[0]["p_wilcoxon_paper"] == pytest.approx(expected)


def test_a_judge_who_thinks_like_people_and_one_who_does_not() -> None:
    found = simulated(np.random.default_rng(6), [0, 0.5, 1, 1.5], items=60, raters=3)
    like = against_people(found, found.item_scores)
    assert like["spearman"]["item"]["rho"] == pytest.approx(1)
    assert like["spearman"]["system"]["rho"] == pytest.approx(1)
    assert like["best"]["share"] > like["best"]["chance"] == 0.25
    against = against_people(found, -found.item_scores)
    assert against["spearman"]["judgement"]["rho"] == pytest.approx(-like["spearman"]["judgement"]["rho"])
    tied = against_people(found, np.ones((60, 4)))
    assert tied["best"]["share"] == 0.25  # a judge who ties all has chance
    assert math.isnan(tied["spearman"]["item"]["rho"])
    half = found.item_scores.copy()
    half[:20, 2] = np.nan
    assert (against_people(found, half)["n_items"], against_people(found, half)["n_unscored"]) == (40, 20)


def test_raters_against_themselves_and_against_checks() -> None:

    def row(rater: int, item: str, kind: str, best: str, worst: str) -> dict[str, Any]:
        order = ["x", "y", "z", "noise", "truth"]
        said = {"rater": rater, "item": item, "kind": kind, "best": best, "worst": worst, "order": order}
        return said | {"question": "", "ratings": None, "seconds": 1.0 if rater == 2 else 9.0}

    rows = [
        row(1, "i", "item", "x", "y"),
        row(1, "i", "repeat", "x", "z"),
        row(2, "n", "check", "x", "noise"),
        row(2, "t", "check", "x", "truth"),
    ]
    again = self_consistency(rows)
    assert (again["best"]["share"], again["worst"]["share"], again["best"]["n"]) == (1, 0, 1)
    checks = {
        kind[0]: Check(kind[0], "", "", "", ("x", "y", "z", "noise", "truth"), (1, 1), decoy=kind, kind=kind)
        for kind in get_args(CheckKind)
    }
    assert attention(rows, checks)["raters"] == {"2": {"failed": 1, "n": 2}}
    by_rule = {
        rule: excluded(parse_rules([rule]), rows, checks) for rule in ("checks:0", "checks:1", "speed:2", "raters:1,7")
    }
    assert by_rule == {
        "checks:0": {2: "failed 1 attention checks"},
        "checks:1": {},
        "speed:2": {2: "took 1.0 s per task"},
        "raters:1,7": {1: "named by a rule"},
    }
    for wrong in ("checks:x", "speed:-1", "speed:inf", "raters:", "age:30", "checks"):
        with pytest.raises(ValueError, match="is no rule"):
            parse_rules([wrong])


def test_agreement_of_raters_who_choose_alike_and_at_random() -> None:
    one = simulated(np.random.default_rng(7), [0, 0, 0, 0], items=40, raters=1).scores_IRS
    alike = agreement(panel(np.repeat(one, 3, axis=1)))
    assert (alike["alpha"], alike["same_best"]) == (1, 1)
    chance = agreement(simulated(np.random.default_rng(8), [0, 0, 0, 0], items=200, raters=3, spread=0))
    assert abs(chance["alpha"]) < 0.08
    assert chance["same_best"] == pytest.approx(0.25, abs=0.06)


def choose(study: Path, rank: dict[str, float], raters: Sequence[int]) -> None:
    """Raters who find the system of the highest rank best and of the lowest worst, and chance between equals (1)."""
    plan, key, rng = read_plan(study), read_key(study), random.Random(0)
    decoys = {check.decoy for check in plan.checks if check.kind == "noise"}
    with Store(study / DATABASE) as store:
        for rater in raters:
            while (state := store.state(rater)) is not None:
                item = key.items.get(state.key)
                worth = [rank.get(item.pictures[name], 1) if item else -(name in decoys) for name in state.images]
                order = sorted(range(len(worth)), key=lambda i: worth[i] + rng.random() / 2)
                store.save(rater, state.position, Answer(1, order[-1], order[0], done=True, seconds=3))


def test_a_report_from_judgements_in_the_database(studied_runs: list[str], tmp_path: Path) -> None:
    """Raters who always prefer one system: after build, clicks and report it has +1, under its own name."""
    study = tmp_path / "s"
    build(studied_runs, study, design=Design(per_subset=4, raters=2), texts=Texts("<script>alert(1)</script> | x"))
    with pytest.raises(ValueError, match="Nobody has finished"):
        write_report([study], study / "report")
    choose(study, {"numbat": 2, "quokka": 0}, raters=(1, 2))
    page = write_report([study], study / "report").read_text()
    found = json.loads((study / "report" / "results.json").read_text())
    assert {s: one["score"] for s, one in found["all"]["systems"].items()} == {
        "numbat": 1, "quokka": -1, "wombat": 0, "bilby": 0
    }  # fmt: skip
    assert found["all"]["n_judgements"] == 24 == 2 * len(read_plan(study).items)
    assert set(found["subsets"]) == {"edit", "motion", "space"}
    assert found["attention"]["failed"]["share"] <= 0.5
    assert found["self_consistency"]["best"]["share"] == 1
    judge = found["judges"]["bench score"]
    assert (judge["n_items"], judge["n_unscored"]) == (0, 12)  # the folder of images has no scores
    assert "bench score: no item on which it scored every system" in page
    assert "<script>" not in page and "&lt;script&gt;" in page
    assert "http" not in page.replace("http-equiv", "")
    summary = (study / "report" / "report.md").read_text()
    cell = "1.00 (1.00 to 1.00)"
    assert f"| numbat | {cell} | {cell} | {cell} | {cell} |" in summary
    assert "<script>" not in summary
    rows = [json.loads(line) for line in (study / "report" / "judgements.jsonl").read_text().splitlines()]
    assert {row["best"] for row in rows if row["kind"] != "check"} == {"numbat"}
    key = read_key(study)
    assert {row["item"] for row in rows} <= {*(item.id for item in key.items.values()), *key.checks.values()}


def test_what_a_judge_said_of_the_shown_frames_is_found(studied_runs: list[str], tmp_path: Path) -> None:

    for run in studied_runs[:2]:
        shutil.copytree(run, tmp_path / Path(run).name)
    given = [str(tmp_path / "quokka"), str(tmp_path / "wombat")]
    build(given, tmp_path / "s", design=Design(per_subset=2, raters=1))
    key = read_key(tmp_path / "s")
    for name, score in (("quokka", 3.0), ("wombat", 7.0)):
        lines = [
            {"row": f"{name}.{row}", "candidate": candidate, "id": item.id, "score": value}
            for item in key.items.values()
            for row, candidate, value in (("greedy", -1, score), ("k8.idm", 2, 9.0))
        ]
        (tmp_path / name / "judge").mkdir()
        (tmp_path / name / "judge" / "vlm.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with Store(tmp_path / "s" / DATABASE) as store:
        state = store.state(1)
        assert state is not None
        store.save(1, 0, Answer(1, 0, 1, done=True))
    write_report([tmp_path / "s"], tmp_path / "r")
    judges = json.loads((tmp_path / "r" / "results.json").read_text())["judges"]
    assert set(judges) == {"bench score", "vlm"}
    assert judges["vlm"]["wins"] == [[0.5, 0.0], [1.0, 0.5]]  # quokka, wombat


def test_studies_are_put_together_and_exports_come_back(studied_runs: list[str], tmp_path: Path) -> None:
    studies = [tmp_path / "a", tmp_path / "b"]
    for seed, (study, worst) in enumerate(zip(studies, ("quokka", "wombat"), strict=True)):
        build(studied_runs, study, design=Design(per_subset=2, raters=1), seed=seed)
        choose(study, {"numbat": 2, worst: 0}, raters=[1])
        with Store(study / DATABASE) as store:
            (tmp_path / f"{study.name}.jsonl").write_text(to_jsonl(records(store, read_plan(study))))
    write_report(studies, tmp_path / "both")
    exports = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    write_report(studies, tmp_path / "again", exports=exports)
    both, again = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("both", "again"))
    assert both == again
    assert both["all"]["n_judgements"] == 12
    assert set(both["raters"]) == {"a/1", "b/1"}
    assert both["all"]["systems"]["numbat"]["score"] == 1
    worst = [both["all"]["systems"][name]["score"] for name in ("quokka", "wombat")]
    assert sum(worst) == pytest.approx(-1) and max(worst) < 0
    shutil.copy(exports[0], tmp_path / "copy.jsonl")
    with pytest.raises(ValueError, match="hold the same judgements"):
        write_report(studies, tmp_path / "twice", exports=[exports[0], tmp_path / "copy.jsonl"])
    with pytest.raises(ValueError, match="items that are in none of these studies"):
        write_report([studies[0]], tmp_path / "other", exports=[exports[1]])


def test_the_number_stands_with_and_without_whom_a_rule_leaves_out(studied_runs: list[str], tmp_path: Path) -> None:
    study = tmp_path / "s"
    build(studied_runs, study, design=Design(per_subset=2, raters=2), exclude=["raters:2"])
    choose(study, {"numbat": 2, "quokka": 0}, raters=[1])
    choose(study, {"numbat": 0, "quokka": 2}, raters=[2])
    page = write_report([study], tmp_path / "r").read_text()
    results = json.loads((tmp_path / "r" / "results.json").read_text())
    exclusion = results["exclusion"]
    assert (exclusion["fixed"], exclusion["raters"]) == (["raters:2"], {"2": "named by a rule"})
    scores = [part["systems"]["numbat"]["score"] for part in (results["all"], exclusion["without"]["all"])]
    assert scores == [1, 0]
    assert (
        "With and without exclusion" in page and "With and without exclusion" in (tmp_path / "r/report.md").read_text()
    )
    with pytest.raises(ValueError, match="leave none of 2 raters"):
        write_report([study], tmp_path / "none", exclude=["raters:1,2"])


def test_items_on_which_people_and_a_judge_disagree_are_listed(studied_runs: list[str], tmp_path: Path) -> None:
    """`bench` scored quokka 0 or 1/4, wombat 1/4 or 1/2; people find quokka better everywhere."""
    study = tmp_path / "s"
    build(studied_runs[:2], study, design=Design(per_subset=2, raters=1))
    choose(study, {"quokka": 2, "wombat": 0}, raters=[1])
    page = write_report([study], tmp_path / "r").read_text()
    results = json.loads((tmp_path / "r" / "results.json").read_text())
    rows = results["disagreements"]["bench score"]
    assert {row["id"] for row in rows} == {item.id for item in read_key(study).items.values()}
    assert {(row["people"], row["judge"], row["gap"]) for row in rows} == {("quokka", "wombat", 2.0)}
    assert "its best candidate is not people" in page and rows[0]["id"] in page
    assert page.count('alt="People: quokka"') == page.count('alt="Source"') == len(rows)

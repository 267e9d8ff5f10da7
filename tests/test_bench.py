"""Predictions, their scores, and the benchmarks' readers."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from retrodict.data.aurora import read_aurora
from retrodict.dynamics.verify import Random, ScoredBy
from retrodict.evaluation.bench import (
    ItemResult,
    compare,
    evaluate,
    item_values,
    read_predictions,
    run_bench,
    summarise,
    write_items,
    write_predictions,
)
from retrodict.evaluation.exact import exactness
from retrodict.evaluation.judge.plan import Plan
from retrodict.evaluation.judge.run import judge_run
from retrodict.evaluation.pool import Scored, exact_scorer, reason_counts
from retrodict.evaluation.summary import best_of_k, pool_sizes
from retrodict.models.editors import CopyModel
from retrodict.models.protocol import Candidate, Frame
from retrodict.progress import Event, EventProgress
from retrodict.sampling import Sampling
from retrodict.transitions import Transition
from retrodict.worlds import get_world, tabletop

SCORER = exact_scorer(get_world("tabletop"))

NAN = math.nan


class HalfRight:
    """Greedy is a copy; of the sampled frames, those with an odd index are right. It cannot read "remove"."""

    def __init__(self, transitions: Sequence[Transition]) -> None:
        self.targets = {(t.source_image.tobytes(), t.action): t.target_image for t in transitions}

    def sample(
        self,
        sources: Sequence[Frame],
        actions: Sequence[str],
        n: int,
        seed: int,
        sampling: Sampling = Sampling(),
    ) -> list[list[Candidate]]:
        if unknown := [a for a in actions if "remove" in a]:
            raise ValueError(f"unknown word in {unknown[0]}")
        pools = []
        for source, action in zip(sources, actions, strict=True):
            assert isinstance(source, Image.Image)
            right = self.targets[source.tobytes(), action]
            pools.append([Candidate(right if sampling.temperature and i % 2 else source) for i in range(n)])
        return pools


def frame(score: float, **verifiers: float) -> Scored:
    return Scored(es=score, me=1.0, score=score, copy=float(score == 0), verifiers=verifiers)


def item(name: str, greedy: float, *pool: Scored, category: str = "a") -> ItemResult:
    return ItemResult(name, category, name, "do it", frame(greedy), pool)


def test_best_of_k_by_hand() -> None:
    # Verifier order (best first): 0.0, 1.0, 0.5. Best of 2 out of 3 pairs: 0.0, 0.0, 1.0.
    one = item("1", 0.5, frame(1.0, idm=-2.0), frame(0.0, idm=-1.0), frame(0.5, idm=-3.0))
    assert item_values([one], "idm", 1)[0] == pytest.approx(0.5)
    assert item_values([one], "idm", 2)[0] == pytest.approx(1 / 3)
    assert item_values([one], "idm", 3)[0] == 0
    assert item_values([one], "oracle", 2)[0] == pytest.approx((1 + 1 + 0.5) / 3)
    assert item_values([one], "random", 2)[0] == pytest.approx(0.5)
    assert item_values([one], "idm", 2, "copy")[0] == pytest.approx(2 / 3)
    assert math.isnan(item_values([one], "absent", 2)[0])


@given(
    st.lists(st.tuples(st.sampled_from([NAN, 0.0, 1.0, 2.0]), st.integers(0, 9)), min_size=1, max_size=6),
    st.integers(1, 6),
)
def test_best_of_k_is_the_mean_over_all_subsets(pool: list[tuple[float, int]], k: int) -> None:
    k = min(k, len(pool))
    scores, values = np.array([[s for s, _ in pool]]), np.array([[v for _, v in pool]])
    found = (best_of_k(scores, k) * values).sum()
    if np.isnan(scores).all():
        assert math.isnan(found)  # nothing was scored, so nothing was chosen
        return
    means = []
    for subset in itertools.combinations(pool, k):
        keys = [-math.inf if math.isnan(score) else score for score, _ in subset]
        means.append(np.mean([value for key, (_, value) in zip(keys, subset, strict=True) if key == max(keys)]))
    assert found == pytest.approx(np.mean(means))


def test_best_of_all_candidates_is_always_reported() -> None:
    assert [pool_sizes(size) for size in (0, 1, 3, 8, 12)] == [[], [1], [1, 2, 3], [1, 2, 4, 8], [1, 2, 4, 8, 12]]


def test_summary_has_the_documented_shape_and_counts_what_is_unscored() -> None:
    lost = ItemResult("3", "b", "3", "?", Scored(reason="unknown word"), (Scored(reason="unknown word"),) * 2)
    items = [
        item("1", 1.0, frame(1.0, idm=1, idm_fdm=0), frame(0.0, idm=0, idm_fdm=1)),
        item("2", 0.0, frame(0.0, idm=0, idm_fdm=0), frame(1.0, idm=1, idm_fdm=1), category="b"),
        lost,
    ]
    entry = summarise(items, ["idm", "idm_fdm"])
    assert [k for k in entry if k.startswith("k")] == ["k1", "k2"]  # a pool of 2 says nothing about best of 4
    assert set(entry["k2"]) >= {"score", "es", "me", "ci95", "n", "copy_rate", "selector", "idm", "random", "oracle"}
    assert (entry["greedy"]["score"], entry["greedy"]["copy_rate"]) == (0.5, 0.5)
    assert (entry["greedy"]["n"], entry["greedy"]["n_unscored"]) == (2, 1)
    assert (entry["k2"]["selector"], entry["k2"]["score"]) == ("idm_fdm", 0.5)
    assert (entry["k2"]["idm"]["score"], entry["k2"]["oracle"]["score"]) == (1, 1)
    assert entry["suites"]["b"]["greedy"]["score"] == 0
    assert entry["unscored"] == {"unknown word": 1}
    found = compare(items, items, names=("verified", "greedy"), selectors=("idm", "greedy"), ks=(2, 1))
    assert (found["difference"], found["relative"], found["n"]) == (0.5, 1.0, 2)
    with pytest.raises(ValueError, match="same items"):
        compare(items, items[:2], names=("a", "b"))


def test_reasons_are_counted_by_kind() -> None:
    reasons = [
        "This model does not know 'cat'. It knows: a b",
        "This model does not know 'dog's'.",
        "no target image",
    ]
    assert reason_counts(reasons) == {"This model does not know ...": 2, "no target image": 1}


def test_sampling_reaches_the_model_and_what_it_cannot_do_is_one_error() -> None:
    transitions = [e.transition("test") for e in tabletop.sample(3, 5, namespace="bench")]
    asked: list[tuple[int, Sampling]] = []

    class Listening:
        def sample(
            self, sources: Any, actions: Any, n: int, seed: int, sampling: Sampling = Sampling()
        ) -> list[list[Candidate]]:
            asked.append((n, sampling))
            return CopyModel().sample(sources, actions, n, seed)

    sampling = Sampling(0.5, top_p=0.9, guidance=3.0)
    evaluate(Listening(), transitions, scorer=SCORER, n=4, seed=0, sampling=sampling)
    assert asked == [(1, Sampling(0.0, guidance=3.0)), (4, sampling)]
    with pytest.raises(ValueError, match="samples nothing"):  # not the reason of each item
        evaluate(CopyModel(), transitions, scorer=SCORER, n=4, seed=0, sampling=sampling)


def test_evaluate_scores_every_frame_and_survives_what_it_cannot_express(tmp_path: Path) -> None:
    transitions = [e.transition("test") for e in tabletop.sample(40, 5, namespace="bench")]
    red = ScoredBy("red", lambda source, action, image: float(image.getpixel((0, 0))[0]))  # type: ignore[index]
    found = evaluate(
        HalfRight(transitions),
        transitions,
        scorer=SCORER,
        verifiers=[Random(0), red],
        n=4,
        seed=0,
    )
    lost = [r for r in found if math.isnan(r.greedy.score)]
    assert lost
    assert {r.action for r in lost} == {t.action for t in transitions if "remove" in t.action}
    scored = [r for r in found if r not in lost]
    assert {(r.greedy.score, r.greedy.copy) for r in scored} == {(0.0, 1.0)}
    assert {tuple(f.score for f in r.pool) for r in scored} == {(0.0, 1.0, 0.0, 1.0)}
    assert set(scored[0].pool[0].verifiers) == {"random", "red"}

    write_predictions(tmp_path / "p.parquet", found)
    assert [r.id for r in read_predictions(tmp_path / "p.parquet")] == [r.id for r in found]
    again = next(r for r in read_predictions(tmp_path / "p.parquet") if r.id == scored[0].id)
    assert again == scored[0]
    write_items(tmp_path / "p.jsonl", found)
    lines = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    broken = next(line for line in lines if line["id"] == lost[0].id)
    assert broken["greedy"]["score"] is None
    assert broken["greedy"]["reason"].startswith("unknown word")

    from datasets import load_dataset

    shown = load_dataset("parquet", data_files=str(tmp_path / "p.parquet"), cache_dir=str(tmp_path / "hf"))["train"]
    assert shown[1]["image"].size == (96, 96)
    assert len(shown) == 40 * 5


def test_bench_on_tabletop_with_copy_and_with_given_images(tmp_path: Path) -> None:
    results = run_bench("tabletop", out=tmp_path / "copy", model="copy", items=20, seed=7)
    copied = results["systems"]["copy"]["greedy"]
    assert (copied["score"], copied["copy_rate"], copied["n"]) == (0, 1, 20)
    assert results["ground_truth"]["score"] == 1
    assert json.loads((tmp_path / "copy" / "results.json").read_text())["config"]["items"] == 20

    mine = tmp_path / "mine"
    mine.mkdir()
    for example in tabletop.sample(20, 7, namespace="bench")[:15]:
        tabletop.draw(example.target).save(mine / f"{example.id}.png")
    (mine / "bench-cells-7-15.png").write_bytes(b"no image")
    tabletop.draw(tabletop.sample(1, 7, namespace="bench")[0].source).save(mine / "bench-cells-7-0.jpg")
    (mine / "bench-cells-7-99.png").touch()
    events: list[Event] = []
    progress = EventProgress(events.append)
    found = run_bench("tabletop", out=tmp_path / "given", predictions=mine, items=20, seed=7, progress=progress)
    assert found["files"] == {"extra": ["bench-cells-7-99.png"], "twice": ["bench-cells-7-0.jpg"]}
    assert next(event["summary"] for event in events if event["event"] == "done") == (
        "20 items; 5 without an image that can be read; named after no item: bench-cells-7-99.png; "
        "of a name that stands twice: bench-cells-7-0.jpg"
    )
    entry = found["systems"]["mine"]
    assert (entry["greedy"]["score"], entry["greedy"]["n"], entry["greedy"]["n_unscored"]) == (1, 15, 5)
    assert sum(entry["unscored"].values()) == 5

    # Judgements stay with the images that they are of.
    judged = tmp_path / "given" / "judge"
    judge_run(tmp_path / "given", Plan(kind="exact", card_items=15, force=True))
    run_bench("tabletop", out=tmp_path / "given", predictions=mine, items=20, seed=7)
    assert (judged / "exact.json").is_file() and (judged / "exact.jsonl").is_file()
    first = next(mine.iterdir())
    Image.new("RGB", (96, 96)).save(first)
    run_bench("tabletop", out=tmp_path / "given", predictions=mine, items=20, seed=7)
    assert not (judged / "exact.json").exists() and (judged / "exact.card.json").is_file()
    assert sorted(file.name for file in (judged / "earlier-1").iterdir()) == ["exact.json", "exact.jsonl"]


def test_exactness_of_few_scenes_has_no_floor() -> None:
    """Nothing to guess from where a suite has one scene."""
    first, second = (e.transition() for e in tabletop.sample(2, 0))
    alone = exactness([first.action], [first], get_world("tabletop").names_action, seed=0)
    assert alone["exact"] == 1 and math.isnan(alone["floor"])
    pair = [replace(first, id="a"), replace(first, id="b"), replace(second, category="alone")]
    assert exactness(["", "", ""], pair, get_world("tabletop").names_action, seed=0)["floor"] == 1


def test_aurora_layouts_are_the_same_and_bad_ones_are_refused(tmp_path: Path) -> None:
    (tmp_path / "data" / "ag" / "images").mkdir(parents=True)
    for side in ("left", "right"):
        Image.new("RGB", (4, 4)).save(tmp_path / "data" / "ag" / "images" / f"X.mp4_3_{side}.png")
    record = {
        "input": "data/ag/images/X.mp4_3_left.png",
        "output": "data/ag/images/X.mp4_3_right.png",
        "instruction": "Open the door",
        "task": "ag",
    }

    def read(*records: dict[str, str]) -> list[Transition]:
        (tmp_path / "test.json").write_text(json.dumps(records))
        return read_aurora(tmp_path)

    one, two, three = read(record, {**record, "output": "data/ag/images/absent.png"}, {**record, "task": "ag"})
    assert (one.id, one.category, one.group, two.target, three.id) == ("ag-001", "ag", "ag/X", None, "ag-003")
    for change, message in (
        ({"instruction": " "}, "no instruction"),
        ({"input": "../outside.png"}, "outside its folder"),
        ({"output": "/etc/hostname"}, "outside its folder"),
        ({"input": "data/absent.png"}, "no source"),
    ):
        with pytest.raises(ValueError, match=message):
            read({**record, **change})
    with pytest.raises(ValueError, match="needs --data"):
        run_bench("aurora", out=tmp_path / "out")


def test_a_misspelt_folder_of_predictions_claims_nothing(tmp_path: Path) -> None:
    """The corrected command must find the output folder free."""
    with pytest.raises(ValueError, match="is no folder of predictions"):
        run_bench("tabletop", out=tmp_path / "out", predictions=tmp_path / "nothere", items=2)
    assert not (tmp_path / "out").exists()

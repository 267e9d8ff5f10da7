"""Who is asked what in the human study: balanced designs, drop-outs, pairs, ratings, questions, words."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from retrodict.cli import app
from retrodict.study.answers import Answer
from retrodict.study.build import Texts, build
from retrodict.study.export import records
from retrodict.study.plan import DATABASE, Crowd, Design, read_plan
from retrodict.study.store import Store
from retrodict.study.words import read_words


def finish(store: Store, rater: int, share: float = 1.0) -> None:
    total = store.rows("SELECT count(*) AS n FROM trial WHERE rater = ?", rater)[0]["n"]
    for position in range(round(share * total)):
        store.save(rater, position, Answer(1, 0, 1, done=True, seconds=3))


def counts(store: Store) -> list[int]:
    rows = store.rows(
        "SELECT count(*) AS n FROM judgement JOIN trial ON trial.id = trial WHERE kind = 'item' AND done GROUP BY key"
    )
    return [row["n"] for row in rows]


def test_a_balanced_design_gives_every_item_its_judgements_whoever_drops_out(
    studied_runs: list[str], tmp_path: Path
) -> None:
    design = Design(per_subset=6, raters=0, items_per_rater=6, raters_per_item=3, repeat_share=0)
    plan = build(studied_runs, tmp_path / "s", design=design, crowd=Crowd())
    rng, came = random.Random(0), 0
    with Store(tmp_path / "s" / DATABASE) as store:
        while (token := store.enter(plan, f"id={came}", {"id": str(came)})) is not None:
            came += 1
            rater = store.rater(token)
            assert rater is not None
            left = rng.random() < 0.3
            finish(store, rater.id, 0.5 if left else 1.0)
            if left:  # an hour ago
                with store.transaction() as db:
                    db.execute("UPDATE rater SET seen_at = 1 WHERE id = ?", (rater.id,))
        assert store.enter(plan, "id=0", {"id": "0"}) is not None  # who was here gets their link again
        assert counts(store) == [3] * 18
        subsets = store.rows("SELECT key, kind FROM trial WHERE rater = 1")
    shown = {item.key: item.subset for item in plan.items}
    assert Counter(shown[row["key"]] for row in subsets if row["kind"] == "item") == {
        "edit": 2,
        "motion": 2,
        "space": 2,
    }


def test_pairs_are_spread_over_raters(studied_runs: list[str], tmp_path: Path) -> None:
    plan = build(studied_runs, tmp_path / "s", design=Design(per_subset=2, raters=12, show=2, repeat_share=0.5))
    with Store(tmp_path / "s" / DATABASE) as store:
        rows = store.rows("SELECT key, kind, pictures FROM trial")
    pairs = Counter((row["key"], *sorted(json.loads(row["pictures"]))) for row in rows if row["kind"] == "item")
    assert (len(pairs), set(pairs.values())) == (6 * 6, {2})  # 6 pairs of 4 systems, 12 raters
    decoys = {check.key: check.decoy for check in plan.checks}
    assert all(decoys[row["key"]] in json.loads(row["pictures"]) for row in rows if row["kind"] == "check")


def test_several_questions_follow_each_other_about_the_same_candidates(studied_runs: list[str], tmp_path: Path) -> None:
    design = Design(per_subset=1, raters=1, questions=("Followed?", "Realistic?"), method="rating", points=4)
    build(studied_runs, tmp_path / "s", design=design)
    with Store(tmp_path / "s" / DATABASE) as store:
        first, second = store.rows("SELECT key, pictures, question FROM trial ORDER BY position LIMIT 2")
        assert (*first[:2], second["question"] - first["question"]) == (*second[:2], 1)
        for wrong in ((), (1, 2, 3, 5), (1, 2, 3, None), (0, 1, 2, 3)):
            with pytest.raises(ValueError):
                store.save(1, 0, Answer(1, ratings=wrong, done=True), 4)
        store.save(1, 0, Answer(1, ratings=(1, None, None, None)), 4)
        store.save(1, 0, Answer(2, ratings=(1, 4, 2, 2), done=True, comment="odd \N{ELEPHANT}"), 4)
        state = store.state(1, 0)
        assert state is not None
        assert (state.answer.ratings, state.answer.comment) == ((1, 4, 2, 2), "odd \N{ELEPHANT}")
        (row,) = records(store, read_plan(tmp_path / "s"))
        assert (row["question"], row["ratings"]) == ("Followed?", [1, 4, 2, 2])


def test_words_and_examples_of_ones_own(studied_runs: list[str], tmp_path: Path) -> None:
    printed = json.loads(CliRunner().invoke(app, ["study", "words"]).output)
    file = tmp_path / "he.json"
    for changed, message in (
        ({"nxt": "x"}, "did you mean next"),
        ({"count": "x"}, "same fields"),
        ({"dir": "up"}, "rtl"),
        ({"lang": "<x>"}, "language tag"),
    ):
        file.write_text(json.dumps(changed))
        with pytest.raises(ValueError, match=message):
            read_words(file)
    file.write_text(json.dumps(printed | {"lang": "he", "dir": "rtl", "next": "הבא"}))
    own = tmp_path / "own"
    own.mkdir()
    for name in "abc":
        Image.new("RGB", (40, 30)).save(own / f"{name}.png")
    example = {"action": "wait", "source": "a.png", "candidates": ["b.png", "c.png"], "remarks": ["yes", "no"]}
    for best, worst in ((0, 0), (0, 2)):
        (own / "examples.json").write_text(json.dumps([example | {"best": best, "worst": worst}]))
        with pytest.raises(ValueError, match="example 1"):
            build(studied_runs, tmp_path / "s", design=Design(per_subset=1), texts=Texts(examples=own))
    (own / "examples.json").write_text(json.dumps([example | {"best": 0, "worst": 1}]))
    texts = Texts(words=read_words(file), examples=own)
    plan = build(studied_runs, tmp_path / "s", design=Design(per_subset=1), texts=texts)
    assert (plan.words["next"], plan.examples[0].remarks) == ("הבא", ("yes", "no"))

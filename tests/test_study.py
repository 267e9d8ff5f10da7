"""The human study's folder: which items, in which order, what is hidden, and that no click is lost or counted twice."""

from __future__ import annotations

import io
import json
import random
import shutil
import socket
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from retrodict.cli import app
from retrodict.study.answers import Answer, StaleAnswerError
from retrodict.study.build import build
from retrodict.study.plan import DATABASE, KEY, PICTURES, PLAN, PRESETS, Design, Plan, read_key, read_plan
from retrodict.study.schedule import Load, Trial, assigned, schedule
from retrodict.study.store import Store

NAMES = ("quokka", "wombat", "numbat", "bilby")


@pytest.fixture(scope="module")
def study(studied_runs: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("study") / "s"
    build(studied_runs, out, design=Design(per_subset=4, raters=2, repeat_share=0.25))
    return out


def test_items_are_stratified_and_share_no_scene_where_they_need_not(study: Path) -> None:
    plan, key = read_plan(study), read_key(study)
    assert Counter(item.subset for item in plan.items) == {"edit": 4, "motion": 4, "space": 4}
    assert len({item.group for item in key.items.values()}) == 12
    assert key.systems == tuple(sorted(NAMES))
    assert all(sorted(item.pictures.values()) == sorted(NAMES) for item in key.items.values())
    assert {check.kind for check in plan.checks} == {"noise", "truth"}


def test_the_same_build_again_changes_nothing_and_another_is_refused(study: Path, studied_runs: list[str]) -> None:
    before = {path: path.read_bytes() for path in study.rglob("*") if path.is_file() and "sqlite" not in path.name}
    build(studied_runs, study, design=Design(per_subset=4, raters=2, repeat_share=0.25))
    assert before == {path: path.read_bytes() for path in before}
    with pytest.raises(ValueError, match=r"holds a run with design\.per_subset 4 and not 3"):
        build(studied_runs, study, design=Design(per_subset=3))


def test_an_unfinished_build_is_made_anew(studied_runs: list[str], study: Path, tmp_path: Path) -> None:
    shutil.copytree(study, tmp_path / "s")
    (tmp_path / "s" / PLAN).unlink()
    (tmp_path / "s" / PICTURES / "holiday.txt").write_text("mine")
    before = read_key(tmp_path / "s")
    plan = build(studied_runs, tmp_path / "s", design=Design(per_subset=4, raters=2, repeat_share=0.25))
    assert read_plan(tmp_path / "s") == plan == read_plan(study)  # so that what was judged already stays good
    assert read_key(tmp_path / "s") == before
    (tmp_path / "s" / PICTURES / "holiday.txt").unlink()  # was not touched
    files = {path.stem for path in (tmp_path / "s" / PICTURES).iterdir()}
    assert files == set(plan.digests)


def test_a_system_without_an_item_is_named(studied_runs: list[str], tmp_path: Path) -> None:
    shutil.copytree(studied_runs[3], tmp_path / "bilby")
    (tmp_path / "bilby" / "edit-3.jpg").unlink()
    given = [*studied_runs[:3], str(tmp_path / "bilby")]
    with pytest.raises(ValueError, match=r"bilby lacks 1 \(such as edit-3\)"):
        build(given, tmp_path / "s", design=Design(per_subset=4))
    plan = build(given, tmp_path / "s", design=Design(per_subset=7), allow_missing=True)
    assert len(plan.items) == 21
    assert read_key(tmp_path / "s").left_out == {"bilby": 1}
    assert "edit-3" not in {item.id for item in read_key(tmp_path / "s").items.values()}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["{0}"], "compares 2 to 9 systems"),
        (["{0}", "{0}"], "Two systems are called quokka"),
        (["{0}", "b={1}", "{0}/nothing"], "is no folder"),
        (["{0}", "{1}@idm"], "known verifiers: none|no candidates|lacks 24"),
        (["{3}", "b={3}"], "--data"),
    ],
)
def test_what_cannot_be_compared_is_said(
    given: list[str], message: str, studied_runs: list[str], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        build([one.format(*studied_runs) for one in given], tmp_path / "s", design=Design(per_subset=1))


def test_too_small_a_subset_names_the_remedy(studied_runs: list[str], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="set --per-subset 8"):
        build(studied_runs, tmp_path / "s")


def test_no_file_that_the_server_reads_tells_a_system(study: Path) -> None:
    plan, key = read_plan(study), read_key(study)
    text = (study / PLAN).read_text()
    assert not any(name in text for name in NAMES)
    with closing(sqlite3.connect(study / DATABASE)) as db:
        assert not any(name in "\n".join(db.iterdump()) for name in NAMES)
    files = sorted((study / PICTURES).iterdir())
    assert len({file.stat().st_mtime_ns for file in files}) == 1
    for file in files:
        data = file.read_bytes()
        assert not any(name.encode() in data for name in NAMES)
        assert _chunks(data) <= {b"IHDR", b"IDAT", b"IEND"}
        assert len(file.stem) == 32
    for item in (*plan.items, *plan.checks):
        shown = [item.source, *item.candidates]
        assert {_size(study / PICTURES / f"{name}.png") for name in shown} == {item.size}
        assert list(item.candidates) == sorted(item.candidates)  # so the file's order is that of keyed hashes
    places = [[item.pictures[name] for name in shown.candidates].index("quokka") for shown in plan.items
              for item in [key.items[shown.key]]]  # fmt: skip
    assert len(set(places)) > 1
    assert oct((study / KEY).stat().st_mode & 0o777) == oct((study / DATABASE).stat().st_mode & 0o777) == "0o600"


def _size(file: Path) -> tuple[int, int]:
    with Image.open(file) as image:
        return image.size


def _chunks(png: bytes) -> set[bytes]:
    found, at = set(), 8
    while at < len(png):
        size = int.from_bytes(png[at : at + 4], "big")
        found.add(png[at + 4 : at + 8])
        at += 12 + size
    return found


def test_images_are_the_systems_own(study: Path, studied_runs: list[str]) -> None:
    key = read_key(study)
    item = next(iter(key.items.values()))
    name = next(name for name, system in item.pictures.items() if system == "bilby")
    with Image.open(Path(studied_runs[3]) / f"{item.id}.jpg") as given:
        expected = given.convert("RGB").resize((40, 30), Image.Resampling.LANCZOS)
    with Image.open(io.BytesIO((study / PICTURES / f"{name}.png").read_bytes())) as shown:
        assert shown.tobytes() == expected.tobytes()


def trials_of(plan: Plan, rater: int) -> list[Trial]:
    rng, load = random.Random(rater), Load()
    return schedule(plan, assigned(plan, load, rng), load, rng)


def test_a_schedule_has_everything_once_and_repeats_in_another_order(study: Path) -> None:
    plan = read_plan(study)
    for rater in range(1, 40):
        trials = trials_of(plan, rater)
        kinds = Counter(trial.kind for trial in trials)
        assert kinds == {"item": 12, "repeat": 3, "check": 2}
        first = {trial.key: (i, trial) for i, trial in enumerate(trials) if trial.kind == "item"}
        assert set(first) == {item.key for item in plan.items}
        for i, trial in enumerate(trials):
            if trial.kind == "repeat":
                before, shown = first[trial.key]
                assert i > before
                assert sorted(trial.order) == sorted(shown.order)
                assert trial.order != shown.order
        assert trials[0].kind == "item"
    assert trials_of(plan, 1) == trials_of(plan, 1) != trials_of(plan, 2)


def test_every_system_is_shown_in_every_position(study: Path) -> None:
    plan, key = read_plan(study), read_key(study)
    counts = Counter(
        (place, key.items[trial.key].pictures[name])
        for rater in range(1, 101)
        for trial in trials_of(plan, rater)
        if trial.kind == "item"
        for place, name in enumerate(trial.order)
    )
    assert len(counts) == 16
    assert all(230 < count < 370 for count in counts.values())  # 300 expected, sd 15


@pytest.fixture
def store(study: Path, tmp_path: Path) -> Store:
    made = Store(tmp_path / DATABASE, new=True)
    made.create(read_plan(study))
    return made


def test_clicks_are_kept_once_whatever_is_sent_again(store: Store) -> None:
    with store:
        first = Answer(revision=1, best=2)
        store.save(1, 0, first)
        store.save(1, 0, first)  # the answer was lost, the page sends again
        state = store.state(1)
        assert state is not None
        assert (state.position, state.answer) == (0, first)
        done = Answer(revision=2, best=2, worst=0, done=True, seconds=4.5)
        store.save(1, 0, done)
        store.save(1, 0, done)
        assert [tuple(row) for row in store.rows("SELECT trial, revision, done FROM event")] == [(1, 1, 0), (1, 2, 1)]
        (row,) = store.rows("SELECT * FROM judgement")
        pictures = json.loads(store.rows("SELECT pictures FROM trial WHERE id = 1")[0]["pictures"])
        assert (row["best"], row["worst"]) == (pictures[2], pictures[0])
        assert store.state(1).position == 1  # type: ignore[union-attr]
        assert store.state(2).position == 0  # type: ignore[union-attr]


def test_a_page_that_is_behind_learns_the_state(store: Store) -> None:
    with store:
        store.save(1, 0, Answer(revision=1, best=1))
        with pytest.raises(StaleAnswerError) as conflict:
            store.save(1, 0, Answer(revision=1, best=3))  # another device, which has not seen the first click
        assert conflict.value.state.answer.best == 1
        with pytest.raises(StaleAnswerError):
            store.save(1, 1, Answer(revision=1, best=3))  # a trial that was not reached
        assert len(store.rows("SELECT * FROM event")) == 1


def test_an_earlier_trial_can_be_opened_again(store: Store) -> None:
    with store:
        store.save(1, 0, Answer(revision=1, best=1, worst=2, done=True))
        store.save(1, 1, Answer(revision=1, best=0))
        store.save(1, 0, Answer(revision=2, best=1, worst=2))  # looked at again: it stays finished
        assert store.state(1).position == 1  # type: ignore[union-attr]
        store.save(1, 0, Answer(revision=3, best=3, worst=2))  # until something is changed
        assert store.state(1).position == 0  # type: ignore[union-attr]
        store.save(1, 0, Answer(revision=4, best=3, worst=2, done=True))
        state = store.state(1)
        assert state is not None
        assert (state.position, state.answer.best) == (1, 0)


@pytest.mark.parametrize(
    "answer",
    [
        Answer(revision=1, best=1, worst=1),
        Answer(revision=1, best=4),
        Answer(revision=1, best=-1),
        Answer(revision=1, best=1, done=True),
        Answer(revision=1, best=1, cant_tell=True),
        Answer(revision=0, best=1),
        Answer(revision=1, best=1, seconds=float("nan")),
    ],
)
def test_what_no_page_sends_is_refused(store: Store, answer: Answer) -> None:
    with store:
        with pytest.raises(ValueError, match=r"\w"):
            store.save(1, 0, answer)
        assert not store.rows("SELECT * FROM event")


@pytest.mark.parametrize("verb", ["power", "build", "serve", "links", "forget", "words", "report"])
def test_every_command_has_help_with_an_example(verb: str) -> None:
    result = CliRunner().invoke(app, ["study", verb, "--help"], env={"COLUMNS": "100"})
    assert result.exit_code == 0
    assert f"Example: retrodict study {verb}" in " ".join(result.output.split())


def test_the_command_builds_and_says_what_is_wrong_in_a_line(studied_runs: list[str], tmp_path: Path) -> None:
    out, words = str(tmp_path / "s"), tmp_path / "consent.txt"
    words.write_text("Our institute asks\nyou.\n\nWrite to us.\n")
    given = ["study", "build", *studied_runs, "-o", out, "--per-subset", "1", "--consent", str(words), "-q"]
    result = CliRunner().invoke(app, given)
    assert result.exit_code == 0, result.output
    assert "3 items, 4 candidates each, 3 raters." in result.output
    assert read_plan(tmp_path / "s").consent == ("Our institute asks you.", "Write to us.")
    latin = tmp_path / "latin.txt"
    latin.write_bytes("Für Sie".encode("latin-1"))
    consent = ["build", *studied_runs, "-o", str(tmp_path / "t"), "--consent", str(latin)]
    for wrong in (["serve", str(tmp_path)], ["report", str(tmp_path)], ["report", out], consent):
        result = CliRunner().invoke(app, ["study", *wrong])
        assert result.exit_code == 2
        assert len(result.output.splitlines()) == 1
    result = CliRunner().invoke(app, ["study", "serve", out, "--public-url", "study.example.org"])
    assert (result.exit_code, "https://" in result.output) == (2, True)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = CliRunner().invoke(app, ["study", "serve", out, "--port", str(taken.getsockname()[1])])
    assert result.exit_code == 2
    assert "name another with --port" in result.output


def test_the_paper_preset_is_five_items_for_fourteen_raters(studied_runs: list[str], tmp_path: Path) -> None:
    plan: Plan = build(studied_runs[:2], tmp_path / "s", design=PRESETS["paper"], seed=random.Random(0).randrange(9))
    assert (len(plan.items), plan.design.raters, plan.candidates) == (15, 14, 2)
    with Store(tmp_path / "s" / DATABASE) as made:
        tokens = [row["token"] for row in made.rows("SELECT token FROM rater")]
    assert len(set(tokens)) == 14
    assert all(len(token) >= 20 for token in tokens)

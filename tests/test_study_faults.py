"""What the human study does about strange inputs, lost files and damaged ones."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from retrodict.cli import app
from retrodict.study.answers import Answer
from retrodict.study.build import Texts, build
from retrodict.study.plan import DATABASE, PICTURES, PLAN, Design, Plan, check_images, read_key, read_plan
from retrodict.study.report import write_report
from retrodict.study.sources import judge_scores
from retrodict.study.store import Store


@pytest.fixture(scope="module")
def study(studied_runs: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("study") / "s"
    build(studied_runs, out, design=Design(per_subset=4, raters=2, repeat_share=0.25))
    return out


# --- images and inputs -----------------------------------------------------------------------------


def bench_of(folder: Path, count: int = 2, **changed: object) -> list[str]:
    """Two systems of solid images and their benchmark, as arguments of `build`; `changed`: in the first record."""
    records = []
    for name in ("bench/images", "a", "b"):
        (folder / name).mkdir(parents=True)
    for i in range(count):
        for shade, path in enumerate((f"bench/images/{i}.png", f"a/{i}.png", f"b/{i}.png")):
            Image.new("RGB", (64, 48), (90 * shade, 40 + i, 200)).save(folder / path)
        record = {
            "id": str(i),
            "subset": "kubric",
            "source": f"images/{i}.png",
            "target": None,
            "instruction": f"move {i}",
        }
        records.append(record | {"target": None} | (changed if i == 0 else {}))
    (folder / "bench" / "manifest.json").write_text(json.dumps(records))
    return [str(folder / "a"), str(folder / "b")]


def build_of(folder: Path, given: list[str], **options: Any) -> Plan:
    design = options.pop("design", Design(per_subset=2, raters=2))
    return build(given, folder / "study", data=folder / "bench", design=design, **options)


def test_an_image_of_another_shape_is_shown_whole_and_told(tmp_path: Path) -> None:
    given = bench_of(tmp_path)
    Image.new("RGB", (64, 64), (255, 0, 0)).save(tmp_path / "a" / "0.png")  # square, for a source of 4:3
    result = CliRunner().invoke(
        app,
        [
            "study",
            "build",
            *given,
            "--data",
            str(tmp_path / "bench"),
            "--per-subset",
            "2",
            "-q",
            "-o",
            str(tmp_path / "s"),
        ],
    )
    assert result.exit_code == 0, result.output
    assert "a: 1 images have another shape than their source" in result.output
    key = read_key(tmp_path / "s")
    assert key.reshaped == {"a": 1}
    item = next(item for item in key.items.values() if item.id == "0")
    name = next(name for name, system in item.pictures.items() if system == "a")
    with Image.open(tmp_path / "s" / PICTURES / f"{name}.png") as shown:
        # 64 x 64 fits into 64 x 48 as 48 x 48, with bars of 8 on either side
        assert (shown.size, shown.getpixel((7, 24)), shown.getpixel((56, 24))) == ((64, 48), (128,) * 3, (128,) * 3)
        assert shown.getpixel((9, 24)) == shown.getpixel((54, 24)) == (255, 0, 0)


def test_images_come_upright_and_in_any_format(tmp_path: Path) -> None:
    given = bench_of(tmp_path)
    turned = Image.new("RGB", (48, 64), (0, 0, 255))
    turned.paste((255, 255, 255), (0, 0, 48, 32))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held on its side: a quarter turn clockwise puts it right
    (tmp_path / "a" / "0.png").unlink()
    turned.save(tmp_path / "a" / "0.jpg", exif=exif)
    (tmp_path / "a" / "1.png").unlink()
    Image.new("P", (64, 48)).save(tmp_path / "a" / "1.gif")
    build_of(tmp_path, given)
    key = read_key(tmp_path / "study")
    item = next(item for item in key.items.values() if item.id == "0")
    name = next(name for name, system in item.pictures.items() if system == "a")
    with Image.open(tmp_path / "study" / PICTURES / f"{name}.png") as shown:
        assert shown.size == (64, 48)
        assert shown.getpixel((8, 24))[0] < 40 and shown.getpixel((56, 24))[0] > 215  # white has come to the right


def damage(folder: Path, what: str) -> None:
    image = folder / "a" / "1.png"
    if what == "two":
        Image.new("RGB", (64, 48)).save(image.with_suffix(".jpg"))
        return
    image.unlink()
    if what == "bomb":
        Image.new("1", (12_000, 12_000)).save(image)
    elif what == "pipe":
        os.mkfifo(image)
    elif what == "text":
        image.write_text("hello")


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("two", "two images of 1"),
        ("bomb", "a has an unreadable image of 1: .*pixels"),
        ("pipe", r"a lacks 1 \(such as 1\)"),
        ("text", "a has an unreadable image of 1"),
    ],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")  # of saving one
def test_strange_images_are_named(what: str, message: str, tmp_path: Path) -> None:
    given = bench_of(tmp_path)
    damage(tmp_path, what)
    with pytest.raises(ValueError, match=message):
        build_of(tmp_path, given)


def test_two_items_with_one_id_and_half_characters_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="1 ids name several items, such as 1"):
        build_of(tmp_path / "x", bench_of(tmp_path / "x", id="1"))
    with pytest.raises(ValueError, match="no valid text"):
        build_of(tmp_path / "y", bench_of(tmp_path / "y", instruction="\ud800 move"))
    given = bench_of(tmp_path / "z")
    with pytest.raises(ValueError, match="no valid text"):
        build_of(tmp_path / "z", given, texts=Texts(title="\udfff"))


def test_files_of_others_are_never_deleted_and_raters_are_added_elsewhere(tmp_path: Path) -> None:
    given = bench_of(tmp_path)
    (tmp_path / "mine" / "pictures").mkdir(parents=True)
    (tmp_path / "mine" / "pictures" / "holiday.txt").write_text("sun")
    with pytest.raises(ValueError, match="choose another --out"):
        build(given, tmp_path / "mine", data=tmp_path / "bench")
    assert (tmp_path / "mine" / "pictures" / "holiday.txt").read_text() == "sun"
    build_of(tmp_path, given)
    with pytest.raises(ValueError, match=r"study links .* --add 3"):
        build_of(tmp_path, given, design=Design(per_subset=2, raters=5))
    result = CliRunner().invoke(app, ["study", "links", str(tmp_path / "study"), "--add", "3"])
    assert result.output.count("/r/") == 5
    Image.new("RGB", (64, 48)).save(tmp_path / "a" / "0.png")
    with pytest.raises(ValueError, match="changed"):
        build_of(tmp_path, given)


# --- a study that lost something -------------------------------------------------------------------


@pytest.fixture
def judged(study: Path, tmp_path: Path) -> Path:
    """A study in which the first rater has finished five tasks."""
    copy = Path(shutil.copytree(study, tmp_path / "judged"))
    with Store(copy / DATABASE) as store:
        for position in range(5):
            store.save(1, position, Answer(1, 0, None))
            store.save(1, position, Answer(2, 0, 1, done=True, seconds=2))
    return copy


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is damaged"),
        ("[]", "is not what"),
        ("{}", "is not what .*title"),
        ('{"version": 9, "new": 1}', "is of version 9 and this retrodict reads 2"),
    ],
)
def test_a_plan_that_is_none_is_said(study: Path, tmp_path: Path, text: str, message: str) -> None:
    copy = Path(shutil.copytree(study, tmp_path / "s"))
    (copy / PLAN).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_plan(copy)
    fields = json.loads((study / PLAN).read_text()) | {"new_field": 1}
    (copy / PLAN).write_text(json.dumps(fields))
    with pytest.raises(ValueError, match="new_field"):
        read_plan(copy)


def test_damaged_scores_of_a_judge_are_named_with_their_run(tmp_path: Path) -> None:
    (tmp_path / "judge").mkdir()
    file, origin = tmp_path / "judge" / "m.jsonl", str(tmp_path / "predictions" / "fdm.parquet")
    row = {"id": "a", "candidate": 0, "row": "fdm.greedy", "score": 7}
    file.write_text(json.dumps(row) + "\n" + json.dumps(row | {"id": "b", "score": None}))
    assert judge_scores(origin, {"a": 0, "b": 0}) == {"m": {"a": 7.0}}
    for content in (b"{", b"[]\n", b'{"id": "a"}\n', b"\xff\n", json.dumps(row | {"score": "7"}).encode()):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=rf"{re.escape(str(tmp_path))} holds something that no run writes"):
            judge_scores(origin, {"a": 0})


@pytest.mark.parametrize("how", ["missing", "empty", "garbage", "events"])
def test_a_lost_or_damaged_database_is_an_error_with_a_remedy(judged: Path, how: str) -> None:
    database = judged / DATABASE
    if how == "missing":
        database.unlink()
    elif how == "empty":
        database.write_bytes(b"")
    else:
        spoil(database, 0, 16) if how == "garbage" else spoil_table(database, "event")
    for command in (["serve"], ["report", "--out", str(judged.parent / "r")], ["links"]):
        result = CliRunner().invoke(app, ["study", command[0], str(judged), *command[1:]])
        assert result.exit_code == 2, (command, result.output)
        assert str(database) in result.output and "bring it back from a backup" in result.output
    assert database.is_file() == (how != "missing")


def spoil(file: Path, at: int, count: int) -> None:
    data = bytearray(file.read_bytes())
    data[at : at + count] = os.urandom(count)
    file.write_bytes(data)


def spoil_table(file: Path, table: str) -> None:
    with closing(sqlite3.connect(file)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (root,) = db.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()
        (size,) = db.execute("PRAGMA page_size").fetchone()
    spoil(file, (root - 1) * size + 8, 192)


def test_the_latest_state_is_made_again_from_the_clicks(judged: Path) -> None:
    """Whether `judgement` is damaged on disk or only wrong: no fraction is taken for the whole."""
    for wrong in ("damaged", "fewer", "other"):
        if wrong == "damaged":
            spoil_table(judged / DATABASE, "judgement")
        else:
            with closing(sqlite3.connect(judged / DATABASE)) as db:
                db.execute(
                    "DELETE FROM judgement" if wrong == "fewer" else "UPDATE judgement SET best = worst, done = 0"
                )
                db.commit()
        before = (judged / DATABASE).read_bytes()
        write_report([judged], judged.parent / wrong)
        assert (judged / DATABASE).read_bytes() == before  # reading a study does not write to it
        rows = (judged.parent / wrong / "judgements.jsonl").read_text().splitlines()
        assert len(rows) == 5
        with Store(judged / DATABASE) as store:  # what serving opens
            assert len(store.rows("SELECT * FROM judgement WHERE done")) == 5
    assert (judged / f"{DATABASE}.damaged").is_file()  # kept


def test_an_image_that_changed_is_not_served(judged: Path) -> None:
    file = sorted((judged / PICTURES).iterdir())[0]
    Image.new("RGB", (40, 30)).save(file)
    with pytest.raises(ValueError, match="has changed since the study was built"):
        check_images(judged / PICTURES, read_plan(judged).digests)
    file.unlink()
    result = CliRunner().invoke(app, ["study", "serve", str(judged)])
    assert (result.exit_code, "is missing: bring it back" in result.output) == (2, True)


def test_a_rater_is_forgotten_with_all_they_gave(judged: Path) -> None:
    result = CliRunner().invoke(app, ["study", "forget", str(judged), "1"])
    assert "Rater 1 is forgotten, with 5 judgements." in result.output
    with Store(judged / DATABASE) as store:
        assert not store.rows("SELECT * FROM event")
        assert store.add_raters(read_plan(judged)) == 1
        assert [row["id"] for row in store.rows("SELECT id FROM rater WHERE NOT deleted")] == [2, 3]
    assert CliRunner().invoke(app, ["study", "forget", str(judged), "1"]).exit_code == 2

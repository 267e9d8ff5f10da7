"""Lists of image pairs, and how items of any kind become labelled transitions: each read once, or counted."""

from __future__ import annotations

import io
import json
import shutil
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from retrodict.cli import app
from retrodict.data import PRESETS, Columns, Item, UnusableError, image_pairs, transitions, write_transitions
from retrodict.data.files import inside, read_csv
from retrodict.transitions import Transition
from retrodict.transitions import read_transitions as read_written


@pytest.mark.parametrize("name", ["../x.mp4", "/etc/passwd", "a/../../x", "C:/x", "..\\x", "", ".", "a\0b"])
def test_manifests_cannot_leave_their_folder(tmp_path, name):
    with pytest.raises(ValueError, match="not a path inside"):
        inside(tmp_path, name)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link").symlink_to("/etc")
    with pytest.raises(ValueError, match="outside"):
        inside(tmp_path / "in", "link/passwd")


def image(level):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (level, level, level)).save(buffer, "PNG")
    return buffer.getvalue()


def test_aurora_json_with_its_own_columns_and_groups(annotations, tmp_path):
    groups = {}
    for name, file in [
        ("action-genome", "aurora_ag_train_sample.json"),
        ("aurora-magicbrush", "aurora_magicbrush_train_sample.json"),
    ]:
        rows = json.loads((annotations / file).read_text())
        for row in rows:
            for side in ("input", "output"):
                target = tmp_path / row[side]
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(image(1))
        shutil.copy(annotations / file, tmp_path / file)
        made = list(transitions(image_pairs(tmp_path / file, PRESETS[name]), Counter()))
        assert [row.action for row in made] == [row["instruction"].strip() for row in rows]
        groups[name] = [row.group for row in made]
    where = tmp_path / "repository" / "data" / "ag" / "train.json"  # as it is published: paths start two folders above
    shutil.copytree(tmp_path / "data" / "ag" / "images", where.parent / "images")
    shutil.copy(annotations / "aurora_ag_train_sample.json", where)
    assert (
        len(list(transitions(image_pairs(where, PRESETS["action-genome"]), dropped := Counter()))) > 1 and not dropped
    )
    assert "1K0SU" in groups["action-genome"] and groups["aurora-magicbrush"].count("435242") >= 2


def test_rows_without_target_or_image_are_counted(annotations, tmp_path):
    rows = json.loads((annotations / "aurora_bench_test_sample.json").read_text())
    shutil.copy(annotations / "aurora_bench_test_sample.json", tmp_path / "test.json")
    with_target = [row for row in rows if "output" in row]
    for row in with_target[1:]:
        for side in ("input", "output"):
            (tmp_path / row[side]).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / row[side]).write_bytes(image(3))
    (tmp_path / with_target[0]["input"]).unlink(missing_ok=True)
    dropped = write_transitions(image_pairs(tmp_path / "test.json"), tmp_path / "out", source={"file": "test.json"})
    kept = len(read_written(tmp_path / "out"))
    assert kept + dropped.total() == len(rows) and dropped["missing_image"] >= 1
    counts = json.loads((tmp_path / "out" / "manifest.json").read_text())["counts"]
    assert counts == {"kept": kept, "dropped": dict(sorted(dropped.items()))}


def test_magicbrush_parquet_and_a_wrong_column(tmp_path):
    names = ["img_id", "source_img", "target_img", "instruction"]
    good = ["7", {"bytes": image(9), "path": "a.png"}, {"bytes": image(8), "path": None}, "add a hat"]
    bad = ["8", {"bytes": b"no image", "path": None}, None, "x"]
    rows = [dict(zip(names, row, strict=True)) for row in (good, bad)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet")
    dropped = Counter()
    (row,) = transitions(image_pairs(tmp_path, PRESETS["magicbrush"]), dropped)
    assert (row.group, row.action, row.target) == ("7", "add a hat", image(8))
    assert dropped.total() == 1
    with pytest.raises(ValueError, match="no column 'text'"):
        list(image_pairs(tmp_path / "train.parquet", Columns(source="source_img", target="target_img", action="text")))


class Collection:
    """Items whose labels, files and order a test changes; `asked` says which were read."""

    def __init__(self, out):
        self.out, self.asked, self.labels, self.missing, self.stop = out, [], dict.fromkeys(range(7), "go"), {1}, None

    def item(self, number):
        def read():
            self.asked.append(number)
            if number == self.stop:
                raise KeyboardInterrupt
            if number in self.missing:
                raise UnusableError("missing")
            return Transition(id=str(number), source=image(number), target=image(9), action=self.labels[number])

        return Item(str(number), lambda: f"{number} {self.labels[number]} {number in self.missing}", read)

    def write(self, **source):
        self.asked.clear()
        return write_transitions([self.item(n) for n in self.labels], self.out, source={"a": 1} | source)

    def rows(self):
        return {row.id: row.action for row in read_written(self.out)}


def test_import_reads_what_is_new_or_changed_and_nothing_twice(tmp_path, monkeypatch):
    monkeypatch.setattr("retrodict.data.convert._ITEMS", 2)
    data = Collection(tmp_path / "out")
    data.stop = 5
    with pytest.raises(KeyboardInterrupt):
        data.write()
    data.stop = None
    assert (data.write(), data.asked) == ({"missing": 1}, [4, 5, 6])  # files that were complete are not read again
    assert list(data.rows()) == ["0", "2", "3", "4", "5", "6"]
    assert (data.write(), data.asked) == ({"missing": 1}, [])
    data.missing = set()  # a clip arrives,
    data.labels[3] = "corrected"  # a label is corrected,
    del data.labels[0]  # one is gone,
    data.labels = {8: "new", **data.labels}  # and one comes first
    assert (data.write(), data.asked) == ({}, [8, 1, 3])
    assert data.rows() == dict(zip("2456831", ["go"] * 4 + ["new", "corrected", "go"], strict=True))
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["counts"] == {"kept": 7, "dropped": {}}
    with pytest.raises(ValueError, match="holds a run with a 1 and not 2"):
        data.write(a=2)
    data.missing = set(data.labels)  # the disk is not mounted
    with pytest.raises(ValueError, match="No transition could be read"):
        data.write()
    assert len(data.rows()) == 7


def test_of_several_items_with_one_id_the_first_counts(tmp_path):
    data = Collection(tmp_path / "out")
    for _ in range(2):
        dropped = write_transitions([data.item(n) for n in (0, 2, 0)], data.out, source={})
        assert dropped == {"repeated_id": 1} and list(data.rows()) == ["0", "2"]


def test_whole_paths_and_rows_that_lead_elsewhere(tmp_path):
    """A path outside costs its own row only, and `--images` takes whole paths that lie in it."""
    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    (images / "a.png").write_bytes(image(1))
    paths = [str(images / "a.png"), "../images/a.png", "/etc/passwd", "a.png"]
    (tmp_path / "lists").mkdir()
    rows = "".join(json.dumps({"input": p, "output": p, "instruction": "go"}) + "\n" for p in paths)
    (tmp_path / "lists" / "pairs.jsonl").write_text(rows)
    command = ["import", "pairs", str(tmp_path / "lists" / "pairs.jsonl"), "--out", str(out)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2 and "1 missing_image, 3 outside_folder" in result.output
    assert "--images" in result.output and not out.exists()
    result = CliRunner().invoke(app, [*command, "--images", str(images)])
    assert "3 kept; dropped: 1 outside folder\n" in result.output


def test_import_on_the_command_line(tmp_path):
    rows = [{"before": f"{n}.png", "after": f"{n}.png", "text": "go" if n else ""} for n in range(3)]
    for n in range(3):
        (tmp_path / f"{n}.png").write_bytes(image(n))
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    names = [f"--column={ours}={theirs}" for ours, theirs in zip(("source", "target", "action"), rows[0], strict=True)]

    def run(*arguments):
        return CliRunner().invoke(app, ["import", *map(str, arguments)])

    result = run("pairs", tmp_path / "mine.jsonl", "--out", tmp_path / "out", *names)
    assert f"{tmp_path / 'out'}: 2 kept; dropped: 1 no action\n" in result.output
    assert [row.source for row in read_written(tmp_path / "out")] == [image(1), image(2)]
    for seed, chosen in (0, [1]), (3, [2]):  # row 0 has no action; which ones the seed takes depends on ids alone
        sample = ["--sample", "2", "--seed", seed]
        assert run("pairs", tmp_path / "mine.jsonl", "--out", tmp_path / f"s{seed}", *names, *sample).exit_code == 0
        assert [row.source for row in read_written(tmp_path / f"s{seed}")] == [image(n) for n in chosen]
    assert (
        run("pairs", tmp_path / "mine.jsonl", "--out", tmp_path / "other", *names, "--sample=1", "--limit=1").exit_code
        == 2
    )
    for arguments in (names[:1], ["--column=colour=red"], ["--annotations=x.csv"], ["--column=source="]):
        assert run("pairs", tmp_path / "mine.jsonl", "--out", tmp_path / "other", *arguments).exit_code == 2
    assert run("ssv2", tmp_path, "--images", tmp_path, "--out", tmp_path / "other").exit_code == 2
    assert not list(tmp_path.glob("other/*"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "input,output,instruction\na,b,café\n".encode("latin-1"), "is no text in UTF-8 or UTF-16"),
        ("a.csv", b'input,output,instruction\na,b,"' + b"x\n" * 99_999, "is no CSV file (field larger than"),
        ("a.csv", "input,output,instruction\na,b,c\n".encode("utf-16-le"), "nor in UTF-16 with a byte order mark"),
        ("a.csv", b"input,output,instruction,instruction\na,b,c,d\n", "has several columns called 'instruction'"),
        ("a.json", b"3", "is not a list of objects"),
        ("a.json", b'{"a": 1}\n{"a": 2}\n', "If every line is an object, call it .jsonl."),
        ("a.json", b'{"data": []}', "is not a list of objects"),
        ("a.json", b"[" * 99_999, "is not a JSON file: maximum recursion"),
        ("a.jsonl", b"[" * 99_999, "line 1 is not JSON: maximum recursion"),
        ("a.txt", b"input,output,instruction\n", "it should end with .csv, .tsv, .json, .jsonl, .parquet"),
    ],
)
def test_what_is_no_list_is_refused_by_name(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    result = CliRunner().invoke(app, ["import", "pairs", str(tmp_path / name), "--out", str(tmp_path / "out")])
    assert result.exit_code == 2 and f"{name}" in result.output and message in " ".join(result.output.split())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize(
    ("first", "separator"),
    [("", ";"), ("sep=;\r\n", ";"), ('\n"SEP=|"\n', "|"), ("sep=\t\n", "\t"), ("sep=,\n", ",")],
)
def test_a_table_as_excel_saves_it(tmp_path, encoding, first, separator):
    rows = [["input", "output", "instruction"], ["a.png", "b.png", '"go, then; stop"']]
    text = first + "\r\n".join(f"{separator} ".join(row) for row in rows)  # with blanks, as people type
    (tmp_path / "a.csv").write_text(text, encoding=encoding, newline="")
    assert list(read_csv(tmp_path / "a.csv")) == [
        {"input": "a.png", "output": "b.png", "instruction": "go, then; stop"}
    ]


def test_cells_say_what_they_say(tmp_path):
    """0 is a name, a label that is no text is none, and half a character costs its own row."""
    (tmp_path / "a.png").write_bytes(image(1))
    rows = [
        {"instruction": "go", "ep": 0},
        {"instruction": "stay", "ep": 0},
        {"instruction": 0, "ep": 1},
        {"instruction": ["go"], "ep": 1},
        {"instruction": "go \ud800", "ep": 1},
        {"instruction": "wait", "ep": "\ud800"},
        {"instruction": "go " * 1000, "ep": 2},
        {"instruction": "go", "ep": 2, "output": {"bytes": "iVBORw0KGgo="}},
    ]
    (tmp_path / "LIST.JSONL").write_text(
        "".join(json.dumps({"input": "a.png", "output": "a.png"} | r) + "\n" for r in rows)
    )
    dropped = Counter()
    columns = Columns(group="ep", category="ep")
    read = list(transitions(image_pairs(tmp_path / "LIST.JSONL", columns), dropped))
    assert [(row.action, row.group, row.category) for row in read] == [
        ("go", "0", "0"),
        ("stay", "0", "0"),
        ("0", "1", "1"),
        ("wait", "?", "?"),
    ]
    assert dropped == {"action_no_text": 2, "action_too_long": 1, "no_image": 1}

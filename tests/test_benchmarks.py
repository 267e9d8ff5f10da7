"""Anybody's folder is a benchmark: our Parquet, or images beside a metadata.jsonl."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from retrodict.cli import main
from retrodict.evaluation.bench import run_bench
from retrodict.evaluation.benchmarks import choose_items, items_of_run, open_benchmark
from retrodict.evaluation.judge.predictions import read_rows
from retrodict.report import runs, write_report
from retrodict.transitions import FramePair, Transition, write_rows
from retrodict.worlds import get_world

TABLETOP = get_world("tabletop")


def plain(folder: Path, *records: dict[str, Any]) -> Path:
    """A folder of images of 96 x 96, six frames each of another shade, and the records as its metadata."""
    (folder / "frames").mkdir(parents=True, exist_ok=True)
    for i in range(6):
        Image.new("RGB", (96, 96), (40 * i, 0, 0)).save(folder / "frames" / f"{i}.png")
    (folder / "metadata.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    return folder


def record(i: int, **more: Any) -> dict[str, Any]:
    return {"file_name": f"frames/{i}.png", "target": f"frames/{i + 1}.png", "action": "push the red ball"} | more


def ours(folder: Path, count: int = 20) -> list[Transition]:
    """Rows of the world under a folder of two files, as any stage writes them."""
    rows = TABLETOP.sample(count, 5, namespace="mine-test", split="test")
    write_rows(folder / "a.parquet", rows[: count // 2])
    write_rows(folder / "b.parquet", rows[count // 2 :])
    return rows


def test_a_plain_folder_is_read_as_it_is_said(tmp_path: Path) -> None:
    own = {"source": "frames/2.png", "action": " lift it ", "id": "mine", "class": "lift", "group": "g"}
    folder = plain(tmp_path / "kitchen", record(0), {}, own)
    (folder / "metadata.jsonl").write_text((folder / "metadata.jsonl").read_text().replace("{}\n", "\n"))
    first, second = open_benchmark(folder).items
    assert (first.id, first.category, first.group) == ("00001", "kitchen", "frames/0.png")
    assert (first.source_image.getpixel((0, 0)), first.target_image.getpixel((0, 0))) == ((0, 0, 0), (40, 0, 0))
    assert (second.id, second.category, second.group, second.action) == ("mine", "lift", "g", "lift it")
    assert second.target is None
    assert open_benchmark(folder).world is None


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"file_name": "../secret.png"}, "not a path inside"),
        ({"target": "/etc/hostname"}, "not a path inside"),
        ({"target": "frames\\..\\..\\secret.png"}, "not a path inside"),
        ({"target": "link.png"}, "links outside"),
        ({"target": "frames/9.png"}, "no image frames/9.png"),
        ({"target": "frames"}, "no image frames"),
        ({"file_name": "broken.png"}, "broken.png is "),
        ({"action": " "}, "no `action`"),
        ({"file_name": None}, "no `file_name`"),
        ({"id": "../x"}, "no file name"),
        ({"action": ["push"]}, "`action` is no text"),
        ("[1]", "no JSON object"),
        ("{", "Expecting"),
    ],
)
def test_what_is_wrong_is_named_with_file_and_line(tmp_path: Path, wrong: Any, said: str) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "secret.png")
    folder = plain(tmp_path / "data")
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n")
    line = wrong if isinstance(wrong, str) else json.dumps(record(0, **wrong))
    (folder / "metadata.jsonl").write_text(json.dumps(record(1)) + "\n" + line + "\n")
    with pytest.raises(ValueError, match=f"metadata.jsonl, line 2: .*{said}"):
        open_benchmark(folder)


def test_folders_that_are_no_benchmark_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"use tabletop, .*aurora, .*or a folder"):
        open_benchmark(tmp_path / "absent")
    with pytest.raises(ValueError, match=r"neither metadata.jsonl nor .parquet files"):
        open_benchmark(tmp_path)
    with pytest.raises(ValueError, match="2 transitions called same: ids must differ"):
        open_benchmark(plain(tmp_path / "twice", record(0, id="same"), record(1, id="same")))
    with pytest.raises(ValueError, match="holds no transitions"):
        open_benchmark(plain(tmp_path / "empty"))
    (row,) = TABLETOP.sample(1, 0, namespace="x")
    write_rows(tmp_path / "bare" / "a.parquet", [replace(row, source=None)])
    with pytest.raises(ValueError, match="has no source image"):
        open_benchmark(tmp_path / "bare")
    write_rows(tmp_path / "pairs" / "a.parquet", [FramePair(id="a", source=row.source)], FramePair)
    with pytest.raises(ValueError, match="retrodict annotate"):
        open_benchmark(tmp_path / "pairs")


def test_items_and_limit_are_the_same_for_every_benchmark(tmp_path: Path) -> None:
    rows = [Transition(id=f"{name}{i}", category=name) for name, n in (("a", 4), ("b", 1), ("c", 3)) for i in range(n)]

    def ids(**chosen: Any) -> str:
        return " ".join(row.id for row in choose_items(rows, **chosen))

    assert ids() == "a0 a1 a2 a3 b0 c0 c1 c2"
    assert ids(limit=2) == "a0 a1 b0 c0 c1"
    assert ids(items=4) == "a0 a1 b0 c0"  # the subsets in turn
    assert ids(items=3, limit=1, subsets=["c", "a"]) == "a0 c0"
    with pytest.raises(ValueError, match="no subset d: use some of a, b, c"):
        ids(subsets=["d"])
    assert len(open_benchmark("tabletop", limit=2, items=20).items) == 10
    ours(tmp_path)
    assert [row.category for row in open_benchmark(tmp_path, items=5).items] == list(TABLETOP.suites)


def test_bench_on_a_plain_folder_of_two_subsets(tmp_path: Path) -> None:
    """L1 beside copying; a missing target is counted, and the images are found again for report and judge."""
    rows = [record(i, **{"class": "ab"[i % 2], "id": f"i{i}"}) for i in range(4)]
    folder = plain(
        tmp_path / "data", *rows, {"file_name": "frames/5.png", "action": "push it", "class": "a", "id": "i5"}
    )
    mine, out = tmp_path / "mine", tmp_path / "out"
    mine.mkdir()
    for i in range(3):  # of item 3 there is no prediction; those of 0 and 2 are exact
        Image.new("RGB", (96, 96), (40 * (i + i % 2 + 1 - i % 2), 0, 0)).save(mine / f"i{i}.png")
    found = runs.bench(folder, out=out, predictions=mine)
    assert set(found["subsets"]) == {"a", "b"} and not (out / "test").exists()
    assert found["subsets"]["a"]["copy"]["l1"] == pytest.approx(40 / 255 / 3)
    assert (found["subsets"]["a"]["mine"]["l1"], found["subsets"]["a"]["mine"]["n"]) == (0, 2)
    assert (found["all"]["ground_truth"]["l1"], found["all"]["ground_truth"]["n_unscored"]) == (0, 1)
    assert found["all"]["mine"]["n_unscored"] == 2
    assert found["unscored"] == {"no image of this name": 1, "no target image": 1}
    assert "systems" not in found and "tokenizer" not in str(found["all"].keys())
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "mine on data" in page and "push the red ball" in page
    items = items_of_run(out)
    assert [row.id for row in items] == ["i0", "i1", "i2", "i3", "i5"]
    assert [row.name for row in read_rows(out, items)] == ["copy", "mine"]
    folder.rename(tmp_path / "moved")
    with pytest.raises(ValueError, match="--data"):
        items_of_run(out)
    assert len(items_of_run(out, tmp_path / "moved")) == 5
    assert write_report(out).is_file()


def test_rows_of_a_world_are_scored_by_it_wherever_they_lie(tmp_path: Path) -> None:
    rows = ours(tmp_path / "rows")
    found = run_bench(str(tmp_path / "rows"), out=tmp_path / "out", model="copy", items=10)
    assert (found["ground_truth"]["score"], found["ground_truth"]["n"]) == (1, 10)
    assert found["systems"]["copy"]["greedy"]["score"] == 0
    assert [row.id for row in items_of_run(tmp_path / "out")] == [row.id for row in rows[:10]]
    write_rows(tmp_path / "rows" / "c.parquet", [replace(rows[0], id="stranger", provenance={})])
    mixed = run_bench(tmp_path / "rows", out=tmp_path / "mixed", model="copy")
    assert "systems" not in mixed and mixed["all"]["copy"]["n"] == 21


def test_the_small_model_on_a_folder_by_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bench and probe, with round trips and written actions beside their floors."""
    rows = [replace(row, provenance={}) for row in TABLETOP.sample(10, 5, namespace="mine-test")]
    write_rows(tmp_path / "rows" / "a.parquet", rows)
    for command in (["bench", "-n", "2"], ["probe"]):
        out = str(tmp_path / command[0])
        options = ["--bench", str(tmp_path / "rows"), "--limit", "1", "--out", out, "-q"]
        monkeypatch.setattr(sys, "argv", ["retrodict", *command, *options])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code
    found = json.loads((tmp_path / "bench" / "results.json").read_text())
    assert set(found["subsets"]) == set(TABLETOP.suites)
    assert found["all"]["small"]["l1"] < found["all"]["copy"]["l1"]
    assert found["all"]["round_trip_target"]["n"] == 5 and found["idp"]["all"]["exact"]["n"] == 5
    probed = json.loads((tmp_path / "probe" / "results.json").read_text())
    assert probed["n"] == {"items": 5, "with_target": 5, "with_counterfactual": 0}
    for command in ("bench", "probe"):
        assert "small" in (tmp_path / command / "report.html").read_text(encoding="utf-8")

"""Published benchmarks, as miniatures of their authors' layouts: what is read, and what a set lacks is said."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest
from PIL import Image

from retrodict.cli import main
from retrodict.evaluation.benchmarks import open_benchmark, written
from retrodict.images import encode_png

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def image(shade: int) -> dict[str, Any]:
    """An image as the Hub's files hold it."""
    return {"bytes": encode_png(Image.new("RGB", (24, 16), (shade, 0, 0))), "path": f"{shade}.png"}


def table(rows: Sequence[dict[str, Any]]) -> pa.Table:
    kinds = {n: IMAGE if isinstance(v, dict) else pa.bool_() if v is True else pa.string() for n, v in rows[0].items()}
    return pa.Table.from_pylist(list(rows), schema=pa.schema(list(kinds.items())))


def parquet(folder: Path, rows: Sequence[dict[str, Any]], split: str = "test") -> Path:
    (folder / "data").mkdir(parents=True)
    pq.write_table(table(rows), folder / "data" / f"{split}-00000-of-00001.parquet")
    return folder


def aurora(folder: Path) -> Path:
    """As the card of McGill-NLP/aurora-bench has it: no targets."""
    kinds = ("ag", "clevr", "ag")
    rows = [{"input": image(i), "instruction": f"open {i}", "source": s} for i, s in enumerate(kinds)]
    return parquet(folder, rows)


def bytemorph(folder: Path, prompt: str = "zoom in") -> Path:
    row = {"edit_type": "0", "image_id": "7", "src_img": image(0), "tgt_img": image(51), "edit_prompt": prompt}
    row |= {"edit_prompt_rewrite_instruction": "-", "src_img_caption": "far", "tgt_img_caption": "a near cup"}
    return parquet(folder, [row, row | {"image_id": "8"}])


def motionedit(folder: Path) -> Path:
    row = {"id": "a1", "prompt": "raise the arm", "input_image": image(0), "gt": image(102), "source": "Veo-3"}
    return parquet(folder, [row, row | {"id": "a2"}], "train")


def gedit(folder: Path) -> Path:
    """As `datasets` saves it: an Arrow stream."""
    row = {"task_type": "motion_change", "key": "k", "instruction": "wave", "instruction_language": "en"}
    row |= {"input_image": image(0), "input_image_raw": image(9), "Intersection_exist": True}  # type: ignore[dict-item]
    rows = table([row, row | {"instruction_language": "cn", "instruction": "\u6325\u624b"}])
    folder.mkdir(parents=True)
    with pa.ipc.new_stream(folder / "data-00000-of-00001.arrow", rows.schema) as stream:
        stream.write_table(rows)
    return folder


def imgedit(folder: Path) -> Path:
    (folder / "singleturn" / "animal").mkdir(parents=True)
    (folder / "singleturn" / "animal" / "1.jpg").write_bytes(image(3)["bytes"])
    record = {"id": "animal/1.jpg", "prompt": "let it run", "edit_type": "action"}
    (folder / "basic_edit.json").write_text(json.dumps({"1082": record}))
    return folder


@pytest.mark.parametrize(
    ("make", "ids", "subset", "action", "source", "target"),
    [
        (aurora, ["ag-001", "ag-002"], "ag", "open 0", 0, None),
        (bytemorph, ["0-7", "0-8"], "0", "zoom in", 0, 51),
        (motionedit, ["a1", "a2"], "", "raise the arm", 0, 102),
        (gedit, ["motion_change/en/k", "motion_change/cn/k"], "en/motion_change", "wave", 9, None),
        (imgedit, ["1082"], "action", "let it run", 3, None),
    ],
)
def test_each_layout_is_read(
    make: Any, ids: list[str], subset: str, action: str, source: int, target: int | None, tmp_path: Path
) -> None:
    items = open_benchmark(make.__name__, data=make(tmp_path / "set")).items
    assert [item.id for item in items] == ids
    first = items[0]
    assert (first.category, first.action, first.split) == (subset, action, "test")
    assert first.source_image.getpixel((0, 0)) == (source, 0, 0)
    assert (None if first.target is None else first.target_image.getpixel((0, 0))[0]) == target  # type: ignore[index]
    assert written(first, "caption") == ("a near cup" if make is bytemorph else None)


def test_what_is_not_the_layout_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no column edit_type, but task_type"):
        open_benchmark("bytemorph", data=gedit(tmp_path / "gedit"))
    with pytest.raises(ValueError, match="BM-Bench item 0-7 has no instruction"):
        open_benchmark("bytemorph", data=bytemorph(tmp_path / "empty", " "))
    with pytest.raises(ValueError, match=r"holds no basic_edit\.json"):
        open_benchmark("imgedit", data=tmp_path)
    (imgedit(tmp_path / "imgedit") / "singleturn" / "animal" / "1.jpg").unlink()
    with pytest.raises(ValueError, match=r"lacks the image animal/1\.jpg of ImgEdit-Bench's item 1082"):
        open_benchmark("imgedit", data=tmp_path / "imgedit")
    row = {"id": "a", "prompt": "go", "input_image": image(0), "b": image(1), "c": image(2)}
    with pytest.raises(ValueError, match="b and c could each be"):
        open_benchmark("motionedit", data=parquet(tmp_path / "several", [row]))


def test_bench_says_that_targets_are_lacking(tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["retrodict", "bench", "--bench", "gedit", "--data", str(gedit(tmp_path / "gedit")), "--model", "copy"]
    monkeypatch.setattr(sys, "argv", [*command, "--out", str(tmp_path / "run"), "-q"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0
    assert "not scored: 2 (no target image); a judge scores those too" in " ".join(capsys.readouterr().out.split())

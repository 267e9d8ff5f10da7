"""Judges, verifiers and metrics against what people chose: by hand, and in each published layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from retrodict.data.choices import Choice, read_choices
from retrodict.evaluation.judge.agreement import Answer, agreement, summarise
from retrodict.images import encode_png
from retrodict.stats import wilson

NAN = float("nan")


def png(shade: int) -> bytes:
    return encode_png(Image.new("RGB", (8, 8), (shade, 0, 0)))


def test_agreement_by_hand() -> None:
    people = [1.0, 1.0, 0.0, 0.5, 1.0, 0.0]
    said = [1.0, 0.5, 1.0, 0.5, NAN, 0.0]
    choices = [Choice(str(i), "", str(i), b"", "a", b"", b"", p) for i, p in enumerate(people)]
    both = [("first", "second"), ("first", "first"), ("first", "second"), ("tie", "tie"), (), ("second", "first")]
    answers = [Answer(s, "parse" if s != s else "", c) for s, c in zip(said, both, strict=True)]
    found = summarise(choices, answers)
    assert (found["n"], found["n_unscored"], found["unscored"]) == (5, 1, {"parse": 1})
    assert found["same"]["share"] == 3 / 5
    assert found["right"] == wilson(2, 4).entry("share")  # of four that people decided: right, tie, wrong, right
    assert found["half"]["share"] == 2.5 / 4
    assert found["ties"]["share"] == 2 / 5
    assert found["consistent"] == 4 / 5
    assert found["first"] == 5 / 8
    assert found["people_tie"] == pytest.approx(1 / 6)


def test_editreward_is_read_by_its_letters(tmp_path: Path) -> None:
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = {f"candidate_{i}": {"bytes": png(i), "path": ""} for i in (1, 2)} | {
        "source_image": {"bytes": png(0), "path": ""}
    }
    rows = [
        {"id": "x_1", "instruction": "go", "ranking": r, "comparison_type": c, "dataset": "3pair"} | images
        for r, c in (("A>B", "AvsB"), ("C>B", "BvsC"), ("A=C", "AvsC"))
    ]
    kinds = {name: image if isinstance(value, dict) else pa.string() for name, value in rows[0].items()}
    pq.write_table(pa.Table.from_pylist(rows, schema=pa.schema(list(kinds.items()))), tmp_path / "a.parquet")
    choices, _ = read_choices("editreward", tmp_path)
    assert [c.preferred for c in choices] == [1, 0, 0.5]
    assert {(c.group, c.category, c.first) for c in choices} == {("x", "3pair", png(1))}
    with pytest.raises(ValueError, match="needs --data"):
        read_choices("editreward")
    with pytest.raises(ValueError, match="no human choices"):
        read_choices("nothing")


def test_mmrb2_leaves_out_what_has_several_images(tmp_path: Path) -> None:
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(png(i))
    sides: dict[str, Any] = {
        f"response_{s}": {"response_content": [["image", f"{i}.png"]]} for s, i in (("a", 1), ("b", 2))
    }
    pair = {"pair_id": "p", "prompt_content": [["image", "0.png"], ["text", "go"]], "human_preference": "B"} | sides
    several = pair | {"prompt_content": [["image", "0.png"], ["image", "1.png"], ["text", "go"]]}
    (tmp_path / "edit.json").write_text(json.dumps({"pairs": [pair, several]}))
    choices, left_out = read_choices("mmrb2", tmp_path)
    assert left_out == 1
    assert [(c.action, c.preferred, c.second) for c in choices] == [("go", 0, png(2))]


def test_a_metric_against_a_file_of_choices(tmp_path: Path) -> None:
    """Least copy likes the image that differs most from the source."""
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(png(60 * i))
    line = {"source": "0.png", "action": "redder", "first": "2.png", "second": "1.png"}
    lines = [line | {"preferred": p, "id": str(i)} for i, p in enumerate(("first", "second", "first"))]
    file = tmp_path / "choices.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    found = agreement(tmp_path / "out", str(file), verifier="least_copy")
    assert (found["right"]["share"], found["n"]) == (pytest.approx(2 / 3), 3)
    assert json.loads((tmp_path / "out" / "items" / "choices.jsonl").read_text().splitlines()[1])["outcome"] == 1
    with pytest.raises(ValueError, match="cannot score single images"):
        agreement(tmp_path / "other", str(file), verifier="idm_fdm")
    file.write_text(json.dumps(line | {"preferred": "both"}))
    with pytest.raises(ValueError, match=r"line 1.*first, second or tie"):
        read_choices(str(file))

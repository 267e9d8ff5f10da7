"""Whose a folder is: ours, another run's, nobody's, or an input; the same answer from every command that writes one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from retrodict.run_folder import RECORD, claim, fingerprint


def test_a_run_goes_on_in_its_folder_and_no_other_run_does(tmp_path: Path) -> None:
    out, data = tmp_path / "out", tmp_path / "data"
    data.mkdir()
    (data / "a.txt").write_text("a")
    settings = {"seed": 0, "model": {"layers": 2}}
    for _ in range(2):
        claim(out, "train", settings, inputs={"data": data})
    claim(out, "train", {**settings, "seed": 1}, inputs={"data": data})  # nothing was begun, so nothing is lost
    (out / "weights").write_text("1")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    for command, changed, says in [
        ("bench", settings, "holds a run with command train and not bench"),
        ("train", settings, "holds a run with seed 1 and not 0"),
        ("train", {"seed": 1, "model": {"layers": 3}}, "holds a run with model.layers 2 and not 3"),
        ("train", {"seed": 1, "model": {"layers": 2}, "lr": 1}, "holds a run with lr None and not 1"),
    ]:
        with pytest.raises(ValueError, match=says) as error:
            claim(out, command, changed, inputs={"data": data})
        assert str(error.value).endswith("choose another --out, or delete that folder.")
    (data / "a.txt").write_text("b")
    with pytest.raises(ValueError, match=f"holds a run with data as it was before {data} changed"):
        claim(out, "train", {**settings, "seed": 1}, inputs={"data": data})
    with pytest.raises(ValueError, match=f"holds a run with data {data} and not None"):
        claim(out, "train", {**settings, "seed": 1})
    data.rename(tmp_path / "elsewhere")
    claim(out, "train", {**settings, "seed": 1}, inputs={"data": data})  # gone, and not changed
    with pytest.raises(ValueError, match=f"holds a run with data {data} and not {tmp_path / 'other'}"):
        claim(out, "train", {**settings, "seed": 1}, inputs={"data": tmp_path / "other"})
    with pytest.raises(ValueError, match="is a file"):
        claim(tmp_path / "elsewhere" / "a.txt", "train", {})
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_files_that_no_run_wrote_are_left_alone(tmp_path: Path) -> None:
    for name in ("thesis.tex", "recipe.yaml", "results.json"):
        out = tmp_path / name.replace(".", "-")
        out.mkdir()
        (out / name).write_text("mine")
        with pytest.raises(ValueError, match=f"is not empty: it holds {name} and no run.json"):
            claim(out, "train", {})
        assert [path.name for path in out.iterdir()] == [name]
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / ".DS_Store").touch()
    claim(tmp_path / "hidden", "train", {})
    (tmp_path / "hidden" / RECORD).write_text("{")
    (tmp_path / "hidden" / "weights").touch()
    with pytest.raises(ValueError, match=r"run.json cannot be read .* delete that folder"):
        claim(tmp_path / "hidden", "train", {})


def test_an_input_is_never_written_to(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "rows.parquet").touch()
    (tmp_path / "link").symlink_to(data)
    for out, how in [(data, "is"), (data / "in" / "it", "lies in"), (tmp_path, "contains"), (tmp_path / "link", "is")]:
        for given in ({"inputs": {"data": data}}, {"apart": [data]}):
            with pytest.raises(ValueError, match=f"{out} {how} {data}, which is read"):
                claim(out, "annotate", {}, **given)
    assert len(list(data.iterdir())) == 1
    desk = tmp_path / "desk"
    desk.mkdir()
    (desk / "a.png").touch()
    for _ in range(2):
        claim(desk / "out", "qa", {}, inputs={"images": desk})
        (desk / "out" / "results.json").touch()


def test_what_counts_as_a_change(tmp_path: Path) -> None:
    """Of a model the weights, of a stage's folder the rows, of anything else all that is not hidden."""
    for name, other in [("model.safetensors", "log.txt"), ("rows.parquet", "manifest.json")]:
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).write_bytes(b"1")
        pattern = f"**/*{Path(name).suffix}"
        before = fingerprint(folder, pattern=pattern)
        (folder / other).write_text("{}")
        assert fingerprint(folder, pattern=pattern) == before
        (folder / name).write_bytes(b"2")
        assert fingerprint(folder, pattern=pattern) != before
    plain = tmp_path / "plain"
    plain.mkdir()
    (plain / ".hidden").touch()
    empty = fingerprint(plain)
    (plain / "a.png").write_bytes(b"1")
    assert fingerprint(plain) != empty


def test_large_inputs_are_known_by_size_and_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"12")
    by_content = fingerprint(tmp_path)
    monkeypatch.setattr("retrodict.run_folder._READ", 1)
    before = fingerprint(tmp_path)
    assert before != by_content
    file.touch()
    assert fingerprint(tmp_path) != before


def test_the_record_is_for_people_too(tmp_path: Path) -> None:
    claim(tmp_path / "out", "annotate", {"pairs": Path("pairs")}, inputs={"model": "small"})
    assert json.loads((tmp_path / "out" / RECORD).read_text()) == {
        "command": "annotate",
        "settings": {"pairs": "pairs"},
        "inputs": {"model": {"at": ["small"], "key": ""}},
    }

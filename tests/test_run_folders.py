"""Whose a folder is: ours, another run's, nobody's, or an input; the same answer from every command that writes one."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import av
import numpy as np
import pytest
from typer.testing import CliRunner

from retrodict.cli import app
from retrodict.run_folder import RECORD, claim, fingerprint
from retrodict.transitions import FramePair, write_rows
from retrodict.worlds import tabletop

TRAIN = """
direction: inverse
init: small
data: {train: [rows]}
training: {steps: 1, per_device_batch_size: 2}
"""
ACTION = "push the red ball to the left"
COMMANDS = {  # all that write a folder, and which folder they read
    "mine": ("mine clips --quiet", "clips"),
    "import": ("import pairs pairs/pairs.jsonl --quiet", "pairs"),
    "annotate": ("annotate unlabelled --quiet", "unlabelled"),
    "select": ("select rows --top-k 2", "rows"),
    "train": ("train train.yaml --quiet", "rows"),
    "bootstrap": ("bootstrap loop.yaml --quiet", "rows"),
    "demo": ("demo --quiet", ""),
    "bench": ("bench --bench rows -n 1 --quiet", "rows"),
    "probe": ("probe --bench rows --quiet", "rows"),
    "study": ("study build images --quiet", "images"),
    "convert": ("convert chameleon images", "images"),
    "rollout": ("rollout images/frame.png ACTION -n 1", "images"),
}
HEAVY = (
    "retrodict.loading.resolve",
    "retrodict.models.hub.load_named",
    "retrodict.video.mining.write_shard",
    "retrodict.training.recipe.train_model",
    "retrodict.bootstrap.loop.run_stages",
)


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with something to read for every command, in which commands run."""
    monkeypatch.chdir(tmp_path)
    rows = [example.transition() for example in tabletop.sample(4, 0)]
    write_rows(tmp_path / "rows" / "rows.parquet", rows)
    write_rows(tmp_path / "unlabelled" / "pairs.parquet", rows, FramePair)
    for folder in ("clips", "images", "pairs", "foreign"):
        (tmp_path / folder).mkdir()
    for folder in ("images", "pairs"):
        rows[0].source_image.save(tmp_path / folder / "frame.png")
    record = {"source": "frame.png", "target": "frame.png", "action": ACTION}
    (tmp_path / "pairs" / "pairs.jsonl").write_text(json.dumps(record) + "\n")
    with av.open(str(tmp_path / "clips" / "clip.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width = stream.height = 32
        for shade in range(12):
            frame = np.full((32, 32, 3), 20 * shade, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    (tmp_path / "train.yaml").write_text(TRAIN)
    (tmp_path / "loop.yaml").write_text("data: {labelled: [rows], test: rows, videos: [clips]}\n")
    for name in ("notes.txt", "step_01.png", "results.json", "model.safetensors", "rows.parquet"):
        (tmp_path / "foreign" / name).write_text("mine")
    return tmp_path


@pytest.fixture
def only_light_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def heavy(*_: object, **__: object) -> None:
        raise AssertionError("work before it is clear whose folder this is")

    for name in HEAVY:
        monkeypatch.setattr(name, heavy)


def command(line: str, *more: str) -> tuple[int, str]:
    words = [ACTION if word == "ACTION" else word for word in line.split()]
    result = CliRunner().invoke(app, [*words, *more], env={"RETRODICT_DEBUG": ""})
    return result.exit_code, result.stderr


def content(folder: Path, pattern: str = "*") -> str:
    files = (path for path in sorted(folder.rglob(pattern)) if path.is_file())
    return hashlib.sha256(b"".join(str(path).encode() + path.read_bytes() for path in files)).hexdigest()


@pytest.mark.usefixtures("only_light_work")
@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_writes_to_a_foreign_folder_or_to_its_input(name: str, desk: Path) -> None:
    line, read = COMMANDS[name]
    before = content(desk)
    for out, why in [
        ("foreign", f"is not empty: it holds model.safetensors and no {RECORD}"),
        (read, "inputs are never written to"),
    ]:
        if out:
            code, said = command(line, "--out", out)
            assert (code, said.count("\n"), content(desk)) == (2, 1, before), said
            assert said.startswith(f"retrodict: {out} ") and why in said


@pytest.mark.parametrize(
    ("line", "changed", "says"),
    [
        ("annotate unlabelled --quiet", "--model=other", "model small and not other"),
        ("bench --bench rows --model copy --verifier none --quiet", "--seed=1", "seed 0 and not 1"),
        ("train train.yaml --quiet", "--set=training.steps=2", "training.steps 1 and not 2"),
        ("rollout images/frame.png ACTION -n 1 --verifier none", "--seed=1", "seed 0 and not 1"),
    ],
)
def test_other_settings_are_refused_in_a_begun_folder(
    line: str, changed: str, says: str, desk: Path, request: pytest.FixtureRequest
) -> None:
    for _ in range(2):  # the second resumes
        assert command(line, "--out", "out") == (0, "")
    before = content(desk)
    request.getfixturevalue("only_light_work")
    assert command(line, "--out", "out", changed) == (
        2,
        f"retrodict: out holds a run with {says}: choose another --out, or delete that folder.\n",
    )
    assert content(desk) == before


def test_a_judge_writes_to_runs_alone_and_not_over_another_judge(desk: Path) -> None:
    asks = "--model fake --name same --offline --force --quiet"
    (desk / "foreign" / "test").mkdir()
    write_rows(desk / "foreign" / "test" / "test.parquet", [e.transition("test") for e in tabletop.sample(4, 0)])
    for held in ("", "{}"):
        (desk / "foreign" / "results.json").write_text(held or "mine")
        before = content(desk)
        code, said = command(f"judge foreign {asks}")
        assert (code, content(desk)) == (2, before), said
        assert said.startswith("retrodict: foreign/results.json ")
    assert command("bench --bench tabletop --items 4 --model copy --verifier none --quiet --out run")[0] == 0
    for _ in range(2):
        assert command(f"judge run {asks} --base-url http://localhost:1/v1") == (0, "")
    before = content(desk, "same*")  # the file of answers is opened
    for other, says in [
        ("--base-url http://localhost:2/v1", "served http://localhost:1/v1 and not http://localhost:2/v1"),
        (
            "--base-url http://localhost:1/v1 --prompt viescore_style_v1",
            "prompt paper_fig10_v1 and not viescore_style_v1",
        ),
        ("--base-url http://localhost:1/v1 --seed 1", "seed 0 and not 1"),
    ]:
        code, said = command(f"judge run {asks} {other}")
        assert (code, content(desk, "same*")) == (2, before), said
        assert said.startswith(f"retrodict: run/judge/same.json is of a judge with {says}: choose another --name")


def test_a_run_resumes_in_its_folder_and_no_other_run_does(tmp_path: Path) -> None:
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
        ("train", {"seed": 1, "model": None}, "holds a run with model a section and not None"),
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
            with pytest.raises(ValueError, match=f"{out} {how} the input {data}"):
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

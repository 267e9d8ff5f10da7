"""Bad input through the real command line: one line that says what to do, exit code 2, and nothing half written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from retrodict.cli import app
from retrodict.transitions import write_rows
from retrodict.worlds import tabletop

ACTION = "push the red ball to the left"
TRAIN = """
direction: forward
data: {train: [pairs]}
tokenizer: {image_size: 24, patch: 8, codes: 8, context: 1, width: 32, warm_steps: 2, steps: 2, batch_size: 2}
model: {hidden: 8, layers: 1, heads: 2}
training: {steps: 2, per_device_batch_size: 2}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with an image, three files that are none, and a folder without videos."""
    monkeypatch.chdir(tmp_path)
    image = tabletop.draw(tabletop.sample(1, 0)[0].source)
    image.save("frame.png")
    whole = Path("frame.png").read_bytes()
    Path("cut.png").write_bytes(whole[: len(whole) // 2])
    Image.effect_noise((64, 64), 80).save("cut.jpg")
    Path("cut.jpg").write_bytes(Path("cut.jpg").read_bytes()[:700])
    Path("text.png").write_text("this is no image")
    Path("empty.png").touch()
    Path("novideos").mkdir()
    Path("novideos/readme.txt").touch()
    Path("broken.yaml").write_text("direction: forward\ndata: {train: [pairs]}\ntraning: {steps: 2}\n")
    Path("twice.yaml").write_text("direction: forward\ndirection: inverse\n")
    Path("bytes.yaml").write_bytes(b"\xbc\xff")
    Path("cut.yaml").write_text("direction: forward\ndata: {train: [pairs]}\n")
    Path("pairs").mkdir()
    Path("pairs/cut.parquet").write_bytes(b"PAR1 and no more")
    Path("bootstrap.yaml").write_text("data: {labelled: pairs, videos: [novideos]}\n")
    return tmp_path


PREDICT = ["predict", "frame.png", ACTION, "--out", "next.png"]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["predict", "none.png", ACTION], "none.png: no such file or directory"),
        (["predict", "novideos", ACTION], "novideos: is a directory"),
        (["predict", "text.png", ACTION], "text.png is no image, or of a kind that cannot be read."),
        (["predict", "empty.png", ACTION], "empty.png is no image, or of a kind that cannot be read."),
        (["predict", "cut.png", ACTION], "cut.png is a broken image: "),
        (["predict", "cut.jpg", ACTION], "cut.jpg is a broken image: "),
        (["predict", "frame.png", ""], "there is an empty argument after frame.png"),
        (["mine", "", "--out", "out"], "there is an empty argument: is a variable of the shell not set?"),
        (["explain", "frame.png", "frame.png", "--model", ""], "there is an empty argument after --model"),
        (["import", "pairs", "", "--out", "out"], "there is an empty argument after pairs"),
        (["study", "serve", ""], "there is an empty argument"),
        (["predict", "frame.png", "?!"], "The action is empty: say in words what happens"),
        ([*PREDICT[:-1], "next.xyz"], "next.xyz: images cannot be written as .xyz; use .png."),
        ([*PREDICT[:-1], "novideos"], "novideos is a folder: --out names a file."),
        ([*PREDICT, "--model", "nothing"], "There is no model 'nothing': give a folder"),
        (["explain", "frame.png", "none.png"], "none.png: no such file or directory"),
        (["rerank", "frame.png", ACTION, "text.png"], "text.png is no image"),
        (["mine", "novideos", "--out", "out", "--quiet"], "novideos holds no video: looked for "),
        (["mine", "nowhere", "--out", "out", "--quiet"], "nowhere does not exist"),
        (["train", "broken.yaml", "--out", "out"], "broken.yaml: `traning`: unknown key; did you mean `training`?"),
        (["train", "twice.yaml", "--out", "out"], "twice.yaml, line 2: this is not YAML: `direction` stands twice"),
        (["train", "bytes.yaml", "--out", "out"], "bytes.yaml: this is not YAML: "),
        (["train", "cut.yaml", "--out", "out"], "pairs/cut.parquet is not a readable Parquet file"),
        (["bootstrap", "bootstrap.yaml", "--out", "out"], "novideos holds no video"),
        (["annotate", "novideos", "--out", "out", "--quiet"], "novideos holds no .parquet files"),
        (["judge", "frame.png", "--judge", "exact"], "frame.png is a file: name a folder that demo, "),
        (["select", "novideos", "--top-k", "3", "--out", "out"], "novideos holds no .parquet files"),
    ],
)
def test_bad_input(folder: Path, tiny_model: Path, arguments: list[str], line: str) -> None:
    before = sorted(folder.rglob("*"))
    if arguments[0] in ("predict", "explain", "rollout", "rerank", "annotate") and "--model" not in arguments:
        arguments = [*arguments, "--model", str(tiny_model)]
    result = CliRunner().invoke(app, arguments, env={"RETRODICT_DEBUG": ""})
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1, result.stderr
    assert line in result.stderr
    assert result.stderr.startswith("retrodict: ")
    assert sorted(folder.rglob("*")) == before


def test_videos_of_which_none_can_be_read(folder: Path) -> None:
    result = CliRunner().invoke(app, ["mine", "text.png", "--out", "out", "--quiet"], env={"RETRODICT_DEBUG": ""})
    assert result.exit_code == 2
    assert result.stderr == "retrodict: Not one of the videos could be read: out/clips.jsonl says why.\n"
    assert "text.png" in (folder / "out" / "clips.jsonl").read_text()


def with_disk(folder: Path, options: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command whose folder `disk` is a file system of its own, and list at the end what is on it."""
    script = f'mount -t tmpfs -o {options} tmpfs disk && {{ "$@"; code=$?; find disk; exit $code; }}'
    (folder / "disk").mkdir()
    namespace = ["unshare", "--user", "--map-root-user", "--mount"]
    try:
        subprocess.run(
            [*namespace, "mount", "-t", "tmpfs", "tmpfs", str(folder / "disk")], check=True, capture_output=True
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no file systems can be mounted here (unshare --user --mount)")
    command = [*namespace, "sh", "-c", script, "sh", sys.executable, "-m", "retrodict", *arguments]
    environment = {name: value for name, value in os.environ.items() if name != "RETRODICT_DEBUG"}
    return subprocess.run(command, check=False, cwd=folder, capture_output=True, text=True, env=environment)


@pytest.mark.parametrize("arguments", [["mine", "novideos", "--out", "disk/out"], [*PREDICT[:-1], "disk/next.png"]])
def test_a_disk_that_cannot_be_written(folder: Path, arguments: list[str]) -> None:
    result = with_disk(folder, "ro", *arguments)
    assert result.returncode == 2
    where = arguments[-1] if arguments[0] == "mine" else "disk"
    assert result.stderr.endswith(f"{where}: read-only file system, so nothing can be written there\n")
    assert result.stderr.count("\n") == 1
    assert result.stdout.split() == ["disk"]


@pytest.mark.slow
@pytest.mark.parametrize("size", ["20k", "300k"])
def test_a_disk_that_fills_up(folder: Path, size: str) -> None:
    """First the image tokenizer does not fit, then the model; what was begun does not pass for a model."""
    (folder / "pairs" / "cut.parquet").unlink()
    write_rows(folder / "pairs" / "a.parquet", [e.transition() for e in tabletop.sample(12, 0)])
    Path("train.yaml").write_text(TRAIN)
    result = with_disk(folder, f"size={size}", "train", "train.yaml", "--out", "disk/out", "--quiet")
    assert result.returncode == 2, result.stderr
    assert result.stderr == "retrodict: no space left on device\n"
    left = result.stdout.split()
    assert "disk/out/retrodict.json" not in left
    assert not [name for name in left if name.endswith((".tmp", ".unfinished"))]
    assert ("disk/out/training/image_tokenizer" in left) == (size == "300k")

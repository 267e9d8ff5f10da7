"""Bad input through the real command line: one line that says what to do, exit code 2, and nothing half written."""

from __future__ import annotations

import os
import resource
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
    Path("bytes.jsonl").write_bytes(b'{"input": "\xff"}\n')
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
        (["import", "pairs", "bytes.jsonl", "--out", "out", "--quiet"], "bytes.jsonl is no text in UTF-8"),
        (["rerank", "--tasks", "bytes.jsonl", "--out", "out", "--quiet"], "bytes.jsonl is no text in UTF-8"),
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


@pytest.mark.parametrize(
    ("arguments", "flags"),
    [
        ("bench --predictions novideos --model small --out out", "--predictions --model"),
        ("bench --predictions novideos -n 4 --out out", "--predictions -n"),
        ("bench --predictions novideos --top-k 4 --out out", "--predictions --top-k"),
        ("bench --export --model small --out out", "--export --model"),
        ("bench --export --predictions novideos --out out", "--export --predictions"),
        ("mine novideos --seed 3 --out out", "--seed --sample"),
        ("mine novideos --executor serial --workers 3 --out out", "--executor --workers"),
        ("import pairs bytes.jsonl --seed 3 --out out", "--seed --sample"),
        ("import pairs bytes.jsonl --column source=a --column source=b --out out", "--column source"),
        ("import pairs bytes.jsonl --column source=output --out out", "--column source target"),
        ("view out --out page --port 80", "--out --port"),
        ("demo --family emu3 --scale full --out out", "--family --scale"),
        ("study build novideos --code X --out out", "--code --crowd"),
        ("study build novideos --points 7 --out out", "--points --method"),
        ("judge out --on a.jsonl --verifier idm --prompt b.yaml", "--verifier --prompt"),
        ("judge out --on a.jsonl --model m --dry-run", "--on --dry-run"),
        ("judge out --model m --dry-run --batch-out b.jsonl", "--dry-run --batch-out"),
        ("judge out --model m --batch-in a.jsonl --batch-out b.jsonl", "--batch-out --batch-in"),
        ("judge out --judge exact --model m", "--judge --model"),
        ("judge out --judge local --model m --base-url http://localhost", "--judge --base-url"),
        ("predict frame.png act --verifier none --second small", 'verifier "none"'),
        ("predict frame.png act --verifier random --inverse small", 'verifier "random" inverse'),
        ("predict frame.png act --stop-at 1 --sure 0.9", "stop_at sure"),
        ("rerank frame.png act frame.png --verifier exact --inverse small", 'verifier "exact" inverse'),
        ("bench --captions a.json --out out", "metrics captions"),
        ("bench --verifier none --temperature 0.5 --out out", "--verifier --temperature"),
        ("predict frame.png act --verifier none --top-p 0.5", "--verifier --top-p"),
        ("rollout frame.png act --verifier none --top-k 5 --out out", "--verifier --top-k"),
    ],
)
def test_an_option_that_would_do_nothing_beside_another_is_refused(folder: Path, arguments: str, flags: str) -> None:
    """The line names both. What is set in the environment is not typed, and an option alone does what it does."""
    before = sorted(folder.rglob("*"))
    result = CliRunner().invoke(app, arguments.split(), env={"RETRODICT_DEBUG": "", "OPENAI_BASE_URL": "http://a"})
    assert result.exit_code == 2 and result.stderr.count("\n") == 1, result.output
    assert all(flag in result.stderr for flag in flags.split()), result.stderr
    assert sorted(folder.rglob("*")) == before


def test_videos_of_which_none_can_be_read(folder: Path) -> None:
    (folder / "empty.mp4").touch()
    result = CliRunner().invoke(
        app, ["mine", "text.png", "empty.mp4", "--out", "out", "--quiet"], env={"RETRODICT_DEBUG": ""}
    )
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


def test_a_limit_on_the_size_of_files(folder: Path) -> None:
    """One line, nothing half written, and the same command goes on once the limit is gone."""
    Image.effect_noise((200, 200), 80).save("noise.png")
    Path("list.jsonl").write_text('{"input": "noise.png", "output": "noise.png", "instruction": "wait"}\n')
    limits, size = resource.getrlimit(resource.RLIMIT_FSIZE), 8000  # bytes; a probe of 4096 may be written
    arguments = ["import", "pairs", "list.jsonl", "--out", "out", "--quiet"]
    predict = ["predict", "noise.png", "wait", "--model", "copy", "--verifier", "none", "--out", "next.png"]
    for command in (arguments, predict):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
        try:
            result = CliRunner().invoke(app, command, env={"RETRODICT_DEBUG": ""})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert result.exit_code == 2 and result.stderr.count("\n") == 1, result.output
        assert "file too large" in result.stderr
    left = {path.name for path in folder.rglob("*")}
    assert not [name for name in left if name.endswith((".tmp", "next.png")) or name.startswith("transitions")]
    assert CliRunner().invoke(app, arguments).exit_code == 0


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

"""What the README and the examples tell people to type works: with the shipped weights, or random ones without."""

from __future__ import annotations

import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

import retrodict
from retrodict import loading as load
from retrodict.bootstrap.recipe import BootstrapRecipe
from retrodict.cli import app
from retrodict.images import write_image
from retrodict.recipes import load_recipe
from retrodict.training.config import TrainRecipe
from retrodict.worlds import tabletop

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FENCED = re.findall(r"^```(\w*)\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)
COMMANDS = [line for _, text in FENCED for line in text.splitlines() if line.startswith("retrodict ")]
ANSWERED_AT_ONCE = ("predict", "explain", "rollout")


@pytest.fixture
def place(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder like a fresh clone, where "small" is a model."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    if not load.is_model(load.SHIPPED / "small" / "forward"):
        (tmp_path / "weights").mkdir()
        (tmp_path / "weights" / "small").symlink_to(tiny_model)
        monkeypatch.setattr(load, "SHIPPED", tmp_path / "weights")
    return tmp_path


def test_the_shipped_model_reads_what_it_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image that is predicted, written, sent as JPEG and read again still shows its action."""
    action = "push the red ball to the left"
    predicted = retrodict.predict(ROOT / "examples" / "frame.png", action)
    for name in ("next.png", "next.jpg"):
        write_image(tmp_path / name, predicted.image)
        said = retrodict.explain(ROOT / "examples" / "frame.png", tmp_path / name).action
        assert tabletop.parse_action(said) == tabletop.parse_action(action)


def test_commands_answer(place: Path) -> None:
    ran = [command for command in COMMANDS if command.split()[1] in ANSWERED_AT_ONCE]
    assert {command.split()[1] for command in ran} == set(ANSWERED_AT_ONCE)
    for command in ran:
        result = CliRunner().invoke(app, shlex.split(command)[1:])
        assert result.exit_code == 0, (command, result.output)
    assert Path("next.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in Path("steps").glob("*.png")) == ["step_01.png", "step_02.png"]


def test_python(place: Path) -> None:
    (code,) = (text for language, text in FENCED if language == "python")
    exec(compile(code, "README.md", "exec"), {})
    assert Path("next.png").is_file()


def test_recipes(tmp_path: Path) -> None:
    (text,) = (text for language, text in FENCED if language == "yaml")
    (tmp_path / "recipe.yaml").write_text(text)
    assert load_recipe(tmp_path / "recipe.yaml", BootstrapRecipe).forward.steps == 2000
    assert (
        load_recipe(ROOT / "recipes" / "bootstrap.yaml", BootstrapRecipe).data.labelled[0].path
        == ROOT / "recipes" / "pairs"
    )
    for direction in ("inverse", "forward"):
        assert load_recipe(ROOT / "recipes" / f"{direction}.yaml", TrainRecipe).direction == direction


@pytest.mark.parametrize("name", ["quickstart", "custom_verifier"])
def test_examples(place: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(place / "examples" / f"{name}.py"), run_name="__main__")
    assert "of 8" in capsys.readouterr().out
    assert Path("next.png").read_bytes().startswith(b"\x89PNG")


def test_labelling_videos(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    tabletop.write_videos(place / "clips", 1, 0, truth=place / "truth", actions=4)
    monkeypatch.setattr(sys, "argv", ["label", "clips", "--model", "small", "--out", "labelled"])
    runpy.run_path(str(place / "examples" / "label_my_videos.py"), run_name="__main__")
    said = capsys.readouterr().out.splitlines()
    assert said[0].endswith("frame pairs of 1 clips")
    assert len(said) > 2


def test_the_images_of_the_examples_are_what_their_script_renders(place: Path) -> None:
    rendered = {path.name: path.read_bytes() for path in (place / "examples").glob("*.png")}
    for path in (place / "examples").glob("*.png"):
        path.unlink()
    runpy.run_path(str(place / "examples" / "render_frames.py"), run_name="__main__")
    assert set(rendered) == {"frame.png", "before.png", "after.png"}
    for name in rendered:
        with Image.open(ROOT / "examples" / name) as kept, Image.open(place / "examples" / name) as again:
            assert kept.tobytes() == again.tobytes()

"""The wheel, installed with base dependencies alone: every command works, or names the extra that it needs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from loop_data import moving_square, write_video
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
BARE = """
import importlib.abc, json, sys
blocked, commands = json.loads(sys.argv[1]), json.loads(sys.argv[2])

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in blocked:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
import retrodict
from typer.testing import CliRunner
from retrodict.cli import app
answers = [CliRunner().invoke(app, command) for command in commands]
print(json.dumps([retrodict.__file__, [[a.exit_code, a.output] for a in answers]]), file=sys.stderr)
"""
TRAIN = "direction: inverse\ndata: {train: labelled}\n"


def base_distributions() -> set[str]:
    """What `pip install retrodict` brings along."""
    wanted, base = ["retrodict"], set[str]()
    while wanted:
        name = canonicalize_name(wanted.pop())
        if name in base:
            continue
        base.add(name)
        try:
            requires = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue  # for another platform
        needed = (Requirement(text) for text in requires)
        wanted += [one.name for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})]
    return base


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(folder)]
    subprocess.run([*command, str(ROOT)], check=True, timeout=300)
    (built,) = folder.glob("*.whl")
    return built


@pytest.mark.slow
def test_every_command_works_bare_or_names_its_extra(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    base = base_distributions()
    owners = metadata.packages_distributions()
    blocked = [name for name, of in owners.items() if base.isdisjoint(map(canonicalize_name, of))]
    assert {"openai", "starlette", "datasets", "diffusers", "pytest"} <= set(blocked)
    write_video(tmp_path / "videos" / "square.mp4", moving_square(30))
    (tmp_path / "recipe.yaml").write_text(TRAIN)
    frame, run = str(ROOT / "examples" / "frame.png"), str(tmp_path / "run")
    action = "push the red ball to the left"
    pairs, labelled, chosen = (str(tmp_path / name) for name in ("pairs", "labelled", "chosen"))
    works = [
        ["info"],
        ["predict", frame, action, "-n", "2", "--out", str(tmp_path / "next.png")],
        ["explain", frame, str(tmp_path / "next.png")],
        ["rollout", frame, action, "-n", "1", "--out", str(tmp_path / "steps")],
        ["rerank", frame, action, str(tmp_path / "next.png"), frame],
        ["bench", "--limit", "1", "-n", "2", "--out", run, "-q"],
        ["bench", "--limit", "1", "--model", "copy", "--verifier", "none", "--out", str(tmp_path / "copy"), "-q"],
        ["compare", run, str(tmp_path / "copy"), "--out", str(tmp_path / "compared")],
        ["report", run],
        ["probe", "--items", "6", "--out", str(tmp_path / "probe"), "-q"],
        ["mine", str(tmp_path / "videos"), "--out", pairs, "--min-gap", "2", "--workers", "1", "-q"],
        ["annotate", pairs, "--out", labelled, "-q"],
        ["select", labelled, "--top-k", "2", "--out", chosen],
        ["train", str(tmp_path / "recipe.yaml"), "--dry-run"],
    ]
    needs = {
        "judge": ["judge", run, "--model", "some", "--base-url", "http://127.0.0.1:9/v1"],
        "serve": ["serve"],
        "study": ["study", "serve", str(tmp_path / "no-study")],
        "ray": ["mine", str(tmp_path / "videos"), "--out", str(tmp_path / "with-ray"), "--executor", "ray", "-q"],
    }
    done = subprocess.run(
        [sys.executable, "-c", BARE, json.dumps(blocked), json.dumps([*works, *needs.values()])],
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "site"), "OPENAI_API_KEY": "none"},
    )
    assert done.returncode == 0, done.stderr
    file, answers = json.loads(done.stderr.splitlines()[-1])
    assert Path(file).is_relative_to(tmp_path / "site")
    for command, (code, output) in zip(works, answers, strict=False):
        assert code == 0, (command, output[-3000:])
    for (extra, command), (code, output) in zip(needs.items(), answers[len(works) :], strict=True):
        assert code == 2, (command, output)
        assert f"pip install 'retrodict[{extra}]'" in output

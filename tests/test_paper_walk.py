"""The paper's walk: the commands of recipes/paper/README.md, word for word, on miniatures of what they download."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from test_judge_endpoint import serving
from typer.testing import CliRunner

from retrodict.cli import app
from retrodict.transitions import read_transitions

FOLDER = Path(__file__).parents[1] / "recipes" / "paper"
FETCHED = ("git", "curl")  # what is not run here, as the miniature has it


@pytest.fixture
def walk(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    import walk

    return walk


@pytest.mark.slow
def test_every_command_of_the_readme_works_on_miniatures_of_what_it_downloads(
    walk: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import miniature

    top = tmp_path / "top"
    miniature.make(top)
    monkeypatch.chdir(top)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    walk.dry_run("chameleon")
    assert "MISSING" not in capsys.readouterr().out
    ran = 0
    with serving(script={"*": ["sees"]}) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        for command in walk.commands("chameleon"):
            assert not walk.missing(command, "chameleon", set()), command
            if command.words[0] in FETCHED:
                assert command.is_done, command
            elif command.words[0] == "python":
                assert not command.is_done, command
                subprocess.run([sys.executable, *command.words[1:]], check=True)
                assert command.is_done, command
            else:
                result = CliRunner().invoke(app, list(command.words[1:]))
                assert result.exit_code == 0, (shlex.join(command.words), result.output)
                assert "missing" not in result.output, (command, result.output)
            ran += 1
    assert ran == len(list(walk.commands("chameleon"))) > 25
    selected = read_transitions(Path("runs/paper/chameleon/selected"))
    assert [row.provenance["collection"] for row in selected] == ["kinetics700"] * 2 + ["moments"] * 2 + ["ucf101"] * 2
    assert len({row.category for row in selected}) == 5, "the likeliest of each class; Kinetics' two clips are of one"
    page = Path("runs/paper/chameleon.html").read_text()
    assert "gpt-4o-2024-11-20" in page
    judged = json.loads(next(Path("runs/paper/chameleon-fdm/judge").glob("*paper_fig10_v1.json")).read_text())
    assert judged["card"]["trusted"]
    assert sum(1 for _ in Path("runs/paper/chameleon-study").iterdir()) > 1


def test_a_walk_from_nothing_says_what_is_missing_and_stops_there(walk: ModuleType, tmp_path: Path) -> None:
    script = tmp_path / "recipes" / "paper" / "walk.py"
    shutil.copytree(FOLDER, script.parent, ignore=shutil.ignore_patterns("__pycache__"))
    said = subprocess.run(
        [sys.executable, script, "--dry-run", "--family", "liquid"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        env=os.environ,
    ).stdout
    assert said.count("MISSING") == 12
    assert "recipes/paper/models/liquid" in said and "models/chameleon" not in said
    assert "register at https://www.qualcomm.com" in said
    waits = [line for line in said.splitlines() if line.startswith("  waits ")]
    assert [line.split()[2:4] for line in waits] == [["import", "ssv2"], ["import", "epic100"]], waits
    bootstrap = next(line for line in said.splitlines() if "retrodict bootstrap" in line)
    assert "recipes/paper/liquid.yaml" in bootstrap

"""The tutorials, followed: their blocks in order, in a folder like a clone, smaller where they would take minutes."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from retrodict.cli import app

ROOT = Path(__file__).parents[1]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
SERVERS = ("serve", "play", "view", "study serve")  # they answer until they are stopped; tests of their own ask them
ELSEWHERE = ("make", "curl", "retrodict demo")  # run by tests of the paper's walk, the server and the families
SMALLER = {
    "bench": ["--items", "10", "-n", "2"],
    "probe": ["--items", "10"],
    "bootstrap": [
        *("--set", "world={name: tabletop, labelled: 40, test: 10, videos: 3}", "--set", "model.layers=1"),
        *("--set", "inverse.steps=3", "--set", "forward.steps=3", "--set", "bench.n=2", "--set", "ablations=[]"),
    ],
}
DOCUMENTS = [
    *("tutorials/evaluator.md", "tutorials/image-editor.md", "tutorials/data-engineer.md", "concepts.md"),
    pytest.param("tutorials/researcher.md", marks=pytest.mark.slow),
]


def steps(document: Path) -> Iterator[tuple[str, str]]:
    """What a reader does: files to write, Python to run, and commands, each with its kind."""
    for language, text in FENCED.findall(document.read_text(encoding="utf-8")):
        if language in ("python", "yaml", "json"):
            yield language, text
        else:
            yield from (("command", line) for line in text.replace("\\\n", " ").splitlines() if line.strip())


@pytest.mark.parametrize("document", DOCUMENTS)
def test_a_tutorial_can_be_followed(document: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "examples", "examples")
    Path("recipes").symlink_to(ROOT / "recipes")
    names: dict[str, object] = {}
    ran = 0
    for kind, text in steps(ROOT / "docs" / document):
        if kind == "python":
            exec(compile(text.replace(", 20, seed", ", 3, seed"), document, "exec"), names)
        elif kind in ("yaml", "json"):
            Path("recipe.yaml" if kind == "yaml" else "tasks.jsonl").write_text(text)
        elif not text.startswith(ELSEWHERE):
            command, *words = shlex.split(text, comments=True)
            assert command == "retrodict", text
            if " ".join(words).startswith(SERVERS):
                continue
            changed = [] if {"--dry-run", "--export"} & {*words} else SMALLER.get(words[0], [])
            changed = changed[:2] if "--predictions" in words else changed  # where nothing is sampled
            if "--export" in words:
                words[words.index("--items") + 1] = "10"
            result = CliRunner().invoke(app, [*words, *changed])
            assert result.exit_code == 0 or "--dry-run" in words, (text, result.output)
            ran += 1
    assert ran or document == "concepts.md"


@pytest.mark.parametrize(
    "document", sorted({*(ROOT / "docs").rglob("*.md")} - {ROOT / "docs" / "extend.md"}), ids=lambda path: path.name
)
def test_blocks_of_python_name_what_there_is(document: Path) -> None:  # docs/extend.md: test_extend.py
    for language, text in FENCED.findall(document.read_text(encoding="utf-8")):
        if language == "python":
            compile(text, document.name, "exec")
            for line in re.findall(r"^(?:from retrodict[\w.]* )?import [\w, ]*$", text, flags=re.M):
                if "retrodict" in line:
                    exec(line, {})

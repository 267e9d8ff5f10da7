"""What the documents say is there: links, anchors, commands, and references that are made from the code."""

from __future__ import annotations

import re
import runpy
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer._click.exceptions import NoSuchOption, UsageError

from retrodict.bootstrap.recipe import BootstrapRecipe
from retrodict.cli import app
from retrodict.recipes import reference

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "recipes").rglob("*.md")])
TOOLS = runpy.run_path(str(ROOT / "tools" / "docs.py"))
GROUP = typer.main.get_command(app)
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)


def prose(document: Path) -> str:
    return FENCED.sub("", document.read_text(encoding="utf-8"))


def commands(document: Path) -> list[str]:
    """The lines of shell in a document's blocks, continued ones joined."""
    text = document.read_text(encoding="utf-8")
    blocks = [block.replace("\\\n", " ") for language, block in FENCED.findall(text) if language in ("", "sh")]
    return [line.strip() for block in blocks for line in block.splitlines()]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(document)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (document.parent / path).resolve() if path else document
        assert there.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", prose(there), flags=re.M)
            assert anchor in [TOOLS["slug"](heading) for heading in headings], target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_commands_are_understood(document: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    for command in commands(document):
        words = shlex.split(command, comments=True)
        if words[:1] == ["retrodict"]:
            parse(words[1:])
        elif words[:1] == ["make"]:
            assert {word for word in words[1:] if "=" not in word} <= targets, command
        elif words[:1] == ["python"] and words[1].endswith(".py"):
            assert (ROOT / words[1]).is_file(), command
    for command in re.findall(
        r"`(retrodict [a-z][^`]*)`", prose(document)
    ):  # in a sentence, perhaps with capitals for values
        try:
            parse(shlex.split(command)[1:])
        except NoSuchOption:
            raise
        except UsageError:  # NAME for a name, or nothing
            pass


def parse(words: list[str]) -> None:
    """Read a command as the program does, which raises on what it does not know."""
    command: Any = GROUP
    while words and hasattr(command, "commands") and words[0] in command.commands:
        command, words = command.commands[words[0]], words[1:]
    if words not in (["--help"], ["--version"]):
        command.make_context("", words)


def test_every_page_is_in_the_navigation_and_its_links_hold_on_the_site() -> None:
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    entries = [pages for part in settings["nav"] for pages in part.values()]
    listed = [path for page in entries for path in re.findall(r"[\w/-]+\.md", str(page))]
    pages = TOOLS["pages"]()
    assert sorted(listed) == sorted(pages)
    assert (
        "[Results](../index.md#results)" in pages["tutorials/researcher.md"]
        or "../index.md#results" in pages["tutorials/researcher.md"]
    )
    assert not [path for path, text in pages.items() if re.search(r"\]\([^)]*(?:README|ARCHITECTURE)\.md", text)]


def test_the_index_of_the_paper_names_files_and_functions_that_there_are() -> None:
    lines = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8").splitlines()
    named = 0
    for cell in [line.split("|")[2] for line in lines if line.startswith("| ")]:
        code = ""
        for name in re.findall(r"`([^` ]+)`", cell):
            if name.endswith(".py"):
                code = (ROOT / "src" / "retrodict" / name).read_text(encoding="utf-8")
            elif code and re.fullmatch(r"\w+", name):
                assert re.search(rf"^(?:def|class) {name}\b", code, flags=re.M), name
                named += 1
    assert named > 15


def test_references_are_those_of_the_code(tmp_path: Path) -> None:
    TOOLS["write_references"](tmp_path)
    for name in ("recipe.md", "api.md"):
        made = (tmp_path / "reference" / name).read_text(encoding="utf-8")
        assert (ROOT / "docs" / "reference" / name).read_text(encoding="utf-8") == made, "run `make docs`"


def test_every_key_of_a_recipe_has_a_type_a_default_and_a_meaning() -> None:
    keys = {key.name: key for key in reference.keys(BootstrapRecipe)}
    assert not [name for name, key in keys.items() if not (key.type and key.default and key.meaning)]
    assert (keys["forward.steps"].type, keys["forward.steps"].default) == ("integer > 0", "600")  # the class's is 1000
    assert keys["inverse.steps"].default == "1000"
    assert keys["data.labelled[].path"].default == "required"
    assert keys["forward.lr_scheduler"].type == "`cosine`, `linear` or `constant`"


def test_a_key_is_explained_by_its_whole_name_or_its_last_part() -> None:
    kinds = {"bootstrap": BootstrapRecipe}
    assert "[bootstrap] select.top_k: integer > 0; default: 7000\n" in reference.explain(kinds, "select.top_k")
    assert reference.explain(kinds, "steps").count("steps:") == 3  # of the tokenizer and both directions
    assert "select.per_collection" in reference.explain(kinds, "select")
    with pytest.raises(ValueError, match=r"`select\.topk`; did you mean `select\.top_k`\?"):
        reference.explain(kinds, "select.topk")

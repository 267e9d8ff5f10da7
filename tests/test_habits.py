"""What strangers rely on: the commands and paths that the documents for agents and contributors name are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("document", ["AGENTS.md", "CONTRIBUTING.md", "SECURITY.md"])
def test_named_commands_and_paths_exist(document: str) -> None:
    text = (ROOT / document).read_text()
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    assert {
        name for name in re.findall(r"\bmake ([a-z-]+)", text) if name.startswith(("test", "lint", "demo"))
    } <= targets
    paths = re.findall(r"\]\(([^)#:]+)[^)]*\)", text) + re.findall(r"`((?:src|tests|docs)/[\w./-]+)`", text)
    paths += re.findall(r"tests/test_\w+\.py", text)
    assert not [path for path in paths if not (ROOT / path).exists()]
    commands = re.findall(r"retrodict ([a-z]+)", text)
    from retrodict.cli import app

    known = {
        command.name or (command.callback.__name__ if command.callback else "") for command in app.registered_commands
    }
    known |= {group.name for group in app.registered_groups}
    assert set(commands) <= known | {"import"}

"""What strangers rely on: the commands and paths that the documents for agents and contributors name are there."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

import retrodict

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


def test_the_lock_pins_what_was_tested_with_hashes_and_names_no_other_index() -> None:
    pins = dict(re.findall(r"^([\w.-]+)==([\w.]+)", (ROOT / "constraints.txt").read_text(), flags=re.M))
    pins = {re.sub(r"[._]", "-", name).lower(): version for name, version in pins.items()}
    text = (ROOT / "requirements.lock").read_text()
    entries = re.findall(r"^([\w.-]+)==([\w.]+)(.*?)(?=^[\w]|\Z)", text, flags=re.M | re.S)
    locked = {name: version for name, version, _ in entries}
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert {re.split(r"[<>=\[]", name)[0] for name in needed} <= set(locked)
    assert {name: v for name, v in locked.items() if name in pins} == {n: pins[n] for n in locked if n in pins}
    assert not [name for name, _, rest in entries if "--hash=sha256:" not in rest]
    assert not re.search(r"://|index-url|find-links|^-", text, flags=re.M)


def test_versions_agree() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert retrodict.__version__ == version
    assert f"version: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.parametrize("name", ["tests", "docs", "release"])
def test_workflows_can_be_read_and_call_what_is_here(name: str) -> None:
    text = (ROOT / ".github" / "workflows" / f"{name}.yml").read_text()
    jobs = yaml.safe_load(text)["jobs"]
    steps = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    assert set(re.findall(r"make ([a-z-]+)", "\n".join(steps))) <= targets
    assert not [path for path in re.findall(r"[\w.]+\.lock|\.ci/run", "\n".join(steps)) if not (ROOT / path).exists()]
    if name == "tests":
        versions = jobs["tests"]["strategy"]["matrix"]["python"]
        known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
        assert [v for v in versions if f"Programming Language :: Python :: {v}" not in known] == []

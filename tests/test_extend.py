"""What docs/extend.md says, done."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from retrodict.dynamics import verifiers
from retrodict.dynamics.verifiers import VerifierKind

ROOT = Path(__file__).parents[1]


def fenced(section: str) -> list[str]:
    """The Python blocks of a section of docs/extend.md."""
    text = (ROOT / "docs" / "extend.md").read_text(encoding="utf-8")
    body = text.split(f"\n## {section}\n")[1].split("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", body, flags=re.S)


@pytest.fixture
def registered() -> Iterator[dict[str, Any]]:
    """The verifier of the page, in the table as the page says."""
    program, record = fenced("A verifier")
    names: dict[str, Any] = {"VerifierKind": VerifierKind}
    exec(program.rpartition("\n\n\n")[0], names)  # all but the call
    table = dict(verifiers.VERIFIERS)
    added = eval("{" + record + "}", names)
    verifiers.VERIFIERS.update(added)
    yield names
    verifiers.VERIFIERS.clear()
    verifiers.VERIFIERS.update(table)


def test_a_verifier_from_python(monkeypatch: pytest.MonkeyPatch) -> None:
    program, _ = fenced("A verifier")
    monkeypatch.chdir(ROOT)
    names: dict[str, Any] = {}
    exec(program.replace("retrodict.predict(", "made = retrodict.predict("), names)
    made = names["made"]
    assert (made.verifier, made.scores[made.chosen]) == ("brightest", max(made.scores))


def test_a_verifier_by_name(registered: dict[str, Any], tiny_model: Path, tmp_path: Path) -> None:
    import retrodict
    from retrodict.worlds import get_world

    (row,) = get_world("tabletop").sample(1, 0, namespace="bench")
    assert retrodict.predict(row.source_image, row.action, n=2, model=tiny_model, verifier="brightest").chosen == 0
    found = retrodict.bench("tabletop", out=tmp_path, model=str(tiny_model), verifier="brightest", n=2, items=2)
    assert found["systems"][tiny_model.name]["k2"]["selector"] == "brightest"
    assert "brightest" in json.loads((tmp_path / "results.json").read_text())["systems"][tiny_model.name]["k2"]


def test_commands_offer_every_record() -> None:
    code = (
        "from retrodict.dynamics import verifiers as v; v.VERIFIERS['brightest'] = v.VERIFIERS['random']; "
        "from retrodict.cli import main; main()"
    )
    for command in ("predict", "rollout", "rerank", "bench"):
        told = subprocess.run(
            [sys.executable, "-c", code, command, "--verifier", "x"], capture_output=True, text=True, check=False
        ).stderr
        assert "brightest" in told, told

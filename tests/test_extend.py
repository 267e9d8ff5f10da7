"""What docs/extend.md says, done."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrodict.dynamics import verifiers
from retrodict.dynamics.verifiers import VerifierKind
from retrodict.evaluation import metrics
from retrodict.evaluation.compare import compare_runs
from retrodict.evaluation.judge import Plan, judge_run
from retrodict.evaluation.judges import JUDGES, JudgeKind

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


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Path]:
    """A run on anybody's folder, measured with the page's metric, too."""
    from retrodict.report.runs import bench
    from retrodict.transitions import write_rows
    from retrodict.worlds import get_world

    names: dict[str, Any] = {"Metric": metrics.Metric, "np": np}
    (record,) = fenced("A metric")
    rows = [replace(row, provenance={}) for row in get_world("tabletop").sample(12, 0, namespace="bench")]
    write_rows(tmp_path / "data" / "rows.parquet", rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(metrics.METRICS, "brightness", eval("{" + record + "}", names)["brightness"])
        bench(str(tmp_path / "data"), out=tmp_path / "run", model="copy", n=1)
        yield tmp_path / "run"


def test_a_metric(run: Path) -> None:
    entry = json.loads((run / "results.json").read_text())["metrics"]["brightness"]["all"]
    assert entry["ground_truth"]["value"] == 0 < entry["copy"]["value"]
    assert '<th scope="col">Brightness</th>' in (run / "report.html").read_text()
    compared = compare_runs(run, run, measure="brightness", rows=("ground_truth", "copy"))
    assert not compared["higher_is_better"] and compared["all"]["difference"] < 0


def test_a_judge(run: Path) -> None:
    program, record = fenced("A judge")
    names: dict[str, Any] = {"JudgeKind": JudgeKind}
    exec(program, names)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(JUDGES, "lenient", eval("{" + record + "}", names)["lenient"])
        with pytest.raises(ValueError, match="not trusted"):
            judge_run(run, Plan(kind="lenient"))
        measured = judge_run(run, Plan(kind="lenient", force=True))
    assert measured["rows"]["copy"]["score"] == 10
    assert json.loads((run / "judge" / "lenient.json").read_text())["forced"]

"""Measurements that were killed: the same command resumes, other settings are refused."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from retrodict.cli import app
from retrodict.dynamics.unified import UnifiedModel
from retrodict.evaluation import probe_run
from retrodict.evaluation.pool import ItemResult, Scored
from retrodict.evaluation.predictions import read_predictions, write_predictions
from retrodict.models.protocol import Candidate, Frame


def command(out: Path, *more: str) -> list[str]:
    return ["bench", "--bench", "tabletop", "--model", "small", "-n", "2", "--items", "96", "--out", str(out), *more]


def numbers(out: Path) -> str:
    """All that `results.json` holds but times, as text, in which NaN equals NaN."""
    found = json.loads((out / "results.json").read_text())
    return json.dumps({key: found[key] for key in found if key not in ("command", "seconds", "wall_seconds")})


@pytest.mark.slow
def test_a_killed_bench_resumes_with_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    parts = killed / "predictions" / "small-parts"
    run = [sys.executable, "-m", "retrodict", *command(killed)]
    with subprocess.Popen(run, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 240
        while process.poll() is None and time.monotonic() < deadline and not (parts / "00000.parquet").exists():
            time.sleep(0.01)
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    made = {path.name: path.stat().st_mtime_ns for path in parts.glob("*.parquet")}
    assert 1 <= len(made) < 3
    assert not (killed / "results.json").exists()

    sampled: list[int] = []
    sample = UnifiedModel.sample

    def counted(self: UnifiedModel, sources: Sequence[Frame], *more: Any, **named: Any) -> list[list[Candidate]]:
        sampled.append(len(sources))
        return sample(self, sources, *more, **named)

    monkeypatch.setattr(UnifiedModel, "sample", counted)
    refused = CliRunner().invoke(app, command(killed, "--seed", "1"))
    assert refused.exit_code == 2
    assert refused.stderr.splitlines() == [
        f"retrodict: {killed} holds a run with seed 0 and not 1: choose another --out, or delete that folder."
    ]
    for out in (killed, whole):
        assert CliRunner().invoke(app, command(out)).exit_code == 0
    missing = 3 - len(made)
    assert sampled.count(32) == 2 * (missing + 3)  # greedy and sampled
    assert [count for count in sampled if count != 32] == [96, 96]  # actions that are impossible there, once a run
    assert sorted(p.name for p in (killed / "predictions").iterdir()) == ["small.parquet"]
    results = numbers(whole)
    assert numbers(killed) == results
    for name in ("predictions/small.parquet", "items/small.jsonl", "items/copy.jsonl"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes()

    monkeypatch.setattr(UnifiedModel, "sample", None)
    monkeypatch.setattr(UnifiedModel, "explain", None)
    assert CliRunner().invoke(app, command(whole)).exit_code == 0  # only measures
    assert numbers(whole) == results


def test_predictions_come_back_as_they_were(tmp_path: Path) -> None:
    asked = Scored(b"png", 0.1, 1 / 3, 0.1, 0.0, verifiers={"idm": math.nan, "a": -1.5})
    items = [ItemResult("1", "c", "g", "do it", asked, (asked,)), ItemResult("2", "c", "g", "?", Scored(reason="no"))]
    write_predictions(tmp_path / "p.parquet", items)
    assert repr(read_predictions(tmp_path / "p.parquet")) == repr(items)  # NaN is not equal to itself


def test_a_killed_probe_resumes_with_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def results(name: str) -> str:
        probe_run.run_probe("tabletop", out=tmp_path / name, model="small", items=8, seed=1)
        return numbers(tmp_path / name)

    whole, score = results("whole"), UnifiedModel.score_targets
    with monkeypatch.context() as patched:
        patched.setattr(UnifiedModel, "score_targets", None)  # dies in the second direction
        with pytest.raises(TypeError):
            results("cut")
    with monkeypatch.context() as patched:
        patched.setattr(UnifiedModel, "score", None)  # the first direction is not asked again
        assert results("cut") == whole
        patched.setattr(UnifiedModel, "score_targets", None)
        assert results("cut") == whole
    assert UnifiedModel.score_targets is score
    lines = [(tmp_path / name / "items" / "probe.jsonl").read_bytes() for name in ("cut", "whole")]
    assert lines[0] == lines[1]
    with pytest.raises(ValueError, match="holds a run with items 8 and not 9"):
        probe_run.run_probe("tabletop", out=tmp_path / "cut", model="small", items=9, seed=1)

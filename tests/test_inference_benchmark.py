"""The inference benchmarks, at tiny size: that they run, and that their baselines say what we say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def test_ours_and_generate_agree_and_are_timed(tiny_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "inference.json"
    small = ["--model", str(tiny_model), "--rounds", "1", "--prompts", "1", "--pairs", "1", "--in-flight", "2"]
    command = [sys.executable, str(BENCHMARKS / "inference.py"), *small, "--threads", "1", "--out", str(out)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "are those of transformers.generate" in done.stdout
    found = json.loads(out.read_text())
    assert all(value > 0 for value in found["milliseconds"].values())
    one, verified = found["milliseconds"]["ours one"], found["milliseconds"]["ours verified"]
    ratio = found["ratios"]["verified best of 8 / one sample (<= 2.5)"]
    assert abs(ratio["median"] - verified / one) < 1e-6


def test_the_gpu_mode_runs_at_tiny_size(tmp_path: Path) -> None:
    out = tmp_path / "decode.json"
    command = [sys.executable, str(BENCHMARKS / "inference.py"), "--gpu", "--tiny", "--device", "cpu"]
    subprocess.run([*command, "--steps", "3", "--out", str(out)], check=True, capture_output=True)
    found = json.loads(out.read_text())
    for family in ("chameleon", "liquid"):
        assert found[family]["8 guided"]["floor_ms"] > found[family]["8"]["floor_ms"] > found[family]["1"]["floor_ms"]
        assert found[family]["verified_over_one"] > 0
        assert found[family]["pairs_per_second"] > 0
        plain, holds, nothing = (found[family]["drafts"][name] for name in ("plain", "draft holds", "nothing holds"))
        assert holds["same"] and nothing["same"]
        assert holds["passes"] < plain["passes"] / 2 and nothing["passes"] <= plain["passes"]

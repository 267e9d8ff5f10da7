"""The script that makes the shipped weights, at tiny size, and the folders that `load` reads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from retrodict.loading import load
from retrodict.worlds import tabletop

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "gpu" / "ship_small.py"
TINY = (
    "--examples 20 --forward-steps 2 --inverse-steps 2 --tokenizer-steps 4 --batch 2 --hidden 32 --layers 1 --heads 2"
)


@pytest.mark.slow
def test_makes_models_that_load(tmp_path: Path) -> None:
    size = "continuous"  # not the default
    command = [sys.executable, str(SCRIPT), "--out", str(tmp_path), "--size", size, *TINY.split()]
    subprocess.run(command, check=True, capture_output=True)
    example = tabletop.sample(1, 0, size=size)[0].transition()
    (pool,) = load(tmp_path, role="forward").sample([example.source_image], [example.action], 2, seed=0)
    assert [candidate.image.size for candidate in pool] == [(96, 96)] * 2
    pair = (example.source_image, example.target_image)
    assert load(tmp_path, role="inverse").score([pair], [example.action])[0].count > 0

"""The loop's cost at any size: by hand, and as docs/scale.md shows it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from retrodict.bootstrap.scale import CONSTANTS, costs, limits, readable
from retrodict.cli import app

PAGE = Path(__file__).parents[1] / "docs" / "scale.md"


def test_costs_by_hand() -> None:
    mine, annotate, select, tokenize, train = costs(1000, 36.0, 512, "chameleon")
    assert mine.cpu_hours == pytest.approx(0.071 * 10)  # ten hours of video
    assert mine.size == annotate.size == pytest.approx(3300 * 113e3) and mine.files == 1000 / 128
    assert select.size == 512 * 113e3 and tokenize.files == 1
    assert tokenize.size == 512 * 1024 * 6 and tokenize.gpu_hours == pytest.approx(512 * 2 * 550e9 / 20e12 / 3600)
    assert annotate.gpu_hours > 3300 / 512 * tokenize.gpu_hours and train.gpu_hours > 0
    double = costs(2000, 36.0, 1024, "chameleon")
    assert [one.gpu_hours for one in double[:4]] == [2 * one.gpu_hours for one in (mine, annotate, select, tokenize)]


def test_what_breaks_is_said_with_its_size() -> None:
    assert limits(1e6, 1e5) == ["nothing: no process or file is large, no folder is full"]
    assert any("200,000 files in one folder" in line for line in limits(128 * 200_000, 1e5))
    assert [line.split(":")[0] for line in limits(1e9, 1e9)] == ["mine", "mine", "select", "select", "train"]
    assert (readable(1.13e5), readable(3.7e14), readable(0)) == ("113 kB", "370 TB", "0 B")


def test_the_page_shows_what_the_command_prints() -> None:
    blocks = re.findall(r"```\nretrodict (scale [^\n]*)\n```\n\n```text\n(.*?)```", PAGE.read_text(), flags=re.S)
    assert len(blocks) == 3
    for command, shown in blocks:
        result = CliRunner().invoke(app, command.split())
        assert result.exit_code == 0 and result.output.startswith(shown), command
        assert result.output.count("\n") == shown.count("\n") + len(CONSTANTS)
    assert CliRunner().invoke(app, ["scale", "--family", "small"]).exit_code == 2

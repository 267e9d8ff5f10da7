"""What commands print when they are done."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import typer


def print_counts(out: Path) -> None:
    """One line of what a stage kept, and what it dropped and why."""
    import json

    from retrodict.transitions import MANIFEST

    counts = json.loads((out / MANIFEST).read_text(encoding="utf-8"))["counts"]
    typer.echo(f"{out}: {counts['kept']} kept{dropped(counts['dropped'])}")


def print_numbers(out: Path) -> None:
    """The main numbers of a run, and what they show."""
    from retrodict.report.terminal import numbers

    typer.echo("\n".join(numbers(out)))


def dropped(counts: Mapping[str, int]) -> str:
    """The end of such a line; empty where nothing was dropped."""
    reasons = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in counts.items() if count)
    return f"; dropped: {reasons}" if reasons else ""

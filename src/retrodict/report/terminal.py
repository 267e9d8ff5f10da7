"""The numbers of a run as lines for the terminal: what its page shows first, and what that shows."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from retrodict.report import loop
from retrodict.report.kit.charts import Bar
from retrodict.report.kit.format import finite, number, percent, span, system_name
from retrodict.report.kit.tables import claims
from retrodict.report.run import Run
from retrodict.training.action_meter import describe

WIDTH = 110


def numbers(folder: Path) -> list[str]:
    """Each system's score (or distance, where no exact state gives one) with its interval, and the comparisons.

    Raises `ValueError` when the folder has no readable `results.json`.
    """
    run = Run.open(folder)
    bars = loop.ladder(run) or loop.distances(run)
    if not bars:
        return _unscored(run)
    title = "score: 1 is the right future, 0 nothing done or the scene broken"
    if loop.is_exact(run):
        title = "share of the patches that change which are exactly right, on held-out pairs"
    elif not run.has_scores:
        title = "distance (L1) to the true frame, smaller is nearer: it does not say whether the action was done"
    lines = [f"{title}; in brackets 95 % intervals, n = {bars[0].n}", *_table(bars)]
    lines += [*_inverse(run), *_meters(run), *_paid(run)]
    for claim in claims((run.get("comparisons") or {}).values()):
        text = f"{claim.headline} ({claim.detail})"
        lines += textwrap.wrap(text, WIDTH, initial_indent="  ", subsequent_indent="    ")
    lines += _unscored(run)
    if noise := loop.training_noise(run):
        lines += textwrap.wrap(noise, WIDTH)
    return lines


def _unscored(run: Run) -> list[str]:
    """Why items have no number, and who could score those without a target."""
    lost = run.get("unscored") or {}
    if not lost:
        return []
    text = "not scored: " + ", ".join(f"{count} ({reason})" for reason, count in lost.items())
    judged = f"; a judge scores those too: retrodict judge {run.folder}" if "no target image" in lost else ""
    return textwrap.wrap(text + judged, WIDTH, initial_indent="  ", subsequent_indent="    ")


def _inverse(run: Run) -> list[str]:
    """How often the inverse model is right, on test pairs and on what it labelled."""
    entries = [
        ("of {} of the test pairs", run.get("idm", "exact")),
        ("of {} of the mined pairs", run.get("annotation", "exact")),
        (
            "of {} of those selected" + (", once FT has checked them" if loop.checked_by_ft(run) else ""),
            run.get("annotation", "selected_exact"),
        ),
    ]
    said = [text.format(percent(value)) for text, value in entries if finite(value)]
    text = f"{system_name('idm')} names the exact action {', '.join(said)}"
    return textwrap.wrap(text, WIDTH, initial_indent="  ", subsequent_indent="    ") if said else []


def _meters(run: Run) -> list[str]:
    """Whether the run's models use what they are told: its own two, and whichever does not."""
    lines = []
    for name, entry in (run.get("action_meter") or {}).items():
        if name in ("idm", run.main) or entry["warning"]:
            text = f"{loop.run_name(name)}: {describe(entry)}"
            lines += textwrap.wrap(text, WIDTH, initial_indent="  ", subsequent_indent="    ")
    return lines


def _paid(run: Run) -> list[str]:
    """What images of an endpoint cost."""
    usage = run.get("usage")
    if not usage:
        return []
    cost = "" if usage["cost_now"] is None else f", which cost {usage['cost_now']:.2f}"
    return [f"  {usage['images']:,} images of the endpoint, {usage['asked_now']:,} asked for by this command{cost}"]


def _table(bars: Sequence[Bar]) -> list[str]:
    wide = max(len(bar.label) for bar in bars)
    return [
        f"  {bar.label:<{wide}}  {number(bar.value)}  [{span((bar.low, bar.high))}]  {bar.note}".rstrip()
        for bar in bars
    ]

"""The tables of the page: which rows and columns there are, and what each cell says."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from retrodict.report import formatting
from retrodict.report.charts import bar
from retrodict.report.figures import suite_name
from retrodict.report.run import SELECTORS, Run, finite, system_name
from retrodict.stats import share


@dataclass(frozen=True)
class Cell:
    text: str
    note: str = ""


@dataclass(frozen=True)
class Table:
    head: list[str]
    rows: list[tuple[str, list[Cell]]]
    marked: str = ""  # the row to stress


def _cell(entry: Any, value: str = "score") -> Cell:
    entry = entry if isinstance(entry, Mapping) else {}
    interval = entry.get("ci95")
    return Cell(
        formatting.number(entry.get(value)),
        formatting.span(interval, 2) if interval and finite(entry.get(value)) else "",
    )


def checks(run: Run) -> list[tuple[str, Cell, str]]:
    """What the scorer says of pictures whose worth is known."""
    rows = [
        ("The true next frame", run.get("ground_truth"), "should be 1"),
        ("The same through the image tokenizer", run.get("tokenizer_round_trip"), "no token model can score more"),
        ("A copy of the source", run.get("systems", "copy", "greedy"), "should be 0"),
        ("The source through the image tokenizer", run.get("tokenizer_round_trip_source"), "a token model's copy"),
        ("Another item's target", run.get("random_target"), "should be 0"),
    ]
    return [(name, _cell(entry), note) for name, entry, note in rows if entry]


def score_table(run: Run) -> Table | None:
    """Every system: greedy, best of k by the default selector, and what makes up the greedy score."""
    if not run.systems:
        return None
    ks = [f"k{k}" for k in run.ks]
    head = [
        "Greedy",
        *("One sample" if k == "k1" else f"Best of {k[1:]}" for k in ks),
        "Edit success",
        "Minimal edit",
        "Copies",
    ]
    rows = []
    for name, entry in run.systems.items():
        greedy = entry.get("greedy") or {}
        cells = [_cell(greedy), *(_cell(entry.get(k)) for k in ks)]
        cells += [
            Cell(formatting.number(greedy.get("es"))),
            Cell(formatting.number(greedy.get("me"))),
            Cell(formatting.percent(greedy.get("copy_rate"), 1)),
        ]
        rows.append((system_name(name), cells))
    return Table(head, rows, system_name(run.main or ""))


def default_selector(run: Run) -> str:
    """What chose in the table's best-of-k columns."""
    key = run.get("systems", run.main or "", f"k{run.ks[-1]}", "selector") if run.ks else None
    return SELECTORS.get(key, str(key)) if key else formatting.MISSING


def suite_table(run: Run) -> Table | None:
    """Greedy score per suite and system, and the main system's verified one."""
    suites = list(dict.fromkeys(s for entry in run.systems.values() for s in entry.get("suites") or {}))
    if not suites:
        return None
    rows = []
    for name, entry in run.systems.items():
        rows.append((system_name(name), [_cell(_suite(entry, suite, "greedy")) for suite in suites]))
        if name == run.main and run.ks and run.ks[-1] > 1:
            cells = [_cell(_suite(entry, suite, f"k{run.ks[-1]}")) for suite in suites]
            rows.append((f"{system_name(name)}, best of {run.ks[-1]}", cells))
    return Table([suite_name(suite) for suite in suites], rows, system_name(run.main or ""))


def _suite(entry: Mapping[str, Any], suite: str, key: str) -> Any:
    return ((entry.get("suites") or {}).get(suite) or {}).get(key)


def asymmetry(run: Run) -> Table | None:
    """Explaining against predicting, at equal labels: exactness, and two preferences that both directions have."""
    if not run.get("idm"):
        return None
    rows = []
    for name in ("idm", "idm_plain"):
        if entry := run.get(name):
            rows.append((system_name(name), [_cell(entry, "exact"), *_preferences(run, name)]))
    exact = _exact_frames(run, "ft")
    if exact["n"]:
        rows.append((system_name("ft"), [_cell(exact, "share"), *_preferences(run, "ft")]))
    return Table(["Exactly right", "Not a copy", "Not the reverse"], rows)


def _preferences(run: Run, model: str) -> list[Cell]:
    return [_cell(run.get("probe", model, negative), "share") for negative in ("copy", "inverse")]


def across(runs: Sequence[Run]) -> Table:
    """Greedy scores of several runs, and the main system's best verified one; with their spread, as seeds differ."""
    names = list(dict.fromkeys(name for run in runs for name in run.systems))
    rows = []
    columns: list[list[float]] = [[] for _ in range(len(names) + 1)]
    for run in runs:
        best = run.get("systems", run.main or "", f"k{run.ks[-1]}") if run.ks else None
        entries = [*(run.get("systems", name, "greedy") for name in names), best]
        rows.append((run.folder.name, [_cell(entry) for entry in entries]))
        for column, entry in zip(columns, entries, strict=True):
            if isinstance(entry, Mapping) and finite(entry.get("score")):
                column.append(entry["score"])
    rows.append(("mean of runs", [_spread(column) for column in columns]))
    return Table([*(system_name(name) for name in names), "Verified"], rows)


def _spread(scores: Sequence[float]) -> Cell:
    if len(scores) < 2:
        return Cell(formatting.MISSING)
    return Cell(formatting.number(statistics.fmean(scores)), f"SD {formatting.number(statistics.stdev(scores))}")


def asymmetry_verdict(run: Run) -> list[str]:
    """Whether explaining is exactly right more often than predicting."""
    found = [bar(system_name(name), run.get(name), "exact") for name in ("idm", "idm_plain")]
    return formatting.against([one for one in found if one], bar(system_name("ft"), _exact_frames(run, "ft"), "share"))


def _exact_frames(run: Run, system: str) -> dict[str, Any]:
    scores = [item.greedy.score for item in run.predictions(system).values()]
    return share([score == 1 if finite(score) else math.nan for score in scores])


def markdown_table(table: Table) -> str:
    lines = ["| | " + " | ".join(plain(h) for h in table.head) + " |", "|---" * (len(table.head) + 1) + "|"]
    for name, cells in table.rows:
        texts = [c.text + (f" ({c.note.replace(chr(10), ', ')})" if c.note else "") for c in cells]
        lines.append(f"| {plain(name)} | " + " | ".join(texts) + " |")
    return "\n".join(lines) + "\n"


def plain(text: str) -> str:
    """Text that markdown renders as it is."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(text.split()))

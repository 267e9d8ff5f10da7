"""Tables of probes and of questions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from retrodict.report import formatting
from retrodict.report.charts import NEGATIVES, Bar, bar
from retrodict.report.figures import suite_name
from retrodict.report.run import Run, finite
from retrodict.report.tables import Cell, Table


def preference_table(run: Run) -> Table | None:
    """Every negative by sum and per token, in every direction, with the correlation of the two log-probabilities."""
    found = run.get("probe") or {}
    if run.kind != "probe" or not found:
        return None
    head = [f"{direction}, {how}" for direction in found for how in ("sum", "per token", "correlation")]
    rows = []
    for key, (title, _) in {**NEGATIVES, "action_gain": ("another action, beyond the control", "")}.items():
        if not any(key in entry for entry in found.values()):
            continue
        cells = []
        for direction, entry in found.items():
            one = entry.get(key) or {}
            correlation = run.get("correlation", direction, key, "spearman")
            cells += [_share(one), _share(one.get("per_token")), Cell(formatting.number(correlation, 2))]
        rows.append((f"than {title}", cells))
    return Table(head, rows)


def preference_subsets(run: Run) -> list[tuple[str, Table]]:
    """The same per subset, by sum: one table a direction."""
    subsets = (run.get("subsets") or {}) if run.kind == "probe" else {}
    tables = []
    for direction in run.get("probe") or {}:
        rows = []
        for key, (title, _) in NEGATIVES.items():
            cells = [_share((entry.get(direction) or {}).get(key)) for entry in subsets.values()]
            if any(cell.text != formatting.MISSING for cell in cells):
                rows.append((f"than {title}", cells))
        if rows:
            tables.append((direction, Table([suite_name(name) for name in subsets], rows)))
    return tables


def _share(entry: Any) -> Cell:
    if not isinstance(entry, Mapping) or not finite(entry.get("share")):
        return Cell(formatting.MISSING)
    return Cell(formatting.percent(entry["share"]), f"{formatting.percent_span(entry['ci95'])}\nn = {entry['n']}")


def answers(run: Run) -> list[Bar]:
    """How often answers are right by each way of answering, beside chance and the commonest answer."""
    if run.kind != "qa":
        return []
    found = [
        bar(title, run.get("accuracy", key), "share", kind, note)
        for key, title, kind, note in (
            ("likelihood_mean", "Likeliest option", "fdm", "by mean log-probability a token"),
            ("likelihood_sum", "Likeliest option", "ft", "by the sum"),
            ("generation", "Written answer", "idm", "an answer that names no option counts as wrong"),
            ("blind_mean", "Likeliest option, without the picture", "copy", "control"),
        )
    ]
    bars = [one for one in found if one]
    for key, title in (("chance", "Chance"), ("majority", "Commonest answer")):
        if finite(run.get(key)):
            nothing = float("nan")
            bars.append(Bar(title, run.get(key), nothing, nothing, 0, "copy"))
    return bars


def answer_table(run: Run) -> Table | None:
    """The same per kind of question."""
    subsets = run.get("subsets") if run.kind == "qa" else None
    if not subsets:
        return None
    keys = [
        key for key in ("likelihood_mean", "likelihood_sum", "generation", "blind_mean") if run.get("accuracy", key)
    ]
    head = [*(key.replace("_", " ") for key in keys), "chance"]
    rows = [
        (name, [*(_share(entry["accuracy"].get(key)) for key in keys), Cell(formatting.percent(entry.get("chance")))])
        for name, entry in subsets.items()
    ]
    return Table(head, rows)

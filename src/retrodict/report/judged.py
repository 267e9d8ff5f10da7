"""What judges said, as tables: scores in the paper's shape, how much was scored, and what it cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from retrodict.report import formatting
from retrodict.report.charts import Bar, judge_card
from retrodict.report.curves import Curve, judged_curves
from retrodict.report.figures import suite_name
from retrodict.report.run import Run, finite
from retrodict.report.tables import Cell, Table


@dataclass(frozen=True)
class Judged:
    name: str
    trusted: bool
    forced: bool
    why: str
    card: list[Bar]
    scores: Table
    coverage: Table
    claims: list[formatting.Claim]
    curves: list[Curve]
    facts: list[tuple[str, str]]
    blind_to: str


def wins(run: Run) -> list[tuple[str, Table]]:
    """Per judge of pairs how often the row was preferred to the column; a tie is half a win for each."""
    tables = []
    for entry in run.pairwise:
        found = entry.get("wins") or {}
        names = list(found)
        rows = [
            (formatting.spoken(a), [Cell("" if a == b else formatting.percent((found[a] or {}).get(b))) for b in names])
            for a in names
        ]
        tables.append((str(entry.get("name")), Table([formatting.spoken(name) for name in names], rows)))
    return tables


def judged(run: Run) -> list[Judged]:
    return [_judged(entry) for entry in run.judges]


def _judged(entry: Mapping[str, Any]) -> Judged:
    card = entry.get("card") or {}
    return Judged(
        str(entry.get("name")),
        bool(card.get("trusted")),
        bool(entry.get("forced")),
        str(card.get("why") or ""),
        judge_card(entry),
        score_table(entry),
        _coverage(entry),
        formatting.claims_of((entry.get("comparisons") or {}).values()),
        judged_curves(entry),
        _facts(entry),
        ", ".join(str(name) for name in card.get("blind_to") or []),
    )


def score_table(entry: Mapping[str, Any]) -> Table:
    """Rows by subsets, and the mean of the subsets."""
    rows = entry.get("rows") or {}
    subsets = list(dict.fromkeys(s for row in rows.values() for s in row.get("subsets") or {}))
    table = []
    for name, row in rows.items():
        cells = [_score((row.get("subsets") or {}).get(subset)) for subset in subsets]
        table.append((formatting.spoken(name), [*cells, Cell(formatting.number(row.get("macro"), 2)), _score(row)]))
    return Table([*(suite_name(s) for s in subsets), "mean of subsets", "all items"], table)


def _score(entry: Any) -> Cell:
    if not isinstance(entry, Mapping) or not finite(entry.get("score")):
        return Cell(formatting.MISSING)
    return Cell(formatting.number(entry["score"], 2), formatting.span(entry.get("ci95"), 2))


def _coverage(entry: Mapping[str, Any]) -> Table:
    """How many answers there are, and what the rest could hide."""
    table = []
    for name, row in (entry.get("rows") or {}).items():
        lost = ", ".join(f"{count} {reason}" for reason, count in (row.get("unscored") or {}).items())
        cells = [
            Cell(f"{row.get('n')} of {row.get('n_total')}"),
            Cell(formatting.span(row.get("bounds"), 2)),
            Cell(formatting.number(row.get("es"), 2)),
            Cell(formatting.number(row.get("me"), 2)),
            Cell(lost or "none"),
        ]
        table.append((formatting.spoken(name), cells))
    return Table(["Scored", "Mean if the rest were 0, or 10", "Edit success", "Minimal edit", "Unscored"], table)


def _facts(entry: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [*formatting.flat(entry.get("judge") or {}), *formatting.flat(entry.get("usage") or {})]

"""Tables: what stands in a cell, and tables and claims as markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from retrodict.evaluation.metrics import METRICS
from retrodict.files import JsonMapping
from retrodict.report.kit.format import (
    MISSING,
    finite,
    number,
    percent,
    percent_span,
    plain,
    signed,
    span,
    spoken,
    spoken_p,
)
from retrodict.stats import FEW, shown


@dataclass(frozen=True)
class Cell:
    text: str
    note: str = ""


@dataclass(frozen=True)
class Table:
    head: list[str]
    rows: list[tuple[str, list[Cell]]]
    marked: str = ""  # the row to stress


def estimate(entry: object, key: str, *, digits: int = 3, span_digits: int = 2, counts: bool = False) -> Cell:
    """`{key, "ci95", "n"}` as the value over its interval and, with `counts`, its n; a dash where there is no value."""
    values = entry if isinstance(entry, Mapping) else {}
    notes = [span(values["ci95"], span_digits)] if finite(values.get(key)) and _has_interval(values) else []
    if counts and "n" in values:
        notes.append(f"n = {values['n']}")
    return Cell(number(values.get(key), digits), "\n".join(notes))


def share(entry: object) -> Cell:
    """`{"share", "ci95", "n"}` in percent, over its interval and n."""
    if not isinstance(entry, Mapping) or not finite(entry.get("share")):
        return Cell(MISSING)
    spans = [percent_span(entry["ci95"])] if _has_interval(entry) else []
    return Cell(percent(entry["share"]), "\n".join([*spans, f"n = {entry['n']}"]))


def _has_interval(entry: JsonMapping) -> bool:
    return all(finite(end) for end in entry.get("ci95") or [None])


def without_gaps(table: Table) -> Table:
    """The table without rows and columns that hold no number at all; a cell that has none is left empty."""
    columns = [i for i in range(len(table.head)) if any(cells[i].text != MISSING for _, cells in table.rows)]
    rows = [
        (name, [Cell("") if cells[i].text == MISSING else cells[i] for i in columns])
        for name, cells in table.rows
        if any(cell.text != MISSING for cell in cells)
    ]
    return Table([table.head[i] for i in columns], rows, table.marked)


def markdown_table(table: Table) -> str:
    lines = ["| | " + " | ".join(plain(h) for h in table.head) + " |", "|---" * (len(table.head) + 1) + "|"]
    for name, cells in table.rows:
        texts = [c.text + (f" ({c.note.replace(chr(10), ', ')})" if c.note else "") for c in cells]
        lines.append(f"| {plain(name)} | " + " | ".join(map(plain, texts)) + " |")
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Claim:
    state: Literal["ahead", "level", "behind", "warning"]
    headline: str
    detail: str


def claims(comparisons: Iterable[object]) -> list[Claim]:
    """One sentence for each paired comparison: what its interval and its test both say (`retrodict.stats.shown`)."""
    return [claim(one) for one in comparisons if isinstance(one, Mapping) and finite(one.get("difference"))]


def claim(comparison: JsonMapping) -> Claim:
    a, b = spoken(str(comparison["a"])), spoken(str(comparison["b"]))
    difference, interval = comparison["difference"], comparison.get("ci95")
    p = comparison.get("p_holm", comparison.get("p"))
    measure = comparison.get("measure")
    what = "L1 saved: " if measure == "l1" else f"{METRICS[measure].title}: " if measure else ""
    detail = f"{what}difference {signed(difference)}, "
    if _has_interval(comparison):
        detail += f"95 % interval {span(interval)}, "
    detail += f"n = {comparison.get('n', MISSING)} pairs, "
    detail += (f"{comparison['runs']} training runs, " if "runs" in comparison else "") + spoken_p(p)
    if "p_holm" in comparison or "p_unadjusted" in comparison:
        detail += " (Holm)"
    relative = comparison.get("relative")
    share_of = f" ({'+' if relative > 0 else ''}{percent(relative)})" if finite(relative) else ""
    side = shown(interval or (), p)
    if "runs" not in comparison and comparison.get("groups", FEW) < FEW:
        return Claim("level", f"Too few groups of items ({comparison['groups']}) to tell {a} and {b} apart.", detail)
    if side > 0:
        return Claim("ahead", f"{a} beats {b} by {number(abs(difference))}{share_of}.", detail)
    if side < 0:
        return Claim("behind", f"{a} falls short of {b} by {number(abs(difference))}{share_of}.", detail)
    return Claim("level", f"No difference is shown between {a} and {b}.", detail)


def markdown_claims(claims: Sequence[Claim]) -> str:
    return "\n".join(f"- {plain(c.headline)} ({plain(c.detail)})" for c in claims) + "\n"

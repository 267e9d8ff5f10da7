"""A comparison of two runs as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from retrodict.report import formatting
from retrodict.report.formatting import number, p_value, signed, span
from retrodict.report.run import Run
from retrodict.report.tables import Cell, Table, plain


def rows(found: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Subset, mean of a, mean of b, difference, interval, n, p and Holm's p, one row each, the whole last."""
    table = [_row(name, entry) for name, entry in found["subsets"].items()]
    table.append(_row("all", found["all"]))
    macro = found["macro"]
    table.append(("mean of subsets", "", "", signed(macro["difference"]), span(macro["ci95"]), str(macro["n"]), "", ""))
    return table


HEAD = ("", "A", "B", "A \N{MINUS SIGN} B", "95 % interval", "n", "p", "p (Holm)")


def _row(name: str, entry: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        name,
        number(entry["mean_a"]),
        number(entry["mean_b"]),
        signed(entry["difference"]),
        span(entry["ci95"]),
        str(entry["n"]),
        _p(entry["p"]),
        _p(entry["p_holm"]) if "p_holm" in entry else "",
    )


def _p(value: float) -> str:
    return p_value(value).removeprefix("= ")


def headline(found: Mapping[str, Any]) -> str:
    sides = [f"{side.upper()}: {found[side]['row']} of {found[side]['run']}" for side in ("a", "b")]
    better = "higher" if found["higher_is_better"] else "lower"
    return f"{found['measure']} ({better} is better). {'. '.join(sides)}."


def as_table(run: Run) -> dict[str, Any]:
    """What the page shows of a comparison's folder."""
    body = [(name, [Cell(cell or formatting.MISSING) for cell in cells]) for name, *cells in rows(run.results)]
    return {"headline": headline(run.results), "table": Table(list(HEAD[1:]), body, "all")}


def markdown(found: Mapping[str, Any]) -> str:
    lines = [f"# {plain(headline(found))}", "", "| " + " | ".join(HEAD) + " |", "|---" * len(HEAD) + "|"]
    lines += ["| " + " | ".join(plain(cell) for cell in row) + " |" for row in rows(found)]
    return "\n".join(lines) + "\n"


def text(found: Mapping[str, Any]) -> str:
    """A table for the terminal."""
    table = [HEAD, *rows(found)]
    widths = [max(len(row[i]) for row in table) for i in range(len(HEAD))]
    lines = [
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in table
    ]
    return "\n".join([headline(found), *(line.rstrip() for line in lines)])

"""What judges said, as tables: scores in the paper's shape, how much was scored, and what it cost."""

from __future__ import annotations

from dataclasses import dataclass

from retrodict.files import JsonMapping
from retrodict.report.kit.charts import Bar, Curve, bar, measured, on_one_scale
from retrodict.report.kit.format import flat, number, percent, span, spoken, system_name
from retrodict.report.kit.tables import Cell, Claim, Table, claims, estimate
from retrodict.report.run import Run


@dataclass(frozen=True)
class Judged:
    name: str
    trusted: bool
    forced: bool
    why: str
    card: list[Bar]
    scores: Table
    coverage: Table
    claims: list[Claim]
    curves: list[Curve]
    metadata: list[tuple[str, str]]
    blind_to: str


def wins(run: Run) -> list[tuple[str, Table]]:
    """Per judge of pairs how often the row was preferred to the column; a tie is half a win for each."""
    tables = []
    for entry in run.pairwise:
        rates = entry.get("wins") or {}
        names = list(rates)
        rows = [(spoken(a), [Cell("" if a == b else percent((rates[a] or {}).get(b))) for b in names]) for a in names]
        tables.append((str(entry.get("name")), Table([spoken(name) for name in names], rows)))
    return tables


def judged(run: Run) -> list[Judged]:
    return [_judged(run, entry) for entry in run.judges]


def _judged(run: Run, entry: JsonMapping) -> Judged:
    card = entry.get("card") or {}
    return Judged(
        str(entry.get("name")),
        bool(card.get("trusted")),
        bool(entry.get("forced")),
        str(card.get("why") or ""),
        _card(entry),
        score_table(run, entry),
        _coverage(entry),
        claims((entry.get("comparisons") or {}).values()),
        _curves(entry),
        _facts(entry),
        ", ".join(str(name) for name in card.get("blind_to") or []),
    )


def score_table(run: Run, entry: JsonMapping) -> Table:
    """Rows by subsets, and the mean of the subsets."""
    rows = entry.get("rows") or {}
    subsets = list(dict.fromkeys(s for row in rows.values() for s in row.get("subsets") or {}))
    table = []
    for name, row in rows.items():
        cells = [estimate((row.get("subsets") or {}).get(subset), "score", digits=2) for subset in subsets]
        table.append((spoken(name), [*cells, Cell(number(row.get("macro"), 2)), estimate(row, "score", digits=2)]))
    return Table([*(run.suite_title(s) for s in subsets), "mean of subsets", "all items"], table)


def _coverage(entry: JsonMapping) -> Table:
    """How many answers there are, and what the rest could hide."""
    table = []
    for name, row in (entry.get("rows") or {}).items():
        lost = ", ".join(f"{count} {reason}" for reason, count in (row.get("unscored") or {}).items())
        cells = [
            Cell(f"{row.get('n')} of {row.get('n_total')}"),
            Cell(span(row.get("bounds"), 2)),
            Cell(number(row.get("es"), 2)),
            Cell(number(row.get("me"), 2)),
            Cell(lost or "none"),
        ]
        table.append((spoken(name), cells))
    return Table(["Scored", "Mean if the rest were 0, or 10", "Edit success", "Minimal edit", "Unscored"], table)


def _facts(entry: JsonMapping) -> list[tuple[str, str]]:
    return [*flat(entry.get("judge") or {}), *flat(entry.get("usage") or {})]


def _card(entry: JsonMapping) -> list[Bar]:
    """What a judge gives to the baselines."""
    rows = (entry.get("card") or {}).get("rows") or {}
    return measured(
        bar(
            CARD.get(name, (name, ""))[0],
            row,
            "score",
            "fdm" if name == "ground_truth" else "copy",
            CARD.get(name, ("", ""))[1],
            10.0,
        )
        for name, row in rows.items()
    )


CARD = {
    "ground_truth": ("Ground truth", "the true target: should be high"),
    "copy": ("Copy", "nothing happened: should be 0"),
    "inverse": ("Inverse", "backwards: should be low"),
    "random": ("Random", "another item's target: should be low"),
    "counterfactual": ("Counterfactual", "the true target under an action that did not happen: should be low"),
}


def _curves(entry: JsonMapping) -> list[Curve]:
    """A judge's score against the number of candidates, where it judged whole pools."""
    systems = {system_name(name): one for name, one in (entry.get("systems") or {}).items()}
    ks = sorted({int(k[1:]) for one in systems.values() for k in one if k[:1] == "k" and k[1:].isdigit()})
    return on_one_scale(systems, ks, 1.0) if len(ks) > 1 else []

"""Runs beside each other: the numbers of `retrodict compare`, and several runs on one page."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from retrodict.evaluation.compare import compare_runs
from retrodict.files import JsonMapping
from retrodict.report.bench import row_name
from retrodict.report.kit.format import MISSING, finite, number, p_value, signed, span, system_name
from retrodict.report.kit.tables import Cell, Table, estimate, without_gaps
from retrodict.report.run import Run
from retrodict.stats import adjust

HEAD = ("A", "B", "A \N{MINUS SIGN} B", "95 % interval", "n", "p", "p (Holm)")


@dataclass(frozen=True)
class Comparison:
    headline: str
    table: Table


def comparison(results: JsonMapping) -> Comparison:
    """Per subset, over all and for the mean of the subsets: both means, difference, interval, n, p and Holm's p."""
    sides = [f"{side.upper()}: {results[side]['row']} of {results[side]['run']}" for side in ("a", "b")]
    better = "higher" if results["higher_is_better"] else "lower"
    rows = [(name, _cells(entry)) for name, entry in results["subsets"].items()]
    macro = {"mean_a": None, "mean_b": None, **results["macro"]}
    rows += [("all", _cells(results["all"])), ("mean of subsets", _cells(macro))]
    headline = f"{results['measure']} ({better} is better). {'. '.join(sides)}."
    return Comparison(headline, without_gaps(Table(list(HEAD), rows, "all")))


def _cells(entry: JsonMapping) -> list[Cell]:
    texts = [
        number(entry["mean_a"]),
        number(entry["mean_b"]),
        signed(entry["difference"]),
        span(entry["ci95"]),
        str(entry["n"]),
        p_value(entry.get("p")),
        p_value(entry.get("p_holm")),
    ]
    return [Cell(text) for text in texts]


def text(results: JsonMapping) -> str:
    """A table for the terminal."""
    one = comparison(results)
    lines = [("", *one.table.head), *((name, *(cell.text for cell in cells)) for name, cells in one.table.rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = (
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )
    return "\n".join([one.headline, *(line.rstrip() for line in padded)])


@dataclass(frozen=True)
class Across:
    """What several runs show beside each other; parts that they do not have are None."""

    scores: Table | None
    suites: Table | None
    distances: Table | None
    comparisons: Sequence[Comparison]


def across(runs: Sequence[Run]) -> Across:
    return Across(_scores(runs), _suites(runs), _distances(runs), _tested(runs))


def _scores(runs: Sequence[Run]) -> Table | None:
    """Greedy scores, and each run's own model verified. Runs of the same systems (seeds) get their mean and spread."""
    scored = [run for run in runs if run.has_scores]
    if not scored:
        return None
    seeds = len({run.main for run in scored}) == 1
    names = list(dict.fromkeys(name for run in scored for name in run.systems if seeds or name == "copy"))
    head = [system_name(name) for name in names]
    head, own = (head, []) if seeds else ([*head, "Its own model"], [None])
    rows, columns = [], [list[float]() for _ in range(len(head) + 1)]
    for run in scored:
        best = run.get("systems", run.main or "", f"k{run.ks[-1]}") if run.ks and run.ks[-1] > 1 else None
        greedy = [run.get("systems", name or run.main or "", "greedy") for name in [*names, *own]]
        label = run.folder.name if seeds else f"{run.folder.name}: {system_name(run.main or 'copy')}"
        rows.append((label, [estimate(entry, "score") for entry in (*greedy, best)]))
        for column, entry in zip(columns, (*greedy, best), strict=True):
            if isinstance(entry, Mapping) and finite(entry.get("score")):
                column.append(entry["score"])
    if seeds:
        rows.append(("mean of runs", [_spread(column) for column in columns]))
    return without_gaps(Table([*head, "Verified"], rows))


def _suites(runs: Sequence[Run]) -> Table | None:
    """Each run's own model by kind of action: greedy, and verified where it was."""
    scored = [run for run in runs if run.has_scores and run.main]
    names = dict.fromkeys(name for run in scored for name in run.get("systems", run.main or "", "suites") or {})
    rows = []
    for run in scored:
        suites = run.get("systems", run.main or "", "suites") or {}
        chosen = {"": "greedy"} | ({", verified": f"k{run.ks[-1]}"} if run.ks and run.ks[-1] > 1 else {})
        for how, key in chosen.items():
            cells = [estimate((suites.get(name) or {}).get(key), "score") for name in names]
            rows.append((f"{run.folder.name}: {system_name(run.main or '')}{how}", cells))
    return without_gaps(Table([scored[0].suite_title(name) for name in names], rows)) if len(names) > 1 else None


def _spread(scores: Sequence[float]) -> Cell:
    if len(scores) < 2:
        return Cell(MISSING)
    return Cell(number(statistics.fmean(scores)), f"SD {number(statistics.stdev(scores))}")


def _distances(runs: Sequence[Run]) -> Table | None:
    """L1 of each run's own model per subset, beside copying."""
    measured = [run for run in runs if isinstance(run.get("all", "copy"), Mapping) and run.get("subsets")]
    if not measured:
        return None
    columns = [("Copy", measured[0], "copy")]
    columns += [(f"{run.folder.name}: {row_name(run.main)}", run, run.main) for run in measured if run.main]
    subsets = list(dict.fromkeys(name for run in measured for name in run.get("subsets")))
    rows = [
        (s, [estimate(run.get("subsets", s, key), "l1", span_digits=3) for _, run, key in columns]) for s in subsets
    ]
    for name, title in (("all", "all"), ("macro", "mean of subsets")):
        rows.append((title, [estimate(run.get(name, key), "l1", span_digits=3) for _, run, key in columns]))
    return without_gaps(Table([title for title, _, _ in columns], rows, "all"))


def _tested(runs: Sequence[Run]) -> list[Comparison]:
    """The first run against every other one that was measured on the same items; their tests are one family."""
    tested = []
    for run in runs[1:]:
        try:
            tested.append(compare_runs(runs[0].folder, run.folder))
        except ValueError:  # other items, or no measure that both have
            continue
    adjust(entry for results in tested for entry in results["subsets"].values())
    return [comparison(results) for results in tested]

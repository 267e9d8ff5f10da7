"""The page, in the style of the bench report, as one file without anything from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jinja2

from retrodict.report import formatting
from retrodict.report.run import finite, system_name
from retrodict.report.tables import Cell, Table
from retrodict.study.report.markdown import agreement_rows, interval_words, p_value


@dataclass(frozen=True)
class Mark:
    """A score on a track from -scale to +scale; positions in percent of the track."""

    label: str
    score: float
    interval: Sequence[float]
    scale: float

    @property
    def at(self) -> float:
        return self._percent(self.score)

    @property
    def left(self) -> float:
        return self._percent(self.interval[0]) if finite(self.interval[0]) else self.at

    @property
    def width(self) -> float:
        return max((self._percent(self.interval[1]) if finite(self.interval[1]) else self.at) - self.left, 0.4)

    def _percent(self, value: float) -> float:
        return round(50 + 50 * max(-1.0, min(1.0, value / self.scale)), 2)


def render(results: dict[str, Any]) -> str:
    """All text that comes from the study is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(
            [jinja2.PackageLoader("retrodict.study.report"), jinja2.PackageLoader("retrodict.report")]
        ),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"num": formatting.number, "span": formatting.span, "pct": formatting.percent, "p": p_value}
    return environment.get_template("study.html").render(
        results=results,
        marks=_marks(results),
        verdict=_verdict(results),
        by_subset=_by_subset(results),
        pairs=_pairs(results["pairs"]),
        subset_pairs={subset: _pairs(rows) for subset, rows in results["pairs_by_subset"].items()},
        wins=_matrix(results["systems"], results["wins"]),
        judges={
            name: (judge, _matrix(results["systems"], judge["wins"]), _levels(judge))
            for name, judge in results["judges"].items()
            if judge["n_items"]
        },
        unscored=[name for name, judge in results["judges"].items() if not judge["n_items"]],
        strengths=_strengths(results),
        agreement=agreement_rows(results),
        raters=_raters(results),
        interval=interval_words(results["all"]),
    )


def _marks(results: dict[str, Any]) -> list[Mark]:
    found = results["all"]["systems"]
    ends = [abs(v) for one in found.values() for v in (one["score"], *one["ci95"]) if finite(v)]
    scale = max([*ends, 0.1]) * 1.05
    ranked = sorted(found.items(), key=lambda pair: -pair[1]["score"])
    return [Mark(system_name(name), one["score"], one["ci95"], scale) for name, one in ranked]


def _verdict(results: dict[str, Any]) -> list[str]:
    """One sentence for each pair whose difference holds after Holm's correction, and one for the rest."""
    told, level = [], 0
    for row in results["pairs"]:
        if finite(row["p_holm"]) and row["p_holm"] < 0.05:
            better, worse = (row["a"], row["b"]) if row["difference"] > 0 else (row["b"], row["a"])
            told.append(
                f"{system_name(better)} is preferred to {system_name(worse)} (p {_spoken(row['p_holm'])} after Holm)."
            )
        else:
            level += 1
    if level:
        told.append(f"Of {len(results['pairs'])} pairs, {level} show no difference that holds.")
    return told


def _spoken(p: float) -> str:
    text = p_value(p)
    return text if text.startswith("<") else f"= {text}"


def _by_subset(results: dict[str, Any]) -> Table:
    def cell(entry: dict[str, Any]) -> Cell:
        return Cell(formatting.number(entry["score"], 2), formatting.span(entry["ci95"], 2))

    rows = [
        (
            system_name(system),
            [
                *(cell(part["systems"][system]) for part in results["subsets"].values()),
                cell(results["all"]["systems"][system]),
            ],
        )
        for system in results["systems"]
    ]
    return Table([*results["subsets"], "All"], rows)


def _pairs(found: Sequence[dict[str, Any]]) -> Table:
    rows = [
        (
            f"{system_name(row['a'])} − {system_name(row['b'])}",  # noqa: RUF001 (a minus sign)
            [
                Cell(formatting.number(row["difference"], 2), formatting.span(row["ci95"], 2)),
                Cell(p_value(row["p"]), f"{row['n_items']} items"),
                Cell(p_value(row["p_holm"])),
                Cell(p_value(row["p_wilcoxon_paper"]), f"{row['n_judgements']} judgements"),
            ],
        )
        for row in found
    ]
    return Table(["Difference", "p, sign-flip over items", "p, Holm", "p, Wilcoxon (paper)"], rows)


def _matrix(systems: Sequence[str], rates: Sequence[Sequence[float]]) -> Table:
    rows = [
        (
            system_name(s),
            [Cell(formatting.MISSING if i == j else formatting.number(rates[i][j])) for j in range(len(systems))],
        )
        for i, s in enumerate(systems)
    ]
    return Table([system_name(s) for s in systems], rows)


def _levels(judge: dict[str, Any]) -> Table:
    names = {"judgement": "Every judgement", "item": "Mean over raters", "system": "Systems"}
    rows = [
        (names[level], [Cell(formatting.number(found["rho"], 2), formatting.span(found["ci95"], 2))])
        for level, found in judge["spearman"].items()
    ]
    return Table(["Spearman's rho"], rows)


def _strengths(results: dict[str, Any]) -> Table:
    found = sorted(results["bradley_terry"].items(), key=lambda pair: -pair[1]["log_strength"])
    rows = [
        (system_name(s), [Cell(formatting.number(e["log_strength"], 2), formatting.span(e["ci95"], 2))])
        for s, e in found
    ]
    return Table(["Log strength"], rows)


def _raters(results: dict[str, Any]) -> Table:
    failed = results["attention"]["raters"]
    rows = []
    for rater, one in results["raters"].items():
        checks = failed.get(rater, {"failed": 0, "n": 0})
        cells = [str(one["judgements"]), f"{one['median_seconds']:.1f} s", f"{checks['failed']} of {checks['n']}"]
        rows.append((f"Rater {rater}", [Cell(text) for text in cells]))
    return Table(["Judgements", "Median time", "Checks failed"], rows)

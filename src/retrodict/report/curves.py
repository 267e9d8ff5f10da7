"""Curves over the number of candidates: geometry that the templates draw as SVG."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from retrodict.report.run import SELECTORS, Run, finite, system_name


@dataclass(frozen=True)
class Line:
    name: str
    kind: str
    path: str
    band: str
    dots: list[tuple[float, float, str]]  # x, y, what it says
    label_y: float


@dataclass(frozen=True)
class Curve:
    """Score against the number of candidates. Coordinates in the units of the SVG's view box."""

    title: str
    lines: list[Line]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    greedy: float | None
    greedy_label: float
    greedy_score: float


WIDTH, HEIGHT = 460.0, 300.0
LEFT, RIGHT, TOP, BOTTOM = 38.0, 372.0, 12.0, 262.0
CURVES = ("oracle", "idm_fdm", "idm", "min_copy", "random")


def curves(run: Run) -> list[Curve]:
    """K-curves of the baseline and of the main system, on one scale."""
    names = [name for name in dict.fromkeys(["ft", run.main]) if name in run.systems]
    names = [name for name in names if len(run.ks) > 1 and f"k{run.ks[-1]}" in run.systems[name]]
    return _on_one_scale({system_name(name): run.systems[name] for name in names}, run.ks, 0.1)


def distance_curves(run: Run) -> list[Curve]:
    """L1 against the number of candidates, where that is what was measured. Lower is better."""
    found = run.get("k_curve") or {}
    ks = sorted(int(k[1:]) for k in found)
    entry: dict[str, Any] = {
        k: {name: {"score": row["l1"], "ci95": row["ci95"]} for name, row in rows.items()} for k, rows in found.items()
    }
    greedy = run.get("all", run.main or "")
    if greedy:
        entry["greedy"] = {"score": greedy["l1"], "ci95": greedy["ci95"]}
    return _on_one_scale({system_name(run.main or ""): entry}, ks, 0.02) if len(ks) > 1 else []


def judged_curves(judge: Mapping[str, Any]) -> list[Curve]:
    """A judge's score against the number of candidates, where it judged whole pools."""
    found = {system_name(name): entry for name, entry in (judge.get("systems") or {}).items()}
    ks = sorted({int(k[1:]) for entry in found.values() for k in entry if k[:1] == "k" and k[1:].isdigit()})
    return _on_one_scale(found, ks, 1.0) if len(ks) > 1 else []


def _on_one_scale(entries: Mapping[str, Mapping[str, Any]], ks: Sequence[int], step: float) -> list[Curve]:
    """`step` is what the ends of the scale are rounded to."""
    spans = [value for entry in entries.values() for value in _extent(entry, ks)]
    if not spans:
        return []
    low, high = math.floor(min(spans) / step) * step, math.ceil(max(spans) / step) * step
    if high <= low:  # all alike: the line lies at the top, as nothing scores more than all right
        low = high - step
    return [_curve(title, entry, ks, low, high) for title, entry in entries.items()]


def _extent(entry: Mapping[str, Any], ks: Sequence[int]) -> list[float]:
    rows = [entry.get("greedy") or {}] + [(entry.get(f"k{k}") or {}).get(s) or {} for k in ks for s in CURVES]
    return [v for row in rows for v in (row.get("score"), *(row.get("ci95") or ())) if finite(v)]


def _curve(title: str, entry: Mapping[str, Any], ks: Sequence[int], low: float, high: float) -> Curve:
    top = math.log2(ks[-1])

    def x(k: int) -> float:
        return round(LEFT + (RIGHT - LEFT) * (math.log2(k) / top if top else 0), 1)

    def y(score: float) -> float:
        return round(BOTTOM - (BOTTOM - TOP) * (score - low) / (high - low), 1)

    found = {}
    for selector in CURVES:
        rows = {k: (entry.get(f"k{k}") or {}).get(selector) or {} for k in ks}
        rows = {k: row for k, row in rows.items() if finite(row.get("score"))}
        if rows:
            found[selector] = rows
    shaded = next((name for name in ("idm_fdm", "idm") if name in found), "")
    greedy = (entry.get("greedy") or {}).get("score")
    wanted = {s: y(rows[max(rows)]["score"]) for s, rows in found.items()}
    if finite(greedy):
        wanted["greedy"] = y(greedy)
    labels = spread(wanted, 17)
    lines = [
        Line(
            SELECTORS[s],
            s,
            _path((x(k), y(row["score"])) for k, row in rows.items()),
            _band([(x(k), y(row["ci95"][0]), y(row["ci95"][1])) for k, row in rows.items()]) if s == shaded else "",
            [(x(k), y(row["score"]), f"best of {k} by {SELECTORS[s]}: {row['score']:.3f}") for k, row in rows.items()],
            labels[s],
        )
        for s, rows in found.items()
    ]
    step = _tick(high - low)
    digits = max(0, math.ceil(-math.log10(step) - 1e-9))
    ticks = [low + i * step for i in range(math.floor((high - low) / step + 1e-6) + 1)]
    return Curve(
        title,
        lines,
        [(x(k), str(k)) for k in ks],
        [(y(tick), f"{tick:.{digits}f}") for tick in ticks],
        y(greedy) if finite(greedy) else None,
        labels.get("greedy", 0.0),
        greedy if finite(greedy) else math.nan,
    )


def _tick(extent: float) -> float:
    """A round distance between ticks that gives three to seven of them."""
    return next(step for step in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0) if extent / step <= 7)


def spread(wanted: Mapping[str, float], gap: float) -> dict[str, float]:
    """Positions near the wanted ones that keep `gap` between neighbours, in the same order."""
    placed: list[tuple[str, float]] = []
    for name, position in sorted(wanted.items(), key=lambda pair: pair[1]):
        placed.append((name, max(position, placed[-1][1] + gap) if placed else position))
    # Pushed down all the way from the top, the last may have left the chart: push back up from the bottom.
    limit, settled = BOTTOM + 4, {}
    for name, position in reversed(placed):
        settled[name] = round(min(position, limit), 1)
        limit = settled[name] - gap
    return settled


def _path(points: Iterable[tuple[float, float]]) -> str:
    return "M" + " L".join(f"{x},{y}" for x, y in points)


def _band(points: Sequence[tuple[float, float, float]]) -> str:
    upper = [(x, high) for x, _, high in points]
    lower = [(x, low) for x, low, _ in reversed(points)]
    return _path([*upper, *lower]) + " Z"

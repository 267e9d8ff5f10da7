"""Geometry of the charts. The templates draw them as HTML and SVG, so that their text stays text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from retrodict.dynamics.verifiers import VERIFIERS
from retrodict.files import JsonMapping
from retrodict.report.kit.format import finite, selector_name

_BINS, _BAR_WIDTH, _HEIGHT = 24, 14, 120


@dataclass(frozen=True)
class Bar:
    """A value with its interval on a track from 0 to `scale`; positions in percent of the track."""

    label: str
    value: float
    low: float = math.nan
    high: float = math.nan
    n: int = 0
    kind: str = "other"  # colour
    note: str = ""
    scale: float = 1.0

    @property
    def width(self) -> float:
        return _percent(self.value, self.scale)

    @property
    def left(self) -> float:
        return _percent(self.low, self.scale)

    @property
    def reach(self) -> float:
        return max(_percent(self.high, self.scale) - self.left, 0.4)

    @property
    def has_interval(self) -> bool:
        return finite(self.low) and finite(self.high)


def _percent(value: float, scale: float) -> float:
    return round(100 * min(max(value / scale, 0), 1), 2) if finite(value) and scale else 0.0


def bar(label: str, entry: object, key: str, kind: str = "other", note: str = "", scale: float = 1.0) -> Bar | None:
    """A bar of `{key, "ci95", "n"}`, or None where that was not measured."""
    if not isinstance(entry, Mapping) or not finite(entry.get(key)):
        return None
    low, high = entry.get("ci95") or (math.nan, math.nan)
    return Bar(label, entry[key], low, high, int(entry.get("n") or 0), kind, note, scale)


def measured(bars: Iterable[Bar | None]) -> list[Bar]:
    return [one for one in bars if one is not None]


@dataclass(frozen=True)
class Group:
    """Bars under one heading."""

    title: str
    note: str
    bars: list[Bar]


@dataclass(frozen=True)
class Mark:
    """A score on a track from middle - scale to middle + scale; positions in percent of the track."""

    label: str
    score: float
    interval: Sequence[float]
    scale: float
    middle: float = 0.0

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
        return round(50 + 50 * max(-1.0, min(1.0, (value - self.middle) / self.scale)), 2)


@dataclass(frozen=True)
class Histogram:
    """Counts of values; the topmost percent of them falls into the last bin."""

    title: str
    bars: Sequence[tuple[float, float, str]]  # x, height, what it says
    low: str
    high: str
    median: str
    width: int = _BINS * _BAR_WIDTH
    height: int = _HEIGHT
    bar_width: int = _BAR_WIDTH - 1


def histogram(title: str, values: npt.NDArray[np.float64]) -> Histogram | None:
    """None where no value is known."""
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    top, low = float(np.percentile(values, 99)), float(values.min())
    width = (max(top, low + 1e-6) - low) / _BINS
    if np.array_equal(values, np.round(values)):  # whole numbers: bins that hold equally many of them
        width = float(np.ceil(width))
    counts, edges = np.histogram(np.minimum(values, top), bins=_BINS, range=(low, low + _BINS * width))
    bars = [
        (i * _BAR_WIDTH, round(float(n) / counts.max() * _HEIGHT, 1), f"{edges[i]:.3g} to {edges[i + 1]:.3g}: {n}")
        for i, n in enumerate(counts)
    ]
    high = f"{top:.3g}" + (" and more" if values.max() > top else "")
    return Histogram(title, bars, f"{low:.3g}", high, f"{np.median(values):.3g}")


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
    """Lines over a common axis. Coordinates in the units of the SVG's view box; `about` is read out for it."""

    title: str
    about: str
    lines: list[Line]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    greedy: float | None
    greedy_label: float
    greedy_score: float


WIDTH, HEIGHT = 460.0, 300.0
LEFT, RIGHT, TOP, BOTTOM = 38.0, 372.0, 12.0, 262.0


def _curves() -> tuple[str, ...]:
    """The selectors that have a curve, the best first. Asked for when a chart is made, as users add verifiers."""
    return ("oracle", *(name for name in VERIFIERS if name != "random"), "min_copy", "random")


def on_one_scale(entries: Mapping[str, JsonMapping], ks: Sequence[int], step: float) -> list[Curve]:
    """K-curves of several systems on one scale.

    Args:
        entries: `{title: {"greedy": {"score", "ci95"}, "k<k>": {selector: {"score", "ci95"}}}}`.
        ks: the numbers of candidates.
        step: what the ends of the scale are rounded to.
    """
    spans = [value for entry in entries.values() for value in _extent(entry, ks)]
    if not spans:
        return []
    low, high = math.floor(min(spans) / step) * step, math.ceil(max(spans) / step) * step
    if high <= low:  # all alike: the line lies at the top, as nothing scores more than all right
        low = high - step
    return [_curve(title, entry, ks, low, high) for title, entry in entries.items()]


def _extent(entry: JsonMapping, ks: Sequence[int]) -> list[float]:
    rows = [entry.get("greedy") or {}] + [(entry.get(f"k{k}") or {}).get(s) or {} for k in ks for s in _curves()]
    return [v for row in rows for v in (row.get("score"), *(row.get("ci95") or ())) if finite(v)]


def _curve(title: str, entry: JsonMapping, ks: Sequence[int], low: float, high: float) -> Curve:
    top = math.log2(ks[-1])

    def x(k: int) -> float:
        return round(LEFT + (RIGHT - LEFT) * (math.log2(k) / top if top else 0), 1)

    def y(score: float) -> float:
        return round(BOTTOM - (BOTTOM - TOP) * (score - low) / (high - low), 1)

    by_selector = {}
    for selector in _curves():
        rows = {k: (entry.get(f"k{k}") or {}).get(selector) or {} for k in ks}
        rows = {k: row for k, row in rows.items() if finite(row.get("score"))}
        if rows:
            by_selector[selector] = rows
    shaded = next((name for name in VERIFIERS if name in by_selector), "")
    greedy = (entry.get("greedy") or {}).get("score")
    wanted = {s: y(rows[max(rows)]["score"]) for s, rows in by_selector.items()}
    if finite(greedy):
        wanted["greedy"] = y(greedy)
    labels = spread(wanted, 17)
    lines = [
        Line(
            selector_name(s),
            s,
            _path((x(k), y(row["score"])) for k, row in rows.items()),
            _band(
                [
                    (x(k), y(row["ci95"][0]), y(row["ci95"][1]))
                    for k, row in rows.items()
                    if all(map(finite, row["ci95"]))
                ]
            )
            if s == shaded
            else "",
            [
                (x(k), y(row["score"]), f"best of {k} by {selector_name(s)}: {row['score']:.3f}")
                for k, row in rows.items()
            ],
            labels[s],
        )
        for s, rows in by_selector.items()
    ]
    step = _tick(high - low)
    digits = max(0, math.ceil(-math.log10(step) - 1e-9))
    ticks = [low + i * step for i in range(math.floor((high - low) / step + 1e-6) + 1)]
    return Curve(
        title,
        f"Score of {title} against the number of candidates",
        lines,
        [(x(k), str(k)) for k in ks],
        [(y(tick), f"{tick:.{digits}f}") for tick in ticks],
        y(greedy) if finite(greedy) else None,
        labels.get("greedy", 0.0),
        greedy if finite(greedy) else math.nan,
    )


def over_steps(title: str, series: Mapping[str, tuple[str, Sequence[tuple[int, float]]]]) -> Curve | None:
    """How numbers fell while a model learned, on a logarithmic scale.

    Args:
        title: what learned.
        series: `{name: (colour, [(step, value above 0), ...])}`; colours are those of a curve.
    """
    drawn = {n: (kind, [(s, v) for s, v in row if finite(v) and v > 0]) for n, (kind, row) in series.items()}
    drawn = {name: (kind, row) for name, (kind, row) in drawn.items() if row}
    points = [point for _, row in drawn.values() for point in row]
    last = max((step for step, _ in points), default=0)
    if not last or len({step for step, _ in points}) < 2:
        return None
    low, high = (math.log10(end(value for _, value in points)) for end in (min, max))
    low, high = (low, high) if high - low > 0.1 else (low - 0.1, high + 0.1)

    def x(step: float) -> float:
        return round(LEFT + (RIGHT - LEFT) * step / last, 1)

    def y(value: float) -> float:
        return round(BOTTOM - (BOTTOM - TOP) * (math.log10(value) - low) / (high - low), 1)

    labels = spread({name: y(row[-1][1]) for name, (_, row) in drawn.items()}, 17)
    lines = [
        Line(
            name,
            kind,
            _path((x(step), y(value)) for step, value in row),
            "",
            [(x(s), y(v), f"step {s}: {v:.3g}") for s, v in row] if len(row) <= 12 else [],
            labels[name],
        )
        for name, (kind, row) in drawn.items()
    ]
    ticks = [m * 10.0**e for e in range(math.floor(low), math.ceil(high) + 1) for m in (1, 2, 5)]
    ticks = [tick for tick in ticks if low - 1e-9 <= math.log10(tick) <= high + 1e-9]
    ticks = ticks if len(ticks) <= 8 else [tick for tick in ticks if f"{tick:e}"[0] == "1"]
    steps = [(x(s), f"{s:,}") for s in (0, last // 2, last)]
    about = f"Losses of {title} over {last:,} training steps"
    return Curve(title, about, lines, steps, [(y(tick), f"{tick:g}") for tick in ticks], None, 0.0, math.nan)


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
    if not points:
        return ""
    upper = [(x, high) for x, _, high in points]
    lower = [(x, low) for x, low, _ in reversed(points)]
    return _path([*upper, *lower]) + " Z"

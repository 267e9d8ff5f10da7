"""Numbers as text: formats, computed claims, headlines.

A claim is made by its 95 % interval: when the interval includes 0 the sentence says that nothing was shown.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from retrodict.report.charts import Bar
from retrodict.report.run import SELECTORS, Run, finite, system_name

MISSING = "\N{EN DASH}"
BENCHES = {
    "tabletop": "tabletop",
    "aurora": "AURORA-Bench",
    "spatialmqa": "SpatialMQA",
    "embspatial": "EmbSpatial-Bench",
}
_MINUS = "\N{MINUS SIGN}"
_NBSP = "\N{NO-BREAK SPACE}"


def number(value: Any, digits: int = 3) -> str:
    """`0.123` with a real minus sign; a dash where there is no number."""
    return f"{value:.{digits}f}".replace("-", _MINUS) if finite(value) else MISSING


def count(value: Any) -> str:
    """`12,345`; a dash where there is no number."""
    return f"{value:,.0f}" if finite(value) else MISSING


def percent(value: Any, digits: int = 0) -> str:
    return f"{100 * value:.{digits}f}{_NBSP}%".replace("-", _MINUS) if finite(value) else MISSING


def span(interval: Any, digits: int = 3) -> str:
    """An interval as `0.10 to 0.20`; a dash where there is none."""
    if not interval or not all(finite(end) for end in interval):
        return MISSING
    return f"{number(interval[0], digits)} to {number(interval[1], digits)}"


def percent_span(interval: Any) -> str:
    """An interval of shares as `10 % to 20 %`."""
    if not interval or not all(finite(end) for end in interval):
        return MISSING
    return f"{percent(interval[0])} to {percent(interval[1])}"


def brief(text: str, most: int = 80) -> str:
    """The first sentence of a reason, cut at a word where it is long."""
    first = re.split(r"(?<=[.:]) ", " ".join(text.split()), maxsplit=1)[0].rstrip(".:")
    return first if len(first) <= most else first[:most].rsplit(" ", 1)[0] + "\N{HORIZONTAL ELLIPSIS}"


def duration(seconds: Any) -> str:
    """`8.4 s`, `2 min 05 s` or `1 h 02 min`."""
    if not finite(seconds):
        return MISSING
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


@dataclass(frozen=True)
class Claim:
    state: Literal["ahead", "level", "behind"]
    headline: str
    detail: str


def claims(run: Run) -> list[Claim]:
    """One sentence for each paired comparison, in the order of `results.json`."""
    return claims_of((run.get("comparisons") or {}).values())


def claims_of(found: Iterable[Any]) -> list[Claim]:
    return [_claim(c) for c in found if isinstance(c, Mapping) and finite(c.get("difference"))]


def _claim(comparison: Mapping[str, Any]) -> Claim:
    a, b = spoken(str(comparison["a"])), spoken(str(comparison["b"]))
    difference, interval = comparison["difference"], comparison.get("ci95") or (math.nan, math.nan)
    low, high = interval
    amount = number(abs(difference))
    relative = comparison.get("relative")
    share_of = f" ({signed_percent(relative)})" if finite(relative) else ""
    detail = (
        f"difference {signed(difference)}, 95 % interval {span(interval)}, n = {comparison.get('n', MISSING)} pairs"
    )
    if finite(comparison.get("p")):
        detail += f", p {p_value(comparison['p'])}"
    if finite(low) and low > 0:
        return Claim("ahead", f"{a} beats {b} by {amount}{share_of}.", detail)
    if finite(high) and high < 0:
        return Claim("behind", f"{a} falls short of {b} by {amount}{share_of}.", detail)
    return Claim("level", f"No difference is shown between {a} and {b}.", detail)


def signed(value: float, digits: int = 3) -> str:
    return ("+" if value > 0 else "") + number(value, digits)


def signed_percent(value: float) -> str:
    return ("+" if value > 0 else "") + percent(value)


def p_value(p: float) -> str:
    if not finite(p):
        return MISSING
    # The test draws 2,000 sign patterns: smaller values cannot be told apart.
    return "≤ 0.001" if p <= 0.001 else f"= {p:.3f}"


def spoken(name: str) -> str:
    """A system as readers know it: `fdm.k8.idm_fdm` is "FDM (best of 8 by IDM + FDM)"; free text stays as it is."""
    head, said = name, list[str]()
    while (word := _said(head.rpartition(".")[2])) and "." in head:
        said.insert(0, word)
        head = head.rpartition(".")[0]
    return system_name(head) + (f" ({' '.join(said)})" if said else "")


def _said(part: str) -> str | None:
    if re.fullmatch(r"k\d+", part):
        return "one sample" if part == "k1" else f"best of {part[1:]}"
    if part == "greedy":
        return part
    return f"by {SELECTORS[part]}" if part in SELECTORS else None


def title(runs: Sequence[Run]) -> str:
    if len(runs) > 1:
        return f"{len(runs)} runs side by side"
    run = runs[0]
    if run.is_loop:
        return "Learn to explain, then learn to predict"
    if run.kind == "compare":
        return "Two runs, item by item"
    bench = str(run.get("bench") or "")
    system = system_name(str(run.get("system") or run.main or "copy"))
    said = {"probe": "probed on", "qa": "asked on"}.get(run.kind, "on")
    return f"{system} {said} {BENCHES.get(bench, bench)}"


def against(bars: Sequence[Bar], base: Bar | None) -> list[str]:
    """How each bar stands to a base of other runs or items: a difference is claimed where the intervals do not meet."""
    return [_stands(one, base) for one in bars if base is not None and one is not base]


def _stands(one: Bar, base: Bar) -> str:
    a, b = f"“{one.label}”", f"“{base.label}”"
    if one.low > base.high:
        return f"{a} is ahead of {b}: their intervals do not meet."
    if one.high < base.low:
        return f"{a} is behind {b}: their intervals do not meet."
    return f"The intervals of {a} and {b} meet: no difference is shown."


def weighting_verdict(bars: Sequence[Bar]) -> list[str]:
    """How each weighting stands to none."""
    return against(bars, next((one for one in bars if one.label == "none"), None))


def confidence_title(bars: Sequence[Bar]) -> str:
    """A headline that holds: surer labels are right more often if the outer intervals do not meet."""
    known = len(bars) > 1 and bars[0].low > bars[-1].high
    return "The surer it is, the more often it is right" if known else "How often it is right, by how sure it is"


def settings(run: Run) -> list[tuple[str, list[tuple[str, str]]]]:
    """Everything that says how the run was made, as titled lists."""
    basics = [(key, str(run.get(key))) for key in ("command", "scale", "seed", "bench") if run.get(key) is not None]
    if finite(run.get("wall_seconds")):
        basics.append(("wall time", duration(run.get("wall_seconds"))))
    if finite(run.get("peak_memory_mb")):
        basics.append(("peak memory", f"{run.get('peak_memory_mb'):,.0f} MB"))
    parts = [
        ("Run", basics),
        ("Settings", list(flat(run.get("config") or {}))),
        ("Versions", list(flat(run.get("versions") or {}))),
    ]
    return [(name, rows) for name, rows in parts if rows]


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", "" if value is None else str(value)

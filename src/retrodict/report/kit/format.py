"""Numbers, names and reasons as text, for pages and for markdown."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeGuard

from retrodict.dynamics.verifiers import VERIFIERS
from retrodict.files import JsonMapping

MISSING = "\N{EN DASH}"
_MINUS = "\N{MINUS SIGN}"
_NBSP = "\N{NO-BREAK SPACE}"
SYSTEMS = {
    "copy": "Copy",
    "ft": "FT",
    "fdm": "FDM",
    "fdm_weighted": "FDM, recognition-weighted",
    "fdm_true_labels": "FDM on true labels",
    "fdm_weighted_true_labels": "FDM on true labels, recognition-weighted",
    "fdm_expert": "FDM, expert iteration",
    "fdm_second_proposer": "FDM with a frame of FT",
    "idm": "IDM",
    "idm_plain": "IDM without change mask",
}
_SELECTORS = {"oracle": "oracle", "greedy": "greedy", "min_copy": "least copy"}  # beside verifiers


def is_selector(name: str) -> bool:
    """Whether something that picks one of several candidates has this name."""
    return name in VERIFIERS or name in _SELECTORS


def selector_name(name: str) -> str:
    """What picks one of several candidates, as readers know it."""
    return VERIFIERS[name].title if name in VERIFIERS else _SELECTORS.get(name, name)


def finite(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and math.isfinite(value)


def number(value: object, digits: int = 3) -> str:
    """`0.123` with a real minus sign; a dash where there is no number."""
    return f"{value:.{digits}f}".replace("-", _MINUS) if finite(value) else MISSING


def signed(value: object, digits: int = 3) -> str:
    return ("+" if finite(value) and value > 0 else "") + number(value, digits)


def count(value: object) -> str:
    """`12,345`; a dash where there is no number."""
    return f"{value:,.0f}" if finite(value) else MISSING


def percent(value: object, digits: int = 0) -> str:
    return f"{100 * value:.{digits}f}{_NBSP}%".replace("-", _MINUS) if finite(value) else MISSING


def span(interval: Sequence[object] | None, digits: int = 3) -> str:
    """An interval as `0.10 to 0.20`; a dash where there is none."""
    if not interval or not all(finite(end) for end in interval):
        return MISSING
    return f"{number(interval[0], digits)} to {number(interval[1], digits)}"


def percent_span(interval: Sequence[object] | None) -> str:
    """An interval of shares as `10 % to 20 %`."""
    if not interval or not all(finite(end) for end in interval):
        return MISSING
    return f"{percent(interval[0])} to {percent(interval[1])}"


def p_value(p: object) -> str:
    """`0.322`. The sign-flip test samples 2,000 sign patterns, so small values cannot be told apart: `≤ 0.001`."""
    return "≤ 0.001" if finite(p) and p <= 0.001 else number(p)


def spoken_p(p: object) -> str:
    """`p = 0.322` or `p ≤ 0.001`."""
    text = p_value(p)
    return f"p {text}" if text.startswith("≤") else f"p = {text}"


def brief(text: str, most: int = 80) -> str:
    """The first sentence of a reason, cut at a word where it is long."""
    first = re.split(r"(?<=[.:]) ", " ".join(text.split()), maxsplit=1)[0].rstrip(".:")
    return first if len(first) <= most else first[:most].rsplit(" ", 1)[0] + "\N{HORIZONTAL ELLIPSIS}"


def duration(seconds: object) -> str:
    """`8.4 s`, `2 min 05 s` or `1 h 02 min`."""
    if not finite(seconds):
        return MISSING
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def system_name(key: str) -> str:
    """A system as readers know it: `fdm_round2` is "FDM, round 2"."""
    system, again, number = key.partition("_round")
    return f"{SYSTEMS.get(system, system)}, round {number}" if again else SYSTEMS.get(key, key)


def spoken(name: str) -> str:
    """A system as readers know it: `fdm.k8.idm_fdm` is "FDM (best of 8 by IDM + FDM)"; free text stays as it is."""
    system, verified, selector = name.partition(", best by ")
    if verified:
        return f"{system_name(system)} (best by {selector_name(selector)})"
    system, comma, rest = name.partition(", ")
    if comma and system in SYSTEMS:
        return f"{system_name(system)}, {rest}"
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
    return f"by {selector_name(part)}" if is_selector(part) else None


def plain(text: str) -> str:
    """Text that markdown renders as it is, also inside a table."""
    return re.sub(r"([\\`*_\[\]<>|#&])", r"\\\1", " ".join(text.split()))


def flat(values: JsonMapping, prefix: str = "") -> Iterator[tuple[str, str]]:
    """The leaves of nested settings with their dotted names."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", "" if value is None else str(value)

"""Geometry of the charts. The templates draw them as HTML and SVG, so that their text stays text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from retrodict.report.run import SELECTORS, Run, finite, system_name


@dataclass(frozen=True)
class Bar:
    """A value with its interval on a track from 0 to `scale`; positions in percent of the track."""

    label: str
    value: float
    low: float
    high: float
    n: int
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


def bar(label: str, entry: Any, value: str, kind: str = "other", note: str = "", scale: float = 1.0) -> Bar | None:
    """A bar of `{value, "ci95", "n"}`, or None where that was not measured."""
    if not isinstance(entry, Mapping) or not finite(entry.get(value)):
        return None
    low, high = entry.get("ci95") or (math.nan, math.nan)
    return Bar(label, entry[value], low, high, int(entry.get("n") or 0), kind, note, scale)


def _bars(found: Iterable[Bar | None]) -> list[Bar]:
    return [one for one in found if one is not None]


def ladder(run: Run) -> list[Bar]:
    """What each step of the loop added: every system's greedy score, and the main one's best verified score."""
    notes = {
        "copy": "nothing happens",
        "ft": "labelled data only",
        "fdm": "labelled data and annotated video",
        "fdm_true_labels": "the same video with its true labels",
    }
    found: list[Bar | None] = []
    for name, entry in run.systems.items():
        if name == "fdm_weighted":  # an ablation, not a step: it has its own chart
            continue
        kind = "fdm" if name == run.main else name if name in ("copy", "ft") else "other"
        found.append(bar(system_name(name), entry.get("greedy"), "score", kind, notes.get(name, "greedy")))
        if name == run.main and run.ks:
            best = entry.get(f"k{run.ks[-1]}") or {}
            chosen = best.get("selector", "")
            if chosen not in ("", "random"):
                note = f"best of {run.ks[-1]} by {SELECTORS.get(chosen, chosen)}"
                found.append(bar(f"{system_name(name)}, verified", best, "score", "verified", note))
    return _bars(found)


def weighting(run: Run) -> list[Bar]:
    found = run.get("weighting") or {}
    return _bars(
        bar(str(name), _greedy(entry), "score", "fdm" if name == "none" else "other") for name, entry in found.items()
    )


def _greedy(entry: Any) -> Any:
    return entry.get("greedy", entry) if isinstance(entry, Mapping) else None


def confidence(run: Run) -> list[Bar]:
    """Share of right labels by the inverse model's log-probability, the surest first."""
    found = run.get("annotation", "by_confidence") or []
    known = (row for row in found if finite(row.get("low")) and finite(row.get("high")))
    rows = sorted(known, key=lambda row: -row["high"])
    return _bars(bar(_between(row["low"], row["high"]), row, "exact", "idm", f"{row['n']:,} labels") for row in rows)


def _between(low: float, high: float) -> str:
    return f"{low:.2f} to {high:.2f}".replace("-", "\N{MINUS SIGN}")


def funnel(run: Run) -> list[Bar]:
    """From mined pairs to what the forward model learnt from; widths are counts."""
    steps = [
        (
            "Pairs mined",
            run.get("annotation", "mined") or run.get("mining", "pairs"),
            "moments between which something moved",
        ),
        (
            "With a single action",
            run.get("annotation", "single_action"),
            "between the others, several things happened or none",
        ),
        ("Selected", run.get("annotation", "selected"), "the surest labels, every kind of action in turn"),
    ]
    counts = [(name, count, note) for name, count, note in steps if finite(count)]
    scale = max((count for _, count, _ in counts), default=0)
    return [
        Bar(name, count, math.nan, math.nan, int(count), "other", note, scale) for name, count, note in counts if scale
    ]


NEGATIVES = {
    "action": ("another action", "The model sees the true frames; the sentence is another item's."),
    "counterfactual": ("a counterfactual action", "The sentence names the same things and another outcome."),
    "action_blind": (
        "another action (outcome hidden)",
        "Control: what the model prefers while it cannot see what happened. Only the rest was read off the outcome.",
    ),
    "counterfactual_blind": (
        "a counterfactual action (outcome hidden)",
        "Control: the same while the model cannot see what happened.",
    ),
    "observation": ("another outcome", "The sentence is true; the second frame is another item's."),
    "copy": ("nothing happens", "The second frame is the first one again."),
    "inverse": ("the reverse", "The two frames are swapped."),
}


_PROBED = {"idm_plain": "IDM, not told", "inverse": "inverse", "forward": "forward"}
_PROBED_AS = {"inverse": "idm", "forward": "fdm"}


@dataclass(frozen=True)
class Group:
    title: str
    note: str
    bars: list[Bar]


def probe(run: Run) -> list[Group]:
    found = run.get("probe") or {}
    groups = []
    for key, (title, note) in NEGATIVES.items():
        rows = [
            bar(
                _PROBED.get(model) or system_name(model),
                entry.get(key),
                "share",
                _PROBED_AS.get(model, model if model in ("idm", "ft", "fdm") else "other"),
            )
            for model, entry in found.items()
            if isinstance(entry, Mapping)
        ]
        if any(rows):
            groups.append(Group(title, note, _bars(rows)))
    return groups


def judge_card(judge: Mapping[str, Any]) -> list[Bar]:
    """What a judge gives to pictures whose worth is known."""
    rows = (judge.get("card") or {}).get("rows") or {}
    return _bars(
        bar(
            CARD.get(name, (name, ""))[0],
            entry,
            "score",
            "fdm" if name == "ground_truth" else "copy",
            CARD.get(name, ("", ""))[1],
            10.0,
        )
        for name, entry in rows.items()
    )


CARD = {
    "ground_truth": ("Ground truth", "the true target: should be high"),
    "copy": ("Copy", "nothing happened: should be 0"),
    "inverse": ("Inverse", "backwards: should be low"),
    "random": ("Random", "another item's target: should be low"),
    "counterfactual": ("Counterfactual", "the true target under an action that did not happen: should be low"),
}


def seconds(run: Run) -> list[Bar]:
    found = {name: s for name, s in (run.get("seconds") or {}).items() if finite(s)}
    scale = max(found.values(), default=0.0)
    return [Bar(name, s, math.nan, math.nan, 0, "other", "", scale) for name, s in found.items() if scale]

"""Pictures on the page: which ones, in which order, and as what.

Examples are chosen by the hash of their ids, never by eye; where right and wrong ones are shown apart, each part is.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from retrodict.dynamics.verify import choose
from retrodict.evaluation.pool import ItemResult, Scored
from retrodict.evaluation.report.run import Run, finite, hashed, system_name
from retrodict.transitions import Transition

SAMPLE, WORST, LABELS, LOOKED_AT, HEATMAPS = 8, 4, 4, 400, 4
SUITE_NAMES = {
    "attribute": "Attribute",
    "everyday": "Everyday action",
    "object_object": "Object to object",
    "spatial": "Spatial relation",
    "count_physics": "Count and physics",
}


@dataclass(frozen=True)
class Pair:
    """A source and a target picture with what is said about them."""

    source: str
    target: str
    action: str
    title: str = ""
    logprob: float = math.nan
    truth: str = ""  # what really happened, where the action is not it
    cells: tuple[tuple[float, float, float, float, float], ...] = ()  # left, top, width, height, opacity; in percent


@dataclass(frozen=True)
class Shown:
    """One prediction: its picture, its score, and whether it repeats the source."""

    image: str
    score: float
    copy: bool
    reason: str = ""


@dataclass(frozen=True)
class Row:
    source: str
    target: str
    action: str
    suite: str
    predictions: tuple[Shown, ...]


@dataclass(frozen=True)
class Column:
    title: str
    note: str
    system: str
    pick: Callable[[ItemResult], Scored]


def uri(data: bytes | None) -> str:
    """Encoded picture bytes as a data URI; empty without a picture."""
    if not data:
        return ""
    kind = "jpeg" if data[:2] == b"\xff\xd8" else "png"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def suite_name(category: str) -> str:
    return SUITE_NAMES.get(category, category)


def world(run: Run) -> list[Pair]:
    """One test transition of each suite."""
    firsts: dict[str, Transition] = {}
    for transition in _by_hash(run):
        firsts.setdefault(transition.category, transition)
    order = [*SUITE_NAMES, *sorted(firsts.keys() - SUITE_NAMES.keys())]
    return [_pair(firsts[suite], title=suite_name(suite)) for suite in order if suite in firsts][:6]


def labels(run: Run) -> dict[str, list[Pair]] | None:
    """Mined pairs with the inverse model's labels: right ones and wrong ones where the truth can be read off."""
    found: dict[str, list[Pair]] = {"right": [], "wrong": [], "unknown": []}
    for row in run.annotated(LOOKED_AT):
        verdict, truth = _verdict(row) if run.is_tabletop else ("unknown", "")
        if verdict and len(found[verdict]) < LABELS:
            found[verdict].append(_pair(row, logprob=row.logprob, truth=truth))
        if len(found["right"]) == len(found["wrong"]) == LABELS or len(found["unknown"]) == LABELS:
            break
    return found if any(found.values()) else None


def _verdict(row: Transition) -> tuple[str, str]:
    """Whether a label is right by the world's own rules; no verdict where no single action explains the pair."""
    from retrodict.worlds import tabletop

    pictures = row.source_image, row.target_image
    true = tabletop.true_action(*(tabletop.parse(picture, "cells") for picture in pictures))
    if true is None:
        return "", ""
    right = tabletop.parse_action(row.action) == true
    return ("right", "") if right else ("wrong", tabletop.templates(true)[0])


def heatmaps(run: Run) -> list[Pair]:
    """Target pictures under their recognition weights, as cells whose opacity is the weight's share of the largest."""
    path = run.folder / "recognition.json"
    if not path.is_file():
        return []
    pairs = []
    for record in json.loads(path.read_text(encoding="utf-8"))[:HEATMAPS]:
        if transition := run.test.get(record["id"]):
            pairs.append(_pair(transition, cells=tuple(_cells(record["grid"], record["weights"]))))
    return pairs


def _cells(grid: list[int], weights: list[float]) -> Iterator[tuple[float, float, float, float, float]]:
    rows, columns = grid
    largest = max((w for w in weights if finite(w)), default=0.0) or 1.0
    for i, weight in enumerate(weights):
        if finite(weight) and weight / largest >= 0.02:
            left, top = 100 * (i % columns) / columns, 100 * (i // columns) / rows
            yield left, top, 100 / columns, 100 / rows, round(weight / largest, 3)


def columns(run: Run) -> list[Column]:
    """The predictions that stand side by side: the baseline, the run's model, and what its verifier chose."""
    if run.main is None:
        return []
    found = []
    if run.main == "fdm" and run.predictions("ft"):
        found.append(Column("FT", "labelled data only", "ft", lambda item: item.greedy))
    if items := run.predictions(run.main):
        note = "with annotated video" if run.main == "fdm" else "greedy"
        found.append(Column(system_name(run.main), note, run.main, lambda item: item.greedy))
        size = min(len(item.pool) for item in items.values())
        selector = run.get("systems", run.main, f"k{size}", "selector") or ""
        if size > 1 and selector not in ("", "random"):
            note = f"best of {size}"
            found.append(Column("Verified", note, run.main, lambda item: _verified(item, selector)))
    return found


def _verified(item: ItemResult, selector: str) -> Scored:
    scores = [frame.verifiers.get(selector, math.nan) for frame in item.pool]
    if not scores or all(math.isnan(score) for score in scores):
        return Scored(reason="no candidate was scored")
    return item.pool[choose(scores)]


def sample(run: Run) -> list[Row]:
    """The first items by hash."""
    return [_row(run, t) for t in _by_hash(run) if _complete(run, t)][:SAMPLE]


def worst(run: Run) -> list[Row]:
    """The items on which the last column scores least; equals in the order of their hashes."""
    found = columns(run)
    if not found:
        return []
    last = found[-1]
    items = run.predictions(last.system)
    scored = [t for t in _by_hash(run) if _complete(run, t) and finite(last.pick(items[t.id]).score)]
    return [_row(run, t) for t in sorted(scored, key=lambda t: last.pick(items[t.id]).score)[:WORST]]


def _complete(run: Run, transition: Transition) -> bool:
    found = columns(run)
    return bool(found) and all(transition.id in run.predictions(c.system) for c in found)


def _row(run: Run, transition: Transition) -> Row:
    shown = []
    for column in columns(run):
        frame = column.pick(run.predictions(column.system)[transition.id])
        shown.append(Shown(uri(frame.image), frame.score, frame.copy == 1, frame.reason))
    t = transition
    return Row(uri(t.source), uri(t.target), t.action, suite_name(t.category), tuple(shown))


def _pair(transition: Transition, **more: Any) -> Pair:
    return Pair(uri(transition.source), uri(transition.target), transition.action, **more)


def _by_hash(run: Run) -> list[Transition]:
    return sorted(run.test.values(), key=lambda t: hashed(t.id))

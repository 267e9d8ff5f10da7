"""What really happened in pairs mined from a world's videos. For measuring only: no stage of the method reads it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from retrodict.files import JsonObject
from retrodict.stats import share_interval
from retrodict.training.data import Stored
from retrodict.transitions import Transition
from retrodict.worlds.base import World

CONFIDENCE_BINS = 5


def with_true_labels(world: World, transitions: Stored, truth: Path) -> Stored:
    """The transitions that show one action, with its true name in one of the world's wordings, chosen by id."""
    rows, refs = [], []
    for row, ref in zip(transitions.rows, transitions.refs, strict=True):
        action = world.true_action(row, truth)
        if action is not None:
            wordings = world.wordings(action)
            digest = hashlib.blake2b(row.id.encode(), digest_size=8).digest()
            text = wordings[int.from_bytes(digest) % len(wordings)]
            rows.append(replace(row, action=text, action_source="template"))
            refs.append(ref)
    return Stored(rows, refs)


def labelling(world: World, annotated: Sequence[Transition], selected: Sequence[Transition], truth: Path) -> JsonObject:
    """Share of exact labels among pairs that show one action, in all, by confidence, and among those selected."""
    rows = _checked(world, annotated, truth)
    exact = share_interval([right for _, right in rows])
    return {
        "exact": exact.mean,
        "ci95": exact.ci95,
        "n": exact.n,
        "mined": len(annotated),
        "single_action": len(rows),
        "selected": len(selected),
        # Their own labels, which a forward model may have replaced. A selected pair that shows no or several actions
        # has no right label, so it counts as wrong here.
        "selected_exact": sum(right for _, right in _checked(world, selected, truth)) / len(selected),
        "by_confidence": _by_confidence(rows),
    }


def _checked(world: World, transitions: Sequence[Transition], truth: Path) -> list[tuple[Transition, float]]:
    """Those that show one action, and whether that is their label."""
    true = ((t, world.true_action(t, truth)) for t in transitions)
    return [(t, float(world.same_action(t.action, action))) for t, action in true if action is not None]


def _by_confidence(rows: Sequence[tuple[Transition, float]]) -> list[JsonObject]:
    ordered = sorted(rows, key=lambda row: row[0].logprob)
    bins = [chunk for chunk in np.array_split(np.arange(len(ordered)), CONFIDENCE_BINS) if len(chunk)]
    entries: list[JsonObject] = []
    for chunk in bins:
        low, high = ordered[chunk[0]][0].logprob, ordered[chunk[-1]][0].logprob
        exact = share_interval([ordered[i][1] for i in chunk])
        entries.append({"low": low, "high": high, "exact": exact.mean, "ci95": exact.ci95, "n": exact.n})
    return entries

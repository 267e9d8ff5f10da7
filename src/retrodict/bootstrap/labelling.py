"""How good the labels of mined pairs are, by the simulator's own record."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from retrodict.bootstrap.truth import true_action
from retrodict.stats import mean_interval
from retrodict.transitions import Transition
from retrodict.worlds import tabletop

CONFIDENCE_BINS = 5


def labelling(annotated: Sequence[Transition], selected: Sequence[Transition], truth: Path) -> dict[str, Any]:
    """Share of exact labels among pairs that show one action, in all, by confidence, and among those selected."""
    chosen = {t.id for t in selected}
    rows: list[tuple[Transition, float]] = []
    for t in annotated:
        action = true_action(t, truth)
        if action is not None:
            rows.append((t, float(tabletop.parse_action(t.action) == action)))
    exact = mean_interval([right for _, right in rows])
    return {
        "exact": exact.mean,
        "ci95": [exact.low, exact.high],
        "n": exact.n,
        "mined": len(annotated),
        "single_action": len(rows),
        "selected": len(selected),
        # A selected pair that shows no or several actions has no right label, so it counts as wrong here.
        "selected_exact": sum(right for t, right in rows if t.id in chosen) / len(selected),
        "by_confidence": _by_confidence(rows),
    }


def _by_confidence(rows: Sequence[tuple[Transition, float]]) -> list[dict[str, Any]]:
    ordered = sorted(rows, key=lambda row: row[0].logprob)
    bins = [chunk for chunk in np.array_split(np.arange(len(ordered)), CONFIDENCE_BINS) if len(chunk)]
    found = []
    for chunk in bins:
        low, high = ordered[chunk[0]][0].logprob, ordered[chunk[-1]][0].logprob
        exact = mean_interval([ordered[i][1] for i in chunk])
        row = {"low": low, "high": high, "exact": exact.mean, "ci95": [exact.low, exact.high], "n": exact.n}
        found.append({k: (None if isinstance(v, float) and math.isnan(v) else v) for k, v in row.items()})
    return found

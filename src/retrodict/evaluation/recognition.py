"""Recognition weights of a few items, chosen by hash, for the report's heatmaps."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from retrodict.files import write_json
from retrodict.models.protocol import TokenFamily
from retrodict.training.config import Weighting
from retrodict.training.weighting import loss_weights
from retrodict.transitions import Transition

SHOWN = 8


def write_recognition(out: Path, family: TokenFamily, transitions: Sequence[Transition]) -> None:
    """Write `recognition.json`: `[{"id", "grid": [rows, columns], "weights": [one per image token]}]`."""
    kept = [t for t in transitions if t.target is not None]
    shown = sorted(kept, key=lambda t: hashlib.sha256(t.id.encode()).digest())[:SHOWN]
    if not shown:
        return
    source = family.encode([t.source_image for t in shown]).features_NLD
    target = family.encode([t.target_image for t in shown]).features_NLD
    weights_NL = loss_weights(np.square(source - target).sum(-1), Weighting(method="recognition"))
    grid = list(family.spec.grid)
    write_json(
        out / "recognition.json",
        [{"id": t.id, "grid": grid, "weights": row.tolist()} for t, row in zip(shown, weights_NL, strict=True)],
    )

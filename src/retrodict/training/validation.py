"""How a trained model does on transitions that it has not seen, where no exact state says what is right."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from retrodict.dynamics.unified import UnifiedModel
from retrodict.evaluation.stats import mean_interval
from retrodict.models.protocol import Direction, LogProb
from retrodict.transitions import Transition

CHUNK = 128  # transitions whose pictures are decoded at a time


def validate(model: UnifiedModel, direction: Direction, transitions: Sequence[Transition]) -> dict[str, Any]:
    """Negative log-probability in nats: `{"nll": {"mean", "ci95", "n", "n_unscored"}, "nll_per_token": {the same}}`.

    "inverse" scores actions, "forward" targets; a transition without pictures, or with words that the model does not
    know, has no score and is counted as such.
    """
    found = [
        logprob
        for i in range(0, len(transitions), CHUNK)
        for logprob in _score(model, direction, transitions[i : i + CHUNK])
    ]
    groups = [t.group or t.id for t in transitions]
    return {
        "nll": estimate([-logprob.sum for logprob in found], groups),
        "nll_per_token": estimate([-logprob.mean for logprob in found], groups),
    }


def _score(model: UnifiedModel, direction: Direction, transitions: Sequence[Transition]) -> list[LogProb]:
    usable = [t for t in transitions if t.source is not None and t.target is not None and _known(model, t.action)]
    sources, targets = [t.source_image for t in usable], [t.target_image for t in usable]
    actions = [t.action for t in usable]
    if direction == "forward":
        scored = model.score_targets(sources, actions, targets)
    else:
        scored = model.score(list(zip(sources, targets, strict=True)), actions)
    by_row = {id(t): logprob for t, logprob in zip(usable, scored, strict=True)}
    return [by_row.get(id(t), LogProb(math.nan, 0)) for t in transitions]


def _known(model: UnifiedModel, action: str) -> bool:
    try:
        return bool(model.family.text_ids(action))
    except ValueError:
        return False


def estimate(values: Sequence[float], groups: Sequence[str]) -> dict[str, Any]:
    """A mean with its interval over groups, as `results.json` holds it."""
    found = mean_interval(values, groups)
    return {"mean": found.mean, "ci95": [found.low, found.high], "n": found.n, "n_unscored": found.n_unscored}

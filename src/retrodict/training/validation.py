"""How a trained model does on transitions that it has not seen, where no exact state says what is right."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

from retrodict.dynamics.unified import UnifiedModel
from retrodict.files import JsonObject
from retrodict.models.protocol import LogProb, Pair
from retrodict.prompts import Direction
from retrodict.stats import mean_interval
from retrodict.transitions import Transition


class Speaks(Protocol):
    """A family, or what else knows how actions are written."""

    def text_ids(self, text: str) -> list[int]:
        """Raises `ValueError` for an action that cannot be."""
        ...


class Scores(Protocol):
    """A unified model, or one that only reads."""

    @property
    def family(self) -> Speaks:
        """How it writes actions."""
        ...

    def score(self, pairs: Sequence[Pair], actions: Sequence[str]) -> list[LogProb]:
        """See `InverseModel.score`."""
        ...


CHUNK = 128  # transitions whose images are decoded at a time


def validate(model: Scores, direction: Direction, transitions: Sequence[Transition]) -> JsonObject:
    """Negative log-likelihood in nats: `{"nll": {"mean", "ci95", "n", "n_unscored"}, "nll_per_token": {the same}}`."""
    logprobs = log_likelihoods(model, direction, transitions)
    groups = [t.cluster for t in transitions]
    return {
        "nll": mean_interval([-logprob.sum for logprob in logprobs], groups).entry("mean"),
        "nll_per_token": mean_interval([-logprob.mean for logprob in logprobs], groups).entry("mean"),
    }


def log_likelihoods(model: Scores, direction: Direction, transitions: Sequence[Transition]) -> list[LogProb]:
    """log p(action | source, target) for "inverse", log p(target | source, action) for "forward", one per transition.

    NaN for a transition without images.
    """
    starts = range(0, len(transitions), CHUNK)
    return [logprob for start in starts for logprob in _score(model, direction, transitions[start : start + CHUNK])]


def _score(model: Scores, direction: Direction, transitions: Sequence[Transition]) -> list[LogProb]:
    known = [t.source is not None and t.target is not None and can_say(model.family, t.action) for t in transitions]
    usable = [t for t, is_known in zip(transitions, known, strict=True) if is_known]
    sources, targets = [t.source_image for t in usable], [t.target_image for t in usable]
    actions = [t.action for t in usable]
    if direction == "forward":
        assert isinstance(model, UnifiedModel)
        scored = iter(model.score_targets(sources, actions, targets))
    else:
        scored = iter(model.score(list(zip(sources, targets, strict=True)), actions))
    return [next(scored) if is_known else LogProb(math.nan, 0) for is_known in known]


def can_say(family: Speaks, action: str) -> bool:
    """Whether an action can be expressed in a family's vocabulary."""
    try:
        return bool(family.text_ids(action))
    except ValueError:
        return False

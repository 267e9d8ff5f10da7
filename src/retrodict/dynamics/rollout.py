"""Rollouts: several actions in a row, each step verified, the next one starting from the chosen frame."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from retrodict.dynamics.best_of_n import Prediction, predict
from retrodict.dynamics.unified import UnifiedModel
from retrodict.dynamics.verify import Verifier
from retrodict.models.protocol import Candidate, ForwardModel, Frame
from retrodict.sampling import Sampling


def rollout(
    forward: ForwardModel,
    verifier: Verifier | None,
    source: Frame,
    actions: Sequence[str],
    *,
    n: int,
    seed: int,
    sampling: Sampling = Sampling(),
    reencode: bool = False,
) -> list[Prediction]:
    """One prediction per action, in order. Arguments and errors are those of `predict`.

    A chosen candidate is handed on with its sampled image tokens: detokenizing and tokenizing again would add an error
    at each step that no step made (`Prediction.drift`). With `reencode` it is handed on as an image, as if another
    program had made it.
    """
    steps: list[Prediction] = []
    frame = source
    for action in actions:
        step = predict(forward, verifier, frame, action, n=n, seed=seed, sampling=sampling)
        chosen = step.candidate
        steps.append(replace(step, drift=_drift(forward, chosen)))
        frame = replace(chosen, codes_L=None, tokenizer="") if reencode else chosen
    return steps


def _drift(model: ForwardModel, frame: Candidate) -> float:
    if not isinstance(model, UnifiedModel) or frame.codes_L is None or frame.tokenizer != model.family.tokenizer:
        return math.nan
    again_L = model.family.encode([frame.image]).codes_NL[0]
    return float(np.mean(again_L != frame.codes_L))

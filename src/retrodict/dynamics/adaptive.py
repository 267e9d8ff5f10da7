"""Adaptive N: sample candidates a few at a time until one scores high enough or the budget is out.

What is high enough depends on the model and the verifier, so it is calibrated on items whose true scores are known:
`calibrate` finds the lowest threshold that costs no more than a given loss against the whole budget, and
`confidence.Confidence.score` the one from which on a candidate is right with a given probability.

Shape suffixes: I items, N candidates of an item.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from retrodict.dynamics.best_of_n import Prediction, prediction
from retrodict.dynamics.verify import Pool, Verifier
from retrodict.models.protocol import Candidate, ForwardModel, Frame
from retrodict.sampling import Sampling

Scores = npt.NDArray[np.float64]

BATCH = 2
SEED_STEP = 1_000_003  # batch b is sampled with the seed plus b times this


def predict_adaptively(
    forward: ForwardModel,
    verifier: Verifier,
    source: Frame,
    action: str,
    *,
    n: int,
    seed: int,
    stop_at: float,
    batch: int = BATCH,
    sampling: Sampling = Sampling(),
) -> Prediction:
    """Best of at most `n`: sample `batch` candidates at a time until one scores at least `stop_at`.

    The prediction holds those that were sampled. Other arguments and errors are those of `best_of_n.predict`.
    """
    pool: list[Candidate] = []
    scores: list[float] = []
    while len(pool) < n and not any(score >= stop_at for score in scores):
        size = min(batch, n - len(pool))
        (sampled,) = forward.sample([source], [action], size, seed + SEED_STEP * (len(pool) // batch), sampling)
        (fresh,) = verifier.scores([Pool(source, action, sampled)])
        pool += sampled
        scores += fresh
    return prediction(forward, pool, scores, verifier.name)


def sampled_until(scores_IN: Scores, stop_at: float, batch: int = BATCH) -> npt.NDArray[np.int64]:
    """How many candidates of each item would have been sampled, [I]."""
    clears_IN = np.nan_to_num(scores_IN, nan=-math.inf) >= stop_at
    size = scores_IN.shape[1]
    first_I = np.where(clears_IN.any(1), clears_IN.argmax(1) + 1, size)
    sampled_I: npt.NDArray[np.int64] = np.minimum(-(-first_I // batch) * batch, size)
    return sampled_I


def adaptive_values(scores_IN: Scores, values_IN: Scores, stop_at: float, batch: int = BATCH) -> Scores:
    """The value of each item's choice, [I]; NaN where no sampled candidate has a score."""
    sampled_I = sampled_until(scores_IN, stop_at, batch)
    seen_IN = np.where(np.arange(scores_IN.shape[1]) < sampled_I[:, None], scores_IN, np.nan)
    filled_IN = np.nan_to_num(seen_IN, nan=-math.inf)
    chosen_I = values_IN[np.arange(len(values_IN)), filled_IN.argmax(1)]
    return np.where(np.isnan(seen_IN).all(1), np.nan, chosen_I)


def calibrate(scores_IN: Scores, values_IN: Scores, loss: float = 0.005, batch: int = BATCH) -> float:
    """The lowest threshold at which the mean value is at most `loss` below that of the whole pool.

    Raises `ValueError` when no candidate has a score.
    """
    steps = np.unique(scores_IN[~np.isnan(scores_IN)])
    if not len(steps):
        raise ValueError("No candidate has a score, so no threshold can be calibrated.")
    tried = np.quantile(steps, np.linspace(0, 1, min(len(steps), 201)))
    whole = np.nanmean(adaptive_values(scores_IN, values_IN, math.inf, batch))
    enough = [t for t in tried if np.nanmean(adaptive_values(scores_IN, values_IN, t, batch)) >= whole - loss]
    return float(min(enough, default=math.inf))

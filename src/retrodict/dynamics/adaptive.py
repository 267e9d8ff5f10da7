"""Adaptive N: candidates are drawn in waves until one scores high enough or the budget is out.

What is high enough depends on the model and the verifier, so it is calibrated on items whose true scores are known:
`calibrate` finds the lowest threshold that costs no more than a given loss against the whole budget.

Shape suffixes: I items, N candidates of an item.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from retrodict.dynamics.verify import Pool, Prediction, Verifier, choose
from retrodict.models.protocol import Candidate, ForwardModel, Frame
from retrodict.sampling import Sampling

Scores = npt.NDArray[np.float64]

WAVE = 2
SEEDS_APART = 1_000_003  # wave w of a seed is drawn with the seed that lies w times this behind it


def predict_in_waves(
    forward: ForwardModel,
    verifier: Verifier,
    source: Frame,
    action: str,
    *,
    n: int,
    seed: int,
    stop_at: float,
    wave: int = WAVE,
    sampling: Sampling = Sampling(),
) -> Prediction:
    """Draw waves of candidates until the best score is at least `stop_at`, or `n` candidates are drawn.

    The prediction holds those that were drawn. Errors are those of `verify.predict`.
    """
    pool: list[Candidate] = []
    scores: list[float] = []
    while len(pool) < n and not any(score >= stop_at for score in scores):
        size = min(wave, n - len(pool))
        (drawn,) = forward.sample([source], [action], size, seed + SEEDS_APART * (len(pool) // wave), sampling)
        (fresh,) = verifier.scores([Pool(source, action, drawn)])
        pool += drawn
        scores += fresh
    return Prediction(tuple(pool), tuple(scores), choose(scores), verifier.name)


def drawn_until(scores_IN: Scores, stop_at: float, wave: int = WAVE) -> npt.NDArray[np.int64]:
    """How many candidates each item of a pool would have drawn, [I]."""
    clears_IN = np.nan_to_num(scores_IN, nan=-math.inf) >= stop_at
    size = scores_IN.shape[1]
    first_I = np.where(clears_IN.any(1), clears_IN.argmax(1) + 1, size)
    drawn_I: npt.NDArray[np.int64] = np.minimum(-(-first_I // wave) * wave, size)
    return drawn_I


def value_of_waves(scores_IN: Scores, values_IN: Scores, stop_at: float, wave: int = WAVE) -> Scores:
    """The value of each item's choice, [I]; NaN where no drawn candidate has a score."""
    drawn_I = drawn_until(scores_IN, stop_at, wave)
    seen_IN = np.where(np.arange(scores_IN.shape[1]) < drawn_I[:, None], scores_IN, np.nan)
    filled_IN = np.nan_to_num(seen_IN, nan=-math.inf)
    chosen_I = values_IN[np.arange(len(values_IN)), filled_IN.argmax(1)]
    return np.where(np.isnan(seen_IN).all(1), np.nan, chosen_I)


def calibrate(scores_IN: Scores, values_IN: Scores, loss: float = 0.005, wave: int = WAVE) -> float:
    """The lowest threshold at which the mean value is at most `loss` below that of the whole pool.

    Raises `ValueError` when no candidate has a score.
    """
    steps = np.unique(scores_IN[~np.isnan(scores_IN)])
    if not len(steps):
        raise ValueError("No candidate has a score, so no threshold can be calibrated.")
    tried = np.quantile(steps, np.linspace(0, 1, min(len(steps), 201)))
    whole = np.nanmean(value_of_waves(scores_IN, values_IN, math.inf, wave))
    enough = [t for t in tried if np.nanmean(value_of_waves(scores_IN, values_IN, t, wave)) >= whole - loss]
    return float(min(enough, default=math.inf))

"""Calibrated confidence: how probable it is that a prediction is right, given the score of its verifier.

A verifier's score is a log-likelihood: it orders candidates, and says of one alone only little. On validation pairs,
where it is known which predictions are right, a logistic curve turns scores into probabilities (Platt 1999). It lies
beside the forward model, one for each verifier.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from retrodict.files import JsonObject, write_json
from retrodict.models.registry import read_json

if TYPE_CHECKING:
    from retrodict.stats import Values

FILE = "confidence.json"  # beside a forward model
BINS, LEAST = 10, 20  # of a reliability curve: how many, at most, and of how many predictions, at least


@dataclass(frozen=True)
class Confidence:
    """P(right | score) = 1 / (1 + exp(-(intercept + slope * score))), fitted on `n` validation pairs."""

    intercept: float
    slope: float
    n: int

    def probability(self, score: float) -> float:
        """How probable it is that a prediction with this score is right; NaN for no score."""
        return 0.5 * (1 + math.tanh((self.intercept + self.slope * score) / 2))

    def score(self, probability: float) -> float:
        """The score from which on a prediction is right with at least this probability; infinite where none is.

        Raises:
            ValueError: `probability` does not lie between 0 and 1.
        """
        if not 0 < probability < 1:
            raise ValueError(f"A probability lies between 0 and 1, not at {probability}.")
        if self.slope <= 0:
            return math.inf
        return (math.log(probability / (1 - probability)) - self.intercept) / self.slope


def fit(scores: Sequence[float] | Values, right: Sequence[float] | Values) -> Confidence:
    """The curve of largest likelihood. Targets are drawn in by one pseudo-count, as Platt's, so that it stays finite.

    Args:
        scores: of the chosen candidate of each validation pair; NaN where there is none, which is left out.
        right: whether it is right.

    Raises:
        ValueError: no pair has a score.
    """
    from scipy.optimize import minimize

    all_scores, outcomes = np.asarray(scores, np.float64), np.asarray(right, np.float64)
    known = np.isfinite(all_scores) & np.isfinite(outcomes)
    x, y = all_scores[known], outcomes[known]
    if not len(x):
        raise ValueError("No validation pair has a score, so no confidence can be calibrated.")
    positives, negatives = y.sum(), len(y) - y.sum()
    target = np.where(y > 0, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    centre, width = float(x.mean()), float(x.std()) or 1.0
    z = (x - centre) / width

    def loss(parameters: Values) -> float:
        logits = parameters[0] + parameters[1] * z
        return float((np.logaddexp(0, logits) - target * logits).sum())

    intercept, slope = minimize(loss, np.zeros(2), method="BFGS").x
    return Confidence(float(intercept - slope * centre / width), float(slope / width), len(x))


def reliability(
    probabilities: Sequence[float] | Values, right: Sequence[float] | Values, bins: int | None = None
) -> JsonObject:
    """How far probabilities can be taken at their word.

    Args:
        probabilities: of each prediction to be right; NaN is left out and counted.
        right: whether it is.
        bins: groups of equally many predictions, from the least to the most probable; by default 10 of at least 20.

    Returns:
        `{"ece", "ece_chance", "brier", "n", "n_unscored", "bins": [{"confidence", "right", "ci95", "n"}]}`. `ece` is
        the mean distance between confidence and share of right ones over bins (expected calibration error);
        `ece_chance` what it would be on average for as many predictions if every probability were exact.
    """
    from retrodict.stats import share_interval

    all_p, all_y = np.asarray(probabilities, np.float64), np.asarray(right, np.float64)
    known = np.isfinite(all_p) & np.isfinite(all_y)
    order = np.argsort(all_p[known], kind="stable")
    p, y = all_p[known][order], all_y[known][order]
    bins = bins or max(1, min(BINS, len(p) // LEAST))
    parts = [part for part in np.array_split(np.arange(len(p)), bins) if len(part)]

    def error(outcomes: Values) -> float:
        return float(sum(len(part) * abs(p[part].mean() - outcomes[part].mean()) for part in parts) / max(len(p), 1))

    rng = np.random.default_rng(0)
    chance = [error((rng.random(len(p)) < p).astype(np.float64)) for _ in range(200)]
    rows = []
    for part in parts:
        share = share_interval(y[part])
        rows.append({"confidence": float(p[part].mean()), "right": share.mean, "ci95": share.ci95, "n": share.n})
    return {
        "ece": error(y) if len(p) else math.nan,
        "ece_chance": float(np.mean(chance)) if len(p) else math.nan,
        "brier": float(((p - y) ** 2).mean()) if len(p) else math.nan,
        "n": len(p),
        "n_unscored": int((~known).sum()),
        "bins": rows,
    }


def of(model: object, verifier: str, score: float) -> float:
    """How probable it is that a model's candidate with this score is right; NaN where that was not calibrated."""
    curve = curves_of(model).get(verifier)
    return math.nan if curve is None else curve.probability(score)


def curves_of(model: object) -> Mapping[str, Confidence]:
    """What was calibrated for a model, by verifier."""
    curves: Mapping[str, Confidence] = getattr(model, "confidence", {})
    return curves


def write(folder: Path, curves: Mapping[str, Confidence]) -> None:
    """Store the curve of each verifier beside a forward model."""
    write_json(folder / FILE, {name: asdict(curve) for name, curve in curves.items()})


def read(folder: Path) -> dict[str, Confidence]:
    """What `write` stored, by verifier; empty where nothing was calibrated."""
    file = folder / FILE
    if not file.is_file():
        return {}
    curves = {}
    for name, entry in read_json(file).items():
        numbers = [entry.get(field.name) for field in fields(Confidence)] if isinstance(entry, dict) else [None]
        if not all(isinstance(number, int | float) and math.isfinite(number) for number in numbers):
            raise ValueError(f"{file} is damaged, get it again: {name} has no curve of three numbers.")
        curves[name] = Confidence(*numbers)
    return curves

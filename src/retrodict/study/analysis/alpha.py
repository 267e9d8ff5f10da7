"""Krippendorff's alpha. By itself, as the server shows it, too, and must not load SciPy for that."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]


def krippendorff_alpha(units: Sequence[Sequence[float] | Values]) -> float:
    """Krippendorff's alpha for ordinal values (Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability").

    `units` holds the values that each unit got, in any order; units with fewer than two values say nothing. 1 is
    perfect agreement, 0 what chance gives. NaN when all values are alike or nothing can be compared. Written here
    because the library of that name has a licence that would bind whoever ships this package; tests compare with it.
    """
    rows = [unit for unit in units if len(unit) > 1]
    if not rows:
        return math.nan
    size_U = np.array([len(row) for row in rows])
    values, place = np.unique(np.concatenate(rows), return_inverse=True)
    counts_UV = np.zeros((len(rows), len(values)))
    np.add.at(counts_UV, (np.repeat(np.arange(len(rows)), size_U), place), 1)
    return alpha_of_counts(counts_UV)


def alpha_of_counts(counts_UV: Values) -> float:
    """The same from how often each unit got each value, [units, values in their order], at least two in each unit."""
    weighted_UV = counts_UV / (counts_UV.sum(1) - 1)[:, None]
    coincidence_VV = weighted_UV.T @ counts_UV - np.diag(weighted_UV.sum(0))
    total_V = coincidence_VV.sum(1)
    cumulative_V = np.cumsum(total_V)
    middle_V = cumulative_V - total_V / 2
    distance_VV = (middle_V[:, None] - middle_V[None, :]) ** 2
    expected = float((np.outer(total_V, total_V) * distance_VV).sum()) / (total_V.sum() - 1)
    return 1 - float((coincidence_VV * distance_VV).sum()) / expected if expected else math.nan

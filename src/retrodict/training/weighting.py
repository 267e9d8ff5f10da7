"""Recognition weights (arXiv 2506.06006, section 3.2, eq. 2): how much a target token's loss counts.

The recognition model is the image tokenizer's encoder: the weight of a token is the squared L2 distance between the
source's and the target's features before quantisation at its position. The paper states no normalisation; on raw
distances the learning rate would depend on the tokenizer, so weights are scaled to mean 1 within each image.
"""

from __future__ import annotations

import numpy as np

from retrodict.models.token_family import FloatArray
from retrodict.training.config import Weighting


def loss_weights(distance_NL: FloatArray, weighting: Weighting) -> FloatArray:
    """Loss weights [N, L] with mean 1 in each row; a pair without any difference gets weight 1 everywhere.

    `distance_NL` is the squared L2 distance of the features of source and target before quantisation.
    """
    if weighting.method == "none":
        return np.ones_like(distance_NL, dtype=np.float32)
    weights_NL = _mean_one(distance_NL)
    if weighting.method == "softened":
        weights_NL = _mean_one(1 + np.minimum(weights_NL, weighting.clip))
    return weights_NL


def _mean_one(raw_NL: FloatArray) -> FloatArray:
    mean_N1 = raw_NL.mean(1, keepdims=True)
    return np.where(mean_N1 > 0, raw_NL / np.where(mean_N1 > 0, mean_N1, 1), 1).astype(np.float32)

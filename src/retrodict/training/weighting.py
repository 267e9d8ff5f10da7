"""Recognition weights (arXiv 2506.06006, section 3.2, eq. 2): how much a target token's loss counts.

The recognition model is the image tokenizer's encoder: the weight of a token is the squared L2 distance between the
source's and the target's features before quantisation at its place. The paper states no normalisation; on raw
distances the learning rate would depend on the tokenizer, so weights are scaled to mean 1 within each image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from retrodict.models.protocol import FloatArray


@dataclass(frozen=True)
class Weighting:
    """How raw distances become loss weights.

    `none` gives every token weight 1. `recognition` is the paper's. `softened` is `1 + min(w, clip)`, scaled back to
    mean 1: no token loses more than a bounded share of its loss, so that copying the background is still learned.
    """

    kind: Literal["none", "recognition", "softened"] = "none"
    clip: float = 3.0


def recognition_weights(source_NLD: FloatArray, target_NLD: FloatArray, weighting: Weighting) -> FloatArray:
    """Loss weights [N, L] with mean 1 in each row; a pair without any difference gets weight 1 everywhere."""
    if weighting.kind == "none":
        return np.ones(source_NLD.shape[:2], dtype=np.float32)
    weights_NL = _mean_one(np.square(source_NLD - target_NLD).sum(-1))
    if weighting.kind == "softened":
        weights_NL = _mean_one(1 + np.minimum(weights_NL, weighting.clip))
    return weights_NL


def _mean_one(raw_NL: FloatArray) -> FloatArray:
    mean = raw_NL.mean(1, keepdims=True)
    return np.where(mean > 0, raw_NL / np.where(mean > 0, mean, 1), 1).astype(np.float32)

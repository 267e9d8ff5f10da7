"""Sampling one image token from its logits, with random numbers that belong to the candidate.

Shape suffixes: K codebook entries, L tokens of one image.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor

from retrodict.models.token_family import FloatArray, TokenSequence
from retrodict.sampling import Sampling


def probabilities(logits: Tensor, sampling: Sampling) -> Tensor:
    """What tokens are sampled from, [..., K] to [..., K]; of greedy decoding, what it would be at temperature 1."""
    logits = logits / (sampling.temperature or 1.0)
    if 0 < sampling.top_k < logits.shape[-1]:
        least = logits.topk(sampling.top_k).values[..., -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    kept = logits.softmax(-1)
    if sampling.top_p < 1:
        ordered, positions = kept.sort(descending=True)
        before = ordered.cumsum(-1) - ordered  # mass of what is likelier; the likeliest token is always kept
        kept = torch.zeros_like(kept).scatter(-1, positions, ordered.masked_fill(before >= sampling.top_p, 0))
    return kept


def sample_token(probability: Tensor, uniform: Tensor) -> Tensor:
    """Inverse-CDF sampling, [..., K] and [...] to [...]: the token whose cumulative probability exceeds the number."""
    cumulative = probability.cumsum(-1)
    scaled = uniform[..., None] * cumulative[..., -1:]
    return torch.searchsorted(cumulative, scaled, right=True)[..., 0].clamp(max=probability.shape[-1] - 1)


def uniforms(seed: int, index: int, sequence: TokenSequence, count: int) -> FloatArray:
    """The random numbers in [0, 1) that sample candidate `index` of a prompt, one per token.

    They depend on the seed, the index and the prompt alone, so a candidate is the same whatever the batch holds.
    """
    completion = sequence.segments.completion
    prefix_T = sequence.ids_T if completion is None else sequence.ids_T[: completion[0]]
    digest = hashlib.blake2b(f"{seed}/{index}/".encode() + prefix_T.tobytes(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest)).random(count, dtype=np.float32)

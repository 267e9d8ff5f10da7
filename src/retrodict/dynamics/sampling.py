"""How one token is drawn: temperature, top-k, top-p, and each candidate's own random numbers.

Shape suffixes: K image codes, L tokens of one image.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from retrodict.models.protocol import FloatArray, TokenSequence


@dataclass(frozen=True)
class Sampling:
    """Temperature 0 is greedy. `top_k` keeps the k likeliest codes (0: all), then `top_p` the fewest codes that hold
    this share of the probability (1: all). `guidance` is the strength of the text (None: off), see
    `TokenFamily.guidance`; it is applied to raw logits, before all of these."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    guidance: float | None = None

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ValueError(f"The temperature must not be negative, but is {self.temperature}.")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, not {self.top_p}.")
        if self.top_k < 0:
            raise ValueError(f"top_k must be 0 (off) or more, not {self.top_k}.")

    def probabilities(self, logits: Tensor) -> Tensor:
        """[..., K] to [..., K]: what a code is drawn from. Of a greedy sampling, what it would be at temperature 1."""
        logits = logits / (self.temperature or 1.0)
        if 0 < self.top_k < logits.shape[-1]:
            least = logits.topk(self.top_k).values[..., -1:]
            logits = logits.masked_fill(logits < least, -torch.inf)
        kept = logits.softmax(-1)
        if self.top_p < 1:
            ordered, places = kept.sort(descending=True)
            before = ordered.cumsum(-1) - ordered  # what is likelier; the likeliest code is always kept
            kept = torch.zeros_like(kept).scatter(-1, places, ordered.masked_fill(before >= self.top_p, 0))
        return kept


PLAIN = Sampling()  # from the model's own distribution


def draw(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """Inverse-CDF sampling, [..., K] and [...] to [...]: the code whose cumulative share first exceeds the number."""
    cumulative = probabilities.cumsum(-1)
    scaled = uniform[..., None] * cumulative[..., -1:]
    return torch.searchsorted(cumulative, scaled, right=True)[..., 0].clamp(max=probabilities.shape[-1] - 1)


def uniforms(seed: int, index: int, sequence: TokenSequence, count: int) -> FloatArray:
    """The random numbers that draw candidate `index` of a prompt, in [0, 1)."""
    assert sequence.segments.completion is not None
    prefix_T = sequence.ids_T[: sequence.segments.completion[0]]
    digest = hashlib.blake2b(f"{seed}/{index}/".encode() + prefix_T.tobytes(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest)).random(count, dtype=np.float32)

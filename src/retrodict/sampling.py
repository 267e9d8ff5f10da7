"""How a model is sampled: settings alone, so that recipes and commands can hold them without loading torch."""

from __future__ import annotations

from dataclasses import dataclass, replace


class SamplingError(ValueError):
    """A model cannot be sampled with these settings, whatever it is asked for."""


@dataclass(frozen=True)
class Sampling:
    """Sampling parameters, applied in this order: guidance, temperature, top-k, top-p.

    Raises `ValueError` for a negative temperature or `top_k`, and a `top_p` outside (0, 1].
    """

    temperature: float = 1.0
    """Divides the logits; 0 is greedy decoding."""
    top_p: float = 1.0
    """Nucleus sampling: keep the fewest tokens that hold this share of the probability. 1 keeps all."""
    top_k: int = 0
    """Keep the k likeliest tokens. 0 keeps all."""
    guidance: float | None = None
    """Scale of classifier-free guidance, as the model's authors count it. None is the model's default, which for models
    of image tokens is no guidance."""

    def __post_init__(self) -> None:
        if not self.temperature >= 0:
            raise ValueError(f"The temperature must not be negative, but is {self.temperature}.")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, not {self.top_p}.")
        if self.top_k < 0:
            raise ValueError(f"top_k must be 0 (off) or more, not {self.top_k}.")

    @property
    def greedy(self) -> Sampling:
        """The same guidance, decoded greedily."""
        return replace(self, temperature=0.0, top_p=1.0, top_k=0)

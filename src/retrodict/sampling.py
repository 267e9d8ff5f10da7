"""How a model is sampled: settings alone, so that recipes and commands can hold them without loading torch."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

MOST_CANDIDATES = 1024  # of one prediction, proposals and frames of a plan


class SamplingError(ValueError):
    """A model cannot be sampled with these settings, whatever it is asked for."""


@dataclass(frozen=True)
class Sampling:
    """Sampling parameters, applied in this order: guidance, temperature, top-k, top-p.

    Raises `ValueError` for a negative temperature or `top_k`, and a `top_p` outside (0, 1].
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}  # the section `sampling` of recipes

    temperature: float = field(
        default=1.0, metadata={"help": "Sampling temperature: above 1 candidates differ more, below less; 0 is greedy."}
    )
    top_p: float = field(
        default=1.0,
        metadata={"help": "Nucleus sampling: keep the likeliest tokens that together hold this probability."},
    )
    top_k: int = field(default=0, metadata={"help": "Keep this many likeliest tokens; 0 keeps all."})
    guidance: float | None = field(
        default=None,
        metadata={
            "help": "Scale of classifier-free guidance, as the model's authors count it; by default the model's own, "
            "which for models of image tokens is none."
        },
    )

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

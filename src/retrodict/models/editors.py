"""Forward models that are not unified models: baselines and image editors."""

from __future__ import annotations

from collections.abc import Sequence

from retrodict.models.protocol import Candidate, Frame, image_of


class CopyModel:
    """Predicts that nothing happens. Every table has it: a similarity metric that it wins measures copying."""

    def sample(
        self, sources: Sequence[Frame], actions: Sequence[str], n: int, seed: int, temperature: float = 1.0
    ) -> list[list[Candidate]]:
        """`n` times the source; the actions, the seed and the temperature do not matter."""
        return [[Candidate(image_of(source))] * n for source, _ in zip(sources, actions, strict=True)]

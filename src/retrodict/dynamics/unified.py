"""A token family as an inverse and a forward model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from retrodict.dynamics.confidence import Confidence
from retrodict.dynamics.generate import sample_actions, sample_images, write_actions
from retrodict.dynamics.likelihood import score
from retrodict.dynamics.sequences import build
from retrodict.models.protocol import Candidate, Explanation, Frame, LogProb, Pair, image_of
from retrodict.models.token_family import IntArray, TokenFamily
from retrodict.sampling import Sampling


class UnifiedModel:
    """`ProposingInverseModel` and `ScoringForwardModel` over one `TokenFamily`.

    Frames are images, or candidates whose image tokens are used as they are when they come from the same tokenizer.
    """

    def __init__(self, family: TokenFamily, confidence: Mapping[str, Confidence] | None = None) -> None:
        """Args:
        family: the model.
        confidence: how sure to be of its predictions by the score of each verifier, where that was calibrated.
        """
        self.family, self.confidence = family, confidence or {}

    def codes(self, frames: Sequence[Frame]) -> IntArray:
        """Image tokens [N, L] of frames. Frames that are the same object are encoded once."""
        index_of: dict[int, int] = {}
        fresh: list[Image.Image] = []
        for frame in frames:
            if self._own_codes(frame) is None and id(frame) not in index_of:
                index_of[id(frame)] = len(fresh)
                fresh.append(frame.image if isinstance(frame, Candidate) else frame)
        encoded_NL = self.family.encode(fresh).codes_NL if fresh else np.zeros((0, self.family.spec.tokens), np.int64)
        rows = []
        for frame in frames:
            own_L = self._own_codes(frame)
            rows.append(encoded_NL[index_of[id(frame)]] if own_L is None else own_L)
        return np.stack(rows) if rows else encoded_NL

    def _codes_of_both(self, sources: Sequence[Frame], targets: Sequence[Frame]) -> tuple[IntArray, IntArray]:
        """In one call, as neighbouring pairs share frames."""
        codes_NL = self.codes([*sources, *targets])
        return codes_NL[: len(sources)], codes_NL[len(sources) :]

    def _own_codes(self, frame: Frame) -> IntArray | None:
        same = isinstance(frame, Candidate) and frame.tokenizer == self.family.tokenizer
        return frame.codes_L if same and isinstance(frame, Candidate) else None

    def explain(self, pairs: Sequence[Pair]) -> list[Explanation]:
        return self.explain_codes(*self._codes_of_both(*zip(*pairs, strict=True))) if pairs else []

    def explain_codes(self, sources_NL: IntArray, targets_NL: IntArray) -> list[Explanation]:
        sequences = [
            build(self.family, "inverse", source_L=s, target_L=t) for s, t in zip(sources_NL, targets_NL, strict=True)
        ]
        return write_actions(self.family, sequences)

    def propose(self, pairs: Sequence[Pair], n: int, seed: int, temperature: float) -> list[list[Explanation]]:
        rows = zip(*self._codes_of_both([s for s, _ in pairs], [t for _, t in pairs]), strict=True)
        sequences = [build(self.family, "inverse", source_L=s, target_L=t) for s, t in rows]
        return sample_actions(self.family, sequences, n, seed, temperature)

    def score(self, pairs: Sequence[Pair], actions: Sequence[str]) -> list[LogProb]:
        sources_NL, targets_NL = self._codes_of_both([s for s, _ in pairs], [t for _, t in pairs])
        rows = zip(sources_NL, targets_NL, actions, strict=True)
        sequences = [build(self.family, "inverse", source_L=s, target_L=t, action=a) for s, t, a in rows]
        return score(self.family, sequences)

    def score_targets(
        self, sources: Sequence[Frame], actions: Sequence[str], targets: Sequence[Frame]
    ) -> list[LogProb]:
        rows = zip(*self._codes_of_both(sources, targets), actions, strict=True)
        sequences = [build(self.family, "forward", source_L=s, target_L=t, action=a) for s, t, a in rows]
        return score(self.family, sequences)

    def sample(
        self,
        sources: Sequence[Frame],
        actions: Sequence[str],
        n: int,
        seed: int,
        sampling: Sampling = Sampling(),
    ) -> list[list[Candidate]]:
        codes_PNL, logprobs_PN = sample_images(self.family, self.codes(sources), actions, n, seed, sampling)
        # Candidates of one prompt are often equal: they are one object, decoded, scored and stored once.
        index_of: dict[tuple[int, bytes], int] = {}
        same_as = [
            [index_of.setdefault((p, codes_L.tobytes()), len(index_of)) for codes_L in codes_NL]
            for p, codes_NL in enumerate(codes_PNL)
        ]
        distinct = [(p, row.index(i)) for p, row in enumerate(same_as) for i in dict.fromkeys(row)]
        sizes = [image_of(sources[p]).size for p, _ in distinct]
        images = self.family.decode(np.stack([codes_PNL[at] for at in distinct]), sizes) if distinct else []
        tokens = self.family.spec.tokens
        made = [
            Candidate(image, codes_PNL[at], self.family.tokenizer, LogProb(float(logprobs_PN[at]), tokens))
            for image, at in zip(images, distinct, strict=True)
        ]
        return [[made[i] for i in row] for row in same_as]

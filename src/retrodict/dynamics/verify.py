"""Inference-time verification (arXiv 2506.06006, section 3.3): sample N candidates, score each, keep the best.

A verifier gives every candidate of every prompt a score. All scores of all candidates are kept, so that one pool of N
answers the question for every n <= N and every verifier, on the same candidates.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from PIL import Image

from retrodict.dynamics.unified import UnifiedModel
from retrodict.models.protocol import (
    Candidate,
    ForwardModel,
    Frame,
    InverseModel,
    LogProb,
    Pair,
    ScoringForwardModel,
    image_of,
)
from retrodict.sampling import Sampling

SAME = 6.0  # mean difference in grey levels of 255, in each cell, below which people see none


class Verifier(Protocol):
    """Scores candidates; higher is better, NaN where no score could be computed."""

    name: str

    def scores(
        self, sources: Sequence[Frame], actions: Sequence[str], pools: Sequence[Sequence[Candidate]]
    ) -> list[list[float]]: ...


class ReadsInverse(ABC):
    """A verifier that asks an inverse model how likely the action is for each candidate."""

    name: str

    def __init__(self, model: InverseModel) -> None:
        self.model = model

    def scores(
        self, sources: Sequence[Frame], actions: Sequence[str], pools: Sequence[Sequence[Candidate]]
    ) -> list[list[float]]:
        return self.combine(inverse_logprobs(self.model, sources, actions, pools), sources, actions, pools)

    @abstractmethod
    def combine(
        self,
        found: Sequence[Sequence[LogProb]],
        sources: Sequence[Frame],
        actions: Sequence[str],
        pools: Sequence[Sequence[Candidate]],
    ) -> list[list[float]]:
        """Scores out of the model's answers `found`, one for each candidate."""


class InverseLikelihood(ReadsInverse):
    """The paper's verifier: log p(action | source, candidate) under an inverse model, or its mean over tokens."""

    def __init__(self, model: InverseModel, *, per_token: bool = False) -> None:
        super().__init__(model)
        self.per_token = per_token
        self.name = "idm_mean" if per_token else "idm"

    def combine(
        self,
        found: Sequence[Sequence[LogProb]],
        sources: Sequence[Frame],
        actions: Sequence[str],
        pools: Sequence[Sequence[Candidate]],
    ) -> list[list[float]]:
        return [[logprob.mean if self.per_token else logprob.sum for logprob in row] for row in found]


class InverseAndForwardLikelihood(ReadsInverse):
    """log p_IDM(action | source, candidate) + log p_FDM(candidate | source, action).

    The inverse likelihood alone can be fooled by unlikely frames in which the action is easy to read; the forward
    model's own likelihood holds it to plausible ones. Candidates that carry their likelihood are not scored again.
    Both count alike: on tabletop, weights of 0.1 to 0.5 for the second did worse, and 2 no better (a demo with a seed
    that is not among the measured ones).
    """

    name = "idm_fdm"

    def __init__(self, inverse: InverseModel, forward: ScoringForwardModel | None = None) -> None:
        super().__init__(inverse)
        self._forward = forward

    def combine(
        self,
        found: Sequence[Sequence[LogProb]],
        sources: Sequence[Frame],
        actions: Sequence[str],
        pools: Sequence[Sequence[Candidate]],
    ) -> list[list[float]]:
        forward = _regroup(self._forward_logprobs(sources, actions, pools), pools)
        return [
            [i.sum + f for i, f in zip(row_i, row_f, strict=True)] for row_i, row_f in zip(found, forward, strict=True)
        ]

    def _forward_logprobs(
        self, sources: Sequence[Frame], actions: Sequence[str], pools: Sequence[Sequence[Candidate]]
    ) -> list[float]:
        rows = _flat(sources, actions, pools)
        if self._forward is None:
            return [candidate.logprob.sum for _, _, candidate in rows]
        sides = ([s for s, _, _ in rows], [a for _, a, _ in rows], [c for _, _, c in rows])
        found: list[LogProb] = self._forward.score_targets(*sides)
        return [logprob.sum for logprob in found]


class Contrast(ReadsInverse):
    """How much likelier the asked action is than others: its log-share in a softmax over itself and `others`.

    A likelihood is low for a rare sentence whatever a candidate shows; a share is not. By default the others are the
    actions that the model itself reads out of the pool's candidates.
    """

    name = "contrast"

    def __init__(self, model: InverseModel, others: Sequence[str] | None = None) -> None:
        super().__init__(model)
        self._others = others

    def combine(
        self,
        found: Sequence[Sequence[LogProb]],
        sources: Sequence[Frame],
        actions: Sequence[str],
        pools: Sequence[Sequence[Candidate]],
    ) -> list[list[float]]:
        pairs: list[Pair] = []
        asked: list[str] = []
        counts: list[int] = []
        for source, action, pool, others in zip(sources, actions, pools, self._rivals(sources, pools), strict=True):
            rivals = [other for other in dict.fromkeys(others) if other and other != action]
            for candidate in pool:
                pairs += [(source, candidate)] * len(rivals)
                asked += rivals
                counts.append(len(rivals))
        answers = iter(self.model.score(pairs, asked) if pairs else [])
        shares = []
        for own, count in zip((logprob.sum for row in found for logprob in row), counts, strict=True):
            rest = [next(answers).sum for _ in range(count)]
            shares.append(own - float(np.logaddexp.reduce([own, *rest])))
        return _regroup(shares, pools)

    def _rivals(self, sources: Sequence[Frame], pools: Sequence[Sequence[Candidate]]) -> list[Sequence[str]]:
        if self._others is not None:
            return [self._others for _ in pools]
        read = self.model.explain([(source, c) for source, pool in zip(sources, pools, strict=True) for c in pool])
        rest = iter(read)
        return [[next(rest).action for _ in pool] for pool in pools]


def inverse_logprobs(
    model: InverseModel, sources: Sequence[Frame], actions: Sequence[str], pools: Sequence[Sequence[Candidate]]
) -> list[list[LogProb]]:
    """log p(action | source, candidate) of every candidate of every prompt, in one call of the model."""
    rows = _flat(sources, actions, pools)
    rest = iter(model.score([(source, candidate) for source, _, candidate in rows], [a for _, a, _ in rows]))
    return [[next(rest) for _ in pool] for pool in pools]


def scores_of_all(
    verifiers: Sequence[Verifier],
    sources: Sequence[Frame],
    actions: Sequence[str],
    pools: Sequence[Sequence[Candidate]],
) -> dict[str, list[list[float]]]:
    """The scores of each verifier, by name. An inverse model that several of them ask is asked once."""
    answers: dict[int, list[list[LogProb]]] = {}
    found: dict[str, list[list[float]]] = {}
    for verifier in verifiers:
        if isinstance(verifier, ReadsInverse):
            key = id(verifier.model)
            if key not in answers:
                answers[key] = inverse_logprobs(verifier.model, sources, actions, pools)
            found[verifier.name] = verifier.combine(answers[key], sources, actions, pools)
        else:
            found[verifier.name] = verifier.scores(sources, actions, pools)
    return found


class Random:
    """Picks without looking: what any verifier must beat."""

    name = "random"

    def __init__(self, seed: int = 0) -> None:
        self._rng = np.random.default_rng(seed)

    def scores(
        self, sources: Sequence[Frame], actions: Sequence[str], pools: Sequence[Sequence[Candidate]]
    ) -> list[list[float]]:
        return [self._rng.random(len(pool)).tolist() for pool in pools]


class ScoredBy:
    """Any function of (source, action, candidate picture): an exact state check, a reward model, a person."""

    def __init__(self, name: str, function: Callable[[Image.Image, str, Image.Image], float]) -> None:
        self.name = name
        self._function = function

    def scores(
        self, sources: Sequence[Frame], actions: Sequence[str], pools: Sequence[Sequence[Candidate]]
    ) -> list[list[float]]:
        found = [
            self._function(image_of(source), action, candidate.image)
            for source, action, candidate in _flat(sources, actions, pools)
        ]
        return _regroup(found, pools)


class CopyGate:
    """Rejects candidates that cannot be told from the source as the image tokenizer reconstructs it.

    A model that does nothing is often the safest in its own eyes. Rejected candidates score minus infinity: they are
    chosen only when there is nothing else.
    """

    def __init__(self, verifier: Verifier, model: UnifiedModel) -> None:
        self._verifier, self._model = verifier, model
        self.name = f"{verifier.name}_no_copies"

    def scores(
        self, sources: Sequence[Frame], actions: Sequence[str], pools: Sequence[Sequence[Candidate]]
    ) -> list[list[float]]:
        found = self._verifier.scores(sources, actions, pools)
        family = self._model.family
        unchanged = family.decode(self._model.codes(sources))
        return [
            [
                -math.inf if same_picture(image, candidate.image, family.spec.grid) else score
                for candidate, score in zip(pool, scores, strict=True)
            ]
            for image, pool, scores in zip(unchanged, pools, found, strict=True)
        ]


def same_picture(a: Image.Image, b: Image.Image, grid: tuple[int, int]) -> bool:
    """Whether no cell of the grid differs visibly. `b` is resized to `a`."""
    if b.size != a.size:
        b = b.resize(a.size, Image.Resampling.BOX)
    difference = np.abs(np.asarray(a.convert("RGB"), np.float32) - np.asarray(b.convert("RGB"), np.float32)).mean(2)
    rows, columns = grid
    cells = [cell for band in np.array_split(difference, rows) for cell in np.array_split(band, columns, axis=1)]
    return max(float(cell.mean()) for cell in cells) < SAME


@dataclass(frozen=True, eq=False)
class Prediction:
    """A predicted frame, and everything it was chosen from.

    `scores` has one score per candidate under the verifier (higher is better); NaN where nothing was scored, as in the
    greedy prediction of the verifier "none", which has one candidate. `drift` is for steps of a rollout: the share of
    the frame's image codes that decoding and encoding again would change, NaN where it has none.
    """

    candidates: tuple[Candidate, ...]
    scores: tuple[float, ...]
    chosen: int
    verifier: str
    drift: float = math.nan

    @property
    def candidate(self) -> Candidate:
        return self.candidates[self.chosen]

    @property
    def image(self) -> Image.Image:
        return self.candidate.image


def predict(
    forward: ForwardModel,
    verifier: Verifier | None,
    source: Frame,
    action: str,
    *,
    n: int,
    seed: int,
    sampling: Sampling = Sampling(),
) -> Prediction:
    """Draw `n` candidates and keep the one that the verifier scores highest; without a verifier, be greedy.

    Raises `ValueError` when the model cannot express the action, or when the verifier can score no candidate.
    """
    if verifier is None:
        (greedy,) = forward.sample([source], [action], 1, seed, sampling.greedy)
        return Prediction(tuple(greedy), (math.nan,), 0, "none")
    pools = forward.sample([source], [action], n, seed, sampling)
    (scores,) = verifier.scores([source], [action], pools)
    return Prediction(tuple(pools[0]), tuple(scores), choose(scores), verifier.name)


def _flat(
    sources: Sequence[Frame], actions: Sequence[str], pools: Sequence[Sequence[Candidate]]
) -> list[tuple[Frame, str, Candidate]]:
    return [(s, a, c) for s, a, pool in zip(sources, actions, pools, strict=True) for c in pool]


def _regroup(values: Sequence[float], pools: Sequence[Sequence[Candidate]]) -> list[list[float]]:
    rest = iter(values)
    return [[next(rest) for _ in pool] for pool in pools]


def choose(scores: Sequence[float]) -> int:
    """Index of the best score, the first of equals; NaN loses to any number. All NaN is an error."""
    scored = [i for i, score in enumerate(scores) if not math.isnan(score)]
    if not scored:
        raise ValueError("No candidate could be scored, so none can be chosen.")
    return max(scored, key=lambda i: (scores[i], -i))

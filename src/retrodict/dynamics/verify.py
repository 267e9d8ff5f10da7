"""Verifiers (arXiv 2506.06006, section 3.3): what says which candidates show the action.

A verifier scores every candidate, and all scores are kept: one pool of N candidates answers best-of-n for every n <= N
and every verifier. `verifiers.VERIFIERS` has those that can be chosen by name.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from retrodict.models.protocol import Candidate, Frame, InverseModel, LogProb, Pair, ScoringForwardModel, image_of

if TYPE_CHECKING:
    from retrodict.dynamics.unified import UnifiedModel

FORWARD_WEIGHT = 2.0  # of the forward model's log-likelihood beside the inverse model's
SAME = 6.0  # mean difference in grey levels of 255, in each cell, below which people see none


@dataclass(frozen=True, eq=False)
class Pool:
    """Candidates for one prompt: a source frame and an action, in words."""

    source: Frame
    action: str
    candidates: Sequence[Candidate]

    @property
    def pairs(self) -> list[Pair]:
        """(source, candidate) for each candidate."""
        return [(self.source, candidate) for candidate in self.candidates]


class Verifier(Protocol):
    """Scores candidates."""

    name: str

    def scores(self, pools: Sequence[Pool]) -> list[list[float]]:
        """Score candidates of several prompts.

        Args:
            pools: the candidates of each prompt.

        Returns:
            One list per pool, one score per candidate. Higher is better; NaN where no score could be computed.
        """
        ...


class ReadsInverse(ABC):
    """A verifier that asks an inverse model how likely the action is for each candidate."""

    name: str

    def __init__(self, model: InverseModel) -> None:
        self.model = model

    def scores(self, pools: Sequence[Pool]) -> list[list[float]]:
        return self.combine(inverse_logprobs(self.model, pools), pools)

    @abstractmethod
    def combine(self, logprobs: Sequence[Sequence[LogProb]], pools: Sequence[Pool]) -> list[list[float]]:
        """Scores out of log p(action | source, candidate) of each candidate."""


class InverseLikelihood(ReadsInverse):
    """The paper's verifier: log p(action | source, candidate) under an inverse model, or its mean over tokens."""

    def __init__(self, model: InverseModel, *, per_token: bool = False) -> None:
        super().__init__(model)
        self.per_token = per_token
        self.name = "idm_mean" if per_token else "idm"

    def combine(self, logprobs: Sequence[Sequence[LogProb]], pools: Sequence[Pool]) -> list[list[float]]:
        return [[logprob.mean if self.per_token else logprob.sum for logprob in row] for row in logprobs]


class InverseAndForwardLikelihood(ReadsInverse):
    """log p_IDM(action | source, candidate) + `FORWARD_WEIGHT` * log p_FDM(candidate | source, action).

    The inverse likelihood alone can be fooled by unlikely frames in which the action is easy to read; the forward
    model's own likelihood holds it to plausible ones. Candidates that carry their likelihood are not scored again.
    Weights from 1.5 to 4 do alike (chosen on a demo with a seed that is not among the measured ones).
    """

    name = "idm_fdm"

    def __init__(self, inverse: InverseModel, forward: ScoringForwardModel | None = None) -> None:
        super().__init__(inverse)
        self._forward = forward

    def combine(self, logprobs: Sequence[Sequence[LogProb]], pools: Sequence[Pool]) -> list[list[float]]:
        forward = _regroup(self._forward_logprobs(pools), pools)
        return [
            [i.sum + FORWARD_WEIGHT * f for i, f in zip(inverse_row, forward_row, strict=True)]
            for inverse_row, forward_row in zip(logprobs, forward, strict=True)
        ]

    def _forward_logprobs(self, pools: Sequence[Pool]) -> list[float]:
        if self._forward is None:
            return [candidate.logprob.sum for pool in pools for candidate in pool.candidates]
        rows = [(pool.source, pool.action, candidate) for pool in pools for candidate in pool.candidates]
        sides = [source for source, _, _ in rows], [action for _, action, _ in rows], [target for _, _, target in rows]
        return [logprob.sum for logprob in self._forward.score_targets(*sides)]


class Contrast(ReadsInverse):
    """How much likelier the asked action is than others: its log-share in a softmax over itself and `others`.

    A likelihood is low for a rare sentence whatever a candidate shows; a share is not. By default the others are the
    actions that the model itself reads out of the pool's candidates.
    """

    name = "contrast"

    def __init__(self, model: InverseModel, others: Sequence[str] | None = None) -> None:
        super().__init__(model)
        self._others = others

    def combine(self, logprobs: Sequence[Sequence[LogProb]], pools: Sequence[Pool]) -> list[list[float]]:
        pairs: list[Pair] = []
        asked: list[str] = []
        counts: list[int] = []
        for pool, others in zip(pools, self._rivals(pools), strict=True):
            rivals = [other for other in dict.fromkeys(others) if other and other != pool.action]
            for pair in pool.pairs:
                pairs += [pair] * len(rivals)
                asked += rivals
                counts.append(len(rivals))
        answers = iter(self.model.score(pairs, asked) if pairs else [])
        shares = []
        for own, count in zip((logprob.sum for row in logprobs for logprob in row), counts, strict=True):
            rest = [next(answers).sum for _ in range(count)]
            shares.append(own - float(np.logaddexp.reduce([own, *rest])))
        return _regroup(shares, pools)

    def _rivals(self, pools: Sequence[Pool]) -> list[Sequence[str]]:
        if self._others is not None:
            return [self._others for _ in pools]
        rest = iter(self.model.explain([pair for pool in pools for pair in pool.pairs]))
        return [[next(rest).action for _ in pool.candidates] for pool in pools]


class Random:
    """Picks without looking: what any verifier must beat."""

    name = "random"

    def __init__(self, seed: int = 0) -> None:
        self._rng = np.random.default_rng(seed)

    def scores(self, pools: Sequence[Pool]) -> list[list[float]]:
        return [self._rng.random(len(pool.candidates)).tolist() for pool in pools]


class ScoredBy:
    """Any function of (source, action, candidate image): an exact state check, a reward model, a person."""

    def __init__(self, name: str, function: Callable[[Image.Image, str, Image.Image], float]) -> None:
        self.name = name
        self._function = function

    def scores(self, pools: Sequence[Pool]) -> list[list[float]]:
        return [
            [self._function(image_of(pool.source), pool.action, candidate.image) for candidate in pool.candidates]
            for pool in pools
        ]


class CopyGate:
    """Rejects candidates that are indistinguishable from the source as the image tokenizer reconstructs it.

    A model that does nothing is often the safest in its own eyes. Rejected candidates score minus infinity: they are
    chosen only when there is nothing else.
    """

    def __init__(self, verifier: Verifier, model: UnifiedModel) -> None:
        self._verifier, self._model = verifier, model
        self.name = f"{verifier.name}_no_copies"

    def scores(self, pools: Sequence[Pool]) -> list[list[float]]:
        family = self._model.family
        unchanged = family.decode(self._model.codes([pool.source for pool in pools]))
        return [
            [
                -math.inf if same_image(source, candidate.image, family.spec.grid) else score
                for candidate, score in zip(pool.candidates, scores, strict=True)
            ]
            for source, pool, scores in zip(unchanged, pools, self._verifier.scores(pools), strict=True)
        ]


def same_image(a: Image.Image, b: Image.Image, grid: tuple[int, int]) -> bool:
    """Whether no cell of the grid (rows, columns) differs visibly. `b` is resized to `a`."""
    return not changed_cells(a, b, grid).any()


def changed_cells(a: Image.Image, b: Image.Image, grid: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Which cells of the grid (rows, columns) differ visibly. `b` is resized to `a`."""
    if b.size != a.size:
        b = b.resize(a.size, Image.Resampling.BOX)
    difference = np.abs(np.asarray(a.convert("RGB"), np.int64) - np.asarray(b.convert("RGB"), np.int64)).sum(2)
    below = np.pad(difference.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    ys, xs = (_edges(side, count) for side, count in zip(difference.shape, grid, strict=True))
    sums = np.diff(np.diff(below[np.ix_(ys, xs)], axis=0), axis=1)
    changed: npt.NDArray[np.bool_] = sums >= 3 * SAME * np.maximum(np.outer(np.diff(ys), np.diff(xs)), 1)
    return changed


def _edges(side: int, count: int) -> npt.NDArray[np.int64]:
    """Where the cells of a side begin and end, as `np.array_split` has them."""
    return np.cumsum([0, *(len(cell) for cell in np.array_split(np.arange(side), count))])


def inverse_logprobs(model: InverseModel, pools: Sequence[Pool]) -> list[list[LogProb]]:
    """log p(action | source, candidate) of every candidate of every pool, in one call of the model."""
    pairs = [pair for pool in pools for pair in pool.pairs]
    rest = iter(model.score(pairs, [pool.action for pool in pools for _ in pool.candidates]))
    return [[next(rest) for _ in pool.candidates] for pool in pools]


def scores_of_all(verifiers: Sequence[Verifier], pools: Sequence[Pool]) -> dict[str, list[list[float]]]:
    """The scores of each verifier, by name. An inverse model that several of them ask is asked once."""
    answers: dict[int, list[list[LogProb]]] = {}
    scores: dict[str, list[list[float]]] = {}
    for verifier in verifiers:
        if isinstance(verifier, ReadsInverse):
            key = id(verifier.model)
            if key not in answers:
                answers[key] = inverse_logprobs(verifier.model, pools)
            scores[verifier.name] = verifier.combine(answers[key], pools)
        else:
            scores[verifier.name] = verifier.scores(pools)
    return scores


def _regroup(values: Sequence[float], pools: Sequence[Pool]) -> list[list[float]]:
    rest = iter(values)
    return [[next(rest) for _ in pool.candidates] for pool in pools]

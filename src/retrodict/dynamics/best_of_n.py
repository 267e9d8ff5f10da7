"""Best of N (arXiv 2506.06006, section 3.3): sample N candidates, score each by a verifier, keep the best."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from PIL import Image

from retrodict.dynamics import confidence
from retrodict.dynamics.verify import Pool, Verifier
from retrodict.images import html_row
from retrodict.models.protocol import Candidate, ForwardModel, Frame, LogProb, ScoringForwardModel
from retrodict.sampling import Sampling

FITS = 0.5  # a prediction that is less probably right than this is none


@dataclass(frozen=True, eq=False)
class Prediction:
    """A predicted frame, and everything it was chosen from.

    Attributes:
        candidates: the frames that were sampled.
        scores: one per candidate under the verifier, higher is better; NaN where nothing was scored, as in the greedy
            prediction of the verifier "none", which has one candidate.
        chosen: index of the best candidate.
        verifier: name of the verifier.
        confidence: how probable it is that the choice is right; NaN where that was not calibrated.
        drift: for steps of a rollout, the share of the frame's image tokens that decoding and encoding again would
            change; NaN where it has none.
    """

    candidates: tuple[Candidate, ...]
    scores: tuple[float, ...]
    chosen: int
    verifier: str
    drift: float = math.nan
    confidence: float = math.nan

    @property
    def candidate(self) -> Candidate:
        """The chosen candidate."""
        return self.candidates[self.chosen]

    @property
    def image(self) -> Image.Image:
        """The chosen candidate's image."""
        return self.candidate.image

    @property
    def fits(self) -> bool:
        """False where not even the best candidate is more probably right than wrong, as after an impossible action."""
        return not self.confidence < FITS

    def __repr__(self) -> str:
        sure = "" if math.isnan(self.confidence) else f", right with probability {self.confidence:.2f}"
        return f"Prediction(candidate {self.chosen + 1} of {len(self.candidates)} by {self.verifier!r}{sure})"

    def _repr_html_(self) -> str:
        """The candidates with their scores, the chosen one marked."""
        captions = ["" if math.isnan(score) else f"{score:.2f}" for score in self.scores]
        cells = zip((c.image for c in self.candidates), captions, strict=True)
        return html_row(repr(self), [(image, text, i == self.chosen) for i, (image, text) in enumerate(cells)])


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
    """`predict_batch` of one source and action."""
    return predict_batch(forward, verifier, [source], [action], n=n, seed=seed, sampling=sampling)[0]


def predict_batch(
    forward: ForwardModel,
    verifier: Verifier | None,
    sources: Sequence[Frame],
    actions: Sequence[str],
    *,
    n: int,
    seed: int,
    sampling: Sampling = Sampling(),
) -> list[Prediction]:
    """Best of `n` for each source and action: sample candidates and keep the one that the verifier scores highest.

    Args:
        forward: the model that predicts.
        verifier: what scores; None decodes one candidate greedily.
        sources: the frames before the actions.
        actions: what happens, in words; one for each source.
        n: number of candidates.
        seed: the same seed gives the same candidates, whatever else is in the batch.
        sampling: how they are sampled.

    Raises:
        ValueError: the model cannot express an action, or no candidate of one could be scored.
    """
    if verifier is None:
        greedy = forward.sample(sources, actions, 1, seed, sampling.greedy)
        return [Prediction(tuple(candidates), (math.nan,), 0, "none") for candidates in greedy]
    sampled = forward.sample(sources, actions, n, seed, sampling)
    pools = [Pool(*row) for row in zip(sources, actions, sampled, strict=True)]
    rows = zip(pools, verifier.scores(pools), strict=True)
    return [prediction(forward, pool.candidates, scores, verifier.name) for pool, scores in rows]


def prediction(
    forward: ForwardModel, candidates: Sequence[Candidate], scores: Sequence[float], verifier: str
) -> Prediction:
    """The best of some candidates of a model. Raises `ValueError` when none could be scored."""
    best = choose(scores)
    sure = confidence.of(forward, verifier, scores[best])
    return Prediction(tuple(candidates), tuple(scores), best, verifier, confidence=sure)


def choose(scores: Sequence[float]) -> int:
    """Index of the best score, the first of equals; NaN loses to any number. Raises `ValueError` when all are NaN."""
    scored = [i for i, score in enumerate(scores) if not math.isnan(score)]
    if not scored:
        raise ValueError("No candidate could be scored, so none can be chosen.")
    return max(scored, key=lambda i: (scores[i], -i))


class SecondProposer:
    """A forward model whose last candidate is the greedy frame of another.

    The samples of one model share its mistakes, which nothing that it computes itself can find; a frame of another
    model, such as FT beside FDM, need not. Whether that is worth more than another sample: docs/results.md.
    """

    def __init__(self, forward: ScoringForwardModel, other: ForwardModel) -> None:
        self._forward, self._other = forward, other
        self.confidence = confidence.curves_of(forward)

    def sample(
        self,
        sources: Sequence[Frame],
        actions: Sequence[str],
        n: int,
        seed: int,
        sampling: Sampling = Sampling(),
    ) -> list[list[Candidate]]:
        """As of any forward model; a single candidate, and greedy ones, are those of the first."""
        if n < 2 or sampling.temperature == 0:
            return self._forward.sample(sources, actions, n, seed, sampling)
        own = self._forward.sample(sources, actions, n - 1, seed, sampling)
        others = [greedy for (greedy,) in self._other.sample(sources, actions, 1, seed, sampling.greedy)]
        likely = self._forward.score_targets(sources, actions, others)
        return [
            [*candidates, replace(other, logprob=logprob)]
            for candidates, other, logprob in zip(own, others, likely, strict=True)
        ]

    def score_targets(
        self, sources: Sequence[Frame], actions: Sequence[str], targets: Sequence[Frame]
    ) -> list[LogProb]:
        """As the first model does."""
        return self._forward.score_targets(sources, actions, targets)

"""What a model must offer. Everything above `models/` is written against these protocols and knows no family.

Two protocols carry the project: `InverseModel` (which action happened between two frames?) and `ForwardModel` (what
does the frame look like after the action?). `token_family` has what a unified vision-language model offers underneath.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from PIL import Image

from retrodict.images import encode_png
from retrodict.models.token_family import IntArray
from retrodict.sampling import Sampling


@dataclass(frozen=True)
class LogProb:
    """Natural-log probability of a completion: the sum over its `count` tokens. NaN where it could not be computed,
    with the `reason`."""

    sum: float
    count: int
    reason: str = ""

    @property
    def mean(self) -> float:
        return self.sum / self.count if self.count else float("nan")


@dataclass(frozen=True)
class Explanation:
    """An action that a model reads out of a frame pair, and how sure it is."""

    action: str
    logprob: LogProb
    prompt: str = ""  # id of the prompt that asked for it

    def _repr_html_(self) -> str:
        """The action and its log-probability, as notebooks show it."""
        return f"<b>{html.escape(self.action)}</b> (log-probability {self.logprob.sum:.2f})"


@dataclass(frozen=True, eq=False)
class Candidate:
    """One predicted frame.

    `codes_L` are the sampled image tokens of the tokenizer called `tokenizer`. A verifier with the same tokenizer
    scores them, so that nothing is detokenized and re-tokenized.
    """

    image: Image.Image
    codes_L: IntArray | None = None
    tokenizer: str = ""
    logprob: LogProb = LogProb(float("nan"), 0)

    def __repr__(self) -> str:
        return f"Candidate({self.image.width}x{self.image.height}, logprob={self.logprob.sum:.2f})"

    def _repr_png_(self) -> bytes:
        """The image, as notebooks show it."""
        return encode_png(self.image)


Frame = Image.Image | Candidate
Pair = tuple[Frame, Frame]


def image_of(frame: Frame) -> Image.Image:
    return frame.image if isinstance(frame, Candidate) else frame


class InverseModel(Protocol):
    """Reads the action out of frame pairs."""

    def explain(self, pairs: Sequence[Pair]) -> list[Explanation]:
        """The likeliest action between two frames (inverse prediction).

        Args:
            pairs: Source and target of each transition; images of any size, or candidates of a forward model, whose
                image tokens are read as they were sampled where the tokenizer is the same.

        Returns:
            One explanation for each pair, in order: the action in words, decoded greedily, and its log-probability.

        Raises:
            ValueError: A pair cannot be read.
        """
        ...

    def score(self, pairs: Sequence[Pair], actions: Sequence[str]) -> list[LogProb]:
        """log p(action | source, target).

        Args:
            pairs: As for `explain`.
            actions: One for each pair.

        Returns:
            One log-probability for each pair, in nats, with the number of tokens that it is summed over: those of the
            action and the one that ends it.

        Raises:
            ValueError: An action is empty or cannot be expressed in the model's vocabulary.
        """
        ...


class ProposingInverseModel(InverseModel, Protocol):
    """An inverse model that can also sample several actions for one pair."""

    def propose(self, pairs: Sequence[Pair], n: int, seed: int, temperature: float) -> list[list[Explanation]]:
        """Sample actions.

        Args:
            pairs: As for `explain`; they may lie several actions apart.
            n: Actions for each pair, some of which may be equal.
            seed: The same seed gives the same actions, whatever else is in the batch.
            temperature: Above 0; the higher, the more different the actions.

        Returns:
            `n` actions for each pair, with their log-probabilities at temperature 1.
        """
        ...


class ForwardModel(Protocol):
    """Predicts the frame after an action: a world model of one step."""

    def sample(
        self,
        sources: Sequence[Frame],
        actions: Sequence[str],
        n: int,
        seed: int,
        sampling: Sampling = Sampling(),
    ) -> list[list[Candidate]]:
        """Sample next frames.

        Args:
            sources: The frames before the actions.
            actions: One for each source, in words.
            n: Candidates for each source and action.
            seed: The same seed gives the same candidates, whatever else is in the batch.
            sampling: Temperature 0 is greedy and gives `n` equal candidates.

        Returns:
            `n` candidates for each source and action, in order.

        Raises:
            ValueError: An action cannot be expressed; as `SamplingError`, the model cannot follow `sampling`.
        """
        ...


class ScoringForwardModel(ForwardModel, Protocol):
    """A forward model that can also say how likely it finds a given next frame."""

    def score_targets(
        self, sources: Sequence[Frame], actions: Sequence[str], targets: Sequence[Frame]
    ) -> list[LogProb]:
        """log p(target | source, action).

        Args:
            sources: The frames before the actions.
            actions: One for each source.
            targets: One for each source. A candidate of the same image tokenizer is scored on its sampled image
                tokens, never detokenized and re-tokenized.

        Returns:
            One log-probability for each row, in nats, summed over the target's image tokens.

        Raises:
            ValueError: An action cannot be expressed.
        """
        ...

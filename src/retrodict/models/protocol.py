"""What a model must offer. Everything above `models/` is written against these protocols and knows no family.

Two protocols carry the project: `InverseModel` (which action happened between two frames?) and `ForwardModel` (what
does the frame look like after the action?). `TokenFamily` is what a unified vision-language model offers underneath:
one autoregressive transformer over text tokens and discrete image tokens. `dynamics.unified.UnifiedModel` turns a
`TokenFamily` into both.

Shape suffixes: B sequences, T positions, N images, L tokens of one image, D features, K image codes, V text tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from retrodict.prompts import Direction
from retrodict.sampling import Sampling

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class LogProb:
    """Natural-log probability of a completion: the sum over its `count` tokens. NaN where it could not be computed."""

    sum: float
    count: int

    @property
    def mean(self) -> float:
        return self.sum / self.count if self.count else float("nan")


@dataclass(frozen=True)
class Explanation:
    """An action that a model reads out of a frame pair, and how sure it is."""

    action: str
    logprob: LogProb
    prompt: str = ""  # id of the prompt that asked for it


@dataclass(frozen=True, eq=False)
class Candidate:
    """One predicted frame.

    `codes_L` are the sampled image codes under the tokenizer called `tokenizer`; they are what a verifier with the same
    tokenizer scores, so that nothing is decoded to pixels and encoded again.
    """

    image: Image.Image
    codes_L: IntArray | None = None
    tokenizer: str = ""
    logprob: LogProb = LogProb(float("nan"), 0)


Frame = Image.Image | Candidate
Pair = tuple[Frame, Frame]


def image_of(frame: Frame) -> Image.Image:
    return frame.image if isinstance(frame, Candidate) else frame


class InverseModel(Protocol):
    """Reads the action out of frame pairs."""

    def explain(self, pairs: Sequence[Pair]) -> list[Explanation]: ...

    def score(self, pairs: Sequence[Pair], actions: Sequence[str]) -> list[LogProb]:
        """log p(action | source, target) for each pair and action."""
        ...


class ForwardModel(Protocol):
    """Predicts the frame after an action."""

    def sample(
        self,
        sources: Sequence[Frame],
        actions: Sequence[str],
        n: int,
        seed: int,
        sampling: Sampling = Sampling(),
    ) -> list[list[Candidate]]:
        """`n` candidates for each (source, action). Temperature 0 is greedy and gives `n` equal candidates.

        Raises `ValueError` for an action that the model cannot express, and `SamplingError`, which is one, for
        settings that it cannot follow.
        """
        ...


class ScoringForwardModel(ForwardModel, Protocol):
    """A forward model that can also say how likely it finds a given next frame."""

    def score_targets(
        self, sources: Sequence[Frame], actions: Sequence[str], targets: Sequence[Frame]
    ) -> list[LogProb]: ...


@dataclass(frozen=True)
class ImageSpec:
    """Static facts of a family's discrete images: `opening`, then a block of codes, then `closing`.

    `row_end` ids, where a family has them, follow each row of the grid inside the block. They are the same in every
    picture, so they are never sampled, supervised or scored.
    """

    size: int  # pixels a side, as the tokenizer wants them
    grid: tuple[int, int]  # rows, columns of codes
    codebook: int  # number of image codes
    first_id: int  # language-model id of code 0; ids of codes are consecutive
    opening: tuple[int, ...]  # ids before the block; the last one predicts the first code
    closing: tuple[int, ...]  # ids after the block
    row_end: tuple[int, ...] = ()

    @property
    def tokens(self) -> int:
        """Codes of one picture."""
        return self.grid[0] * self.grid[1]

    @cached_property
    def schedule(self) -> IntArray:
        """One entry per position of the block: -1 where a code stands, else the id that always stands there."""
        row = (*[-1] * self.grid[1], *self.row_end)
        return np.asarray(row * self.grid[0], dtype=np.int64)

    def block(self, codes_L: IntArray) -> IntArray:
        """Language-model ids of a picture's block."""
        ids = self.schedule.copy()
        ids[self.schedule < 0] = codes_L + self.first_id
        return ids

    def codes(self, block: IntArray) -> IntArray:
        """Image codes of a block of ids."""
        return block[self.schedule < 0] - self.first_id


@dataclass(frozen=True)
class Codes:
    """Tokenized images: codes and the encoder's features before quantisation (what recognition weights compare)."""

    codes_NL: IntArray
    features_NLD: FloatArray


class Segments(NamedTuple):
    """Where things lie in a sequence: half-open token ranges, or None when absent."""

    source: tuple[int, int]
    target: tuple[int, int] | None
    completion: tuple[int, int] | None


@dataclass(frozen=True, eq=False)
class TokenSequence:
    """One rendered example. Built by `dynamics.sequences.build` and by nothing else; `guidance` changes prefixes."""

    ids_T: IntArray
    segments: Segments
    direction: Direction
    prompt: str  # id in prompts.PROMPTS

    def with_prefix(self, prefix: Sequence[int], source: tuple[int, int]) -> TokenSequence:
        """The same completion after other ids. `source` is where the source's block lies in them, empty if nowhere."""
        assert self.direction == "forward" and self.segments.completion is not None
        start, stop = self.segments.completion
        ids_T = np.concatenate([np.asarray(prefix, dtype=np.int64), self.ids_T[start:]])
        completion = (len(prefix), len(prefix) + stop - start)
        return TokenSequence(ids_T, Segments(source, completion, completion), self.direction, self.prompt)


class Branch(NamedTuple):
    """One term of classifier-free guidance: `weight` times the raw image logits after the sequence's prefix."""

    weight: float
    sequence: TokenSequence


@dataclass(frozen=True)
class TrainSpec:
    """What training a family needs to know of its `module`."""

    lora_targets: str | None = None  # regular expression that a full module name matches; None: no LoRA
    layer_classes: tuple[str, ...] = ()  # decoder layers: what FSDP wraps, by class name
    freeze_embeddings: bool = False  # token embeddings and head, in full training and under LoRA


class TokenFamily(Protocol):
    """One autoregressive transformer over text and image tokens, with its tokenizers."""

    name: str
    spec: ImageSpec
    bos: int
    eos: int
    pad: int
    tokenizer: str  # identifies the image tokenizer: codes mean the same under the same name
    prompts: Mapping[Direction, str]  # ids in prompts.PROMPTS: what this family is trained and asked with
    train_spec: TrainSpec

    @property
    def module(self) -> torch.nn.Module:
        """What training trains."""
        ...

    def encode(self, images: Sequence[Image.Image]) -> Codes: ...

    def decode(self, codes_NL: IntArray) -> list[Image.Image]: ...

    def text_ids(self, text: str) -> list[int]:
        """Raises `ValueError` when the text cannot be expressed in the family's vocabulary."""
        ...

    def template_ids(self, text: str) -> list[int]:
        """Ids of a prompt's own words, in which special tokens may be spelled out. `text_ids` never makes any."""
        ...

    def text(self, ids: Sequence[int]) -> str: ...

    def features(self, sequence: TokenSequence) -> Mapping[str, IntArray]:
        """Inputs beside the ids, one value per position. They may depend on the layout, on the source and, for the
        inverse direction, on the target; never on what the sequence asks the model to complete."""
        ...

    def guidance(self, sequence: TokenSequence, scale: float | None) -> Sequence[Branch]:
        """Branches whose weighted sum of raw image logits is drawn from, before temperature; the weights add up to 1.

        The first branch is the sequence itself: a candidate's log-probability is taken there. `scale` is that of
        the family's authors; None means no guidance, one branch of weight 1. All branches have
        the same completion, so each step appends the same code to all. Raises `SamplingError` for a scale where
        the family knows no guidance.
        """
        ...

    def hidden(self, ids_BT: Tensor, **inputs: Any) -> Any:
        """The backbone alone, never the library's head: a model output with `last_hidden_state` and the cache."""
        ...

    def image_logits(self, hidden: Tensor) -> Tensor:
        """[..., D] -> [..., K]: the image-code rows of the head only. Other tokens are excluded by construction."""
        ...

    def text_logits(self, hidden: Tensor) -> Tensor:
        """[..., D] -> [..., V]: the text rows of the head only."""
        ...

    def save(self, directory: Path) -> None: ...

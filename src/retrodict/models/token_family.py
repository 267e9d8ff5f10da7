"""What a unified vision-language model offers underneath: one autoregressive transformer over text tokens and discrete
image tokens. `dynamics.unified.UnifiedModel` turns a `TokenFamily` into an inverse and a forward model.

Shape suffixes: B sequences, T positions, N images, L tokens of one image, D features, K entries of the codebook, V text
tokens. In names, `codes` are image tokens counted from 0; as ids of the language model they begin at `first_id`.
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

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ImageSpec:
    """The layout of a family's discrete images: `opening`, then a block of image tokens, then `closing`.

    `row_end` ids, where a family has them, follow each row of the grid inside the block. They are the same in every
    image, so they are never sampled, supervised or scored.
    """

    size: int  # pixels of the longer side, as the tokenizer wants them
    grid: tuple[int, int]  # rows, columns of image tokens
    codebook: int  # number of different image tokens
    first_id: int  # language-model id of image token 0; the others follow it
    opening: tuple[int, ...]  # ids before the block; the last one predicts the first image token
    closing: tuple[int, ...]  # ids after the block
    row_end: tuple[int, ...] = ()

    @property
    def tokens(self) -> int:
        """Image tokens of one image."""
        return self.grid[0] * self.grid[1]

    @cached_property
    def schedule(self) -> IntArray:
        """One entry per position of the block: -1 where an image token stands, else the id that always stands there."""
        row = (*[-1] * self.grid[1], *self.row_end)
        return np.asarray(row * self.grid[0], dtype=np.int64)

    def block(self, codes_L: IntArray) -> IntArray:
        """Language-model ids of an image's block."""
        ids = self.schedule.copy()
        ids[self.schedule < 0] = codes_L + self.first_id
        return ids

    def codes(self, block: IntArray) -> IntArray:
        """Image tokens of a block of ids, counted from 0."""
        return block[self.schedule < 0] - self.first_id


@dataclass(frozen=True)
class Codes:
    """Image tokens, and the encoder's features before quantisation (what recognition weights compare)."""

    codes_NL: IntArray
    features_NLD: FloatArray


class Segments(NamedTuple):
    """Positions of images and completion in a sequence: half-open ranges, or None when absent."""

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


class Cache(Protocol):
    """Keys and values of tokens of earlier forward passes (`dynamics.kv_cache.KVCache`)."""

    @property
    def slots(self) -> int:
        """C of `update`, once there are earlier tokens."""
        ...

    def update(self, keys: Tensor, values: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Store a layer's keys and values [B, heads, T, D] of new tokens.

        Returns:
            Keys and values [B, heads, C, D] that the new tokens may attend to: that of a token at position p in slot p,
            so each attends to the slots up to its own position.
        """
        ...


def take(hidden_BTD: Tensor, at_BS: Tensor | None) -> Tensor:
    """The hidden states at some indices of T, [B, S, D]; None: all."""
    return hidden_BTD if at_BS is None else hidden_BTD.gather(1, at_BS[..., None].expand(-1, -1, hidden_BTD.shape[-1]))


class Trainable(Protocol):
    """What the training loop asks of a model: a part of `TokenFamily`, and all of one that writes no images."""

    name: str
    pad: int
    train_spec: TrainSpec

    @property
    def module(self) -> torch.nn.Module:
        """What is trained."""
        ...

    def hidden(self, ids_BT: Tensor, *, at_BS: Tensor | None = None, **features: Any) -> Tensor:
        """Hidden states at `at_BS`; see `TokenFamily.hidden`."""
        ...

    def image_logits(self, hidden: Tensor) -> Tensor:
        """[..., D] -> [..., K]."""
        ...

    def text_logits(self, hidden: Tensor) -> Tensor:
        """[..., D] -> [..., V]."""
        ...

    def save(self, directory: Path) -> None:
        """Write the whole model; see `TokenFamily.save`."""
        ...


class TokenFamily(Protocol):
    """One autoregressive transformer over text and image tokens, with its tokenizers. `load(folder)` is a class method
    of the classes that a `registry.Family` names.

    Attributes:
        name: As in `registry.FAMILIES`.
        spec: The family's discrete images.
        bos: Id that begins a sequence.
        eos: Id that ends an action.
        pad: Id that fills batches up.
        tokenizer: Identifies the image tokenizer: image tokens mean the same under the same name.
        prompts: Ids in `prompts.PROMPTS`: what the family is trained and asked with.
        train_spec: What training needs to know of the module.
    """

    name: str
    spec: ImageSpec
    bos: int
    eos: int
    pad: int
    tokenizer: str
    prompts: Mapping[Direction, str]
    train_spec: TrainSpec

    @property
    def module(self) -> torch.nn.Module:
        """What training trains. The image tokenizer is no part of it."""
        ...

    def encode(self, images: Sequence[Image.Image]) -> Codes:
        """Tokenize images of any size.

        Returns:
            Image tokens [N, L], counted from 0, and the features that they were quantised from [N, L, D].
        """
        ...

    def decode(self, codes_NL: IntArray, sizes: Sequence[tuple[int, int]] | None = None) -> list[Image.Image]:
        """Images from image tokens.

        Args:
            codes_NL: Image tokens [N, L], counted from 0.
            sizes: The width and height that each image is to have, in pixels. A family whose tokenizer crops its images
                takes no notice, as does every family without `sizes`: images then have `spec.size`.

        Returns:
            RGB images.
        """
        ...

    def unfamiliar(self, images: Sequence[Image.Image], texts: Sequence[str]) -> list[str]:
        """What of an input is unlike anything in training, a clause each; empty also where nobody has measured it.

        Args:
            images: What the model is to read.
            texts: Actions.
        """
        ...

    def text_ids(self, text: str) -> list[int]:
        """Ids of what a user writes; control tokens that are spelled out in it stay text.

        Raises:
            ValueError: The text cannot be expressed in the family's vocabulary.
        """
        ...

    def template_ids(self, text: str) -> list[int]:
        """Ids of a prompt's own words, in which special tokens may be spelled out. `text_ids` never makes any."""
        ...

    def text(self, ids: Sequence[int]) -> str:
        """What text ids say, without special tokens."""
        ...

    def features(self, sequence: TokenSequence) -> Mapping[str, IntArray]:
        """Inputs besides the ids, by their names in `hidden`: one value per position [T].

        They may depend on the layout, on the source and, for the inverse direction, on the target; never on what the
        sequence asks the model to complete.
        """
        ...

    def guidance(self, sequence: TokenSequence, scale: float | None) -> Sequence[Branch]:
        """Branches of classifier-free guidance, whose weighted sum of raw image logits is sampled from.

        Args:
            sequence: A sequence of the forward direction.
            scale: The strength of the text, as the family's authors count it; None means no guidance.

        Returns:
            Branches whose weights add up to 1. The first is the sequence itself: a candidate's log-probability is taken
            there. All have the same completion, so each step appends the same image token to all.

        Raises:
            ValueError: A scale was given, and the family was not trained for guidance.
        """
        ...

    def hidden(
        self,
        ids_BT: Tensor,
        *,
        at_BS: Tensor | None = None,
        positions_BT: Tensor | None = None,
        cache: Cache | None = None,
        **features: Any,
    ) -> Tensor:
        """The backbone alone, never the library's head. Attention is causal, so right padding needs no mask.

        Args:
            ids_BT: Token ids [B, T].
            at_BS: Indices of T whose hidden states are wanted, so that a family can save the others; None: all.
            positions_BT: Positions of the tokens, where `cache` holds earlier ones; None: from 0 on.
            cache: Keeps keys and values.
            **features: Those of `features`, [B, T].

        Returns:
            Hidden states [B, S, D].
        """
        ...

    def image_logits(self, hidden: Tensor) -> Tensor:
        """[..., D] -> [..., K]: the image rows of the head only. Other tokens are excluded by construction."""
        ...

    def text_logits(self, hidden: Tensor) -> Tensor:
        """[..., D] -> [..., V]: the text rows of the head only."""
        ...

    def save(self, directory: Path) -> None:
        """Write what the class's `load` reads; the model's card is not part of it."""
        ...

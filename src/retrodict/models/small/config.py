"""The sizes of the small family's two parts. Without torch, as recipes hold them."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, ValidationInfo, field_validator

from retrodict.recipes import Count, Section


class ImageTokenizerConfig(Section):
    """The image tokenizer: an image becomes a grid of tokens."""

    image_size: Count = 96
    """Side of the square image, in pixels; other images are resized."""
    patch: Count = 16
    """Side of the square that one token stands for, in pixels; it divides `image_size`."""
    codes: Count = 128
    """Size of the codebook."""
    code_dim: Count = 16
    """Dimensions of a codebook entry."""
    width: Count = 192
    """Channels of the encoder and the decoder."""
    context: Annotated[int, Field(ge=0)] = 0
    """Residual 3 x 3 blocks on each side, for images whose patches cannot stand alone; 0 for flat, rendered ones."""

    @field_validator("patch")
    @classmethod
    def _divides(cls, value: int, info: ValidationInfo) -> int:
        size = info.data.get("image_size", value)
        if size % value:
            raise ValueError(f"{value} does not divide image_size, which is {size}")
        return value

    @property
    def grid(self) -> tuple[int, int]:
        return self.image_size // self.patch, self.image_size // self.patch


class ModelConfig(Section):
    """The language model."""

    hidden: Count = 128
    """Width of the hidden state; a multiple of `heads`."""
    layers: Count = 4
    """Number of transformer blocks."""
    heads: Count = 4
    """Attention heads per block."""

    @field_validator("heads")
    @classmethod
    def _share_the_width(cls, value: int, info: ValidationInfo) -> int:
        hidden = info.data.get("hidden", 2 * value)
        if hidden % (2 * value):  # rotary positions turn the width of a head in pairs
            raise ValueError(f"{value} heads cannot share hidden, which is {hidden}, in equal and even parts")
        return value

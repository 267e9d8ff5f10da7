"""The sizes of the small family's two parts. Without torch, as recipes hold them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from retrodict.recipes import Count, Section

ImageSize = Annotated[
    tuple[Count, Count], BeforeValidator(lambda value: (value, value) if isinstance(value, int) else value)
]
"""Height and width in pixels; one number for a square."""


def check_patch(patch: int, size: Any) -> int:
    """`patch`, which divides both sides of `size`. Raises `ValueError` where it does not."""
    if size is not None and any(side % patch for side in size):
        height, width = size
        raise ValueError(
            f"{patch} does not divide image_size, which is {height}{'' if height == width else f' x {width}'}"
        )
    return patch


class ImageTokenizerConfig(Section):
    """The image tokenizer: an image becomes a grid of tokens."""

    kind: Literal["patches", "net"] = "net"
    """What a token stands for: one of `codes` patches, or a vector that a net decodes."""
    image_size: ImageSize = (96, 96)
    """Height and width of the image in pixels; other images are resized."""
    patch: Count = 16
    """Side of the square that one token stands for, in pixels; it divides both sides of `image_size`."""
    codes: Count = 128
    """Size of the codebook."""
    code_dim: Count = 16
    """Dimensions of a codebook entry of a net."""
    width: Count = 192
    """Channels of a net's encoder and decoder."""
    context: Annotated[int, Field(ge=0)] = 0
    """Residual 3 x 3 blocks on each side of a net."""

    @field_validator("patch")
    @classmethod
    def _divides(cls, value: int, info: ValidationInfo) -> int:
        return check_patch(value, info.data.get("image_size"))

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens."""
        return self.image_size[0] // self.patch, self.image_size[1] // self.patch


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

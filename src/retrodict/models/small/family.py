"""The small family behind the adapter protocol: a Liquid in miniature (one vocabulary of words and image tokens)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from retrodict.models.checkpoint import check_kinds, read_tensors
from retrodict.models.small.image_tokenizer import ImageTokenizer, resized
from retrodict.models.small.modeling import INITIAL_STD, SIDES, SmallConfig, SmallModel
from retrodict.models.small.words import SPECIALS, Words
from retrodict.models.token_family import Branch, Codes, ImageSpec, IntArray, TokenSequence, TrainSpec
from retrodict.prompts import Direction
from retrodict.sampling import SamplingError

# Prior logits of what an action is written in.
SPELLED = -8.0  # the bytes of words that no label holds: a sampled action has none, and an unseen one is scored
NEVER = -1e4  # special tokens but the end, which no action holds; finite, as an entropy multiplies it by 0


class SmallFamily:
    """`TokenFamily` of the small model.

    With `use_change_mask` the inverse model also gets a changed/unchanged mask per image token, which is unavailable to
    the forward model (that does not know its target).
    """

    name = "small"
    prompts: Mapping[Direction, str] = {"forward": "plain-forward-1", "inverse": "plain-inverse-1"}
    train_spec = TrainSpec()

    def __init__(
        self, module: SmallModel, images: ImageTokenizer, words: Words, *, use_change_mask: bool = True
    ) -> None:
        self.module = module
        self.images = images
        self.words = words
        self.use_change_mask = use_change_mask
        self.bos, self.eos, self.pad = words.bos, words.eos, words.pad
        config = images.config
        self.spec = ImageSpec(max(config.image_size), config.grid, config.codes, len(words), (words.boi,), (words.eoi,))
        self.tokenizer = images.fingerprint

    @classmethod
    def new(
        cls, images: ImageTokenizer, words: Words, *, hidden: int = 128, layers: int = 4, heads: int = 4, **kwargs: Any
    ) -> SmallFamily:
        """A model with random weights (from torch's global generator)."""
        config = SmallConfig(
            text_vocabulary=len(words),
            image_codes=images.config.codes,
            rows=images.config.grid[0],
            columns=images.config.grid[1],
            hidden_size=hidden,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            intermediate_size=hidden * 3,
            pad_token_id=words.pad,
        )
        module = SmallModel(config)
        _start_from_codebook(module, images.vectors)
        return cls(module, images, words, **kwargs)

    def encode(self, images: Sequence[Image.Image]) -> Codes:
        return self.images.encode(images)

    def decode(self, codes_NL: IntArray, sizes: Sequence[tuple[int, int]] | None = None) -> list[Image.Image]:
        images = self.images.decode(codes_NL)
        return images if sizes is None else [resized(i, size) for i, size in zip(images, sizes, strict=True)]

    def unfamiliar(self, images: Sequence[Image.Image], texts: Sequence[str]) -> list[str]:
        words = dict.fromkeys(word for text in texts for word in self.words.unfamiliar(text))
        said = [f"it was never trained on {', '.join(words)}"] if words else []
        if any(self.images.is_unfamiliar(image) for image in images):
            said.append("it was trained on no images like this")
        return said

    def text_ids(self, text: str) -> list[int]:
        return self.words.encode(text)

    def template_ids(self, text: str) -> list[int]:
        return self.words.encode(text)

    def text(self, ids: Sequence[int]) -> str:
        return self.words.decode(ids)

    def features(self, sequence: TokenSequence) -> Mapping[str, IntArray]:
        """Rows and columns of image tokens, and the tokens near them. The position that *predicts* target token i gets
        the row and column of i and the source token there; in the inverse direction no image token is predicted, so
        each target token gets its own."""
        names = ("row", "column", "aligned", "before", "changed", *SIDES)
        values = {name: np.zeros(len(sequence.ids_T), dtype=np.int64) for name in names}
        source = slice(*sequence.segments.source)
        codes_L = source_L = sequence.ids_T[source] - self.spec.first_id
        self._locate(values, source, source_L)
        if sequence.segments.target is not None:
            start, stop = sequence.segments.target
            target = slice(start, stop)
            if sequence.direction == "forward":
                target = slice(start - 1, stop - 1)
                values["aligned"][target] = source_L + 1
            else:
                values["before"][target] = source_L + 1
                codes_L = sequence.ids_T[target] - self.spec.first_id
                if self.use_change_mask:
                    for span in (source, target):
                        values["changed"][span] = 1 + (codes_L != source_L)
            self._locate(values, target, codes_L)
        return values

    def _locate(self, values: Mapping[str, IntArray], span: slice, codes_L: IntArray) -> None:
        """Row, column and neighbours of each token of an image (0 outside of it)."""
        rows, columns = self.spec.grid
        index_L = np.arange(self.spec.tokens)
        values["row"][span], values["column"][span] = 1 + index_L // columns, 1 + index_L % columns
        framed = np.pad(codes_L.reshape(rows, columns) + 1, 1)
        shifts = {"left": (1, 0), "right": (1, 2), "above": (0, 1), "below": (2, 1)}
        for side, (down, across) in shifts.items():
            values[side][span] = framed[down : down + rows, across : across + columns].ravel()

    def guidance(self, sequence: TokenSequence, scale: float | None) -> Sequence[Branch]:
        if scale is not None:
            raise SamplingError(
                "The small family is trained without prompt dropout: classifier-free guidance is unavailable."
            )
        return [Branch(1.0, sequence)]

    def hidden(self, ids_BT: Tensor, **inputs: Any) -> Tensor:
        hidden_BSD: Tensor = self.module(ids_BT, **inputs)
        return hidden_BSD

    def image_logits(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self.module.head[self.spec.first_id :])

    def text_logits(self, hidden: Tensor) -> Tensor:
        logits = F.linear(hidden, self.module.head[: self.spec.first_id])
        prior = logits.new_zeros(self.spec.first_id)
        prior[: len(SPECIALS)] = NEVER
        prior[self.eos] = 0
        prior[self.words.first_byte :] = SPELLED
        return logits + prior

    def save(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        replace(self.module.config, use_change_mask=self.use_change_mask).save(directory)
        save_file(self.module.state_dict(), directory / "model.safetensors", {"format": "pt"})
        self.images.save(directory / "image_tokenizer")
        self.words.save(directory / "words.json")

    @classmethod
    def load(cls, directory: Path) -> SmallFamily:
        config = SmallConfig.load(directory)
        with torch.random.fork_rng(devices=[]):  # the random weights that a new model starts with are not used
            module = SmallModel(config)
        stored = read_tensors(directory)
        check_kinds(stored, module, directory)
        state = {name: tensor.float() for name, tensor in stored.items()}
        try:
            module.load_state_dict(state, assign=True)
        except RuntimeError as error:
            raise ValueError(f"{directory} is no complete small model: {' '.join(str(error).split())}") from None
        images, words = ImageTokenizer.load(directory / "image_tokenizer"), Words.load(directory / "words.json")
        return cls(module.eval(), images, words, use_change_mask=config.use_change_mask)


@torch.no_grad()
def _start_from_codebook(module: SmallModel, codebook_KD: Tensor) -> None:
    """Start the embeddings of image tokens as a random projection of the codebook: tokens that look alike start alike,
    so that what is learned of a red ball in the air holds for one on the floor."""
    scaled_KD = codebook_KD - codebook_KD.median(0).values
    scaled_KD = scaled_KD / scaled_KD.norm(dim=1).median().clamp(min=1e-6)
    scaled_KD = scaled_KD * (scaled_KD.norm(dim=1, keepdim=True) < 100)  # vectors put where no feature is
    scale = 2 * INITIAL_STD
    start_KD = scale * scaled_KD @ torch.randn(codebook_KD.shape[1], module.head.shape[1])
    module.head[-len(codebook_KD) :] += start_KD
    module.aligned.weight[1:] += start_KD  # what predicts a token starts from the source's
    module.before.weight[1:] -= start_KD  # what reads a change starts from the difference

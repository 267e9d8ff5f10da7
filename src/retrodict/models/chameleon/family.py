"""Chameleon (arXiv 2405.09818) and Anole behind the adapter protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from retrodict.models.chameleon.layout import (
    ChameleonForConditionalGeneration,
    Vocabulary,
    load_module,
    write_checkpoint,
)
from retrodict.models.hf import HFFamily, TextTokenizer, decoder_spec, run_decoder
from retrodict.models.token_family import Branch, ImageSpec, TokenSequence
from retrodict.models.vqgan import VQGAN
from retrodict.models.vqgan_files import find_vqgan
from retrodict.prompts import Direction

IMAGE_GUIDANCE = 1.2  # the authors' strength of the source image


class ChameleonFamily(HFFamily):
    """`TokenFamily` of Chameleon. Image logits come from the image rows of the head, which `transformers` masks."""

    name = "chameleon"
    prompts: Mapping[Direction, str] = {"forward": "chameleon-forward-1", "inverse": "chameleon-inverse-1"}
    train_spec = decoder_spec("model.layers", "ChameleonDecoderLayer")

    def __init__(self, module: ChameleonForConditionalGeneration, images: VQGAN, words: TextTokenizer) -> None:
        ids = Vocabulary.read(words.vocabulary)
        config = images.config
        if ids.codes != config.n_embed:
            raise ValueError(
                f"The image tokenizer has {config.n_embed} codes, but the vocabulary names {ids.codes}: "
                "they are from different models."
            )
        self.module = module
        self.images = images
        self.words = TextTokenizer(words.content, range(ids.first_code, ids.first_code + ids.codes))
        self.bos, self.eos, self.pad = ids.bos, ids.eos, ids.pad
        self.spec = ImageSpec(config.size, config.grid, config.n_embed, ids.first_code, (ids.boi,), (ids.eoi,))
        self.tokenizer = images.fingerprint()

    def guidance(self, sequence: TokenSequence, scale: float | None) -> Sequence[Branch]:
        """The authors' three branches: u + 1.2 (i - u) + scale (f - i), of the full prompt f, its images alone i, and
        nothing u. Their scale is 3."""
        if scale is None:
            return [Branch(1.0, sequence)]
        assert sequence.segments.completion is not None
        (boi,), (eoi,) = self.spec.opening, self.spec.closing
        prefix_T = sequence.ids_T[: sequence.segments.completion[0]]
        first = self.spec.first_id
        is_code_T = (prefix_T >= first) & (prefix_T < first + self.spec.codebook)
        kept_T = is_code_T | np.isin(prefix_T, [self.bos, boi, eoi])
        start = int(kept_T[: sequence.segments.source[0]].sum())
        images = sequence.with_prefix(prefix_T[kept_T].tolist(), (start, start + len(self.spec.schedule)))
        nothing = sequence.with_prefix([self.bos, boi], (0, 0))
        return [
            Branch(scale, sequence),
            Branch(IMAGE_GUIDANCE - scale, images),
            Branch(1 - IMAGE_GUIDANCE, nothing),
        ]

    def hidden(self, ids_BT: Tensor, **inputs: Any) -> Tensor:
        return run_decoder(self.module.model, input_ids=ids_BT, **inputs)

    def text_logits(self, hidden: Tensor) -> Tensor:
        """Logits are indexed by id, so image tokens, whose ids lie among the text's, are there with minus infinity."""
        head_VD, first = self.module.lm_head.weight, self.spec.first_id
        none = hidden.new_full((*hidden.shape[:-1], self.spec.codebook), -torch.inf)
        return torch.cat(
            [F.linear(hidden, head_VD[:first]), none, F.linear(hidden, head_VD[first + self.spec.codebook :])], -1
        )

    def save(self, directory: Path) -> None:
        """The layout of transformers, with the image tokenizer's decoder, which its classes pass over."""
        write_checkpoint(directory, self.module.config, self.module.state_dict(), self.images, self.words)

    @classmethod
    def load(cls, directory: Path, vqgan: Path | None = None) -> ChameleonFamily:
        """A folder in the layout of transformers, weights in the type they are stored in. `vqgan` names another folder
        for the image tokenizer.

        Raises `ValueError` for other layouts, and where the parts are missing or from different models.
        """
        images = find_vqgan(vqgan or directory)
        return cls(load_module(directory), images, TextTokenizer.load(directory))

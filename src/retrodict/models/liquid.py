"""Liquid (arXiv 2412.04332) behind the adapter protocol: a Gemma whose vocabulary was extended by image tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import GemmaForCausalLM

from retrodict.files import write_json
from retrodict.models.checkpoint import load_pretrained, no_bars
from retrodict.models.hf import HFFamily, TextTokenizer, decoder_spec, run_decoder, token_ids
from retrodict.models.token_family import Branch, ImageSpec, TokenSequence
from retrodict.models.vqgan import VQGAN
from retrodict.models.vqgan_files import OWN, find_vqgan, save_vqgan
from retrodict.prompts import Direction
from retrodict.sampling import SamplingError

BOI, EOI, UNCONDITIONAL = "<boi>", "<eoi>", "<unconditional>"  # renamed from Gemma's <unused0> to <unused2>
ACTIVATION = "gelu_pytorch_tanh"


class LiquidFamily(HFFamily):
    """`TokenFamily` of Liquid. The id of an image token is the number of text tokens plus the code; head and embeddings
    are one matrix."""

    name = "liquid"
    prompts: Mapping[Direction, str] = {"forward": "liquid-forward-1", "inverse": "liquid-inverse-1"}
    train_spec = decoder_spec("model.layers", "GemmaDecoderLayer")

    def __init__(self, module: GemmaForCausalLM, images: VQGAN, words: TextTokenizer) -> None:
        config, codes = module.config, images.config.n_embed
        first = len(words)
        if config.vocab_size != first + codes:
            raise ValueError(
                f"This is no Liquid: {first} text tokens and {codes} image tokens make {first + codes}, "
                f"but the model has {config.vocab_size} embeddings."
            )
        if config.hidden_act != ACTIVATION:
            raise ValueError(f"This Gemma computes with {config.hidden_act}; Liquid was trained with {ACTIVATION}.")
        ids = words.vocabulary
        self.bos, self.eos, self.pad, boi, eoi = token_ids(ids, ("<bos>", "<eos>", "<pad>", BOI, EOI), "Liquid")
        self.module = module
        self.images = images
        control = {ids[token] for token in (BOI, EOI, UNCONDITIONAL) if token in ids}
        self.words = TextTokenizer(words.content, control)
        self.spec = ImageSpec(images.config.size, images.config.grid, codes, first, (boi,), (eoi,))
        self.tokenizer = images.fingerprint()

    def guidance(self, sequence: TokenSequence, scale: float | None) -> Sequence[Branch]:
        """u + scale (c - u), where u keeps the source and has `<unconditional>` in place of the words. For images
        from text alone the authors' scale is 7."""
        if scale is None:
            return [Branch(1.0, sequence)]
        if UNCONDITIONAL not in self.words.vocabulary:
            raise SamplingError(
                f"The tokenizer has no {UNCONDITIONAL}, so classifier-free guidance is unavailable: leave it out."
            )
        start, stop = sequence.segments.source
        source = sequence.ids_T[start:stop].tolist()
        prefix = [self.bos, *self.spec.opening, *source, *self.spec.closing]
        prefix += [*self.template_ids(f"\n{UNCONDITIONAL}"), *self.spec.opening]
        begin = 1 + len(self.spec.opening)
        without = sequence.with_prefix(prefix, (begin, begin + len(source)))
        return [Branch(scale, sequence), Branch(1 - scale, without)]

    def hidden(self, ids_BT: Tensor, **inputs: Any) -> Tensor:
        return run_decoder(self.module.model, input_ids=ids_BT, **inputs)

    def save(self, directory: Path) -> None:
        """The layout of transformers, with the image tokenizer in a folder of its own."""
        with no_bars():
            self.module.save_pretrained(directory)
        self.words.save(directory)
        write_json(
            directory / "tokenizer_config.json",
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "bos_token": "<bos>",
                "eos_token": "<eos>",
                "pad_token": "<pad>",
                "padding_side": "left",
            },
        )
        save_vqgan(self.images, directory / OWN)

    @classmethod
    def load(cls, directory: Path, vqgan: Path | None = None) -> LiquidFamily:
        """A folder in the layout of transformers, weights in the type they are stored in. `vqgan` names another folder
        for the image tokenizer, which Liquid is published without.

        Raises `ValueError` where the parts are missing or from different models.
        """
        images = find_vqgan(vqgan or directory)
        return cls(load_pretrained(GemmaForCausalLM, directory), images, TextTokenizer.load(directory))

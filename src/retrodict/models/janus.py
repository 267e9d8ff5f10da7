"""Janus and Janus-Pro (Chen et al. 2025, arXiv 2501.17811) behind the adapter protocol, on classes of `transformers`.

Janus reads images through one encoder (SigLIP on pixels) and writes them through another (image tokens with their own
embeddings and head). Here both are given as image tokens, so that one builder of sequences, one cache of tokens and one
sampler serve it as they serve the others:

- image tokens have ids beyond the text vocabulary, which exist in sequences only;
- `features` marks images that are read (`read`); their tokens are decoded to pixels, and those go through SigLIP;
- all other image tokens are embedded as the generation side embeds them.

So frames and candidates reach the inverse direction alike, as decoded images: it cannot tell a prediction by its
texture, and what it is trained on is what it scores. The price is that it does not see what tokenization loses. In the
forward direction the source is given both ways, read and then written, as Janus-4o does (arXiv 2506.18095).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from transformers import JanusForConditionalGeneration

from retrodict.files import JsonMapping
from retrodict.models.checkpoint import (
    has_tensors,
    load_pretrained,
    preprocessing,
    read_extra_files,
    take_image_tokenizer,
)
from retrodict.models.hf import (
    HFFamily,
    Pixels,
    TextTokenizer,
    decoder_spec,
    exact_float32,
    fingerprint,
    run_decoder,
    token_ids,
)
from retrodict.models.token_family import Branch, Codes, ImageSpec, IntArray, TokenSequence
from retrodict.prompts import Direction

BOS, EOS, PAD = (
    "<\uff5cbegin\u2581of\u2581sentence\uff5c>",
    "<\uff5cend\u2581of\u2581sentence\uff5c>",
    "<\uff5c\u2581pad\u2581\uff5c>",
)
BOI, EOI = "<begin_of_image>", "<end_of_image>"
PLACEHOLDER = "<image_placeholder>"  # the library's, for a token of an image that is read


class JanusFamily(HFFamily):
    """`TokenFamily` of Janus. Only the language model is trained: both sides of images stay as published."""

    name = "janus"
    prompts: Mapping[Direction, str] = {"forward": "janus-forward-1", "inverse": "janus-inverse-1"}
    train_spec = decoder_spec("model.language_model.layers", "LlamaDecoderLayer")

    def __init__(self, module: Any, images: JanusImages, words: TextTokenizer, extra: Mapping[str, str]) -> None:
        self.module = module
        self.images = images
        self.words = words
        self.extra_files = dict(extra)
        for name, part in module.model.named_children():
            if name != "language_model":
                part.requires_grad_(False)
        vocabulary = int(module.config.text_config.vocab_size)
        self.bos, self.eos, self.pad, boi, eoi = token_ids(words.vocabulary, (BOS, EOS, PAD, BOI, EOI), "Janus")
        self.spec = ImageSpec(images.pixels.size, images.grid, images.codebook, vocabulary, (boi,), (eoi,))
        seen = module.config.vision_config.num_image_tokens
        if seen != self.spec.tokens:
            raise ValueError(
                f"This Janus reads images as {seen} tokens but writes {self.spec.tokens}: no known layout."
            )
        self.tokenizer = images.fingerprint

    def features(self, sequence: TokenSequence) -> Mapping[str, IntArray]:
        """`read`: 1 where an image is read. In the forward direction that is the first copy of the source."""
        read_T = (sequence.ids_T >= self.spec.first_id).astype(np.int64)
        if sequence.direction == "forward":
            read_T[sequence.segments.source[0] :] = 0
        return {"read": read_T}

    def guidance(self, sequence: TokenSequence, scale: float | None) -> Sequence[Branch]:
        """The same prompt with its words padded out, as the authors do; images stay. Their scale is 5."""
        if scale is None:
            return [Branch(1.0, sequence)]
        assert sequence.segments.completion is not None
        prefix_T = sequence.ids_T[: sequence.segments.completion[0]]
        kept = (self.bos, *self.spec.opening, *self.spec.closing)
        is_word_T = (prefix_T < self.spec.first_id) & ~np.isin(prefix_T, kept)
        padded_T = np.where(is_word_T, self.pad, prefix_T)
        wordless = sequence.with_prefix(padded_T.tolist(), sequence.segments.source)
        return [Branch(scale, sequence), Branch(1 - scale, wordless)]

    def hidden(self, ids_BT: Tensor, read: Tensor, **inputs: Any) -> Tensor:
        return run_decoder(self.module.model.language_model, inputs_embeds=self._embed(ids_BT, read), **inputs)

    def _embed(self, ids_BT: Tensor, read_BT: Tensor) -> Tensor:
        first = self.spec.first_id
        text_BTD = self.module.model.language_model.embed_tokens(ids_BT.clamp(max=first - 1))
        written_BTD = self.module.model.generation_aligner(
            self.module.model.generation_embeddings((ids_BT - first).clamp(min=0))
        )
        is_code_BT = ids_BT >= first
        embeds_BTD = torch.where(is_code_BT[..., None], written_BTD.to(text_BTD.dtype), text_BTD)
        if ids_BT.shape[1] < self.spec.tokens:  # a step of decoding: no whole image is read in it
            return embeds_BTD
        is_read_BT = read_BT.bool() & is_code_BT
        codes_P = ids_BT[is_read_BT] - first
        if not len(codes_P):
            return embeds_BTD
        seen_NLD = self._read(codes_P.unflatten(0, (-1, self.spec.tokens)))
        return embeds_BTD.masked_scatter(is_read_BT[..., None], seen_NLD.to(embeds_BTD.dtype))

    @torch.no_grad()
    def _read(self, codes_NL: Tensor) -> Tensor:
        """Embeddings [N, L, D] of images as the understanding side sees them. Equal images are looked at once."""
        unique_UL, place_N = codes_NL.unique(dim=0, return_inverse=True)
        pixels_U3HW = self.images.pixels(self.decode(unique_UL.cpu().numpy()))
        vision = self.module.model.vision_model
        seen_ULD: Tensor = self.module.model.get_image_features(
            pixels_U3HW.to(vision.device, vision.dtype)
        ).pooler_output
        return seen_ULD[place_N]

    def image_logits(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.module.model.generation_head(hidden)
        return logits

    def text_logits(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.module.lm_head(hidden)
        return logits

    @classmethod
    def load(cls, directory: Path) -> JanusFamily:
        """From a folder in the library's format. Raises `ValueError` when something is missing from it."""
        # Published configurations do not say that the head is not the embeddings, and the library's default says it is.
        tied = not has_tensors(directory, "lm_head.")
        module = load_pretrained(JanusForConditionalGeneration, directory, tie_word_embeddings=tied)
        size = int(module.config.vision_config.image_size)
        images = JanusImages(take_image_tokenizer(module, directory), size, preprocessing(directory))
        return cls(module, images, TextTokenizer.load(directory), read_extra_files(directory))


class JanusImages:
    """The image tokenizer: the library's decoder, and an encoder that normalises as the authors' does, in float32.
    The same pixels go to the understanding side."""

    def __init__(self, vq: Any, size: int, config: JsonMapping) -> None:
        self.vq = vq
        side = size // 2 ** (len(vq.config.channel_multiplier) - 1)
        self.grid = (side, side)
        self.codebook = int(vq.config.num_embeddings)
        self.pixels = Pixels.of(config, size, "pad")
        self.fingerprint = fingerprint("janus", vq, self.pixels)

    def to(self, device: torch.device) -> JanusImages:
        self.vq.to(device)
        return self

    def features(self, pixels_N3HW: Tensor) -> Tensor:
        """What is quantised, [N, L, D]: `quant_conv` of the encoder's output, on the unit sphere."""
        latents_NDHW = self.vq.quant_conv(self.vq.encoder(pixels_N3HW))
        return F.normalize(latents_NDHW.flatten(2).transpose(1, 2), dim=-1)

    def quantise(self, features_NLD: Tensor) -> Tensor:
        """Nearest codes, [N, L], among codebook vectors on the unit sphere.

        The library compares raw vectors when it encodes, but normalises when it decodes; the authors' code normalises
        both times. They agree only where the stored codebook happens to have unit length.
        """
        codebook_KD = F.normalize(self.vq.quantize.embedding.weight, dim=-1)
        return (features_NLD @ codebook_KD.t()).argmax(-1)

    @torch.inference_mode()
    def encode(self, images: Sequence[Image.Image], batch: int = 8) -> Codes:
        tokens, width = self.grid[0] * self.grid[1], self.vq.config.embed_dim
        codes, features = [np.zeros((0, tokens), np.int64)], [np.zeros((0, tokens, width), np.float32)]
        for start in range(0, len(images), batch):
            pixels_N3HW = self.pixels(images[start : start + batch]).to(self.vq.device)
            with exact_float32(self.vq.device):
                features_NLD = self.features(pixels_N3HW)
                codes.append(self.quantise(features_NLD).cpu().numpy())
            features.append(features_NLD.cpu().numpy())
        return Codes(np.concatenate(codes), np.concatenate(features))

    @torch.inference_mode()
    def decode(self, codes_NL: IntArray, batch: int = 8) -> list[Image.Image]:
        images: list[Image.Image] = []
        for start in range(0, len(codes_NL), batch):
            codes = torch.as_tensor(codes_NL[start : start + batch], device=self.vq.device)
            with exact_float32(self.vq.device):
                images += self.pixels.images(self.vq.decode(codes))
        return images

"""Emu3 (Wang et al. 2024, arXiv 2409.18869) behind the adapter protocol, on the classes of `transformers`.

One vocabulary: `<|visual token 000000|>` and on are the image tokens. An image says its size in words, and every row of
codes ends with an end-of-line token, which is never sampled. The image tokenizer stays in float32 and is no part of
`module`, so that no cast, wrapper or optimizer reaches it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import Emu3ForConditionalGeneration

from retrodict.files import JsonMapping
from retrodict.models.checkpoint import load_pretrained, preprocessing, read_extra_files, take_image_tokenizer
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
from retrodict.prompts import PROMPTS, Direction

BOS, EOS, PAD = "<|extra_203|>", "<|extra_204|>", "<|endoftext|>"
BOI, IMAGE, EOI = "<|image start|>", "<|image token|>", "<|image end|>"
END_OF_LINE, END_OF_FRAME = "<|extra_200|>", "<|extra_201|>"
VISUAL = "<|visual token {:06d}|>"  # an image token
PLACEHOLDER = "<image>"  # the library's, for codes that it puts in

# What the authors steer away from (`image_generation.py` of their repository); the prompt ends the sentence.
NEGATIVE = (
    "lowres, bad anatomy, bad hands, text, error, missing fingers, extra digit, fewer digits, cropped, worst quality, "
    "low quality, normal quality, jpeg artifacts, signature, watermark, username, blurry"
)


class Emu3Family(HFFamily):
    """`TokenFamily` of Emu3. Images are squares of `pixels.size`: 512 gives 64 x 64 tokens, and two of those fit into
    the 9,216 positions that the model has."""

    name = "emu3"
    prompts: Mapping[Direction, str] = {"forward": "emu3-forward-1", "inverse": "emu3-inverse-1"}
    train_spec = decoder_spec("model.text_model.layers", "Emu3DecoderLayer")

    def __init__(self, module: Any, images: Emu3Images, words: TextTokenizer, extra: Mapping[str, str]) -> None:
        self.module = module
        self.images = images
        self.extra_files = dict(extra)
        vocabulary = module.config.vocabulary_map or words.vocabulary
        first = first_code_id(vocabulary, images.codebook)
        self.words = TextTokenizer(words.content, range(first, first + images.codebook))
        self.bos, self.eos, self.pad = token_ids(vocabulary, (BOS, EOS, PAD), "Emu3")
        if self.eos >= first:
            raise ValueError("In this vocabulary the end token comes after the image tokens: no known Emu3 has that.")
        names = (BOI, IMAGE, EOI, END_OF_LINE, END_OF_FRAME)
        boi, image, eoi, end_of_line, end_of_frame = token_ids(vocabulary, names, "Emu3")
        self.spec = ImageSpec(
            images.pixels.size,
            images.grid,
            images.codebook,
            first,
            opening=(boi, *words.template("{}*{}".format(*images.grid)), image),
            closing=(end_of_frame, eoi),
            row_end=(end_of_line,),
        )
        self.tokenizer = images.fingerprint

    def guidance(self, sequence: TokenSequence, scale: float | None) -> Sequence[Branch]:
        """The authors' negative prompt in place of the action; the source stays. Their scale is 3."""
        if scale is None:
            return [Branch(1.0, sequence)]
        after = PROMPTS[sequence.prompt].parts[-2]
        assert isinstance(after, str), "the forward prompt has words between the action and the target"
        stop = sequence.segments.source[1] + len(self.spec.closing)
        prefix = [*sequence.ids_T[:stop].tolist(), *self.text_ids(NEGATIVE), *self.template_ids(after)]
        negative = sequence.with_prefix([*prefix, *self.spec.opening], sequence.segments.source)
        return [Branch(scale, sequence), Branch(1 - scale, negative)]

    def hidden(self, ids_BT: Tensor, **inputs: Any) -> Tensor:
        return run_decoder(self.module.model.text_model, input_ids=ids_BT, **inputs)

    @classmethod
    def load(cls, directory: Path) -> Emu3Family:
        """From a folder in the library's format. Raises `ValueError` when something is missing from it."""
        module = load_pretrained(Emu3ForConditionalGeneration, directory)
        images = Emu3Images(take_image_tokenizer(module, directory), preprocessing(directory))
        return cls(module, images, TextTokenizer.load(directory), read_extra_files(directory))


def first_code_id(vocabulary: Mapping[str, int], codebook: int) -> int:
    """Id of image token 0. Raises `ValueError` unless the ids of all codes follow it in order."""
    ids = [vocabulary.get(VISUAL.format(code), -1) for code in range(codebook)]
    if ids[0] < 0 or ids != list(range(ids[0], ids[0] + codebook)):
        raise ValueError(f"The vocabulary does not hold {codebook:,} visual tokens with consecutive ids: no Emu3's.")
    return ids[0]


class Emu3Images:
    """Emu3's image tokenizer: the library's, in float32, on square images."""

    def __init__(self, vq: Any, config: JsonMapping) -> None:
        self.vq = vq
        stride = vq.vision_spatial_factor
        least = config.get("min_pixels") or config["size"]["min_pixels"]  # the authors' smallest area
        side = math.isqrt(int(least)) // stride
        self.grid = (side, side)
        self.codebook = int(vq.config.codebook_size)
        self.pixels = Pixels.of(config, side * stride, "crop")
        self.fingerprint = fingerprint("emu3", vq, self.pixels)

    def to(self, device: torch.device) -> Emu3Images:
        self.vq.to(device)
        return self

    @torch.inference_mode()
    def encode(self, images: Sequence[Image.Image], batch: int = 4) -> Codes:
        """Features are those that are quantised: after `quant_conv`, in the codebook's space."""
        tokens, width = self.grid[0] * self.grid[1], self.vq.config.embed_dim
        codes, features = [np.zeros((0, tokens), np.int64)], [np.zeros((0, tokens, width), np.float32)]
        for start in range(0, len(images), batch):
            pixels_N3HW = self.pixels(images[start : start + batch]).to(self.vq.device)
            frames = self.vq.config.temporal_downsample_factor  # an image is a still film of so many frames
            with exact_float32(self.vq.device):
                latents_NFDHW = self.vq.encoder(pixels_N3HW[:, None].expand(-1, frames, -1, -1, -1))
                features_NFDHW = self.vq.quant_conv(latents_NFDHW.transpose(1, 2)).transpose(1, 2)
                codes_NFHW = self.vq.quantize(features_NFDHW)
            codes.append(codes_NFHW[:, 0].flatten(1).cpu().numpy())
            features.append(features_NFDHW[:, 0].flatten(2).transpose(1, 2).cpu().numpy())
        return Codes(np.concatenate(codes), np.concatenate(features))

    @torch.inference_mode()
    def decode(self, codes_NL: IntArray, batch: int = 4) -> list[Image.Image]:
        images: list[Image.Image] = []
        for start in range(0, len(codes_NL), batch):
            codes_NHW = torch.as_tensor(codes_NL[start : start + batch], device=self.vq.device).unflatten(1, self.grid)
            with exact_float32(self.vq.device):
                images += self.pixels.images(self.vq.decode(codes_NHW))
        return images

"""Tiny models of every family with random weights: they show that everything fits together, and predict nothing.

Weights come from torch's global generator. `texts` shape the text tokenizer; images have `grid` x `grid` tokens of
`patch` x `patch` pixels; other arguments go to the language model's configuration.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from math import log2
from typing import TYPE_CHECKING, Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from retrodict.files import JsonObject
from retrodict.models.checkpoint import PREPROCESSING
from retrodict.models.hf import TextTokenizer
from retrodict.models.vqgan import VQGAN, VQGANConfig

if TYPE_CHECKING:
    from retrodict.models.chameleon.family import ChameleonFamily
    from retrodict.models.emu3 import Emu3Family
    from retrodict.models.janus import JanusFamily
    from retrodict.models.liquid import LiquidFamily
    from retrodict.models.small.family import SmallFamily

CODES = 24  # image tokens to choose from


def tiny_small(texts: Sequence[str], *, grid: int = 6, patch: int = 16) -> SmallFamily:
    from retrodict.models.small.config import ImageTokenizerConfig
    from retrodict.models.small.family import SmallFamily
    from retrodict.models.small.image_tokenizer import NetTokenizer
    from retrodict.models.small.words import Words

    images = NetTokenizer(
        ImageTokenizerConfig(image_size=(grid * patch, grid * patch), patch=patch, codes=CODES, width=16)
    )
    family = SmallFamily.new(images.eval(), Words.from_texts(texts), hidden=32, layers=2, heads=2)
    family.module.train(False)
    return family


def tiny_chameleon(
    texts: Sequence[str] = (), *, grid: int = 6, patch: int = 16, images: VQGAN | None = None, **sizes: Any
) -> ChameleonFamily:
    from retrodict.models.chameleon.family import ChameleonFamily
    from retrodict.models.chameleon.layout import ChameleonForConditionalGeneration, configuration

    images = images or tiny_vqgan(grid, patch)
    words = chameleon_words(images.config.n_embed, texts)
    given = {**_LANGUAGE, "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 4096}
    config = configuration(words.vocabulary, images, vocab_size=len(words), **given | sizes)
    module = ChameleonForConditionalGeneration(config)
    module.train(False)
    return ChameleonFamily(module, images, words)


def chameleon_words(codes: int, texts: Sequence[str] = ()) -> TextTokenizer:
    """Ids in the order of the released vocabulary: four, the image tokens, then the rest."""
    from retrodict.models.chameleon.layout import PLACEHOLDER, SEP, code_name

    first, last = ("<s>", "<pad>", "</s>", "<unk>"), ("<eoss>", "<racm3:break>", SEP, PLACEHOLDER)
    names = [*first, *map(code_name, range(codes)), *last]
    return TextTokenizer(tiny_tokenizer(names, (*first, *last), texts))


def tiny_liquid(
    texts: Sequence[str] = (), *, grid: int = 6, patch: int = 16, images: VQGAN | None = None, **sizes: Any
) -> LiquidFamily:
    from transformers import GemmaConfig, GemmaForCausalLM

    from retrodict.models import liquid

    images = images or tiny_vqgan(grid, patch)
    control = (liquid.BOI, liquid.EOI, liquid.UNCONDITIONAL, "<start_of_turn>", "<end_of_turn>")
    special = ("<pad>", "<eos>", "<bos>", "<unk>", *control)
    words = TextTokenizer(tiny_tokenizer(special, special, texts))
    given = {
        **_LANGUAGE,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "initializer_range": 0.3,  # of the usual size, a head tied to the embeddings says the same for any input
    }
    config = GemmaConfig(
        vocab_size=len(words) + images.config.n_embed,
        hidden_act=liquid.ACTIVATION,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
        tie_word_embeddings=True,
        **given | sizes,
    )
    module = GemmaForCausalLM(config)
    module.train(False)
    return liquid.LiquidFamily(module, images, words)


def tiny_emu3(
    texts: Sequence[str] = (), *, grid: int = 6, patch: int = 16, frames: int = 1, **sizes: Any
) -> Emu3Family:
    """`frames` are those that an image is repeated for; published are 4, which take four times as long."""
    from transformers import Emu3Config, Emu3ForConditionalGeneration

    from retrodict.models import emu3

    names = {
        "bos_token": emu3.BOS,
        "eos_token": emu3.EOS,
        "pad_token": emu3.PAD,
        "image_token": emu3.PLACEHOLDER,
        "boi_token": emu3.BOI,
        "eoi_token": emu3.EOI,
        "image_wrapper_token": emu3.IMAGE,
        "eof_token": emu3.END_OF_FRAME,
    }
    special = (*names.values(), emu3.END_OF_LINE)
    tokenizer = Tokenizer.from_str(tiny_tokenizer(special, special, texts))
    tokenizer.add_special_tokens([emu3.VISUAL.format(code) for code in range(CODES)])  # last, as in the released one
    words = TextTokenizer(tokenizer.to_str())
    ids = words.vocabulary
    given = {
        **_LANGUAGE,
        "vocab_size": len(words),
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        "attention_dropout": 0.0,
        "pad_token_id": ids[emu3.PAD],
        "bos_token_id": ids[emu3.BOS],
        "eos_token_id": ids[emu3.EOS],
    }
    vq_config = {
        "codebook_size": CODES,
        "base_channels": 32,
        "channel_multiplier": _levels(patch),
        "temporal_downsample_factor": frames,
        "num_res_blocks": 1,
        "attn_resolutions": [1],
        "hidden_size": 32,
    }
    config = Emu3Config(vq_config=vq_config, text_config=given | sizes, vocabulary_map=ids)
    module: Any = Emu3ForConditionalGeneration(config).eval()
    area = {"min_pixels": (grid * patch) ** 2, "max_pixels": (grid * patch) ** 2, "spatial_factor": patch}
    pixels = {"image_processor_type": "Emu3ImageProcessor", **area, **_NORMALISED}
    return emu3.Emu3Family(module, emu3.Emu3Images(_taken(module), pixels), words, _extra(pixels, names))


def tiny_janus(texts: Sequence[str] = (), *, grid: int = 6, patch: int = 16, **sizes: Any) -> JanusFamily:
    """The codebook's vectors do not have unit length."""
    from transformers import JanusConfig, JanusForConditionalGeneration

    from retrodict.models import janus

    names = {
        "bos_token": janus.BOS,
        "eos_token": janus.EOS,
        "pad_token": janus.PAD,
        "image_token": janus.PLACEHOLDER,
        "boi_token": janus.BOI,
        "eoi_token": janus.EOI,
    }
    special = (*names.values(), "<|User|>", "<|Assistant|>")
    words = TextTokenizer(tiny_tokenizer(special, special, texts))
    ids, size, width = words.vocabulary, grid * patch, int(sizes.get("hidden_size", 32))
    given = {
        **_LANGUAGE,
        "model_type": "llama",
        "vocab_size": len(words),
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 1024,
        "pad_token_id": ids[janus.PAD],
        "bos_token_id": ids[janus.BOS],
        "eos_token_id": ids[janus.EOS],
    }
    vision_config = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": size,
        "patch_size": patch,
        "projection_dim": width,
        "num_image_tokens": grid**2,
    }
    vq_config = {
        "num_embeddings": CODES,
        "latent_channels": 32,
        "base_channels": 32,
        "channel_multiplier": _levels(patch),
        "num_res_blocks": 1,
        "projection_dim": width,
        "image_token_embed_dim": width,
    }
    config = JanusConfig(
        text_config=given | sizes,
        vision_config=vision_config,
        vq_config=vq_config,
        image_token_id=ids[janus.PLACEHOLDER],
        tie_word_embeddings=False,
    )
    module: Any = JanusForConditionalGeneration(config).eval()
    square = {"size": {"height": size, "width": size}, "min_size": 1}
    pixels = {"image_processor_type": "JanusImageProcessor", **square, **_NORMALISED}
    return janus.JanusFamily(module, janus.JanusImages(_taken(module), size, pixels), words, _extra(pixels, names))


def tiny_vqgan(grid: int = 6, patch: int = 16) -> VQGAN:
    """The codebook is as wide as the features, so that much of the codebook is used."""
    config = VQGANConfig(
        size=grid * patch,
        resolution=grid * patch,
        ch=32,
        ch_mult=tuple(_levels(patch)),
        num_res_blocks=1,
        z_channels=16,
        embed_dim=16,
        n_embed=CODES,
    )
    vqgan = VQGAN(config)
    torch.nn.init.normal_(vqgan.quantize.embedding.weight, std=0.3)
    return vqgan.requires_grad_(False).eval()


def tiny_tokenizer(names: Sequence[str], special: Iterable[str], texts: Iterable[str], merges: int = 300) -> str:
    """A `tokenizer.json`: byte pairs learnt from `texts`. `names` get the first ids, in order; text can be anything."""
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=len(alphabet) + merges, initial_alphabet=alphabet, special_tokens=[], show_progress=False
    )
    learner.train_from_iterator([f" {text}" for text in texts], trainer)
    learned = json.loads(learner.to_str())["model"]
    pieces = sorted(learned["vocab"], key=learned["vocab"].__getitem__)
    vocabulary = {name: index for index, name in enumerate([*names, *pieces])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [tuple(pair) for pair in learned["merges"]]))
    tokenizer.pre_tokenizer = learner.pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(special))
    return str(tokenizer.to_str())


_LANGUAGE: JsonObject = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
_NORMALISED: JsonObject = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}


def _levels(patch: int) -> list[int]:
    """Channel multipliers of a convolutional encoder: each level after the first halves the sides."""
    return [1] * (1 + round(log2(patch)))


def _taken(module: Any) -> Any:
    """The image tokenizer, which families keep outside of the module."""
    vq = module.model.vqmodel.requires_grad_(False).float()
    del module.model.vqmodel
    torch.nn.init.normal_(vq.quantize.embedding.weight)  # else all codes are alike
    return vq


def _extra(pixels: JsonObject, names: dict[str, str]) -> dict[str, str]:
    """The files beside configuration and weights, as a published folder has them."""
    named = {"tokenizer_class": "PreTrainedTokenizerFast", **names}
    return {PREPROCESSING: json.dumps(pixels), "tokenizer_config.json": json.dumps(named)}

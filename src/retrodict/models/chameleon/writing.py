"""A Chameleon checkpoint on disk, as `transformers` reads it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import ChameleonConfig, ChameleonVQVAEConfig

from retrodict.files import write_json
from retrodict.models.chameleon.vocabulary import PLACEHOLDER, SEP, Vocabulary
from retrodict.models.checkpoint import write_tensors
from retrodict.models.text import TextTokenizer
from retrodict.models.vqgan import VQGAN
from retrodict.models.vqgan_files import PREFIX, hf_config


def write_checkpoint(
    folder: Path, config: ChameleonConfig, state: Mapping[str, Tensor], images: VQGAN, words: TextTokenizer
) -> None:
    """Weights of transformer and image tokenizer (encoder *and* decoder) in one set of safetensors, with the
    configuration and the text tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    config.vq_config = ChameleonVQVAEConfig(**hf_config(images.config))
    config.architectures = ["ChameleonForConditionalGeneration"]
    config.save_pretrained(folder)
    tokenizer_tensors = {PREFIX + name: value for name, value in images.state_dict().items()}
    write_tensors({**state, **tokenizer_tensors}, folder)
    words.save(folder)
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<s>",
            "eos_token": "</s>",
            "pad_token": "<pad>",
            "sep_token": SEP,
            "image_token": PLACEHOLDER,
            "boi_token": "<racm3:break>",
            "eoi_token": "<eoss>",
            "model_max_length": config.max_position_embeddings,
        },
    )
    size = images.config.size
    write_json(
        folder / "preprocessor_config.json",
        {
            "image_processor_type": "ChameleonImageProcessor",
            "size": {"shortest_edge": size},
            "crop_size": {"height": size, "width": size},
            "resample": 1,
            "rescale_factor": 2 / 255,  # the library's default, 0.0078, is not what the authors do
            "image_mean": [1.0, 1.0, 1.0],
            "image_std": [1.0, 1.0, 1.0],
        },
    )


def configuration(vocabulary: Mapping[str, int], images: VQGAN, **sizes: Any) -> ChameleonConfig:
    """A configuration for a vocabulary; `sizes` are arguments of `ChameleonConfig`."""
    ids = Vocabulary.read(vocabulary)
    return ChameleonConfig(
        vocabulary_map=dict(vocabulary),
        vq_config=hf_config(images.config),
        bos_token_id=ids.bos,
        eos_token_id=ids.eos,
        pad_token_id=ids.pad,
        tie_word_embeddings=False,
        **sizes,
    )

"""A Chameleon checkpoint in the layout of transformers: its vocabulary, its transformer, its files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers
from torch import Tensor
from transformers import ChameleonConfig, ChameleonVQVAEConfig

from retrodict.files import write_json
from retrodict.models.checkpoint import load_pretrained, shape_of, write_tensors
from retrodict.models.hf import TextTokenizer
from retrodict.models.vqgan import VQGAN
from retrodict.models.vqgan_files import PREFIX, hf_config

NORM = "layers.0.self_attn.q_norm.weight"  # its shape tells layouts apart
SEP = "<reserved08706>"  # ends a turn
PLACEHOLDER = "<image>"  # what transformers calls <reserved08707>
_IMAGE = "IMGIMG"
_DIGITS = str.maketrans("ABCDEFGHIJ", "0123456789")


@dataclass(frozen=True)
class Vocabulary:
    """In the released models: 0, 1, 2; 8197 and 8196; code 0 is 4."""

    bos: int
    pad: int
    eos: int
    boi: int
    eoi: int
    first_code: int
    codes: int

    @classmethod
    def read(cls, ids: Mapping[str, int]) -> Vocabulary:
        """From a map of token to id. Raises `ValueError` when a token is missing or the image tokens are not in order.

        A code's name is `IMGIMG`, its decimal digits as A to J, and `Z`. Codes must have consecutive ids in their own
        order: then an id is a code plus a constant, which all published checkpoints satisfy.
        """
        names = {"bos": "<s>", "pad": "<pad>", "eos": "</s>", "boi": "<racm3:break>", "eoi": "<eoss>"}
        missing = [name for name in names.values() if name not in ids]
        if missing:
            raise ValueError(f"This is no vocabulary of Chameleon: it has no {', '.join(missing)}.")
        codes = {
            int(name.removeprefix(_IMAGE)[:-1].translate(_DIGITS)): index
            for name, index in ids.items()
            if name.startswith(_IMAGE) and name[len(_IMAGE) : -1]
        }
        if not codes:
            raise ValueError(f"This is no vocabulary of Chameleon: it has no {_IMAGE} tokens.")
        first = codes.get(0, -1)
        if any(codes.get(code) != first + code for code in range(len(codes))):
            raise ValueError(
                "The image tokens of this vocabulary are not in order: code k must have the id of code 0 plus k, "
                "as in all published checkpoints."
            )
        special = {field: ids[name] for field, name in names.items()}
        return cls(**special, first_code=first, codes=len(codes))


def code_name(code: int) -> str:
    return _IMAGE + "".join(chr(ord("A") + int(digit)) for digit in str(code)) + "Z"


class ChameleonForConditionalGeneration(transformers.ChameleonForConditionalGeneration):
    """The library's class without its image encoder, which would follow the model's dtype (ours is a `VQGAN`).

    Its `forward` must not be called: it sets the logits of image tokens to the lowest number. The backbone is `.model`.
    The name is the library's, so that a checkpoint that we save names a class that others have.
    """

    _keys_to_ignore_on_load_unexpected = [r"model\.vqmodel\."]  # noqa: RUF012 -- as the library has it

    def __init__(self, config: ChameleonConfig) -> None:
        super().__init__(config)
        del self.model.vqmodel


def load_module(folder: Path) -> ChameleonForConditionalGeneration:
    """Weights in the layout of transformers. Raises `ValueError` for the other layouts, saying which one it is."""
    _check_layout(folder)
    module: ChameleonForConditionalGeneration = load_pretrained(ChameleonForConditionalGeneration, folder)
    return module


def _check_layout(folder: Path) -> None:
    """Tell layouts apart by the shape of the query norm: wrong ones would load as noise, or not at all."""
    config = ChameleonConfig.from_pretrained(folder)
    heads, width = config.num_attention_heads, config.hidden_size // config.num_attention_heads
    shape = shape_of(folder, NORM)
    if shape == (heads, width):
        return
    if shape is None:
        raise ValueError(f"{folder} holds no Chameleon in the layout of transformers: it has no query norms.")
    if shape == (width,):
        raise ValueError(
            f"{folder} is in the layout of Anole's own fork of transformers (interleaved rotary rows). Convert it: "
            f"retrodict convert chameleon {folder} --out DIR"
        )
    raise ValueError(
        f"{folder} has query norms of shape {shape} where transformers wants {(heads, width)} (as Lumina-mGPT does). "
        f"Convert it: retrodict convert chameleon {folder} --out DIR"
    )


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

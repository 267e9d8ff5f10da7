"""Model families: one record each, from which commands, recipes, downloads, estimates and tests derive what they know.

A family is added by its module and one record here (docs/extend.md). Nothing heavy is imported: classes are named by
their path and loaded when they are asked for.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrodict.files import JsonObject

if TYPE_CHECKING:
    from retrodict.models.token_family import TokenFamily

SPACES = "spaces/"
ORIGINAL = "*consolidated*.pth"  # Chameleon's authors' own format: fetched only where there are no safetensors
CARD = "retrodict.json"  # what makes a folder a model of ours: {"family", "direction", ...}
# What is fetched of a repository: configuration, weights, tokenizers, chat templates, the model card.
MODEL_FILES = ("*.json", "*.safetensors", "*.jinja", "*.txt", "*.model", "*.yaml", "*vqgan.ckpt", "*.md", ORIGINAL)


@dataclass(frozen=True)
class Part:
    """Files of one hub repository. Weights in other formats, which repositories hold beside these, stay there."""

    repository: str
    patterns: tuple[str, ...] = MODEL_FILES
    kind: str = "model"

    @property
    def required(self) -> tuple[str, ...]:
        """Patterns without which a folder is not complete."""
        return () if self.patterns == MODEL_FILES else self.patterns

    @classmethod
    def named(cls, name: str) -> Part:
        """Of a hub id, or `spaces/` and that of a space."""
        space = name.startswith(SPACES)
        return cls(name.removeprefix(SPACES), kind="space" if space else "model")

    @property
    def page(self) -> str:
        return f"https://huggingface.co/{SPACES if self.kind == 'space' else ''}{self.repository}"


@dataclass(frozen=True)
class Size:
    """A decoder with gated feed-forward layers, and its images: what costs are estimated from."""

    layers: int
    hidden: int
    intermediate: int
    attention: int  # heads times width of a head
    key_value: int  # key-value heads times width of a head
    vocabulary: int  # rows of the embedding table
    tied: bool  # whether the head is the embedding table
    image_tokens: int
    codebook: int
    delimiters: int = 2  # ids around an image and between its rows
    image_tokenizer: int = 68_718_467  # weights; the VQGAN of Chameleon, Anole and Liquid
    vision: int = 0  # weights of an encoder, embeddings and head for images alone; they are not trained

    @property
    def matrices(self) -> tuple[tuple[int, int], ...]:
        """Inputs and outputs of a layer's matrices: q, k, v, o, gate, up, down."""
        d, a, k, i = self.hidden, self.attention, self.key_value, self.intermediate
        return (d, a), (d, k), (d, k), (a, d), (d, i), (d, i), (i, d)

    @property
    def layer_weights(self) -> int:
        """Weights of the layers' matrices."""
        return self.layers * sum(inputs * outputs for inputs, outputs in self.matrices)

    @property
    def text_vocabulary(self) -> int:
        """Rows of the text head: image tokens are not among them."""
        return self.vocabulary if self.vision else self.vocabulary - self.codebook

    @property
    def weights(self) -> int:
        """Weights of the language model; norms, some hundred thousand, are not counted."""
        return self.layer_weights + self.vocabulary * self.hidden * (1 if self.tied else 2)

    def adapter_weights(self, rank: int) -> int:
        """Weights of a LoRA adapter of the layers' matrices (Hu et al. 2021, section 4.1)."""
        return self.layers * sum(rank * (inputs + outputs) for inputs, outputs in self.matrices)


@dataclass(frozen=True)
class Checkpoint:
    """Published weights: which files of which repositories make a model's folder, and how large the model is."""

    parts: tuple[Part, ...]
    size: Size
    licence: str


@dataclass(frozen=True)
class Family:
    """What there is to know of a family without loading it. Paths are `module:name`."""

    name: str
    title: str
    path: str  # its `TokenFamily`, with a class method `load(folder)`
    tiny: str  # makes one with random weights from sentences that hold its words
    model_types: tuple[str, ...] = ()  # `model_type` in a published checkpoint's config.json
    checkpoints: tuple[Checkpoint, ...] = ()  # the first is what `retrodict download NAME` gets
    converter: str = ""  # reads layouts that `load` does not
    foreign_tokenizer: bool = False  # is published without its image tokenizer: `load(folder, image_tokenizer)`
    pads: bool = False  # can be converted to get bars around images, where they are not square
    reads_only: bool = False  # writes no images: an inverse model alone, trained by `training.reader`
    from_scratch: bool = False  # can be trained without a model to start from

    def load_class(self) -> Any:
        return load_named(self.path)


# Repositories are those named in the families' papers and code; sizes are of arXiv 2405.09818 (table 1) and its
# released configuration; 2412.04332 (Gemma-7B with 8192 more ids); 2409.18869 (table 3); 2501.17811 (table 1).
FAMILIES = {
    family.name: family
    for family in (
        Family(
            "small",
            "small: words and image tokens of one's own images",
            "retrodict.models.small.family:SmallFamily",
            "retrodict.models.tiny:tiny_small",
            from_scratch=True,
        ),
        Family(
            "chameleon",
            "Chameleon and Anole",
            "retrodict.models.chameleon.family:ChameleonFamily",
            "retrodict.models.tiny:tiny_chameleon",
            model_types=("chameleon",),
            checkpoints=(
                Checkpoint(
                    (Part("leloy/Anole-7b-v0.1-hf"),),  # Anole in the layout of transformers, with the image decoder
                    Size(32, 4096, 11008, 4096, 4096, 65_536, False, 1024, 8192),
                    "Chameleon research licence: no commercial use",
                ),
            ),
            converter="retrodict.models.chameleon.convert:convert",
            foreign_tokenizer=True,
        ),
        Family(
            "liquid",
            "Liquid",
            "retrodict.models.liquid:LiquidFamily",
            "retrodict.models.tiny:tiny_liquid",
            model_types=("gemma",),
            checkpoints=(
                Checkpoint(
                    (
                        Part("Junfeng5/Liquid_V1_7B"),
                        Part("Junfeng5/Liquid_demo", ("chameleon/vqgan.ckpt", "chameleon/vqgan.yaml"), "space"),
                    ),
                    Size(28, 3072, 24_576, 4096, 4096, 264_192, True, 1024, 8192),
                    "weights under Gemma's terms; the image tokenizer is Chameleon's, under that licence",
                ),
            ),
            foreign_tokenizer=True,
            pads=True,
        ),
        Family(
            "emu3",
            "Emu3",
            "retrodict.models.emu3:Emu3Family",
            "retrodict.models.tiny:tiny_emu3",
            model_types=("emu3",),
            checkpoints=(
                Checkpoint(
                    (Part("BAAI/Emu3-Gen-hf"),),
                    # 64 ends of rows, four ids of control and about five for the image's size in words
                    Size(32, 4096, 14_336, 4096, 1024, 184_622, False, 4096, 32_768, 73, 270_740_287),
                    "Apache-2.0",
                ),
            ),
        ),
        Family(
            "janus",
            "Janus and Janus-Pro",
            "retrodict.models.janus:JanusFamily",
            "retrodict.models.tiny:tiny_janus",
            model_types=("janus",),
            checkpoints=(
                Checkpoint(
                    (Part("deepseek-community/Janus-Pro-7B"),),
                    Size(30, 4096, 11_008, 4096, 4096, 102_400, False, 576, 16_384, 2, 71_883_403, vision=425_524_224),
                    "DeepSeek's model licence",
                ),
                Checkpoint(
                    (Part("deepseek-community/Janus-Pro-1B"),),
                    Size(24, 2048, 5632, 2048, 2048, 102_400, False, 576, 16_384, 2, 71_883_403, vision=352_097_280),
                    "DeepSeek's model licence",
                ),
            ),
        ),
        Family(
            "vlm",
            "Qwen-VL, SmolVLM, Idefics3, LLaVA and others that only read images",
            "retrodict.training.reader:Reader",
            "",
            checkpoints=(
                Checkpoint(
                    (Part("Qwen/Qwen3-VL-4B-Instruct"),),
                    # a token is 32 pixels a side, of images of 512
                    Size(36, 2560, 9728, 4096, 1024, 151_936, True, 256, 0, 2, 0, vision=415_000_000),
                    "Apache-2.0",
                ),
                Checkpoint(
                    (Part("Qwen/Qwen2.5-VL-3B-Instruct"),),
                    Size(36, 2048, 11_008, 2048, 256, 151_936, True, 324, 0, 2, 0, vision=668_000_000),
                    "Qwen research licence: no commercial use",
                ),
            ),
            reads_only=True,
        ),
    )
}
UNIFIED = tuple(family.name for family in FAMILIES.values() if not family.reads_only)


def get_family(name: str) -> Family:
    """The record of a family.

    Raises:
        ValueError: This version does not know it; the message names those that it knows.
    """
    if name not in FAMILIES:
        near = difflib.get_close_matches(name, FAMILIES, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"this version knows {', '.join(FAMILIES)}"
        raise ValueError(f"There is no model family '{name}': {hint}")
    return FAMILIES[name]


def tiny_family(name: str) -> Callable[[Sequence[str]], TokenFamily]:
    """What makes a tiny model of a family, with random weights from torch's global generator.

    It takes sentences that hold the words it has to know. Its images are 96 pixels a side, 6 x 6 tokens.

    Raises:
        ValueError: This version does not know the family.
    """
    make: Callable[[Sequence[str]], TokenFamily] = load_named(get_family(name).tiny)
    return make


def card_of(folder: Path) -> JsonObject:
    """What a folder says it holds: our card, or the family that a published `config.json` belongs to; empty if none.

    Raises:
        ValueError: One of the two files is no JSON, or the card names family or base by what is no name.
    """
    if (folder / CARD).is_file():
        card = read_json(folder / CARD)
        for key in ("family", "base"):
            if key in card and not (isinstance(card[key], str) and card[key]):
                raise ValueError(f"{folder / CARD} is damaged, get it again: {key} is {card[key]!r}.")
        return card
    if (folder / "config.json").is_file():
        kind = read_json(folder / "config.json").get("model_type")
        return next(({"family": f.name} for f in FAMILIES.values() if kind in f.model_types), {})
    return {}


def size_of(name: str, model: str | Path = "") -> Size:
    """How large a model is, without its weights.

    Args:
        name: Its family.
        model: Its folder, whose `config.json` says it, or its hub id. For others it is the size of the family's first
            published checkpoint.

    Raises:
        ValueError: The family has no published checkpoint, or the folder's `config.json` does not say it.
    """
    published = get_family(name).checkpoints
    if not published:
        raise ValueError(f"No parameter counts are known for the family {name}.")
    repositories = {checkpoint.parts[0].repository: checkpoint.size for checkpoint in published}
    size = repositories.get(str(model), published[0].size)
    file = Path(model) / "config.json"
    if not model or not file.is_file():
        return size
    config = read_json(file)
    text = config.get("text_config", config)
    try:
        heads = int(text["num_attention_heads"])
        width = int(text.get("head_dim") or text["hidden_size"] // heads)
        return replace(
            size,
            layers=int(text["num_hidden_layers"]),
            hidden=int(text["hidden_size"]),
            intermediate=int(text["intermediate_size"]),
            attention=heads * width,
            key_value=int(text.get("num_key_value_heads") or heads) * width,
            vocabulary=int(text["vocab_size"]),
        )
    except KeyError as error:
        raise ValueError(f"{file} does not say how large the model is: it has no {error}.") from None


def read_json(file: Path) -> JsonObject:
    """A JSON object from a model's folder. Raises `ValueError` that names the file when it is none."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise ValueError(f"{file} is damaged, get it again: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{file} is damaged, get it again: it holds no JSON object.")
    return content


def load_named(path: str) -> Any:
    """What a path `module:name` names."""
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)

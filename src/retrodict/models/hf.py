"""What families on classes of transformers share: text that stays text, images as tensors, heads by rows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from packaging.version import Version
from PIL import Image
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.cache_utils import Cache as LibraryCache

from retrodict.files import JsonMapping
from retrodict.models.checkpoint import save_with_image_tokenizer
from retrodict.models.token_family import Cache, Codes, ImageSpec, IntArray, TokenSequence, TrainSpec, take

FILE = "tokenizer.json"


class HFFamily:
    """The methods of `TokenFamily` that do not differ: a subclass brings prompts, ids, guidance and the backbone."""

    module: Any
    images: Any  # no part of the module: follows it to its device with `to`, and encodes and decodes there
    words: TextTokenizer
    spec: ImageSpec
    extra_files: Mapping[str, str]

    def encode(self, images: Sequence[Image.Image]) -> Codes:
        codes: Codes = self.images.to(self.module.device).encode(images)
        return codes

    def decode(self, codes_NL: IntArray, sizes: Sequence[tuple[int, int]] | None = None) -> list[Image.Image]:
        images: list[Image.Image] = self.images.to(self.module.device).decode(codes_NL)
        return images

    def unfamiliar(self, images: Sequence[Image.Image], texts: Sequence[str]) -> list[str]:
        return []

    def text_ids(self, text: str) -> list[int]:
        return self.words.plain(text)

    def template_ids(self, text: str) -> list[int]:
        return self.words.template(text)

    def text(self, ids: Sequence[int]) -> str:
        return self.words.decode(ids)

    def features(self, sequence: TokenSequence) -> Mapping[str, IntArray]:
        return {}

    def image_logits(self, hidden: Tensor) -> Tensor:
        first = self.spec.first_id
        return F.linear(hidden, self.module.lm_head.weight[first : first + self.spec.codebook])

    def text_logits(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self.module.lm_head.weight[: self.spec.first_id])

    def save(self, directory: Path) -> None:
        save_with_image_tokenizer(self.module, self.images.vq, self.extra_files, directory)
        self.words.save(directory)


# What the library's decoders call their cache: another name warns, or is not known.
CACHE = "cache" if Version(version("transformers")) >= Version("5.24") else "past_key_values"


class _LibraryCache(LibraryCache):
    """A cache of ours as the library's decoders take it, which ask for no more than `update` when they get a mask. For
    the first forward pass, which gets none, it is empty."""

    def __init__(self, cache: Cache) -> None:
        super().__init__(layers=[])
        self._cache = cache

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        return self._cache.update(key_states, value_states, layer_idx)


def run_decoder(
    decoder: nn.Module,
    *,
    at_BS: Tensor | None = None,
    positions_BT: Tensor | None = None,
    cache: Cache | None = None,
    **inputs: Tensor,
) -> Tensor:
    """`TokenFamily.hidden` of a decoder of the library, which computes all hidden states whatever is wanted."""
    context: dict[str, Any] = {"use_cache": cache is not None}
    if cache is not None:
        context[CACHE] = _LibraryCache(cache)
        if positions_BT is not None:
            dtype = next(decoder.parameters()).dtype
            unseen_BTC = torch.arange(cache.slots, device=positions_BT.device) > positions_BT[:, :, None]
            mask_BTC = torch.zeros(unseen_BTC.shape, dtype=dtype, device=positions_BT.device)
            context["attention_mask"] = mask_BTC.masked_fill(unseen_BTC, torch.finfo(dtype).min)[:, None]
            context["position_ids"] = positions_BT
    return take(decoder(**inputs, **context).last_hidden_state, at_BS)


def decoder_spec(layers: str, layer_class: str) -> TrainSpec:
    """How a decoder is trained whose layers, of one class, lie at a path such as `model.layers`."""
    return TrainSpec(
        lora_targets=layers.replace(".", r"\.") + r"\.\d+\.(self_attn|mlp)\.(q|k|v|o|gate|up|down)_proj",
        layer_classes=(layer_class,),
        freeze_embeddings=True,
    )


def token_ids(vocabulary: Mapping[str, int], names: Iterable[str], family: str) -> list[int]:
    """Ids of special tokens. Raises `ValueError` that names the ones that are missing."""
    names = list(names)
    missing = [name for name in names if name not in vocabulary]
    if missing:
        raise ValueError(f"This tokenizer is not {family}'s: it has no {', '.join(missing)}.")
    return [vocabulary[name] for name in names]


class TextTokenizer:
    """A `tokenizers` file, in two readings: `template` knows special tokens by name, `plain` takes them for letters, so
    that what a user writes never becomes a control token.

    `control` are ids that text may never hold beside those that the file itself calls special.
    """

    def __init__(self, content: str, control: Collection[int] = ()) -> None:
        self.content = content
        self._whole = Tokenizer.from_str(content)
        parsed = json.loads(content)
        added = parsed.get("added_tokens") or []
        self._control = {t["id"] for t in added if t.get("special")} | set(control)
        parsed["added_tokens"] = [t for t in added if t["id"] not in self._control]
        parsed["post_processor"] = None  # it names tokens that are no longer there, and no text of ours wants any added
        self._plain = Tokenizer.from_str(json.dumps(parsed))

    @classmethod
    def load(cls, folder: Path, control: Collection[int] = ()) -> TextTokenizer:
        file = folder / FILE
        if not file.is_file():
            raise ValueError(f"{folder} holds no {FILE}: it comes with the checkpoint.")
        try:
            return cls(file.read_text(encoding="utf-8"), control)
        except Exception as error:  # the library raises nothing more precise
            raise ValueError(f"{file} is damaged, get it again: {error}") from None

    def save(self, folder: Path) -> None:
        (folder / FILE).write_text(self.content, encoding="utf-8")

    @property
    def vocabulary(self) -> dict[str, int]:
        """Every token with its id, added ones included."""
        ids: dict[str, int] = self._whole.get_vocab(with_added_tokens=True)
        return ids

    def __len__(self) -> int:
        return max(self.vocabulary.values()) + 1

    def plain(self, text: str) -> list[int]:
        """Raises `ValueError` where even a plain reading meets a control token."""
        ids: list[int] = self._plain.encode(text, add_special_tokens=False).ids
        control = sorted(self._control.intersection(ids))
        if control:
            name = self._whole.id_to_token(control[0])
            raise ValueError(f"The text '{text}' contains the control token '{name}': rephrase it.")
        return ids

    def template(self, text: str) -> list[int]:
        ids: list[int] = self._whole.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        text: Any = self._whole.decode([i for i in ids if i not in self._control], skip_special_tokens=True)
        return str(text).strip()


@dataclass(frozen=True)
class Pixels:
    """Images to what an image encoder takes, and back: `(value / 255 - mean) / std`, square, bicubic."""

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fit: Literal["crop", "pad"]  # what makes an image square: its middle, or bars in the mean colour
    shortest: int = 1  # pixels that a side keeps beside bars

    @classmethod
    def of(cls, config: JsonMapping, size: int, fit: Literal["crop", "pad"]) -> Pixels:
        """From `preprocessor_config.json`."""
        shortest = int(config.get("min_size", 1))
        return cls(size, tuple(config["image_mean"]), tuple(config["image_std"]), fit, shortest)

    def __call__(self, images: Sequence[Image.Image]) -> Tensor:
        """[N, 3, size, size], float32."""
        values_NHW3 = np.stack([np.asarray(self._square(image.convert("RGB"))) for image in images])
        scaled_NHW3 = (torch.from_numpy(values_NHW3).float() / 255 - torch.tensor(self.mean)) / torch.tensor(self.std)
        return scaled_NHW3.permute(0, 3, 1, 2).contiguous()

    def images(self, pixels_N3HW: Tensor) -> list[Image.Image]:
        """Truncated to whole numbers as the authors do, not rounded."""
        mean, std = torch.tensor(self.mean), torch.tensor(self.std)
        values = (pixels_N3HW.float().cpu().permute(0, 2, 3, 1) + mean / std) / (1 / std) * 255
        return [Image.fromarray(value.numpy()) for value in values.clamp(0, 255).to(torch.uint8)]

    def _square(self, image: Image.Image) -> Image.Image:
        if self.fit == "crop":
            side = min(image.size)
            left, top = (image.width - side) // 2, (image.height - side) // 2
            return _resize(image.crop((left, top, left + side, top + side)), (self.size, self.size))
        # Cut off as Janus's authors do, where transformers rounds: of another size, all pixels are others.
        longest = max(image.size)
        width, height = (max(self.shortest, int(length / longest * self.size)) for length in image.size)
        image = _resize(image, (width, height))
        if image.size == (self.size, self.size):
            return image
        square = Image.new("RGB", (self.size, self.size), tuple(int(value * 255) for value in self.mean))
        square.paste(image, ((self.size - image.width) // 2, (self.size - image.height) // 2))
        return square


def _resize(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    return image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)


def fingerprint(kind: str, module: nn.Module, pixels: Pixels) -> str:
    """Names an image tokenizer: two with the same name give the same tokens to the same image."""
    digest = hashlib.sha256(repr(pixels).encode())
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(memoryview(value.cpu().contiguous().numpy()).cast("B"))
    return f"{kind}-{digest.hexdigest()[:12]}"


@contextmanager
def exact_float32(device: torch.device) -> Iterator[None]:
    """Neither autocast nor TF32, whatever the surrounding code chose: both change image tokens."""
    switches: tuple[Any, ...] = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [switch.allow_tf32 for switch in switches]
    for switch in switches:
        switch.allow_tf32 = False
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.allow_tf32 = value

"""What families on classes that `transformers` ships have in common: reading a published folder, its words, its pixels.

Such a folder holds `config.json`, safetensors, a tokenizer and `preprocessor_config.json`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from retrodict.models.checkpoint import read_tensors, tensor_files
from retrodict.models.hf_logging import no_bars

PREPROCESSING = "preprocessor_config.json"
BESIDE = (
    PREPROCESSING,
    "processor_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
)


def load_pretrained(model_class: Any, folder: Path) -> Any:
    """The model in a folder, in the type it is stored in, ready for inference.

    The library fills what a checkpoint lacks with random numbers and only warns; here it is a `ValueError`.
    """
    with no_bars():
        module, found = model_class.from_pretrained(folder, dtype="auto", output_loading_info=True)
    wrong = sorted(str(key) for kind in ("missing_keys", "mismatched_keys") for key in found[kind])
    if wrong:
        shown = ", ".join(wrong[:3]) + (f" and {len(wrong) - 3:,} more" if len(wrong) > 3 else "")
        raise ValueError(
            f"{folder} is no complete {model_class.__name__}: it lacks {shown}, or has another shape there."
        )
    return module.eval()


def take_tokenizer(module: Any, folder: Path) -> Any:
    """Take the image tokenizer out of a model: no cast, wrapper or optimizer of `module` reaches it there.

    Its weights are read once more, in float32: loading the whole in bfloat16 has rounded them.
    """
    vq = module.model.vqmodel.float()
    del module.model.vqmodel
    names = [name for name in tensor_files(folder) if "vqmodel." in name]
    prefix = names[0].split("vqmodel.")[0] + "vqmodel."
    state = read_tensors(folder, prefix)
    vq.load_state_dict({name.removeprefix(prefix): value.float() for name, value in state.items()})
    return vq.eval().requires_grad_(False)


def save_published(module: Any, vq: nn.Module, beside: Mapping[str, str], directory: Path) -> None:
    """A folder that the library loads, too, with the image tokenizer back in its place and the files `beside`."""
    module.model.vqmodel = vq
    try:
        with no_bars():
            module.save_pretrained(directory)
    finally:
        del module.model.vqmodel
    for name, text in beside.items():
        (directory / name).write_text(text, encoding="utf-8")


def files_beside(folder: Path) -> dict[str, str]:
    """What lies beside configuration and weights: the tokenizer, how pictures are prepared, chat templates."""
    return {name: (folder / name).read_text(encoding="utf-8") for name in BESIDE if (folder / name).is_file()}


def fingerprint(kind: str, module: nn.Module, pixels: Pixels) -> str:
    """Names an image tokenizer: two with the same name give the same codes to the same picture."""
    digest = hashlib.sha256(repr(pixels).encode())
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(memoryview(value.cpu().contiguous().numpy()).cast("B"))
    return f"{kind}-{digest.hexdigest()[:12]}"


def token_ids(vocabulary: Mapping[str, int], names: Iterable[str]) -> list[int]:
    """Ids of special tokens. Raises `ValueError` that names the ones that are missing."""
    names = list(names)
    missing = [name for name in names if name not in vocabulary]
    if missing:
        raise ValueError(f"The tokenizer has no token {', '.join(missing)}: it belongs to another family.")
    return [vocabulary[name] for name in names]


@dataclass(frozen=True)
class Pixels:
    """Pictures to what an image encoder takes, and back: `(value / 255 - mean) / std`, square, bicubic."""

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fit: Literal["crop", "pad"]  # what makes a picture square: its middle, or bars in the mean colour

    @classmethod
    def of(cls, facts: Mapping[str, Any], size: int, fit: Literal["crop", "pad"]) -> Pixels:
        return cls(size, tuple(facts["image_mean"]), tuple(facts["image_std"]), fit)

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
        scale = self.size / max(image.size)
        image = _resize(image, (max(1, round(image.width * scale)), max(1, round(image.height * scale))))
        if image.size == (self.size, self.size):
            return image
        square = Image.new("RGB", (self.size, self.size), tuple(int(value * 255) for value in self.mean))
        square.paste(image, ((self.size - image.width) // 2, (self.size - image.height) // 2))
        return square


def _resize(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    return image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)


def preprocessing(beside: Mapping[str, str]) -> dict[str, Any]:
    """`preprocessor_config.json`, or the same part of a newer folder's `processor_config.json`."""
    own = json.loads(beside.get(PREPROCESSING, "{}"))
    facts: dict[str, Any] = own or json.loads(beside.get("processor_config.json", "{}")).get("image_processor", {})
    if not {"image_mean", "image_std"} <= facts.keys():
        raise ValueError(
            f"The checkpoint does not say how pictures are prepared: {PREPROCESSING} with image_mean is missing."
        )
    return facts

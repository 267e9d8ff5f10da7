"""CLIP-I, CLIP-T and DINO: cosine similarities of embeddings, with the models and the preparation pinned.

The preparation is written out here, because a library's default for it (antialiasing, resampling, crop) moves the
numbers and changes between versions. Everything runs in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from retrodict.files import JsonObject

if TYPE_CHECKING:
    from transformers.modeling_outputs import BaseModelOutputWithPooling

Embeddings = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Pin:
    """A model and how images are prepared for it: the short side to `resize`, bicubic, and the centre `crop`."""

    model: str
    revision: str  # commit on the model hub
    resize: int
    crop: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


# As in MagicBrush's evaluation: OpenAI's CLIP ViT-B/32 under its own preparation, and the first DINO (not DINOv2).
CLIP = Pin(
    "openai/clip-vit-base-patch32",
    "3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268",
    224,
    224,
    (0.48145466, 0.4578275, 0.40821073),
    (0.26862954, 0.26130258, 0.27577711),
)
DINO = Pin(
    "facebook/dino-vits16",
    "abe3b354cb6a9b6f146096b14a4a9d7eecbcb4bd",
    256,
    224,
    (0.485, 0.456, 0.406),
    (0.229, 0.224, 0.225),
)
PINS = {"clip": CLIP, "dino": DINO}


class Embedder:
    """Embeds images, and for CLIP texts, as unit vectors.

    `model` names a folder or hub id to use in place of the pinned one. Raises `ValueError` when it cannot be loaded.
    """

    def __init__(self, kind: str, model: str = "") -> None:
        if kind not in PINS:
            raise ValueError(f'No metric "{kind}": use one of {", ".join(PINS)}, bertscore.')
        if model and not Path(model).is_dir():
            raise ValueError(f"--metric {kind}={model}: {model} is no folder. Without it, {kind} is downloaded.")
        self.kind, self.pin = kind, PINS[kind]
        self._name = model or self.pin.model
        self._pinned: JsonObject = {} if model else {"revision": self.pin.revision}
        self._model = self._load()
        self._tokenizer: Any = None
        size = self._model.config.vision_config.image_size if kind == "clip" else self._model.config.image_size
        # A checkpoint for smaller images gets them in the same proportions.
        self._crop, self._resize = size, round(size * self.pin.resize / self.pin.crop)

    def _load(self) -> Any:
        from transformers import AutoModel, CLIPModel

        kind: Any = CLIPModel if self.kind == "clip" else AutoModel
        try:
            # One attention everywhere, so that numbers do not depend on the machine.
            loaded = kind.from_pretrained(self._name, **self._pinned, dtype=torch.float32, attn_implementation="eager")
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(
                f"The {self.kind} model {self._name} could not be loaded ({reason}): give a folder with it, "
                f"as in --metric {self.kind}=FOLDER."
            ) from error
        return loaded.eval()

    @property
    def metadata(self) -> JsonObject:
        """What a number of this embedding depends on."""
        commit = getattr(self._model.config, "_commit_hash", None)
        return {
            "model": self._name,
            "revision": commit or ("folder" if Path(self._name).is_dir() else ""),
            "pinned": bool(self._pinned),
            "resize": self._resize,
            "crop": self._crop,
            "dtype": "float32",
        }

    @torch.no_grad()
    def images(self, images: Sequence[Image.Image]) -> Embeddings:
        """Unit vectors [N, D]."""
        pixels = torch.from_numpy(np.stack([self._prepare(image) for image in images]))
        if self.kind == "clip":
            return _unit(_tensor(self._model.get_image_features(pixel_values=pixels)))
        return _unit(self._model(pixel_values=pixels).last_hidden_state[:, 0])

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Embeddings:
        """Unit vectors [N, D]; texts are cut at the model's limit (77 tokens for CLIP)."""
        if self._tokenizer is None:
            from transformers import CLIPTokenizer

            self._tokenizer = CLIPTokenizer.from_pretrained(self._name, **self._pinned)
        limit = self._model.config.text_config.max_position_embeddings
        tokens = self._tokenizer(list(texts), padding=True, truncation=True, max_length=limit, return_tensors="pt")
        return _unit(_tensor(self._model.get_text_features(**tokens)))

    def _prepare(self, image: Image.Image) -> Embeddings:
        """[3, crop, crop], normalised."""
        image = image.convert("RGB")
        width, height = image.size
        scale = self._resize / min(width, height)
        size = max(self._crop, int(width * scale)), max(self._crop, int(height * scale))
        image = image.resize(size, Image.Resampling.BICUBIC)
        left, top = round((size[0] - self._crop) / 2), round((size[1] - self._crop) / 2)
        image = image.crop((left, top, left + self._crop, top + self._crop))
        pixels = np.asarray(image, dtype=np.float32) / 255
        return np.asarray(((pixels - self.pin.mean) / self.pin.std).transpose(2, 0, 1), dtype=np.float32)


def _tensor(output: torch.Tensor | BaseModelOutputWithPooling) -> torch.Tensor:
    """Projected features: a tensor, or since transformers 5 an output that holds them."""
    projected = output if isinstance(output, torch.Tensor) else output.pooler_output
    assert projected is not None
    return projected


def _unit(vectors: torch.Tensor) -> Embeddings:
    return np.asarray(torch.nn.functional.normalize(vectors.float(), dim=-1).numpy())

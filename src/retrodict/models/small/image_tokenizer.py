"""The small family's image side: a vector-quantised autoencoder (van den Oord et al. 2017) over patches.

With `context = 0` every token sees its own patch and nothing else, so a local change of the image is a local change
of the tokens; that is what makes the small model trainable in minutes. `context > 0` adds residual 3x3 convolutions
over the token grid for images whose patches cannot stand alone. Always float32.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from retrodict.files import JsonObject
from retrodict.models.checkpoint import read_tensors
from retrodict.models.protocol import Codes, IntArray
from retrodict.models.registry import read_json
from retrodict.models.small.config import ImageTokenizerConfig


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x_NDHW: Tensor) -> Tensor:
        return x_NDHW + F.gelu(self.conv(x_NDHW))


class ImageTokenizer(nn.Module):
    """Images to image tokens and back. Pixels are in [-1, 1], shape [N, 3, size, size]."""

    def __init__(self, config: ImageTokenizerConfig) -> None:
        super().__init__()
        self.config = config
        p, w = config.patch, config.width
        self.encoder = nn.Sequential(
            nn.Conv2d(3, w, p, stride=p),
            nn.GELU(),
            *(_Residual(w) for _ in range(config.context)),
            nn.Conv2d(w, config.code_dim, 1),
        )
        self.codebook = nn.Embedding(config.codes, config.code_dim)
        self.decoder = nn.Sequential(
            nn.Conv2d(config.code_dim, w, 1),
            *(_Residual(w) for _ in range(config.context)),
            nn.GELU(),
            nn.ConvTranspose2d(w, 3, p, stride=p),
        )

    def features(self, pixels_N3HW: Tensor) -> Tensor:
        """Features before quantisation, [N, L, D], rows of the grid one after the other."""
        features_NDHW: Tensor = self.encoder(pixels_N3HW)
        return features_NDHW.flatten(2).transpose(1, 2)

    def quantise(self, features_NLD: Tensor) -> Tensor:
        flat = features_NLD.reshape(-1, features_NLD.shape[-1])
        return torch.cdist(flat, self.codebook.weight).argmin(1).view(features_NLD.shape[:-1])

    def reconstruct(self, latents_NLD: Tensor) -> Tensor:
        rows, columns = self.config.grid
        pixels_N3HW: Tensor = self.decoder(latents_NLD.transpose(1, 2).unflatten(2, (rows, columns)))
        return pixels_N3HW

    def pixels(self, images: Sequence[Image.Image]) -> Tensor:
        """Resize (box filter: an average, so nothing rings) and scale to [-1, 1]."""
        side = (self.config.image_size, self.config.image_size)
        resized = [
            image if image.size == side else image.resize(side, Image.Resampling.BOX)
            for image in (image.convert("RGB") for image in images)
        ]
        stacked = np.stack([np.asarray(image) for image in resized])
        return torch.from_numpy(stacked).permute(0, 3, 1, 2).float() / 127.5 - 1

    @torch.inference_mode()
    def encode(self, images: Sequence[Image.Image], batch: int = 256) -> Codes:
        codes, features = [], []
        for start in range(0, len(images), batch):
            features_NLD = self.features(self.pixels(images[start : start + batch]))
            codes.append(self.quantise(features_NLD).numpy())
            features.append(features_NLD.numpy())
        return Codes(np.concatenate(codes), np.concatenate(features))

    @torch.inference_mode()
    def decode(self, codes_NL: IntArray) -> list[Image.Image]:
        pixels = self.reconstruct(self.codebook(torch.as_tensor(codes_NL)))
        values = ((pixels.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
        return [Image.fromarray(value) for value in values]

    @property
    def fingerprint(self) -> str:
        """Names this tokenizer: two with the same name give the same codes."""
        digest = hashlib.sha256(json.dumps(_stored(self.config), sort_keys=True).encode())
        for name, value in sorted(self.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.numpy().tobytes())
        return "small-vq-" + digest.hexdigest()[:12]

    def save(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "config.json").write_text(json.dumps(_stored(self.config), indent=1) + "\n")
        save_file(self.state_dict(), directory / "model.safetensors")

    @classmethod
    def load(cls, directory: Path) -> ImageTokenizer:
        """Raises `ValueError` that names the file which is missing or damaged."""
        stored = read_json(directory / "config.json")
        try:
            tokenizer = cls(ImageTokenizerConfig(image_size=stored.pop("size"), **stored))
            tokenizer.load_state_dict(read_tensors(directory))
        except (KeyError, RuntimeError) as error:
            raise ValueError(f"{directory} holds no image tokenizer that fits its config.json: {error}") from None
        return tokenizer.eval()


def _stored(config: ImageTokenizerConfig) -> JsonObject:
    """The configuration as folders hold it, and as names of tokenizers are made of it."""
    return {"size": config.image_size, **config.model_dump(exclude={"image_size"})}

"""The small family's image side: a codebook over the patches of a grid.

`PatchTokenizer` is a table of patches (vector quantisation of pixels): a token is the nearest of them and comes back as
that patch. It needs no training, and a local change of the image is a local change of the tokens, which makes the small
model trainable in minutes. `NetTokenizer` is a vector-quantised autoencoder (van den Oord et al. 2017) whose residual
3x3 convolutions over the token grid (`context`) suit textured images, whose patches cannot stand alone. Always float32.

Shape suffixes: N images, L tokens of one image, D features, K entries of the codebook, H W pixels, P pixels of a patch.
"""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from retrodict.files import JsonObject, write_json
from retrodict.models.checkpoint import check_kinds, read_tensors
from retrodict.models.registry import read_json
from retrodict.models.small.config import ImageTokenizerConfig
from retrodict.models.token_family import Codes, FloatArray, IntArray

ROUND_TRIP = "round_trip.json"
SLACK = 1.25  # times the largest error of a held-out patch: an image with a larger one is unlike those of the training
COMPRESSED = (
    20.0  # of 255: what compression alone may put a patch off (JPEG of quality 50: up to 19 on rendered images)
)
EXACT = 1024  # terms of a product of centred bytes whose sum float32 holds exactly, in whatever order they are added

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class RoundTrip:
    """What held-out images lose on the way through a tokenizer, measured on frame pairs. Errors are mean absolute
    differences of 8-bit pixels."""

    pairs: int  # held-out pairs
    patches: int  # patches of their images
    exact: float  # share of these that come back to the last bit
    changed: int  # patches of the targets that differ from their sources
    error: float  # mean error of changed patches
    copying: float  # mean error of the source in their place
    shown: float  # share of changed patches that come back nearer to the target than to the source
    worst: float  # the largest error of a patch: what is further off is like nothing the tokenizer was made for

    @property
    def share(self) -> float:
        """Error on changed patches as a share of copying's: 0 is lossless, at 1 a copy of the source is as good."""
        return self.error / self.copying if self.changed else float("nan")


class ImageTokenizer(nn.Module):
    """Images to image tokens and back. Pixels are in [-1, 1], [N, 3, H, W]; tokens are row by row."""

    def __init__(self, config: ImageTokenizerConfig) -> None:
        super().__init__()
        self.config = config
        self.round_trip: RoundTrip | None = None

    @abstractmethod
    def tokenize(self, images_NHW3: Bytes) -> tuple[Tensor, Tensor]:
        """Tokens [N, L], and the features that recognition weights compare [N, L, D]."""

    @abstractmethod
    def reconstruct(self, codes_NL: Tensor) -> Bytes:
        """Images [N, H, W, 3] from tokens."""

    @property
    @abstractmethod
    def vectors(self) -> Tensor:
        """The codebook as features, [K, D]."""

    def arrays(self, images: Sequence[Image.Image]) -> Bytes:
        """Images as bytes [N, H, W, 3] of the tokenizer's size."""
        height, width = self.config.image_size
        return np.stack([np.asarray(resized(image.convert("RGB"), (width, height))) for image in images])

    @torch.inference_mode()
    def encode(self, images: Sequence[Image.Image], batch: int = 256) -> Codes:
        codes, features = [], []
        for start in range(0, len(images), batch):
            codes_NL, features_NLD = self.tokenize(self.arrays(images[start : start + batch]))
            codes.append(codes_NL.numpy())
            features.append(features_NLD.numpy())
        return Codes(np.concatenate(codes), np.concatenate(features))

    @torch.inference_mode()
    def decode(self, codes_NL: IntArray) -> list[Image.Image]:
        return [Image.fromarray(image) for image in self.reconstruct(torch.as_tensor(codes_NL))]

    def is_unfamiliar(self, image: Image.Image) -> bool:
        """Whether a patch of an image comes back further off than any of the held-out images' did."""
        if self.round_trip is None:
            return False
        array_1HW3 = self.arrays([image])
        with torch.inference_mode():
            back_1HW3 = self.reconstruct(self.tokenize(array_1HW3)[0])
        patch = self.config.patch
        off_LP = to_patches(array_1HW3, patch).astype(np.int16) - to_patches(back_1HW3, patch)
        return bool(np.abs(off_LP).mean(1).max() > max(SLACK * self.round_trip.worst, COMPRESSED))

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
        if self.round_trip is not None:
            write_json(directory / ROUND_TRIP, asdict(self.round_trip) | {"share": self.round_trip.share})

    @staticmethod
    def load(directory: Path) -> ImageTokenizer:
        """Raises `ValueError` that names the file which is missing or damaged."""
        stored = read_json(directory / "config.json")
        try:
            config = ImageTokenizerConfig(image_size=stored.pop("size"), **stored)
            tokenizer = (PatchTokenizer if config.kind == "patches" else NetTokenizer)(config)
            weights = read_tensors(directory)
            check_kinds(weights, tokenizer, directory)
            tokenizer.load_state_dict(weights)
        except (KeyError, RuntimeError) as error:
            raise ValueError(f"{directory} holds no image tokenizer that fits its config.json: {error}") from None
        if (directory / ROUND_TRIP).is_file():
            measured = read_json(directory / ROUND_TRIP)
            tokenizer.round_trip = RoundTrip(**{field.name: measured[field.name] for field in fields(RoundTrip)})
        return tokenizer.eval()


class PatchTokenizer(ImageTokenizer):
    """A table of patches: a token is the nearest one (squared distance of pixels; the first of equals)."""

    patches: Tensor

    def __init__(self, config: ImageTokenizerConfig) -> None:
        super().__init__(config)
        self.register_buffer("patches", torch.zeros(config.codes, 3 * config.patch**2, dtype=torch.uint8))

    def tokenize(self, images_NHW3: Bytes) -> tuple[Tensor, Tensor]:
        patches = to_patches(images_NHW3, self.config.patch)
        codes, _ = nearest(patches, self.patches.numpy())
        n = len(images_NHW3)
        return torch.from_numpy(codes).view(n, -1), torch.from_numpy(pooled(patches)).view(n, codes.size // n, -1)

    @property
    def vectors(self) -> Tensor:
        return torch.from_numpy(pooled(self.patches.numpy()))

    def reconstruct(self, codes_NL: Tensor) -> Bytes:
        (rows, columns), p = self.config.grid, self.config.patch
        patches = self.patches.numpy()[codes_NL.numpy()].reshape(-1, rows, columns, p, p, 3)
        images: Bytes = patches.transpose(0, 1, 3, 2, 4, 5).reshape(-1, rows * p, columns * p, 3)
        return images


class NetTokenizer(ImageTokenizer):
    """A vector-quantised autoencoder."""

    def __init__(self, config: ImageTokenizerConfig) -> None:
        super().__init__(config)
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

    def tokenize(self, images_NHW3: Bytes) -> tuple[Tensor, Tensor]:
        features_NLD = self.embed(to_float(torch.from_numpy(images_NHW3)))
        return self.quantise(features_NLD), features_NLD

    @property
    def vectors(self) -> Tensor:
        return self.codebook.weight.detach()

    def embed(self, pixels_N3HW: Tensor) -> Tensor:
        """Features before quantisation, [N, L, D]."""
        features_NDHW: Tensor = self.encoder(pixels_N3HW)
        return features_NDHW.flatten(2).transpose(1, 2)

    def quantise(self, features_NLD: Tensor) -> Tensor:
        flat = features_NLD.reshape(-1, features_NLD.shape[-1])
        return torch.cdist(flat, self.codebook.weight).argmin(1).view(features_NLD.shape[:-1])

    def expand(self, latents_NLD: Tensor) -> Tensor:
        """Pixels [N, 3, H, W] from entries of the codebook."""
        pixels_N3HW: Tensor = self.decoder(latents_NLD.transpose(1, 2).unflatten(2, self.config.grid))
        return pixels_N3HW

    def reconstruct(self, codes_NL: Tensor) -> Bytes:
        pixels_N3HW = self.expand(self.codebook(codes_NL))
        images: Bytes = ((pixels_N3HW.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
        return images


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x_NDHW: Tensor) -> Tensor:
        return x_NDHW + F.gelu(self.conv(x_NDHW))


def resized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The image at a size (width, height): averaged where it shrinks, so that nothing rings; whole pixels repeated
    where it grows by whole factors, as rendered images want it; smooth elsewhere."""
    if image.size == size:
        return image
    (width, height), (new_width, new_height) = image.size, size
    if new_width < width or new_height < height:
        return image.resize(size, Image.Resampling.BOX)
    whole = new_width % width == 0 and new_height % height == 0
    return image.resize(size, Image.Resampling.NEAREST if whole else Image.Resampling.BILINEAR)


def to_float(images_NHW3: Tensor) -> Tensor:
    """Bytes as pixels in [-1, 1], [N, 3, H, W]."""
    return images_NHW3.permute(0, 3, 1, 2).float() / 127.5 - 1


def to_patches(images_NHW3: Bytes, patch: int) -> Bytes:
    """The patches of images, [N * L, P]: row by row, each with its pixels in the same order."""
    n, height, width, _ = images_NHW3.shape
    cut = images_NHW3.reshape(n, height // patch, patch, width // patch, patch, 3).transpose(0, 1, 3, 2, 4, 5)
    return np.ascontiguousarray(cut).reshape(-1, 3 * patch**2)


def pooled(patches_NP: Bytes) -> FloatArray:
    """Patches in at most 8 x 8 pixels, each in [-1, 1]: what tells them apart, in a bounded number of dimensions."""
    side = round((patches_NP.shape[1] / 3) ** 0.5)
    kept = max(divisor for divisor in range(1, 9) if side % divisor == 0)
    blocks = patches_NP.reshape(-1, kept, side // kept, kept, side // kept, 3)
    means: FloatArray = blocks.mean((2, 4), dtype=np.float32) / np.float32(127.5) - 1
    return means.reshape(len(patches_NP), -1)


def nearest(patches_NP: Bytes, table_KP: Bytes) -> tuple[IntArray, npt.NDArray[np.float64]]:
    """For each patch the nearest of a table, and its squared distance.

    All sums are whole numbers that float32 holds exactly, so that the result depends on no thread count or processor.
    """
    table = table_KP.astype(np.float32) - 128
    norm_K = np.square(table, dtype=np.float64).sum(1)
    codes, distances = [], []
    for start in range(0, len(patches_NP), 8192):
        pixels = patches_NP[start : start + 8192].astype(np.float32) - 128
        product_NK = np.zeros((len(pixels), len(table)))
        for at in range(0, pixels.shape[1], EXACT):
            product_NK += pixels[:, at : at + EXACT] @ table[:, at : at + EXACT].T
        distance_NK = norm_K - 2 * product_NK
        code_N = distance_NK.argmin(1)
        codes.append(code_N)
        distances.append(distance_NK[np.arange(len(code_N)), code_N] + np.square(pixels, dtype=np.float64).sum(1))
    return np.concatenate(codes), np.concatenate(distances)


def _stored(config: ImageTokenizerConfig) -> JsonObject:
    """The configuration as folders hold it, and as names of tokenizers are made of it: what does not apply, and what
    earlier versions did not know, is left out."""
    height, width = config.image_size
    left_out = {"code_dim", "width", "context"} if config.kind == "patches" else {"kind"}
    kept = config.model_dump(exclude={"image_size", *left_out})
    return {"size": height if height == width else [height, width], **kept}

"""Training of the small family's image tokenizer: autoencoder, codebook, decoder."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image
from scipy.cluster.vq import kmeans2
from torch import Tensor, nn
from torch.nn import functional as F

from retrodict.models.protocol import IntArray
from retrodict.models.small.image_tokenizer import ImageTokenizer
from retrodict.training.config import TokenizerConfig


def train_image_tokenizer(
    images: Sequence[Image.Image],
    config: TokenizerConfig,
    seed: int = 0,
    report: Callable[[int, int, float], None] | None = None,
) -> ImageTokenizer:
    """Fit a tokenizer to images: an autoencoder first, then its codebook by k-means++, then the decoder on its vectors.

    The encoder is frozen once the codebook is set. If it went on moving, vectors that few patches use would be left
    behind and die; in simple images most are rare. Raises `ValueError` when there are no images.
    """
    if not images:
        raise ValueError("There are no images to train the image tokenizer on.")
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    tokenizer = ImageTokenizer(config.architecture)
    pixels_N3HW = (tokenizer.pixels(images) * 127.5 + 127.5).round().byte()  # a quarter of the memory of float32
    total = config.warm_steps + config.steps

    def fit(parameters: list[nn.Parameter], steps: int, done: int, loss_of: Callable[[Tensor], Tensor]) -> None:
        optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=0.0)
        total_steps = max(steps, 3)  # a cycle needs a step up and a step down
        up = max(0.1, 2 / total_steps)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, config.learning_rate, total_steps=total_steps, pct_start=up
        )
        for step in range(steps):
            index = torch.from_numpy(rng.integers(0, len(images), config.batch_size))
            loss = loss_of(_to_float(pixels_N3HW[index]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            if report is not None and step % 20 == 19:
                report(done + step + 1, total, loss.item())

    fit(
        [*tokenizer.encoder.parameters(), *tokenizer.decoder.parameters()],
        config.warm_steps,
        0,
        lambda x: F.l1_loss(tokenizer.reconstruct(tokenizer.features(x)), x),
    )
    _set_codebook(tokenizer, pixels_N3HW, rng)
    weights_K = _rarity(tokenizer, pixels_N3HW, rng)
    fit(
        list(tokenizer.decoder.parameters()),
        config.steps,
        config.warm_steps,
        lambda x: _code_loss(tokenizer, x, weights_K),
    )
    return tokenizer.eval()


def _to_float(pixels: Tensor) -> Tensor:
    return pixels.float() / 127.5 - 1


def _code_loss(tokenizer: ImageTokenizer, pixels_N3HW: Tensor, weights_K: Tensor) -> Tensor:
    with torch.no_grad():
        codes_NL = tokenizer.quantise(tokenizer.features(pixels_N3HW))
        latents_NLD = tokenizer.codebook(codes_NL)
    error_NHW = (tokenizer.reconstruct(latents_NLD) - pixels_N3HW).abs().mean(1)
    error_NL = F.avg_pool2d(error_NHW, tokenizer.config.patch).flatten(1)
    weights_NL = weights_K[codes_NL]
    return (error_NL * weights_NL).sum() / weights_NL.sum()


@torch.no_grad()
def _sample_features(tokenizer: ImageTokenizer, pixels_N3HW: Tensor, rng: np.random.Generator, count: int) -> Tensor:
    index = torch.from_numpy(rng.permutation(len(pixels_N3HW))[:count])
    return torch.cat([tokenizer.features(_to_float(chunk)) for chunk in pixels_N3HW[index].split(128)])


@torch.no_grad()
def _set_codebook(tokenizer: ImageTokenizer, pixels_N3HW: Tensor, rng: np.random.Generator) -> None:
    """The k-means++ centres of the *distinct* features of a sample, so that rare patches get a vector, too."""
    features = _sample_features(tokenizer, pixels_N3HW, rng, 2000).flatten(0, 1).numpy()
    scale = features.std() or 1.0
    distinct = np.unique((features / scale).round(2), axis=0) * scale
    if len(distinct) > 8192:
        distinct = distinct[rng.choice(len(distinct), 8192, replace=False)]
    count = tokenizer.config.codes
    if len(distinct) <= count:
        tokenizer.codebook.weight[: len(distinct)] = torch.from_numpy(distinct).float()
        tokenizer.codebook.weight[len(distinct) :] = float(10 * np.abs(distinct).max())  # far from any feature
    else:
        centres, _ = kmeans2(distinct, count, minit="++", rng=rng, iter=10, missing="warn")
        tokenizer.codebook.weight.copy_(torch.from_numpy(centres))


@torch.no_grad()
def _rarity(tokenizer: ImageTokenizer, pixels_N3HW: Tensor, rng: np.random.Generator) -> Tensor:
    """Loss weight of each image token: one over the square root of its share, so that the background does not outweigh
    things."""
    codes_NL = tokenizer.quantise(_sample_features(tokenizer, pixels_N3HW, rng, 2000))
    counts_K = torch.bincount(codes_NL.flatten(), minlength=tokenizer.config.codes).float()
    return counts_K.clamp(min=1).rsqrt()


@torch.no_grad()
def keep_codes(tokenizer: ImageTokenizer, used: IntArray) -> ImageTokenizer:
    """A copy of a tokenizer that encodes with the image tokens in `used` and no others.

    A model only knows the image tokens that it was trained on. A tokenizer that saw more kinds of images (compressed
    ones, say) has tokens for them that a decoded and re-encoded image would come back as, and that the model has
    never met. Without those, it comes back as their nearest neighbours, which it has.
    """
    kept = copy.deepcopy(tokenizer)
    weight_KD = kept.codebook.weight
    unused_K = torch.ones(len(weight_KD), dtype=torch.bool)
    unused_K[torch.from_numpy(np.unique(used))] = False
    weight_KD[unused_K] = 1000 * weight_KD[~unused_K].abs().max()  # far from any feature
    return kept

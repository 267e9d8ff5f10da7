"""Training of a `NetTokenizer`: autoencoder, codebook, decoder, each until it stops getting better."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
from scipy.cluster.vq import kmeans2
from torch import Tensor, nn
from torch.nn import functional as F

from retrodict.models.small.config import ImageTokenizerConfig
from retrodict.models.small.image_tokenizer import Bytes, NetTokenizer, to_float
from retrodict.training.config import TokenizerConfig

CHECK = 100  # steps between measurements
BETTER = 0.99  # of the least error so far: what counts as getting better
HALVINGS = 3  # of the learning rate, each when it stopped, before training ends
FEATURED = 2000  # images whose features the codebook is placed by


def fit_net(
    pairs_N2HW3: Bytes,
    held_N2HW3: Bytes,
    architecture: ImageTokenizerConfig,
    config: TokenizerConfig,
    seed: int,
    report: Callable[[int, int, float], None] | None = None,
) -> NetTokenizer:
    """An autoencoder first, then its codebook by k-means++, then the decoder on its vectors.

    Each training halves its learning rate whenever the error on changed pixels of held-out pairs stops falling, and
    ends after three times, at most after `config.warm_steps` and `config.steps`. The encoder is frozen once the
    codebook is set. If it went on moving, vectors that few patches use would be left behind and die; most are rare.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    tokenizer = NetTokenizer(architecture)
    images_NHW3 = torch.from_numpy(pairs_N2HW3).flatten(0, 1)
    total = config.warm_steps + config.steps

    def fit(parameters: list[nn.Parameter], steps: int, done: int, loss_of: Callable[[Tensor], Tensor]) -> None:
        optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=0.0)
        best, halved = float("inf"), 0
        kept = copy.deepcopy(tokenizer.state_dict())
        for step in range(1, steps + 1):
            index = torch.from_numpy(rng.integers(0, len(images_NHW3), config.batch_size))
            loss = loss_of(to_float(images_NHW3[index]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step % CHECK and step != steps:
                continue
            error = _changed_error(loss_of_pixels[done > 0], held_N2HW3 if len(held_N2HW3) else pairs_N2HW3)
            if report is not None:
                report(done + step, total, error)
            if error < BETTER * best:
                best, kept = error, copy.deepcopy(tokenizer.state_dict())
                continue
            halved += 1
            if halved > HALVINGS:
                break
            for group in optimizer.param_groups:
                group["lr"] /= 2
        tokenizer.load_state_dict(kept)

    def continuous(x: Tensor) -> Tensor:
        return tokenizer.expand(tokenizer.embed(x))

    def quantised(x: Tensor) -> Tensor:
        with torch.no_grad():
            latents_NLD = tokenizer.codebook(tokenizer.quantise(tokenizer.embed(x)))
        return tokenizer.expand(latents_NLD)

    loss_of_pixels = {False: continuous, True: quantised}
    both = [*tokenizer.encoder.parameters(), *tokenizer.decoder.parameters()]
    fit(both, config.warm_steps, 0, lambda x: F.l1_loss(continuous(x), x))
    _set_codebook(tokenizer, images_NHW3, rng)
    weights_K = _rarity(tokenizer, images_NHW3, rng)
    fit(
        list(tokenizer.decoder.parameters()),
        config.steps,
        config.warm_steps,
        lambda x: _code_loss(tokenizer, x, weights_K),
    )
    return tokenizer.eval()


@torch.no_grad()
def _changed_error(round_trip: Callable[[Tensor], Tensor], pairs_N2HW3: Bytes) -> float:
    """Mean error of targets, weighted by how much each pixel changes; of all pixels where nothing does."""
    error = weight = everywhere = 0.0
    for pair in torch.from_numpy(pairs_N2HW3).split(32):
        source, target = to_float(pair[:, 0]), to_float(pair[:, 1])
        error_N3HW, change_N3HW = (round_trip(target) - target).abs(), (source - target).abs()
        error += float((error_N3HW * change_N3HW).sum())
        weight += float(change_N3HW.sum())
        everywhere += float(error_N3HW.mean()) * len(pair)
    return error / weight if weight else everywhere / len(pairs_N2HW3)


def _code_loss(tokenizer: NetTokenizer, pixels_N3HW: Tensor, weights_K: Tensor) -> Tensor:
    with torch.no_grad():
        codes_NL = tokenizer.quantise(tokenizer.embed(pixels_N3HW))
        latents_NLD = tokenizer.codebook(codes_NL)
    error_NHW = (tokenizer.expand(latents_NLD) - pixels_N3HW).abs().mean(1)
    error_NL = F.avg_pool2d(error_NHW, tokenizer.config.patch).flatten(1)
    weights_NL = weights_K[codes_NL]
    return (error_NL * weights_NL).sum() / weights_NL.sum()


@torch.no_grad()
def _sample_features(tokenizer: NetTokenizer, images_NHW3: Tensor, rng: np.random.Generator) -> Tensor:
    index = torch.from_numpy(rng.permutation(len(images_NHW3))[:FEATURED])
    return torch.cat([tokenizer.embed(to_float(chunk)) for chunk in images_NHW3[index].split(128)])


@torch.no_grad()
def _set_codebook(tokenizer: NetTokenizer, images_NHW3: Tensor, rng: np.random.Generator) -> None:
    """The k-means++ centres of the *distinct* features of a sample, so that rare patches get a vector, too."""
    features = _sample_features(tokenizer, images_NHW3, rng).flatten(0, 1).numpy()
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
def _rarity(tokenizer: NetTokenizer, images_NHW3: Tensor, rng: np.random.Generator) -> Tensor:
    """Loss weight of each image token: one over the square root of its share, so that the background does not outweigh
    things."""
    codes_NL = tokenizer.quantise(_sample_features(tokenizer, images_NHW3, rng))
    counts_K = torch.bincount(codes_NL.flatten(), minlength=tokenizer.config.codes).float()
    return counts_K.clamp(min=1).rsqrt()

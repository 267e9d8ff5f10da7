"""How the small family gets its image tokenizer: grid and patch from the data, a table of patches or a net, and what
held-out images lose on the way through it.

Shape suffixes: N pairs, 2 images of each, H W pixels, L patches of an image, P bytes of a patch.
"""

from __future__ import annotations

import math
import random
import shutil
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from retrodict.models.small.config import ImageTokenizerConfig
from retrodict.models.small.image_tokenizer import (
    Bytes,
    ImageTokenizer,
    PatchTokenizer,
    RoundTrip,
    pooled,
    resized,
    to_patches,
)
from retrodict.models.token_family import FloatArray
from retrodict.training.config import TokenizerConfig
from retrodict.training.data import Stored
from retrodict.training.distributed import is_main, wait_for
from retrodict.training.net_tokenizer import fit_net
from retrodict.training.patches import distinct, fit_table
from retrodict.transitions import FramePair, decode_image

Report = Callable[[int, int, float], None]

PAIRS = 2000  # to learn from; more of the same do not make a codebook better
PIXELS = 2**25  # of their images in memory: 100 MB
LOOKED_AT = 200  # images by which patch and grid are proposed
SIDE = 256  # pixels of the longer side that are looked at, at most
TOKENS = 256  # of an image whose patches are the cells of a grid, at most
LOOSE_TOKENS, LOOSE_PATCH = 144, 8  # of any other image: tokens at most, and pixels a side of a patch
HELD_OUT = 0.1  # share of the pairs that the round trip is measured on, in whole groups
CHANGE = 32  # of 255: a patch has changed where a pixel differs by more, which the noise of compression hardly does
NOISE = 4.0  # of 255: mean difference up to which two patches may be one, compressed twice
LACKING = 0.1  # share of the patches of other images that a table of a grid world's cells may lack
WARN = 0.5  # share of copying's error above which changed patches are as good as lost


def learn_tokenizer(
    rows: Stored, config: TokenizerConfig, seed: int, folder: Path, report: Report | None = None
) -> str:
    """Make an image tokenizer from images of `rows` in `folder`, or copy the one that is given; one there is kept.

    The folder appears under its name when it is complete.

    Returns:
        What it is and how well it tells changes, in words.

    Raises:
        ValueError: There are no images, or the patch does not divide them.
    """
    if not is_main():
        wait_for([folder], "image tokenizers")
    if not folder.is_dir():
        if config.path is not None:
            made = ImageTokenizer.load(tokenizer_folder(config.path))
        else:
            chosen = sorted(random.Random(seed).sample(range(len(rows)), min(PAIRS, len(rows))))
            pairs = [row for row in rows.only(chosen) if row.source is not None and row.target is not None]
            made = make_tokenizer(pairs, config, seed, report)
        unfinished = folder.with_name(f".{folder.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)  # what a run that was killed left
        try:
            made.save(unfinished)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
        unfinished.replace(folder)
    return describe(ImageTokenizer.load(folder))


def tokenizer_folder(path: Path) -> Path:
    """Where a tokenizer lies: in a folder of its own, in a small model's, or in that of a run.

    Raises:
        ValueError: There is none.
    """
    inner = path / "image_tokenizer"
    if inner.is_dir() or not path.is_dir():
        path = inner
    if not (path / "config.json").is_file():
        raise ValueError(f"There is no image tokenizer {path}: give a small model's folder, or a run's.")
    return path


def make_tokenizer(
    pairs: Sequence[FramePair], config: TokenizerConfig, seed: int = 0, report: Report | None = None
) -> ImageTokenizer:
    """An image tokenizer from the images of pairs, measured on those that are held out.

    Args:
        pairs: Frame pairs with their images; groups are held out whole.
        config: What is given is kept, the rest is proposed from the images.
        seed: The same seed gives the same tokenizer.
        report: Receives step, steps at most and the error of a net that is trained.

    Raises:
        ValueError: There are no images, or the patch does not divide them.
    """
    if not pairs:
        raise ValueError("There are no images to make the image tokenizer from.")
    some = random.Random(seed).sample(pairs, min(len(pairs), LOOKED_AT // 2))
    some.sort(key=lambda pair: pair.cluster)  # so that halves of the images are of different groups
    looked_at = [image for pair in some for image in _images(pair)]
    size, patch = propose(looked_at, config)
    most = max(2, PIXELS // (2 * math.prod(size)))
    pairs = pairs if len(pairs) <= most else random.Random(seed).sample(pairs, most)
    pixels_N2HW3 = np.empty((len(pairs), 2, *size, 3), np.uint8)
    for i, pair in enumerate(pairs):
        for side, image in enumerate(_images(pair)):
            pixels_N2HW3[i, side] = np.asarray(resized(image, size[::-1]))
    is_held = _held_out([pair.cluster for pair in pairs], seed)
    held_N2HW3 = pixels_N2HW3[is_held]
    if config.context:
        architecture = config.net(size, patch)
        made: ImageTokenizer = fit_net(pixels_N2HW3[~is_held], held_N2HW3, architecture, config, seed, report)
        made.round_trip = measure(made, held_N2HW3)
        return made
    patches = distinct(_patches(pixels_N2HW3[~is_held], patch))
    made = _table(fit_table(patches, config.codes, seed), size, patch)
    measured = measure(made, held_N2HW3)
    everything = distinct(_patches(pixels_N2HW3, patch))
    if len(everything.patches_DP) <= config.codes:  # what only held-out images show is not left out for it
        made = _table(everything.patches_DP, size, patch)
    made.round_trip = measured
    return made


def _images(pair: FramePair) -> tuple[Image.Image, Image.Image]:
    return decode_image(pair.source, f"source of {pair.id}"), decode_image(pair.target, f"target of {pair.id}")


def _patches(pixels_N2HW3: Bytes, patch: int) -> Iterator[Bytes]:
    for start in range(0, len(pixels_N2HW3), 128):
        yield to_patches(pixels_N2HW3[start : start + 128].reshape(-1, *pixels_N2HW3.shape[2:]), patch)


def _table(patches_KP: Bytes, size: tuple[int, int], patch: int) -> PatchTokenizer:
    config = ImageTokenizerConfig(kind="patches", image_size=size, patch=patch, codes=len(patches_KP))
    made = PatchTokenizer(config)
    made.patches.copy_(torch.from_numpy(patches_KP))
    return made.eval()


def _held_out(clusters: Sequence[str], seed: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Which pairs are held out: some whole groups, or some of the pairs where all are one group."""
    names = sorted(set(clusters))
    if len(names) == 1:
        clusters = names = [str(i) for i in range(len(clusters))]
    held = set(random.Random(seed).sample(names, round(len(names) * HELD_OUT) or len(names) // 2 or 0))
    return np.array([cluster in held for cluster in clusters])


def measure(tokenizer: ImageTokenizer, pairs_N2HW3: Bytes) -> RoundTrip | None:
    """What pairs of images lose on the way through a tokenizer; None where there are none."""
    if not len(pairs_N2HW3):
        return None
    patch = tokenizer.config.patch
    totals = _Totals()
    for start in range(0, len(pairs_N2HW3), 64):
        chunk = pairs_N2HW3[start : start + 64]
        with torch.inference_mode():
            images = chunk.reshape(-1, *chunk.shape[2:])
            back = tokenizer.reconstruct(tokenizer.tokenize(images)[0])
        shape = (len(chunk), 2, -1, 3 * patch**2)
        true, told = (to_patches(array, patch).reshape(shape).astype(np.int16) for array in (images, back))
        totals.add(true, told)
    return totals.result()


@dataclass
class _Totals:
    pairs: int = 0
    patches: int = 0
    exact: int = 0
    changed: int = 0
    shown: int = 0
    error: float = 0.0
    copying: float = 0.0
    worst: float = 0.0

    def add(self, true_N2LP: np.ndarray, told_N2LP: np.ndarray) -> None:
        error_N2L = np.abs(told_N2LP - true_N2LP).mean(-1)
        source, target = true_N2LP[:, 0], true_N2LP[:, 1]
        changed_NL = np.abs(target - source).max(-1) > CHANGE
        copying = np.abs(target - source)[changed_NL].mean(-1)
        to_source = np.abs(told_N2LP[:, 1] - source)[changed_NL].mean(-1)
        error = error_N2L[:, 1][changed_NL]
        self.pairs += len(true_N2LP)
        self.patches += error_N2L.size
        self.exact += int((error_N2L == 0).sum())
        self.changed += len(error)
        self.shown += int((error < to_source).sum())
        self.error += float(error.sum())
        self.copying += float(copying.sum())
        self.worst = max(self.worst, float(error_N2L.max()))

    def result(self) -> RoundTrip:
        n = max(1, self.changed)
        return RoundTrip(
            pairs=self.pairs,
            patches=self.patches,
            exact=self.exact / self.patches,
            changed=self.changed,
            error=self.error / n,
            copying=self.copying / n,
            shown=self.shown / n,
            worst=self.worst,
        )


def describe(tokenizer: ImageTokenizer) -> str:
    """What a tokenizer is and how well it tells changes, with a warning where that caps the model."""
    config, measured = tokenizer.config, tokenizer.round_trip
    rows, columns = config.grid
    said = f"{config.codes} codes for {rows} x {columns} patches of {config.patch} px"
    if measured is None or not measured.changed:
        return f"{said}; no held-out change to measure it on"
    if measured.exact == 1:
        return f"{said}; all {measured.patches:,} held-out patches come back exactly"
    said += f"; error on {measured.changed:,} held-out changed patches: {measured.share:.2f} of copying's"
    if measured.share > WARN:
        said += (
            f". Warning: a perfect model could show at most {measured.shown:.0%} of the changes; try a smaller "
            "tokenizer.patch, more tokenizer.codes, or tokenizer.context=2"
        )
    return said


def propose(images: Sequence[Image.Image], config: TokenizerConfig) -> tuple[tuple[int, int], int]:
    """Height and width in pixels and the patch; what `config` gives is kept.

    The patch is the one by which the images take the fewest bits, counting a table of the distinct patches and one
    entry of it for each patch: the cells of a grid world, if it is one. Images that repeat no patches get small ones on
    a grid of the same aspect ratio, and are scaled down to it.
    """
    (width, height), _ = Counter(image.size for image in images).most_common(1)[0]
    if config.image_size is None:
        shrink = math.ceil(max(height, width) / SIDE)
        if shrink > 1 and (height % shrink or width % shrink):
            height, width = _loose(height, width, config.patch)
        else:
            height, width = height // shrink, width // shrink
    else:
        height, width = config.image_size
    if config.patch is not None:
        whole = height % config.patch == 0 and width % config.patch == 0 and height * width <= TOKENS * config.patch**2
        if config.image_size is None and not whole:
            height, width = _loose(height, width, config.patch)
        return (height, width), config.patch
    pixels_NHW3 = np.stack([np.asarray(resized(image, (width, height))) for image in images])
    sides = [p for p in range(4, min(height, width) // 2 + 1) if height % p == 0 and width % p == 0]
    bits = {p: _bits(_by_image(pixels_NHW3, p), config.codes) for p in sides if height * width <= TOKENS * p**2}
    if bits and math.isfinite(min(bits.values())):
        return (height, width), min(bits, key=lambda p: bits[p])
    if config.image_size is None:
        return _loose(height, width, LOOSE_PATCH), LOOSE_PATCH
    fits = [p for p in range(1, min(height, width) + 1) if height % p == 0 and width % p == 0]
    return (height, width), next((p for p in fits if height * width <= LOOSE_TOKENS * p**2), fits[-1])


def _by_image(pixels_NHW3: Bytes, patch: int) -> Bytes:
    return to_patches(pixels_NHW3, patch).reshape(len(pixels_NHW3), -1, 3 * patch**2)


def _loose(height: int, width: int, patch: int | None) -> tuple[int, int]:
    """The size nearest to that aspect ratio with whole patches, at most `LOOSE_TOKENS`, none smaller than it was."""
    patch = patch or LOOSE_PATCH
    scale = min(math.sqrt(LOOSE_TOKENS / (height * width)), 1 / patch)
    rows, columns = max(1, int(height * scale)), max(1, int(width * scale))
    return rows * patch, columns * patch


def _bits(patches_NLP: Bytes, codes: int) -> float:
    """Bits of a table of the distinct patches and of one entry for each patch.

    Infinite where the table would be too long, or half the images lack many of the others' patches: large patches of
    few images fit into a table, too, and tell nothing of the next image.
    """
    patches_DP = _distinct(patches_NLP)
    count = len(_unlike(patches_DP, codes))
    half_NLP, others_NLP = np.array_split(patches_NLP, 2)
    if not count or not _tells(_unlike(_distinct(half_NLP), codes), others_NLP):
        return math.inf
    table = 8 * len(zlib.compress(patches_DP.tobytes())) * count / len(patches_DP)  # large flat cells cost little
    bits = table + patches_NLP.shape[0] * patches_NLP.shape[1] * math.log2(max(count, 2))
    return bits if bits < patches_NLP.size * 8 / 2 else math.inf


def _distinct(patches_NLP: Bytes) -> Bytes:
    return distinct([patches_NLP.reshape(-1, patches_NLP.shape[2])]).patches_DP


def _tells(table_KD: FloatArray, patches_NLP: Bytes) -> bool:
    """Whether nearly all patches are like one of a table."""
    lacking = some = _some(patches_NLP.reshape(-1, patches_NLP.shape[2]))
    for patch_D in table_KD:
        lacking = lacking[~_alike(lacking, patch_D)]
    return len(lacking) <= LACKING * len(some)


def _unlike(patches_DP: Bytes, codes: int) -> FloatArray:
    """The patches, where they fit into a table; else some of which every other differs from one by noise, as compressed
    images never show the same patch twice; none where that takes more than half the table."""
    if len(patches_DP) <= codes:
        return pooled(patches_DP)
    left = _some(patches_DP)
    chosen: list[FloatArray] = []
    while len(left):
        if len(chosen) == codes // 2:
            return left[:0]
        chosen.append(left[0])
        left = left[~_alike(left, left[0])]
    return np.stack(chosen)


def _some(patches_NP: Bytes) -> FloatArray:
    return pooled(patches_NP[np.random.default_rng(0).permutation(len(patches_NP))[:2048]])


def _alike(patches_ND: FloatArray, patch_D: FloatArray) -> npt.NDArray[np.bool_]:
    alike: npt.NDArray[np.bool_] = np.abs(patches_ND - patch_D).mean(1) * 127.5 <= NOISE
    return alike

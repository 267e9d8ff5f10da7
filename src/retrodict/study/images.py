"""Images that tell nothing but what they show: one size, one encoding, no metadata, names from a secret salt."""

from __future__ import annotations

import hashlib
import hmac
import io
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from retrodict.progress import Progress
from retrodict.study.plan import digest

LONGEST = 768  # pixels; larger images are shrunk
_ROUNDING = 0.03  # of the aspect ratio: sizes that models round to multiples of 8 or 16
_BARS = (128, 128, 128)
_EPOCH = 946_684_800  # one time for every file: the order in which they were written stays unknown


def keyed_name(salt: str, *parts: str) -> str:
    """A name that nobody without the salt can compute or connect: 128 bits of HMAC-SHA256, in hex."""
    return hmac.new(bytes.fromhex(salt), "\x1f".join(parts).encode(), hashlib.sha256).hexdigest()[:32]


def shown_size(image: Image.Image) -> tuple[int, int]:
    """The size at which a source and all its candidates are stored."""
    scale = min(1.0, LONGEST / max(image.size))
    return max(1, round(image.width * scale)), max(1, round(image.height * scale))


def is_reshaped(image: Image.Image, size: tuple[int, int]) -> bool:
    """Whether an image has another aspect ratio than `size` (width, height), beyond rounding."""
    ratio = image.width * size[1] / (image.height * size[0])
    return not 1 / (1 + _ROUNDING) <= ratio <= 1 + _ROUNDING


def encode(image: Image.Image, size: tuple[int, int]) -> bytes:
    """PNG of exactly `size`, made the same way for everybody. Pixels are copied, so no metadata comes along.

    An image of another aspect ratio is shown whole and unstretched, with grey bars.
    """
    image = image.convert("RGB")
    if is_reshaped(image, size):
        image = ImageOps.pad(image, size, Image.Resampling.LANCZOS, color=_BARS)
    elif image.size != size:
        image = image.resize(size, Image.Resampling.LANCZOS)
    clean = Image.fromarray(np.asarray(image))
    buffer = io.BytesIO()
    clean.save(buffer, "PNG", compress_level=1)  # a third of the default's time for a tenth more bytes
    return buffer.getvalue()


def noise(image: Image.Image, seed: str) -> Image.Image:
    """The image's own pixels in random order: the right colours, and nothing to see."""
    pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    digest = hashlib.sha256(seed.encode()).digest()
    shuffled = np.random.default_rng(int.from_bytes(digest[:8], "big")).permutation(pixels)
    return Image.fromarray(shuffled.reshape(image.height, image.width, 3))


def write_images(
    folder: Path, images: Mapping[str, Callable[[], bytes]], progress: Progress | None = None
) -> dict[str, str]:
    """Write `<name>.png` in the order of the names, all with the same time.

    Args:
        folder: where.
        images: name -> what makes the file's bytes, called when it is written, so that one at a time is in memory.
        progress: told how far it is.

    Returns:
        Name -> digest of the file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    digests = {}
    for done, name in enumerate(sorted(images), 1):
        path, data = folder / f"{name}.png", images[name]()
        path.write_bytes(data)
        os.utime(path, (_EPOCH, _EPOCH))
        digests[name] = digest(data)
        if progress is not None:
            progress.advance(done, len(images))
    return digests

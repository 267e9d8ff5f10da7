"""Pictures as a judge is sent them: always PNG, after one fixed resize, known by the hash of their pixels."""

from __future__ import annotations

import base64
import functools
import hashlib
import math

from PIL import Image

from retrodict.images import encode_png
from retrodict.transitions import decode_image

ENCODING = "png-rgb-lanczos"  # changes whenever the same pixels would be sent differently


def shrink(data: bytes, max_side: int) -> Image.Image:
    """The decoded picture, made smaller (LANCZOS) where its longer side exceeds `max_side` pixels."""
    image = decode_image(data, "picture to judge")
    longest = max(image.size)
    if longest <= max_side:
        return image
    width, height = (max(1, round(side * max_side / longest)) for side in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)


@functools.lru_cache(maxsize=256)
def fingerprint(data: bytes, max_side: int) -> tuple[str, tuple[int, int]]:
    """SHA-256 over encoding, size and pixels as sent (PNG is lossless, so its own bytes may differ), and the size."""
    image = shrink(data, max_side)
    digest = hashlib.sha256(f"{ENCODING} {image.width}x{image.height} ".encode())
    digest.update(image.tobytes())
    return digest.hexdigest(), image.size


def data_url(data: bytes, max_side: int) -> str:
    return "data:image/png;base64," + base64.b64encode(encode_png(shrink(data, max_side))).decode()


def picture_tokens(size: tuple[int, int], detail: str) -> int:
    """Tokens of a picture by the tile rule that OpenAI publishes for gpt-4o; an estimate for any other model.

    Low detail costs 85. Otherwise the picture is fitted into 2048 x 2048, then its shorter side to at most 768, and
    each 512-pixel tile costs 170 on top of the 85.
    """
    if detail == "low":
        return 85
    fit = min(1.0, 2048 / max(size))
    width, height = size[0] * fit, size[1] * fit
    scale = min(1.0, 768 / min(width, height))
    return 85 + 170 * math.ceil(width * scale / 512) * math.ceil(height * scale / 512)

"""Images on a page, as data URIs that a page can hold a few dozen of."""

from __future__ import annotations

import base64
import hashlib
import io
import math
from dataclasses import dataclass

from PIL import Image

from retrodict.transitions import Transition, decode_image

LARGE, SIDE = 40_000, 320  # images of more bytes are shown at this many pixels

Cells = tuple[tuple[float, float, float, float, float], ...]  # left, top, width, height, opacity; in percent


@dataclass(frozen=True)
class Pair:
    """A source and a target image with what is said about them."""

    source: str
    target: str
    action: str
    title: str = ""
    logprob: float = math.nan
    truth: str = ""  # what really happened, where the action is not it
    cells: Cells = ()
    note: str = ""
    shape: float = 1.0  # width over height


def pair(
    transition: Transition, *, title: str = "", logprob: float = math.nan, truth: str = "", cells: Cells = ()
) -> Pair:
    shape = shape_of(transition.source)
    return Pair(
        uri(transition.source), uri(transition.target), transition.action, title, logprob, truth, cells, shape=shape
    )


def uri(data: bytes | None, side: int = SIDE, large: int = LARGE) -> str:
    """Encoded image bytes as a data URI, made smaller above `large` bytes; empty without an image."""
    if not data:
        return ""
    if len(data) > large:
        data = _smaller(data, side)
    kind = "jpeg" if data[:2] == b"\xff\xd8" else "png"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def shape_of(data: bytes | None) -> float:
    """Width over height; 1 without an image."""
    if not data:
        return 1.0
    with Image.open(io.BytesIO(data)) as image:
        return image.width / image.height


def _smaller(data: bytes, side: int) -> bytes:
    image = decode_image(data, "image")
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=88, subsampling=0)
    return buffer.getvalue()


def hashed(name: str) -> str:
    """The order in which examples are shown: by hash, the same in every run."""
    return hashlib.sha256(name.encode()).hexdigest()

"""Images in and out, one way for every command: whatever is read becomes upright 8-bit RGB."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from retrodict.files import write_atomic

THUMBNAIL = 128  # longest side of an image in a notebook, in pixels

ImageLike: TypeAlias = str | Path | bytes | Image.Image | npt.NDArray[np.uint8]
"""A file's path, an encoded image, a PIL image, or an array [H, W, 3] of uint8."""


def read_image(image: ImageLike, name: str = "") -> Image.Image:
    """An image as 8-bit RGB: turned the way its camera was held, 16 bits scaled to 8, transparency on white.

    Args:
        image: what to read.
        name: what error messages call it; by default its path, if it has one.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no image, is broken, has pixels of 32 bits, or is an array of another shape or type.
    """
    name = name or (str(image) if isinstance(image, str | Path) else "The image")
    if not isinstance(image, str | Path | bytes | Image.Image):
        return _from_array(image, name)
    try:
        if isinstance(image, Image.Image):
            return _rgb(ImageOps.exif_transpose(image), name)
        with Image.open(io.BytesIO(image) if isinstance(image, bytes) else image) as opened:
            ImageOps.exif_transpose(opened, in_place=True)
            return _rgb(opened, name)
    except (FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except UnidentifiedImageError:
        raise ValueError(f"{name} is no image, or of a kind that cannot be read.") from None
    except Image32BitError:
        raise
    except Exception as error:  # decoders meet broken files with almost any exception
        raise ValueError(f"{name} is a broken image: {str(error)[:200]}.") from None


class Image32BitError(ValueError):
    """Pixels have 32 bits, and nothing says which of their values is white."""


def _from_array(array: npt.NDArray[np.uint8], name: str) -> Image.Image:
    kind = type(array).__name__
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{name} is a {kind}: give a path, bytes, a PIL image, or a numpy array [H, W, 3] of uint8.")
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise ValueError(f"{name} must be an array [H, W, 3] of uint8, and is {list(array.shape)} of {array.dtype}.")
    return Image.fromarray(array)


def _rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image)
        if image.mode == "F" or values.min(initial=0) < 0 or values.max(initial=0) > 65535:
            raise Image32BitError(f"{name} has pixels of 32 bits: save it with 8 or 16.")
        image = Image.fromarray(np.round(values / 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def encode_png(image: Image.Image) -> bytes:
    """The image as a PNG file's bytes."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def html_row(title: str, cells: Iterable[tuple[Image.Image, str, bool]]) -> str:
    """Images side by side, as notebooks show results.

    Args:
        title: a line above them; escaped.
        cells: image, caption (escaped), and whether it is marked.
    """
    figures = []
    for image, caption, marked in cells:
        small = image.copy()
        small.thumbnail((THUMBNAIL, THUMBNAIL))
        data = base64.b64encode(encode_png(small)).decode()
        border = "#2a7" if marked else "transparent"
        figures.append(
            f'<figure style="display:inline-block;margin:2px;padding:2px;border:2px solid {border}">'
            f'<img alt="" src="data:image/png;base64,{data}">'
            f'<figcaption style="text-align:center">{html.escape(caption)}</figcaption></figure>'
        )
    return f"<div><div>{html.escape(title)}</div>{''.join(figures)}</div>"


def write_image(path: str | Path, image: Image.Image) -> None:
    """Write an image in the format that its name says, whole or not at all.

    Raises:
        ValueError: the name's suffix stands for no format that can be written.
    """
    path = Path(path)
    Image.init()
    kind = Image.EXTENSION.get(path.suffix.lower())
    if kind is None or kind not in Image.SAVE:
        raise ValueError(f"{path}: images cannot be written as {path.suffix or 'a file without a suffix'}; use .png.")
    write_atomic(path, lambda temporary: image.save(temporary, kind))

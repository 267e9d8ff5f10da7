"""Images in and out, one way for every command: whatever is read becomes upright 8-bit RGB."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from retrodict.files import write_atomic

THUMBNAIL = 128  # longest side of an image in a notebook, in pixels


class Tensor(Protocol):
    """What is asked of a torch tensor, so that torch need not be imported."""

    def detach(self) -> Any: ...


ImageLike: TypeAlias = str | Path | bytes | Image.Image | npt.NDArray[Any] | Tensor
"""A file's path, an encoded image, or a PIL image; or an array or tensor [H, W, C], [C, H, W] or [H, W] of uint8,
uint16 or floats in [0, 1], where C is 3, or 1 (grey), or 4 (with alpha)."""


def read_image(image: ImageLike, name: str = "") -> Image.Image:
    """An image as 8-bit RGB: turned the way its camera was held, 16 bits and floats scaled to 8, transparency on white.

    Of an animation, the first frame.

    Args:
        image: what to read.
        name: what error messages call it; by default its path, if it has one.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no image, is broken or too large, or is an array of which it is not clear what it shows.
    """
    name = name or (str(image) if isinstance(image, str | Path) else "The image")
    if not isinstance(image, str | Path | bytes | Image.Image):
        return _rgb(_from_array(image, name), name)
    if isinstance(image, str) and image.startswith(("http://", "https://")):
        raise ValueError(f"{name} is a URL, and nothing is downloaded here: save the image, and give the file.")
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
    except Image.DecompressionBombError:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0) // 10**6
        raise ValueError(f"{name} has more than {most} million pixels: scale it down first.") from None
    except PixelRangeError:
        raise
    except Exception as error:  # decoders meet broken files with almost any exception
        raise ValueError(f"{name} is a broken image: {str(error)[:200]}.") from None


def image_bytes(image: ImageLike, name: str = "") -> bytes:
    """An image as a file's bytes: its own where it is a file, else a PNG's. Raises what `read_image` raises."""
    if isinstance(image, str | Path) and Path(image).is_file():
        name, image = name or str(image), Path(image).read_bytes()
    readable = read_image(image, name)
    return image if isinstance(image, bytes) else encode_png(readable)


class PixelRangeError(ValueError):
    """Nothing says which value of these pixels is white."""


def _from_array(given: object, name: str) -> Image.Image:
    if hasattr(given, "detach"):  # a torch tensor, wherever it is
        tensor = given.detach().cpu()
        given = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    if not isinstance(given, np.ndarray):
        kind = type(given).__name__
        raise ValueError(f"{name} is a {kind}: give a path, bytes, a PIL image, or an array [H, W, 3] of uint8.")
    channels = []
    if given.ndim == 3:
        channels = [a for a in (2, 0) if given.shape[a] == 3] or [a for a in (2, 0) if given.shape[a] in (1, 4)]
    if not (given.ndim == 2 or len(channels) == 1) or 0 in given.shape:
        raise ValueError(
            f"{name} must be an array [H, W, 3], [3, H, W] or [H, W], and is {list(given.shape)} of {given.dtype}."
        )
    array = np.moveaxis(given, channels[0], 2) if channels else given[..., None]
    array = array[..., 0] if array.shape[2] == 1 else array
    return Image.fromarray(_to_8_bits(array, name))


def _to_8_bits(values: npt.NDArray[Any], name: str) -> npt.NDArray[np.uint8]:
    if values.dtype == np.uint8:
        return np.ascontiguousarray(values)
    if values.dtype == np.uint16:
        return np.round(values / 257).astype(np.uint8)
    if values.dtype.kind != "f":
        raise PixelRangeError(f"{name} has pixels of {values.dtype}: give uint8, uint16, or floats from 0 to 1.")
    low, high = float(values.min()), float(values.max())
    if not 0 <= low <= high <= 1:  # not with NaN either
        raise PixelRangeError(f"{name} has pixels from {low:g} to {high:g}: floats go from 0 (black) to 1 (white).")
    return np.round(values * 255).astype(np.uint8)


def _rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image)
        if image.mode != "F":
            if values.min(initial=0) < 0 or values.max(initial=0) > 65535:
                raise PixelRangeError(f"{name} has pixels of 32 bits: save it with 8 or 16.")
            values = values.astype(np.uint16)
        image = Image.fromarray(_to_8_bits(values, name))
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

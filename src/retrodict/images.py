"""Images in and out, one way for every command: whatever is read becomes upright 8-bit RGB."""

from __future__ import annotations

import base64
import html
import io
import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from retrodict.files import write_atomic

THUMBNAIL = 128  # longest side of an image in a notebook, in pixels
_URL = ("http://", "https://", "file://")
_BYTES, _SECONDS = 64 * 2**20, 30  # of an image that is downloaded, at most; and how long a server may be silent


class Tensor(Protocol):
    """What is asked of a torch tensor, so that torch need not be imported."""

    def detach(self) -> Any: ...


ImageLike: TypeAlias = str | Path | bytes | Image.Image | npt.NDArray[Any] | Tensor
"""A file's path or URL, an encoded image, or a PIL image; or an array or tensor [H, W, C], [C, H, W] or [H, W] of
uint8, uint16 or floats in [0, 1], where C is 3, or 1 (grey), or 4 (with alpha)."""


def read_image(image: ImageLike, name: str = "") -> Image.Image:
    """An image as 8-bit RGB: turned the way its camera was held, 16 bits and floats scaled to 8, transparency on white.

    Of an animation, the first frame.

    Args:
        image: what to read.
        name: what error messages call it; by default its path, if it has one.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no image, is broken or too large, cannot be had, or is an array of which it is not clear what
            it shows.
    """
    image = _plain(image)
    name = name or (str(image) if isinstance(image, str | Path) else "The image")
    if not isinstance(image, str | Path | bytes | Image.Image):
        return _rgb(_from_array(image, name), name)
    if isinstance(image, str) and image.startswith(_URL):
        image = _downloaded(image)
    try:
        if isinstance(image, Image.Image):
            return _rgb(ImageOps.exif_transpose(image), name)
        opened = Image.open(io.BytesIO(image) if isinstance(image, bytes) else no_pipe(Path(image)))
        with opened, _nothing_made_up():
            if opened.format == "PNG":
                _check_png(image if isinstance(image, bytes) else Path(image).read_bytes(), opened)
            ImageOps.exif_transpose(opened, in_place=True)
            return _rgb(opened, name)
    except (FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except UnidentifiedImageError:
        raise ValueError(f"{name} is no image, or of a kind that cannot be read.") from None
    except Image.DecompressionBombError:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0) // 10**6
        raise ValueError(f"{name} has more than {most} million pixels: scale it down first.") from None
    except (PixelRangeError, _PipeError):
        raise
    except Exception as error:  # decoders meet broken files with almost any exception
        raise ValueError(f"{name} is a broken image: {str(error)[:200]}.") from None


def _plain(image: ImageLike) -> ImageLike:
    """Paths and bytes of other kinds as those that are known here."""
    if isinstance(image, bytearray | memoryview):
        return bytes(image)
    return Path(image) if isinstance(image, os.PathLike) else image


class _PipeError(ValueError):
    """What is named as an image is no file."""


def no_pipe(path: Path) -> Path:
    """The path. Raises `ValueError` for a pipe or a device, which would be waited for, or read, without end."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise _PipeError(f"{path} is a pipe or a device: give a file.")
    return path


def image_bytes(image: ImageLike, name: str = "") -> bytes:
    """An image as a file's bytes: its own where it is a file, else a PNG's. Raises what `read_image` raises."""
    image = _plain(image)
    if isinstance(image, str) and image.startswith(_URL):
        name, image = name or image, _downloaded(image)
    if isinstance(image, str | Path) and Path(image).is_file():
        name, image = (f"{name} ({image})" if name else str(image)), Path(image).read_bytes()
    readable = read_image(image, name)
    return image if isinstance(image, bytes) else encode_png(readable)


def _downloaded(url: str) -> bytes:
    from http.client import HTTPException
    from urllib.request import urlopen

    try:
        with urlopen(url, timeout=_SECONDS) as answer:
            data: bytes = answer.read(_BYTES + 1)
    except (OSError, HTTPException, ValueError) as error:
        raise ValueError(f"{url[:200]} cannot be downloaded: {str(error)[:200]}.") from None
    if len(data) > _BYTES:
        raise ValueError(f"{url[:200]} has more than {_BYTES >> 20} MiB: save it, and scale it down first.")
    return data


@contextmanager
def _nothing_made_up() -> Iterator[None]:
    """Pillow fills what a file lacks with grey where another library of the program asked it to; not while we read."""
    before, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
# Of an interlaced PNG: first column and row of each pass, and the steps to the next.
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def _check_png(data: bytes, image: Image.Image) -> None:
    """Raises `ValueError` for a PNG that was damaged or cut off, which Pillow shows as far as it goes."""
    at, kind, pixels = 8, b"", []
    while kind != b"IEND":
        head = data[at : at + 8]
        size, kind = struct.unpack(">I4s", head) if len(head) == 8 else (len(data), b"?")
        body, said = data[at + 4 : at + 8 + size], data[at + 8 + size : at + 12 + size]
        if len(said) < 4:
            raise ValueError("the file is cut off")
        if kind[:1].isupper() and zlib.crc32(body) != int.from_bytes(said):  # small letters: not of the image itself
            raise ValueError(f"its {kind.decode('latin-1')} is damaged")
        pixels += [body[4:]] if kind == b"IDAT" else []
        at += 12 + size
    interlaced = bool(image.info.get("interlace"))
    image.load()
    last = image.crop((0, image.height - 1, image.width, image.height))
    if not interlaced and any(high for _, high in np.atleast_2d(last.getextrema())):
        return  # rows that are not there are 0: the last one is
    width, height, bits, colour = struct.unpack(">IIBB", data[16:26])
    passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    sizes = ((-(-(width - x) // across), -(-(height - y) // down)) for x, y, across, down in passes)
    rows = [(wide, high) for wide, high in sizes if wide > 0 and high > 0]
    expected = sum(high * (1 + -(-wide * bits * _PNG_CHANNELS[colour] // 8)) for wide, high in rows)
    if len(zlib.decompressobj().decompress(b"".join(pixels), expected)) < expected:
        raise ValueError("rows of it are missing")


class PixelRangeError(ValueError):
    """Nothing says which value of these pixels is white."""


def _from_array(given: object, name: str) -> Image.Image:
    if hasattr(given, "detach") and hasattr(given, "cpu"):  # a torch tensor, wherever it is
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
    if 0 in image.size:
        raise ValueError(f"it has no pixels ({image.width} x {image.height})")
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


def shrunk(image: Image.Image, side: int) -> Image.Image:
    """An image in RGB whose longer side is at most `side` pixels."""
    image = image.convert("RGB")
    scale = side / max(image.size)
    if scale >= 1:
        return image
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.BICUBIC)


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

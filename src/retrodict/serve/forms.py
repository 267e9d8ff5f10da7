"""Requests in: multipart forms and the images in them, within limits. Nothing is written to disk, no name is used."""

from __future__ import annotations

import difflib
import io
import logging
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from PIL import Image, UnidentifiedImageError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from retrodict.files import LONGEST_ACTION, JsonObject, visible
from retrodict.images import read_image

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")  # what is read; others have decoders that are seldom used
FIELD = 20_000  # bytes of a text field
FILES, FIELDS = 16, 64  # in one form

_TYPES = {401: "authentication_error", 429: "rate_limit_error"}

logging.getLogger("python_multipart").setLevel(logging.ERROR)  # a broken form is answered, not logged


@dataclass(frozen=True)
class Limits:
    """What a request may be.

    Attributes:
        body: bytes of a request.
        pixels: of an image.
        arrival: seconds for a request to arrive whole.
        answer: seconds for its answer.
        memory: bytes of all requests together, images decoded.
        queue: items that wait for the models.
    """

    body: int = 16 * 2**20
    pixels: int = 2048 * 2048
    arrival: float = 30.0
    answer: float = 300.0
    memory: int = 512 * 2**20
    queue: int = 256


class Refusal(Exception):  # noqa: N818  (what is refused is no error of ours)
    """A request that is answered with a status and one line. `param`: the field that is wrong."""

    def __init__(self, status: int, message: str, param: str | None = None, seconds: int = 0) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.seconds = status, message, param, seconds

    @property
    def body(self) -> JsonObject:
        """As OpenAI's SDK reads it."""
        kind = _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": None}}


class Memory:
    """Bytes that requests may hold together."""

    def __init__(self, most: int) -> None:
        self._most, self.held = most, 0

    @contextmanager
    def holding(self, size: int) -> Iterator[None]:
        """While the block runs. Raises `Refusal` where there is no room; one request alone always has some."""
        if self.held and self.held + size > self._most:
            raise Refusal(429, "The server is busy with other images. Try again.", seconds=1)
        self.held += size
        try:
            yield
        finally:
            self.held -= size


class _InMemory(MultiPartParser):
    spool_max_size = 0  # bytes after which a part would go to disk: never

    def close(self) -> None:
        """Of all parts, also those that never ended."""
        for file in self._files_to_close_on_error:
            file.close()


class Form:
    """The fields of a request, each of which is checked when it is asked for."""

    def __init__(self, texts: dict[str, list[str]], files: dict[str, list[bytes]]) -> None:
        self._texts, self._files = texts, files

    @classmethod
    async def read(cls, request: Request, known: Collection[str]) -> Form:
        """The form of a request, whose body was counted already.

        Args:
            request: the request.
            known: names of the fields that it may have.

        Raises:
            Refusal: it is no multipart form (415) or a broken one, or has other fields (400).
        """
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "multipart/form-data":
            raise Refusal(415, "Send a form as multipart/form-data, as OpenAI's SDK and `curl -F` do.")
        form, parser = cls({}, {}), _parser(request.headers, request.stream())
        try:
            for given, value in (await parser.parse()).multi_items():
                name = given.removesuffix("[]")
                if name not in known:
                    raise Refusal(400, f"There is no field {name[:60]!r}{_hint(name[:60], known)}.", name[:60])
                if isinstance(value, UploadFile):
                    form._files.setdefault(name, []).append(await value.read())
                else:
                    form._texts.setdefault(name, []).append(value)
        except MultiPartException as error:
            raise Refusal(400, f"The form is broken: {error.message}") from None
        except (ValueError, LookupError) as error:
            raise Refusal(400, f"The form is broken: {type(error).__name__}.") from None
        finally:
            parser.close()
        return form

    def text(self, name: str, default: str = "") -> str:
        values = self._texts.get(name, [default])
        if len(values) > 1:
            raise Refusal(400, f"{name} is given {len(values)} times.", name)
        return values[0]

    def action(self, name: str) -> str:
        """What happens, in words."""
        return self.actions(name, 1)[0]

    def actions(self, name: str, most: int) -> list[str]:
        values = self._texts.get(name, [])
        if not 1 <= len(values) <= most:
            raise Refusal(400, f"{name} is missing." if not values else f"{name}: {most} at most.", name)
        for value in values:
            if not visible(value):
                raise Refusal(422, f"{name} is empty: say in words what happens.", name)
            if len(value) > LONGEST_ACTION:
                raise Refusal(422, f"{name} has more than {LONGEST_ACTION:,} characters.", name)
        return values

    def whole(self, name: str, default: int, least: int, most: int) -> int:
        """A whole number."""
        text = self.text(name, str(default)).strip()
        digits = text.removeprefix("-")
        if not (digits.isascii() and digits.isdecimal() and len(digits) < 19 and least <= int(text) <= most):
            raise Refusal(400, f"{name} must be a whole number from {least} to {most}.", name)
        return int(text)

    def one_of(self, name: str, values: Collection[str], default: str) -> str:
        text = self.text(name, default)
        if text not in values:
            raise Refusal(400, f"{name} must be one of {', '.join(values)}.", name)
        return text

    def flag(self, name: str) -> bool:
        return self.one_of(name, ("true", "false", "1", "0", ""), "") in ("true", "1")

    def refuse(self, name: str, why: str) -> None:
        """Refuse a field that stands for something that is not done here."""
        if self._files.get(name) or self.text(name).strip().lower() not in ("", "false", "0"):
            raise Refusal(400, f"{name}: {why}", name)

    def file(self, name: str) -> bytes:
        files = self._files.get(name, [])
        if len(files) != 1:
            how = "send it as a file" if not files else "one file, not several"
            raise Refusal(400, f"{name} is missing: {how}." if not files else f"{name}: {how}.", name)
        return files[0]


def _parser(headers: Headers, stream: AsyncIterator[bytes]) -> _InMemory:
    return _InMemory(headers, stream, max_files=FILES, max_fields=FIELDS, max_part_size=FIELD)  # type: ignore[arg-type]


def _hint(name: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    return f": did you mean {close[0]}" if close else ""


@contextmanager
def opened(data: bytes, name: str, limits: Limits) -> Iterator[Image.Image]:
    """An image of which no more than its head was read.

    Raises:
        Refusal: it is none (415), is broken (422) or has too many pixels (413).
    """
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise Refusal(415, f"{name} is no image of a kind that is read: {', '.join(FORMATS)}.", name) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_many_pixels(name, limits) from None
    except Exception as error:  # decoders meet broken files with almost any exception
        raise Refusal(422, f"{name} is a broken image ({type(error).__name__}).", name) from None
    with image:
        if image.width * image.height > limits.pixels:
            raise _too_many_pixels(name, limits)
        yield image


def _too_many_pixels(name: str, limits: Limits) -> Refusal:
    return Refusal(413, f"{name} has more than {limits.pixels:,} pixels: scale it down first.", name)


async def read_upload(data: bytes, name: str, limits: Limits) -> Image.Image:
    """The image of an upload. Raises `Refusal` as `opened` does."""

    def decode() -> Image.Image:
        with opened(data, name, limits) as image:
            try:
                return read_image(image, name)
            except ValueError as error:
                raise Refusal(422, str(error), name) from None

    return await run_in_threadpool(decode)

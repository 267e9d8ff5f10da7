"""What a chat model is sent, and the key under which its answer is kept.

The key is a hash of everything that can change an answer: the prompt file's hash, images as sent, instruction,
model and where it is served, sampling settings, and which repeat it is.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

from PIL import Image

from retrodict.chat import Detail
from retrodict.files import JsonObject
from retrodict.images import encode_png
from retrodict.prompts.chat import ChatPrompt
from retrodict.transitions import decode_image

Schema = Literal["auto", "off"]
ENCODING = "png-rgb-lanczos"  # of images; changes whenever the same pixels would be sent differently

OPENAI = "https://api.openai.com/v1"
_PER_MESSAGE = 12  # tokens that chat templates add around a message, roughly


@dataclass(frozen=True)
class Settings:
    """How a model is asked. `served` is the base URL, several of the same model with commas between them, or for a
    local model the hash of its weights."""

    model: str
    served: str = OPENAI
    temperature: float | None = 0.0  # None sends none: some models refuse it
    seed: int = 0  # plus the number of the repeat
    max_tokens: int = 400
    detail: Detail = "high"
    max_side: int = 768
    schema: Schema = "auto"  # "auto" asks for a JSON schema and does without where the server cannot
    repeats: int = 1
    logprobs: bool = False  # whether the log-probabilities of the answer's tokens are asked for

    def __post_init__(self) -> None:
        if not self.model.strip():
            raise ValueError("A chat model needs --model: the name under which the endpoint serves it.")
        if self.repeats < 1 or self.max_tokens < 1 or self.max_side < 16:
            raise ValueError("A chat model needs at least 1 repeat, 1 token and images of 16 pixels.")


def check_base_url(url: str) -> str:
    """`url` without a trailing slash. Raises `ValueError` where it is no http(s) URL or may carry a secret."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"--base-url is an address such as {OPENAI} or http://localhost:8000/v1.")
    if parts.username or parts.password or parts.query:
        raise ValueError(
            "--base-url is stored with the results, so it must hold no user, password or query: "
            "give the key in RETRODICT_JUDGE_KEY."
        )
    return url.rstrip("/")


def check_served(urls: str) -> str:
    """Addresses with commas between them, each as `check_base_url` has it."""
    return ",".join(check_base_url(url) for url in urls.split(","))


class Given(NamedTuple):
    """An answer whose log-probability is asked for, in place of an answer: vLLM reads it as part of the prompt.

    Attributes:
        text: The answer; None for the question alone, up to where an answer would begin.
        closed: Whether the chat template ends the turn behind it.
    """

    text: str | None
    closed: bool = True


# What vLLM knows beyond OpenAI's protocol.
BEYOND = ("prompt_logprobs", "add_generation_prompt", "continue_final_message", "repetition_penalty")


@dataclass(frozen=True, eq=False)
class Request:
    """One call. `images` are encoded bytes by the names of the prompt's slots; `item` says whose it is."""

    item: str
    prompt: ChatPrompt
    settings: Settings
    instruction: str
    images: Mapping[str, bytes]
    repeat: int
    key: str
    prompt_tokens: int  # estimated
    given: Given | None = None

    @property
    def identity(self) -> JsonObject:
        """What the key is the hash of."""
        return _identity(self)

    def messages(self) -> list[JsonObject]:
        content: list[JsonObject] = []
        for kind, value in self.prompt.parts(self.instruction):
            if kind == "text":
                content.append({"type": "text", "text": value})
            elif self.images:
                url = data_url(self.images[value], self.settings.max_side)
                content.append({"type": "image_url", "image_url": {"url": url, "detail": self.settings.detail}})
        system = [{"role": "system", "content": self.prompt.system}] if self.prompt.system else []
        said = None if self.given is None else self.given.text
        answer = [] if said is None else [{"role": "assistant", "content": said}]
        return [*system, {"role": "user", "content": content}, *answer]

    def body(self, schema: bool, tokens_as: str = "max_tokens", without: Sequence[str] = ()) -> JsonObject:
        """The chat-completions request. `tokens_as` is the name of the limit: newer models know another one; what is in
        `without` is not sent."""
        s = self.settings
        body: JsonObject = {"model": s.model, "messages": self.messages(), "seed": s.seed + self.repeat}
        body[tokens_as] = s.max_tokens
        if s.temperature is not None:
            body["temperature"] = s.temperature
        if s.logprobs and s.served != OPENAI:  # what a checkpoint asks for when it chats is not the likeliest answer
            body["repetition_penalty"] = 1.0
        if self.given is not None:
            body |= {
                tokens_as: 1,
                "prompt_logprobs": 0,  # of the prompt's own tokens
                "add_generation_prompt": self.given.text is None,
                "continue_final_message": self.given.text is not None and not self.given.closed,
            }
        elif s.logprobs:
            body["logprobs"] = True
        if schema:
            answer = {"name": "judgement", "strict": True, "schema": self.prompt.schema}
            body["response_format"] = {"type": "json_schema", "json_schema": answer}
        return {name: value for name, value in body.items() if name not in without}


def build(
    item: str,
    prompt: ChatPrompt,
    settings: Settings,
    instruction: str,
    images: Mapping[str, bytes],
    repeat: int = 0,
    given: Given | None = None,
) -> Request:
    """A request with its key. Only images that the prompt shows count; without any, its words alone are sent."""
    if "{instruction}" in prompt.user and not instruction.strip():
        raise ValueError(f"Item {item} has no instruction: an answer without one would mean nothing.")
    shown = {name: images[name] for kind, name in prompt.parts(instruction) if images and kind == "image"}
    request = Request(item, prompt, settings, instruction.strip(), shown, repeat, "", 0, given)
    canonical = json.dumps(_identity(request), sort_keys=True, ensure_ascii=True)
    return replace(request, key=hashlib.sha256(canonical.encode()).hexdigest(), prompt_tokens=_estimate(request))


def _identity(request: Request) -> JsonObject:
    s = request.settings
    prints = {name: fingerprint(data, s.max_side)[0] for name, data in request.images.items()}
    return {
        "prompt": request.prompt.id,
        "prompt_sha256": request.prompt.sha256,
        "pictures": prints,  # hashed: under another name every answer that was paid for would be asked again
        "encoding": ENCODING,
        "detail": s.detail,
        "instruction": request.instruction,
        "model": s.model,
        "served": s.served.partition(",")[0],  # others serve the same: which of them answers changes nothing
        "temperature": s.temperature,
        "seed": s.seed,
        "max_tokens": s.max_tokens,
        "schema": s.schema,
        "repeat": request.repeat,
        **({"logprobs": True} if s.logprobs else {}),
        **({} if request.given is None else {"given": request.given._asdict()}),
    }


def _estimate(request: Request) -> int:
    """Prompt tokens: four characters of text are about one; images by `image_tokens`."""
    text = sum(len(value) for kind, value in request.prompt.parts(request.instruction) if kind == "text")
    s = request.settings
    sizes = (fingerprint(data, s.max_side)[1] for data in request.images.values())
    words = math.ceil((text + len(request.prompt.system)) / 4)
    return words + _PER_MESSAGE + sum(image_tokens(size, s.detail) for size in sizes)


def shrink(data: bytes, max_side: int) -> Image.Image:
    """The decoded image, made smaller (LANCZOS) where its longer side exceeds `max_side` pixels."""
    image = decode_image(data, "image")
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
    with Image.open(io.BytesIO(data)) as image:  # reads the header only
        as_it_is = image.format == "PNG" and image.mode == "RGB" and max(image.size) <= max_side and not image.getexif()
    if not as_it_is:
        data = encode_png(shrink(data, max_side))
    return "data:image/png;base64," + base64.b64encode(data).decode()


def image_tokens(size: tuple[int, int], detail: str) -> int:
    """Tokens of an image by the tile rule that OpenAI publishes for gpt-4o; an estimate for any other model.

    Low detail costs 85. Otherwise the image is fitted into 2048 x 2048, then its shorter side to at most 768, and
    each 512-pixel tile costs 170 on top of the 85.
    """
    if detail == "low":
        return 85
    fit = min(1.0, 2048 / max(size))
    width, height = size[0] * fit, size[1] * fit
    scale = min(1.0, 768 / min(width, height))
    return 85 + 170 * math.ceil(width * scale / 512) * math.ceil(height * scale / 512)

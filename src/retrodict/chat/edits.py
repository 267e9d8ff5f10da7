"""An image editor behind an endpoint of the form `/v1/images/edits`, as a forward model.

Every image is one request and is kept as it arrived, so that it is paid once: the same command again asks only for what
is missing. An answer that was lost on its way may have been charged, so it is not asked for again in the same run.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import json
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from retrodict.chat.cache import IN_MEMORY, AnswerCache, open_cache, user_cache
from retrodict.chat.endpoint import Caller, LostError, RefusedError, Server
from retrodict.chat.parsing import is_filtered, shorten
from retrodict.chat.request import OPENAI, check_base_url
from retrodict.errors import UnansweredError
from retrodict.files import JsonMapping, JsonObject
from retrodict.images import encode_png, read_image
from retrodict.models.protocol import Candidate, Frame, image_of
from retrodict.sampling import Sampling, SamplingError

PREFIX = "edits:"
OPTIONS = ("quality", "size", "input_fidelity", "price")
GIVE_UP = 8  # images lost in a row: the endpoint is down
_FORMAT = "response_format"


@dataclass(frozen=True)
class Edit:
    """One image to ask for. `identity` is all that can change it, and `key` its hash."""

    identity: JsonMapping
    png: bytes = field(repr=False)

    @property
    def key(self) -> str:
        canonical = json.dumps(self.identity, sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(canonical.encode()).hexdigest()


class EditEndpoint:
    """`name` is `edits:MODEL`, or `edits:MODEL@BASE_URL` for an endpoint other than OpenAI's; options come after the
    model, as in `edits:gpt-image-1,quality=low,size=1024x1024,price=0.011`. `price` is that of one image, for the cost
    that is told; the others are handed on. The key comes from RETRODICT_JUDGE_KEY or OPENAI_API_KEY. `cache` keeps the
    images; by default the user's cache folder does."""

    def __init__(
        self, name: str, cache: Path | None = None, *, timeout: float = 180.0, attempts: int = 8, width: int = 8
    ) -> None:
        spec, _, url = name.removeprefix(PREFIX).partition("@")
        model, *options = spec.split(",")
        if not model.strip():
            raise ValueError(f"{name} names no model: write {PREFIX}MODEL, as the endpoint calls it.")
        self.name = model.rpartition("/")[2]
        self._model, self._served = model, check_base_url(url or OPENAI)
        self._options = dict(_option(text) for text in options)
        self._price = float(self._options.pop("price", "nan"))
        self._cache = cache or user_cache("edits.sqlite")
        self._timeout, self._attempts, self._width = timeout, attempts, width
        self._tokens = {"input_tokens": 0, "output_tokens": 0}
        self._used: dict[str, bool] = {}  # key of every image that was used, and whether it was asked for now

    def sample(
        self,
        sources: Sequence[Frame],
        actions: Sequence[str],
        n: int,
        seed: int,
        sampling: Sampling = Sampling(),
    ) -> list[list[Candidate]]:
        """`n` images for each (source, action). Endpoints take no seed: another one asks for other images.

        At temperature 0 the first candidate serves all `n`. Raises `UnansweredError` when images were not sent, and
        `ValueError` where the endpoint refuses an action or sends what is no image: another try would not help.
        """
        if sampling != Sampling(sampling.temperature) or sampling.temperature not in (0, 1):
            raise SamplingError("An endpoint that edits images samples as it will: leave out the sampling options.")
        distinct = 1 if sampling.temperature == 0 else n
        edits = [
            [self._edit(image_of(source), action, seed, i) for i in range(distinct)]
            for source, action in zip(sources, actions, strict=True)
        ]
        with open_cache(self._cache) as cache:
            self._fetch({edit.key: edit for row in edits for edit in row}, cache)
            rows = [[Candidate(_image(cache, edit)) for edit in row] for row in edits]
        return [row * n for row in rows] if distinct < n else rows

    async def arriving(self, source: Image.Image, action: str, n: int, seed: int) -> AsyncGenerator[list[Candidate]]:
        """The candidates of one prompt that have come, in their order, whenever one more has. Nothing is kept.

        What is still asked for is given up when this is closed. Raises as `sample` does.
        """
        edits = {edit.key: edit for edit in (self._edit(source, action, seed, i) for i in range(n))}
        news: asyncio.Queue[str] = asyncio.Queue()
        known: dict[str, Candidate] = {}
        with open_cache(IN_MEMORY) as cache:
            asking = asyncio.ensure_future(self._ask(edits, cache, news.put_nowait))
            asking.add_done_callback(lambda _: news.put_nowait(""))
            try:
                while key := await news.get():
                    known[key] = Candidate(_image(cache, edits[key]))
                    yield [known[name] for name in edits if name in known]
                if lost := await asking:
                    raise UnansweredError(f"{len(lost)} of {n} images did not arrive ({lost[0]}).")
            finally:
                asking.cancel()
                with suppress(asyncio.CancelledError, Exception):
                    await asking

    @property
    def usage(self) -> JsonObject:
        """Images that were used, how many of them were asked for now, what the endpoint counted, and the cost."""
        asked = sum(self._used.values())
        price = None if self._price != self._price else self._price
        return {
            "images": len(self._used),
            "asked_now": asked,
            **self._tokens,
            "price": price,
            "cost_now": None if price is None else price * asked,
        }

    def _edit(self, source: Image.Image, action: str, seed: int, candidate: int) -> Edit:
        image = source.convert("RGB")
        identity = {
            "model": self._model,
            "served": self._served,
            **self._options,
            "prompt": action,
            "image": hashlib.sha256(f"{image.width}x{image.height} ".encode() + image.tobytes()).hexdigest(),
            "seed": seed,
            "candidate": candidate,
        }
        return Edit(identity, encode_png(image))

    def _fetch(self, edits: JsonMapping, cache: AnswerCache) -> None:
        missing = {key: edit for key, edit in edits.items() if cache.get(key) is None}
        if missing:
            before = sum(self._used.values())
            lost = asyncio.run(self._ask(missing, cache))
            _say(self.usage, sum(self._used.values()) - before)
            if lost:
                raise UnansweredError(
                    f"{len(lost)} of {len(missing)} images did not arrive ({lost[0]}): what did is kept, and the same "
                    "command asks only for the others."
                )
        for key in edits:
            self._used.setdefault(key, False)

    async def _ask(self, edits: JsonMapping, cache: AnswerCache, arrived: Callable[[str], object] = str) -> list[str]:
        """Ask for all, keep what arrives before anything else happens, and return why others did not. `arrived` gets
        the key of each that did."""
        lost: list[str] = []
        in_a_row = 0
        refused: RefusedError | None = None
        endpoint = await asyncio.to_thread(  # reads the system's certificates
            _Edits, self._model, self._served, self._options, self._timeout, self._attempts
        )
        gate = asyncio.Semaphore(self._width)

        async def one(edit: Edit) -> None:
            nonlocal in_a_row, refused
            async with gate:
                if refused is not None or in_a_row >= GIVE_UP:
                    lost.append("not asked for any more")
                    return
                try:
                    outcome = await endpoint.ask(edit, lambda: False)
                except RefusedError as error:
                    refused = error
                    return
                if outcome.body is None:
                    lost.insert(0, outcome.detail)
                    in_a_row += 1
                    return
                cache.put(edit.key, edit.identity, outcome.body, outcome.how)
                arrived(edit.key)
                in_a_row = 0
                self._used[edit.key] = True
                counted = outcome.body.get("usage") or {}
                for name in self._tokens:
                    with suppress(AttributeError, TypeError, ValueError):  # servers count as they like, or not at all
                        self._tokens[name] += int(counted.get(name) or 0)

        try:
            await asyncio.gather(*(one(edit) for edit in edits.values()))
        finally:
            await endpoint.close()
        if refused is not None:
            raise refused
        return lost


class _Edits(Caller[Edit]):
    """The calls themselves."""

    def __init__(self, model: str, served: str, options: JsonMapping, timeout: float, attempts: int) -> None:
        super().__init__(served, timeout=timeout, attempts=attempts)
        self._given: JsonObject = {"model": model, **options}
        # Models other than OpenAI's newer ones answer with a link that soon leads nowhere, unless told.
        self._format = {} if model.startswith("gpt-image") else {_FORMAT: "b64_json"}

    async def _once(self, request: Edit, server: Server) -> tuple[JsonMapping, JsonObject]:
        body = {
            **self._given,
            **self._format,
            "prompt": request.identity["prompt"],
            "image": ("source.png", request.png, "image/png"),
            "extra_headers": {"Idempotency-Key": request.key},  # where it is known, a lost answer is not charged again
        }
        status, answer = await self._call(server.client.images.with_raw_response.edit, body)
        if status in (400, 422) and _FORMAT in body and _FORMAT in json.dumps(answer):
            self._format = {}
            return await self._once(request, server)
        if status != 200 and not is_filtered(answer.get("error")):
            raise LostError(f"HTTP {status}: {shorten(json.dumps(answer.get('error')))}", f"http {status}", again=False)
        if status == 200 and not _encoded(answer):
            raise LostError("an answer without an image in base64", "no image", paid=True, again=False)
        return answer, {"by": "endpoint", "status": status}


def _image(cache: AnswerCache, edit: Edit) -> Image.Image:
    answer = cache.get(edit.key)
    assert answer is not None, "what is missing was asked for"
    if error := answer.body.get("error"):
        said = error.get("message") if isinstance(error, dict) else error
        raise ValueError(f"The endpoint refuses this edit: {shorten(str(said))}")
    try:
        return read_image(base64.b64decode(_encoded(answer.body), validate=True), "The image of the endpoint")
    except binascii.Error:
        raise ValueError("The image of the endpoint is not in base64.") from None


def _encoded(body: JsonMapping) -> str:
    data = body.get("data")
    first = data[0] if isinstance(data, list) and data else {}
    return str(first.get("b64_json") or "") if isinstance(first, dict) else ""


def _option(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    is_number = value.replace(".", "", 1).isdigit()
    if name not in OPTIONS or not value or (name == "price" and not is_number):
        raise ValueError(f"{text} is no option of an edits endpoint: use quality=low, size=1024x1024, price=0.04.")
    return name, value


def _say(usage: JsonMapping, images: int) -> None:
    cost = "" if usage["cost_now"] is None else f", which cost {usage['cost_now']:.2f}"
    logging.getLogger("retrodict").warning(
        "retrodict: %s images arrived, %s so far%s (%s tokens read, %s written by the endpoint's count)",
        f"{images:,}",
        f"{usage['asked_now']:,}",
        cost,
        f"{usage['input_tokens']:,}",
        f"{usage['output_tokens']:,}",
    )

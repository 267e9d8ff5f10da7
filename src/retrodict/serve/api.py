"""The endpoints under `/v1`: images edited with verification, and what else the models answer (`docs/serve.md`)."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import math
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import ExitStack, aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from PIL import Image
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from retrodict import __version__
from retrodict.errors import UnansweredError
from retrodict.files import JsonObject
from retrodict.models.protocol import Frame, LogProb
from retrodict.serve.engine import Engine, FullError, Work
from retrodict.serve.forms import Form, Limits, Memory, Refusal, opened, read_upload
from retrodict.serve.models import AT_ONCE, Asked, Models, Verified

T = TypeVar("T")
R = TypeVar("R")

MOST = 8  # images of one answer
MOST_CANDIDATES = 64  # of one request, as others wait meanwhile
MOST_STEPS = 16  # of a rollout
MOST_PARTIAL = 3  # images before the last of a stream, as OpenAI has it
EDITORS = 4  # requests for which another server is asked at a time, each for all its candidates
_SIZE = re.compile(r"([1-9]\d{0,4})x([1-9]\d{0,4})")
_FORMATS = {"png": "PNG", "jpeg": "JPEG", "webp": "WEBP"}
_SAMPLING = ("seed", "candidates", "verifiers")
_WITHOUT_EFFECT = ("model", "quality", "background", "user", "input_fidelity", "output_compression", "moderation")


@dataclass
class Service:
    """What answers requests: the models, the engine that runs them, and the limits."""

    models: Models
    engine: Engine
    limits: Limits
    memory: Memory
    candidates: int = 0  # sampled so far
    elsewhere: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(EDITORS))

    async def run(self, request: Request, work: Work[T, R], item: T) -> R:
        """What the models make of an item. Raises `Refusal`."""
        with _refused():
            return await self.engine.run(work, item, request.state.client)

    async def predict(
        self, request: Request, source: Frame, action: str, n: int, seed: int, verifiers: tuple[str, ...]
    ) -> Verified:
        """The candidates of one prompt with their scores. Raises `Refusal`."""
        async with aclosing(self.growing(request, source, action, (n,), seed, verifiers)) as pools:
            return [pool async for pool in pools][-1]

    async def growing(
        self, request: Request, source: Frame, action: str, sizes: Sequence[int], seed: int, verifiers: tuple[str, ...]
    ) -> AsyncGenerator[Verified]:
        """The same, and before it pools of the first candidates that there are, about as many as `sizes` says."""
        models, most = self.models, sizes[-1]
        if not models.samples_elsewhere:
            for n in sizes:
                asked = Asked(source, action)
                yield await self.run(request, Work(models.predict, (n, seed, verifiers), models.at_once), asked)
            self.candidates += most
            return
        waiting = list(sizes)
        work: Work[Asked, Verified] = Work(models.predict, (most, seed, verifiers), models.at_once)
        with _refused():
            async with self.elsewhere, aclosing(models.arriving(Asked(source, action), most, seed)) as arriving:
                async for asked in arriving:
                    if waiting and len(asked.candidates) >= waiting[0] and len(asked.candidates) < most:
                        waiting = [n for n in waiting if n > len(asked.candidates)]
                        yield await self.run(request, work, asked)
        yield await self.run(request, work, asked)
        self.candidates += most

    def verifiers(self, form: Form) -> tuple[str, ...]:
        """Names of verifiers, the one that chooses first. Raises `Refusal`."""
        names = tuple(dict.fromkeys(form.text("verifiers", self.models.verifier).replace(" ", "").split(",")))
        for name in names:
            try:
                self.models.check(name)
            except ValueError as error:
                raise Refusal(400, str(error), "verifiers") from None
        return names


async def edits(request: Request) -> Response:
    """`images.edit` of OpenAI's SDK: the best n of the candidates, best first."""
    service: Service = request.app.state.service
    formats = ("output_format", "response_format")
    known = ("image", "prompt", "n", "size", "mask", "stream", "partial_images", *formats, *_WITHOUT_EFFECT, *_SAMPLING)
    form = await Form.read(request, known)
    form.refuse("mask", "there are no masks here. Leave it out.")
    form.one_of("response_format", ("b64_json",), "b64_json")  # nothing is kept that a URL could lead to
    kind = form.one_of("output_format", tuple(_FORMATS), "png")
    n = form.whole("n", 1, 1, MOST)
    size = _size(form.text("size", "auto"), service.limits)
    most, verifiers, seed = _candidates(form, service, n), service.verifiers(form), _seed(form)
    action = form.action("prompt")
    partial = form.whole("partial_images", 0, 0, MOST_PARTIAL)
    with ExitStack() as held:
        source = await _image(form.file("image"), "image", service, held, copies=most)
        if form.flag("stream"):
            sizes = [*sorted({round(most ** (i / partial)) for i in range(partial)} - {most}), most]
            pools = service.growing(request, source, action, sizes, seed, verifiers)
            events = _events(service.models, pools, n, most, kind, size, seed, verifiers)
            return _Stream(await anext(events), events, held.pop_all())  # what is refused now has its status
        answer = await service.predict(request, source, action, most, seed, verifiers)
        chosen = answer.order[:n]
        images = [answer.candidates[k].image for k in chosen]
        encoded = await run_in_threadpool(lambda: [_encoded(_sized(image, size), kind) for image in images])
    return JSONResponse(
        {
            "created": int(time.time()),
            "data": [{"b64_json": text} for text in encoded],
            "output_format": kind,
            "retrodict": _metadata(service.models, answer, chosen, seed, verifiers),
        }
    )


class _Stream(StreamingResponse):
    """Server-sent events, of which the first is known; `held` is given back at their end, however they end."""

    def __init__(self, first: str, events: AsyncGenerator[str], held: ExitStack) -> None:
        async def all_of_them() -> AsyncIterator[str]:
            yield first
            async for event in events:
                yield event

        super().__init__(all_of_them(), media_type="text/event-stream")
        self._events, self._held = events, held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._held:
            async with aclosing(self._events):
                await super().__call__(scope, receive, send)


async def _events(
    models: Models,
    pools: AsyncGenerator[Verified],
    n: int,
    most: int,
    kind: str,
    size: tuple[int, int] | None,
    seed: int,
    verifiers: Sequence[str],
) -> AsyncGenerator[str]:
    """As OpenAI streams an edit: the best of the candidates so far, a few times, then the best n of all."""
    sent = 0
    try:
        async with aclosing(pools):
            async for pool in pools:
                partial = len(pool.candidates) < most
                name = "image_edit.partial_image" if partial else "image_edit.completed"
                for k in pool.order[: 1 if partial else n]:
                    image = _sized(pool.candidates[k].image, size)
                    event: JsonObject = {"type": name, "b64_json": await run_in_threadpool(_encoded, image, kind)}
                    event |= {"created_at": int(time.time()), "output_format": kind, "quality": "auto"}
                    event |= {"size": f"{image.width}x{image.height}", "background": "opaque"}
                    event |= {"partial_image_index": sent} if partial else {}
                    event["retrodict"] = _metadata(models, pool, [k], seed, verifiers)
                    yield _event(name, event)
                    sent += 1
    except Refusal as refusal:
        if not sent:
            raise
        yield _event("error", {"type": "error", **refusal.body})


def _event(name: str, data: JsonObject) -> str:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"


async def rollout(request: Request) -> Response:
    """Several actions, each from the frame that was chosen before."""
    service: Service = request.app.state.service
    form = await Form.read(request, ("image", "action", "n", *_SAMPLING))
    most, verifiers, seed = _candidates(form, service, 1), service.verifiers(form), _seed(form)
    actions = form.actions("action", MOST_STEPS)
    steps = []
    with ExitStack() as held:
        frame: Frame = await _image(form.file("image"), "image", service, held, copies=most + len(actions))
        for action in actions:
            answer = await service.predict(request, frame, action, most, seed, verifiers)
            frame = answer.candidates[answer.order[0]]
            text = await run_in_threadpool(_encoded, frame.image)
            metadata = _metadata(service.models, answer, answer.order[:1], seed, verifiers)
            steps.append({"action": action, "b64_json": text, "retrodict": metadata})
    return JSONResponse({"steps": steps})


async def explain(request: Request) -> Response:
    """Which action happened between two images."""
    service: Service = request.app.state.service
    form = await Form.read(request, ("source", "target", "alternatives"))
    alternatives = form.whole("alternatives", 0, 0, 16)
    with ExitStack() as held:
        pair = await _pair(form, service, held)
        read = await service.run(request, Work(service.models.explain, (alternatives,), AT_ONCE), pair)
    entries = [{"action": e.action, **_logprob(e.logprob)} for e in read]
    return JSONResponse({**entries[0], "alternatives": entries[1:], "model": service.models.inverse_name})


async def score(request: Request) -> Response:
    """How likely an action is, given two images."""
    service: Service = request.app.state.service
    form = await Form.read(request, ("source", "target", "action"))
    action = form.action("action")
    with ExitStack() as held:
        pair = await _pair(form, service, held)
        logprob = await service.run(request, Work(service.models.score, (), AT_ONCE), (pair, action))
    return JSONResponse({"action": action, **_logprob(logprob), "model": service.models.inverse_name})


async def recognition(request: Request) -> Response:
    """Where the image tokenizer sees a change between two images."""
    service: Service = request.app.state.service
    form = await Form.read(request, ("source", "target"))
    with ExitStack() as held:
        pair = await _pair(form, service, held)
        grid = await service.run(request, Work(service.models.recognition, (), AT_ONCE), pair)
    return JSONResponse({"grid": grid})


async def plan(request: Request) -> Response:
    """Actions that lead from one image to another."""
    service: Service = request.app.state.service
    if service.models.samples_elsewhere:
        raise Refusal(422, "Planning asks for hundreds of images: it is not done with an editor behind an endpoint.")
    form = await Form.read(request, ("source", "target", "steps", "seed"))
    steps, seed = form.whole("steps", 2, 1, 4), _seed(form)
    with ExitStack() as held:
        pair = await _pair(form, service, held)
        made = await service.run(request, Work(service.models.plan, (steps, seed)), pair)
    rows = zip(made.actions, made.frames, made.probabilities, strict=True)
    return JSONResponse(
        {
            "reached": made.reached,
            "confidence": made.confidence,
            "predictions": made.predictions,
            "steps": [{"action": a, "b64_json": _encoded(frame.image), "probability": p} for a, frame, p in rows],
        }
    )


async def models(request: Request) -> Response:
    """The models, as OpenAI lists them, and what they can do."""
    service: Service = request.app.state.service
    entry = {"id": service.models.name, "object": "model", "created": 0, "owned_by": "retrodict"}
    about = service.models.about | {"version": __version__, "limits": {"bytes": service.limits.body, "images": MOST}}
    return JSONResponse({"object": "list", "data": [entry | {"retrodict": about}]})


routes = [
    Route("/v1/images/edits", edits, methods=["POST"]),
    Route("/v1/rollout", rollout, methods=["POST"]),
    Route("/v1/explain", explain, methods=["POST"]),
    Route("/v1/score", score, methods=["POST"]),
    Route("/v1/recognition", recognition, methods=["POST"]),
    Route("/v1/plan", plan, methods=["POST"]),
    Route("/v1/models", models),
]


@contextmanager
def _refused() -> Iterator[None]:
    """What models and endpoints raise, as refusals."""
    try:
        yield
    except FullError as error:
        raise Refusal(429, "Too many requests are waiting. Try again.", seconds=error.seconds) from None
    except UnansweredError as error:
        raise Refusal(502, str(error)) from None
    except ValueError as error:
        raise Refusal(422, str(error)) from None


async def _image(data: bytes, name: str, service: Service, held: ExitStack, copies: int = 0) -> Image.Image:
    """An uploaded image, once there is room for it and for as many more of its size; `held` gives the room back."""
    with opened(data, name, service.limits) as image:
        pixels = image.width * image.height
    held.enter_context(service.memory.holding(3 * pixels * (1 + copies)))
    return await read_upload(data, name, service.limits)


@asynccontextmanager
async def read_source(form: Form, name: str, service: Service) -> AsyncIterator[Image.Image]:
    """An uploaded image, while there is room for it. Raises `Refusal`."""
    with ExitStack() as held:
        yield await _image(form.file(name), name, service, held)


async def _pair(form: Form, service: Service, held: ExitStack) -> tuple[Image.Image, Image.Image]:
    source, target = form.file("source"), form.file("target")
    return await _image(source, "source", service, held), await _image(target, "target", service, held)


def _candidates(form: Form, service: Service, least: int) -> int:
    return form.whole("candidates", max(service.models.n, least), least, MOST_CANDIDATES)


def _seed(form: Form) -> int:
    return form.whole("seed", 0, 0, 2**53)


def _size(text: str, limits: Limits) -> tuple[int, int] | None:
    """Width and height in pixels; None for the model's own."""
    if text == "auto":
        return None
    match = _SIZE.fullmatch(text)
    size = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 0 < size[0] * size[1] <= limits.pixels:
        raise Refusal(400, f"size must be auto, or such as 1024x1024 with {limits.pixels:,} pixels at most.", "size")
    return size


def _sized(image: Image.Image, size: tuple[int, int] | None) -> Image.Image:
    return image if size in (None, image.size) else image.resize(size, Image.Resampling.LANCZOS)


def _encoded(image: Image.Image, kind: str = "png") -> str:
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, _FORMATS[kind])
    return base64.b64encode(buffer.getvalue()).decode()


def _metadata(
    models: Models, answer: Verified, chosen: Sequence[int], seed: int, verifiers: Sequence[str]
) -> JsonObject:
    """What an answer was chosen from, and what gives the same again; `images` are those of `data`, in order."""
    images: list[Mapping[str, Any]] = [
        {"candidate": k, "scores": {name: _number(answer.scores[name][k]) for name in verifiers}} for k in chosen
    ]
    return {
        "model": models.name,
        "inverse": models.inverse_name,
        "verifier": verifiers[0],
        "seed": seed,
        "candidates": len(answer.candidates),
        "images": images,
    }


def _logprob(logprob: LogProb) -> JsonObject:
    return {"logprob": _number(logprob.sum), "tokens": logprob.count, "mean": _number(logprob.mean)}


def _number(value: float) -> float | None:
    """JSON has no NaN."""
    return value if math.isfinite(value) else None

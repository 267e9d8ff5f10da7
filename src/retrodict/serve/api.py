"""The endpoints under `/v1`: images edited with verification, and what else the models answer (`docs/serve.md`)."""

from __future__ import annotations

import base64
import io
import math
import re
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import anyio
from anyio import to_thread
from PIL import Image
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

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
MOST_CANDIDATES = 64
MOST_STEPS = 16  # of a rollout
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
    elsewhere: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(EDITORS))

    async def run(self, request: Request, work: Work[T, R], item: T) -> R:
        """What the models make of an item. Raises `Refusal`."""
        try:
            return await self.engine.run(work, item, request.state.client)
        except FullError as error:
            raise Refusal(429, "Too many requests are waiting. Try again.", seconds=error.seconds) from None
        except UnansweredError as error:
            raise Refusal(502, str(error)) from None
        except ValueError as error:
            raise Refusal(422, str(error)) from None

    async def predict(
        self, request: Request, source: Frame, action: str, n: int, seed: int, verifiers: tuple[str, ...]
    ) -> Verified:
        """The candidates of one prompt with their scores. Raises `Refusal`."""
        asked, models = Asked(source, action), self.models
        if models.samples_elsewhere:
            try:
                asked = await to_thread.run_sync(models.sample, asked, n, seed, limiter=self.elsewhere)
            except UnansweredError as error:
                raise Refusal(502, str(error)) from None
            except ValueError as error:
                raise Refusal(422, str(error)) from None
        answer = await self.run(request, Work(models.predict, (n, seed, verifiers), models.at_once), asked)
        self.candidates += len(answer.candidates)
        return answer

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
    form.refuse("stream", "all candidates are scored before the first is sent. Leave it out.")
    form.one_of("response_format", ("b64_json",), "b64_json")  # nothing is kept that a URL could lead to
    kind = form.one_of("output_format", tuple(_FORMATS), "png")
    n = form.whole("n", 1, 1, MOST)
    size = _size(form.text("size", "auto"), service.limits)
    most, verifiers, seed = _candidates(form, service, n), service.verifiers(form), _seed(form)
    action = form.action("prompt")
    with ExitStack() as held:
        source = await _image(form.file("image"), "image", service, held, copies=most)
        answer = await service.predict(request, source, action, most, seed, verifiers)
        chosen = answer.order[:n]
        images = [answer.candidates[k].image for k in chosen]
        encoded = await run_in_threadpool(lambda: [_encoded(image, kind, size) for image in images])
    return JSONResponse(
        {
            "created": int(time.time()),
            "data": [{"b64_json": text} for text in encoded],
            "output_format": kind,
            "retrodict": _metadata(service.models, answer, chosen, seed, verifiers),
        }
    )


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


def _encoded(image: Image.Image, kind: str = "png", size: tuple[int, int] | None = None) -> str:
    if size is not None and size != image.size:
        image = image.resize(size, Image.Resampling.LANCZOS)
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

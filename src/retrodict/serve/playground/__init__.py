"""The playground: one page without outside resources, put together when the server starts, and what it asks for.

The page is text that never changes. Whatever it shows of a model, a world or a user arrives as JSON or as an image and
is set as text, so there is nothing to escape; the policy names the page's one script and one style by their hashes.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import cast

from PIL import Image
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from retrodict.dynamics.verify import same_image
from retrodict.images import encode_png
from retrodict.serve.api import Service, read_source
from retrodict.serve.engine import Work
from retrodict.serve.forms import Form, Refusal
from retrodict.serve.models import AT_ONCE
from retrodict.worlds import get_world
from retrodict.worlds.base import DrawableWorld, Placed, World

EXAMPLES = 12
_SCRIPTS = ("images.js", "session.js", "drawing.js", "questions.js", "main.js")  # one after the other, as one script
_PLACED = re.compile(r"([a-z ]{1,40})@(\d{1,2}),(\d{1,2})")


@dataclass(frozen=True)
class Page:
    """The page's text and its content security policy."""

    text: str
    policy: str

    @classmethod
    def read(cls) -> Page:
        folder = Path(__file__).parent
        style = (folder / "style.css").read_text(encoding="utf-8")
        script = "".join((folder / name).read_text(encoding="utf-8").replace("\nexport ", "\n") for name in _SCRIPTS)
        text = (folder / "page.html").read_text(encoding="utf-8")
        text = text.replace("{{ style }}", style).replace("{{ script }}", script)
        policy = (
            f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; img-src 'self' data: blob:; "
            "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
        )
        return cls(text, policy)


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


class Playground:
    """A world's examples, pieces and possible actions, for the page."""

    def __init__(self, world: str) -> None:
        self.page, self.world = Page.read(), get_world(world)

    @property
    def drawable(self) -> DrawableWorld | None:
        return cast(DrawableWorld, self.world) if hasattr(self.world, "compose") else None

    @cached_property
    def examples(self) -> list[bytes]:
        """PNG images of scenes that no training has seen."""
        return [encode_png(row.source_image) for row in self.world.sample(EXAMPLES, 1, namespace="play-test")]

    def seen(self, image: Image.Image) -> tuple[list[str], list[Placed] | None]:
        """Actions that an image allows and the pieces in it; none for an image that is not the world's."""
        if self.drawable is None:
            return self.world.possible(image) if _is_of(self.world, image) else [], None
        placed = self.drawable.placed(image)
        try:
            again = self.drawable.compose(placed)
        except ValueError:
            return [], None
        if not same_image(again, image, (1, 1)):  # on the whole: a model's images are a little off
            return [], None
        return (self.world.possible(image) if placed else []), placed


def _is_of(world: World, image: Image.Image) -> bool:
    """A world that cannot compose scenes tells by the size of its images."""
    return world.sample(1, 1, namespace="play-test")[0].source_image.size == image.size


async def _page(request: Request) -> Response:
    page = request.app.state.playground.page
    return HTMLResponse(page.text, headers={"Content-Security-Policy": page.policy})


async def _world(request: Request) -> Response:
    playground: Playground = request.app.state.playground
    drawable = playground.drawable
    told = {"name": playground.world.name, "about": playground.world.about, "examples": EXAMPLES}
    return JSONResponse(
        told | {"pieces": list(drawable.pieces) if drawable else [], "grid": drawable.grid if drawable else None}
    )


async def _example(request: Request) -> Response:
    playground: Playground = request.app.state.playground
    examples = await run_in_threadpool(lambda: playground.examples)
    number = request.path_params["number"]
    if number >= len(examples):
        raise Refusal(404, f"There are {len(examples)} examples.")
    return Response(examples[number], media_type="image/png", headers={"Cache-Control": "private, max-age=3600"})


async def _scene(request: Request) -> Response:
    """A scene put together by hand: `?place=red ball@2,0&place=shelf@0,2`."""
    drawable: DrawableWorld | None = request.app.state.playground.drawable
    matches = [_PLACED.fullmatch(text) for text in request.query_params.getlist("place")]
    if drawable is None or len(matches) > 64 or not all(matches):
        raise Refusal(400, "Place pieces as in ?place=red ball@2,0.", "place")
    placed = [(match[1], int(match[2]), int(match[3])) for match in matches if match]
    try:
        image = drawable.compose(placed)
    except ValueError as error:
        raise Refusal(422, str(error), "place") from None
    text = base64.b64encode(encode_png(image)).decode()
    return JSONResponse({"image": text, "placed": drawable.placed(image)})


async def _suggest(request: Request) -> Response:
    """What could be done in an image, and what the model makes of such images."""
    service: Service = request.app.state.service
    playground: Playground = request.app.state.playground
    form = await Form.read(request, ("image",))
    async with read_source(form, "image", service) as image:
        notes = await service.run(request, Work(service.models.unfamiliar, (), AT_ONCE), (image, ""))
        actions, placed = await run_in_threadpool(playground.seen, image)
    return JSONResponse({"actions": actions, "placed": placed, "notes": notes})


routes = [
    Route("/", _page),
    Route("/play/world", _world),
    Route("/play/examples/{number:int}.png", _example),
    Route("/play/scene", _scene),
    Route("/v1/suggest", _suggest, methods=["POST"]),
]

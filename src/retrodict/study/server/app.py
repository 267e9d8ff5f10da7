"""The application: routes, templates, and what happens when something is not there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from retrodict.study.plan import DATABASE, PICTURES, check_images, read_plan
from retrodict.study.server import admin, entry, rating
from retrodict.study.server.pages import message
from retrodict.study.server.safety import Guard
from retrodict.study.server.status import Board
from retrodict.study.store import Store
from retrodict.study.words import words_of
from retrodict.web.address import LOOPBACK


def create_app(folder: Path, *, hosts: tuple[str, ...] = LOOPBACK, base: str = "") -> Starlette:
    """The study as an ASGI application.

    Args:
        folder: the study.
        hosts: names that it answers to; "*": any.
        base: the address that raters use where it is not the server's own (behind a proxy), possibly with a path. When
            it is https, the admin's cookie never travels without.

    Raises:
        ValueError: the folder holds no study, or one that is damaged.
    """
    plan = read_plan(folder)
    check_images(folder / PICTURES, plan.digests)
    store = Store(folder / DATABASE)
    parts = urlsplit(base)
    prefix = parts.path.rstrip("/")

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        store.close()

    app = Starlette(
        routes=[
            Route("/", _front),
            *rating.routes,
            *entry.routes,
            *admin.routes,
            Route("/pictures/{name}.png", _image),
            Mount("/static", StaticFiles(packages=[("retrodict.study.server", "static")])),
        ],
        middleware=[
            Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False),
            Middleware(Guard, prefix=prefix, host=parts.netloc),
        ],
        exception_handlers={404: _gone, 403: _gone},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    app.state.plan, app.state.store, app.state.words = plan, store, words_of(plan)
    app.state.base, app.state.prefix, app.state.secure = base.rstrip("/"), prefix, parts.scheme == "https"
    app.state.images, app.state.board = folder / PICTURES, Board(store.path, plan)
    app.state.shown = {one.key: one for one in (*plan.items, *plan.checks)}
    return app


async def _front(request: Request) -> Response:
    return message(request, "link", more="ask_again")


async def _gone(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return message(request, "gone", error.status_code, more="ask_again")


def _image(request: Request) -> Response:
    """Only names that the plan holds are looked for; nothing about the file itself (its time, its tag) is sent."""
    name = request.path_params["name"]
    if name not in request.app.state.plan.digests:
        raise HTTPException(404)
    data = (request.app.state.images / f"{name}.png").read_bytes()
    return Response(data, media_type="image/png", headers={"Cache-Control": "private, max-age=86400, immutable"})

"""The application: routes, templates, and what happens when something is not there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from retrodict.study.plan import DATABASE, PICTURES, read_plan
from retrodict.study.server import admin, rating
from retrodict.study.server.pages import message
from retrodict.study.server.safety import Guard
from retrodict.study.store import Store

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


def create_app(folder: Path, *, hosts: tuple[str, ...] = LOOPBACK, base: str = "") -> Starlette:
    """The study in `folder` as an ASGI application that answers to the host names `hosts` ("*": any).

    `base` is the address that raters use where it is not the server's own (behind a proxy); when it is https, the
    admin's cookie never travels without. Raises `ValueError` when the folder holds no study.
    """
    plan = read_plan(folder)
    store = Store(folder / DATABASE)
    store.create(plan)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        store.close()

    app = Starlette(
        routes=[
            Route("/", _front),
            *rating.routes,
            *admin.routes,
            Route("/pictures/{name}.png", _picture),
            Mount("/static", StaticFiles(packages=[("retrodict.study.server", "static")])),
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts)), Middleware(Guard)],
        exception_handlers={404: _gone, 403: _gone},
        lifespan=lifespan,
    )
    app.state.plan, app.state.store, app.state.secure = plan, store, base.startswith("https:")
    app.state.base = base
    app.state.pictures, app.state.known = folder / PICTURES, plan.pictures
    return app


async def _front(request: Request) -> Response:
    return message(request, "This study needs a personal link", _ASK)


async def _gone(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    text = "The link may be incomplete: copy the whole of it. " + _ASK
    return message(request, "This page does not exist", text, error.status_code)


_ASK = "Whoever invited you can send it again."


def _picture(request: Request) -> Response:
    """Only names that the plan holds are looked for; nothing about the file itself (its time, its tag) is sent."""
    name = request.path_params["name"]
    if name not in request.app.state.known:
        raise HTTPException(404)
    data = (request.app.state.pictures / f"{name}.png").read_bytes()
    return Response(data, media_type="image/png", headers={"Cache-Control": "private, max-age=86400, immutable"})

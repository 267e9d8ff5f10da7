"""The page of whoever runs the study: progress, pace, agreement so far, links, pause, export. It is blind as well."""

from __future__ import annotations

import hmac
import time
from urllib.parse import parse_qs

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from retrodict.files import JsonObject
from retrodict.study.export import records, to_csv, to_jsonl
from retrodict.study.server.pages import page
from retrodict.study.server.status import status

COOKIE = "study_admin"
_MEDIA = {"csv": "text/csv", "jsonl": "application/x-ndjson"}


def _is_admin(request: Request) -> bool:
    return _matches(request, request.cookies.get(COOKIE, ""))


def _matches(request: Request, token: str) -> bool:
    return hmac.compare_digest(token.encode(), request.app.state.store.setting("admin").encode())


def show(request: Request) -> Response:
    if not _is_admin(request):
        return page(request, "login.html", wrong=False)
    return page(request, "admin.html", **_values(request))


def live(request: Request) -> Response:
    """The part of the page that changes."""
    if not _is_admin(request):
        raise HTTPException(404)
    return page(request, "live.html", **_values(request))


def _values(request: Request) -> JsonObject:
    state = request.app.state
    return {"status": status(state.store, state.plan), "base": state.base or str(request.base_url).rstrip("/")}


async def enter(request: Request) -> Response:
    """The token, once, in a form; from then on a cookie that scripts and other sites cannot use."""
    (token,) = _form(await request.body()).get("token", [""])[:1]
    if not await run_in_threadpool(_matches, request, token.strip()):
        return page(request, "login.html", 401, wrong=True)
    response = RedirectResponse("/admin", 303)
    secure = request.app.state.secure
    response.set_cookie(COOKIE, token.strip(), httponly=True, samesite="strict", secure=secure, max_age=30 * 86400)
    return response


async def change(request: Request) -> Response:
    """One of the page's buttons."""
    form = _form(await request.body())
    await run_in_threadpool(_change, request, form)
    return RedirectResponse("/admin", 303)


def _change(request: Request, form: dict[str, list[str]]) -> None:
    if not _is_admin(request):
        raise HTTPException(404)
    store, action, rater = request.app.state.store, form.get("do", [""])[0], form.get("rater", [""])[0]
    if action in ("pause", "resume"):
        store.set_paused(action == "pause")
    elif action == "add":
        store.add_rater(request.app.state.plan)
    elif action in ("close", "open") and rater.isdecimal() and len(rater) < 10:
        store.set_closed(int(rater), action == "close")
    else:
        raise HTTPException(400)


def export(request: Request) -> Response:
    if not _is_admin(request):
        raise HTTPException(404)
    kind = request.path_params["kind"]
    if kind not in _MEDIA:
        raise HTTPException(404)
    rows = records(request.app.state.store, request.app.state.plan)
    name = time.strftime(f"judgements-%Y%m%d-%H%M.{kind}", time.gmtime())
    return Response(
        to_csv(rows) if kind == "csv" else to_jsonl(rows),
        media_type=f"{_MEDIA[kind]}; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )


def _form(body: bytes) -> dict[str, list[str]]:
    return parse_qs(body.decode("utf-8", "replace"), max_num_fields=10)


routes = [
    Route("/admin", show),
    Route("/admin/live", live),
    Route("/admin/enter", enter, methods=["POST"]),
    Route("/admin/change", change, methods=["POST"]),
    Route("/admin/export.{kind}", export),
]

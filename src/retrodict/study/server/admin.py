"""The page of whoever runs the study: progress, pace, agreement so far, links, pause, export. It is blind as well."""

from __future__ import annotations

import hmac
import json
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
from retrodict.study.store import LOGIN

BY_HAND = "study_admin"  # a cookie that no page sets
_MEDIA = {"csv": "text/csv", "jsonl": "application/x-ndjson"}


def _cookie(request: Request) -> str:
    """Its name: of each study its own, as browsers send a cookie to all ports of a host."""
    return f"study_{request.app.state.plan.id}"


def _is_admin(request: Request) -> bool:
    """Whether a browser is logged in, or a program sends the token itself (`curl -b study_admin=TOKEN`)."""
    store, secret = request.app.state.store, request.cookies.get(_cookie(request), "")
    return (bool(secret) and bool(store.is_logged_in(secret))) or _is_token(request, request.cookies.get(BY_HAND, ""))


def _is_token(request: Request, token: str) -> bool:
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
    return {"status": state.board.status(), "base": state.base or str(request.base_url).rstrip("/")}


async def enter(request: Request) -> Response:
    """The token, once, in a form; from then on a cookie, not the token, that scripts and other sites cannot use."""
    form = _form(await request.body())
    return await run_in_threadpool(_enter, request, form.get("token", [""])[0].strip())


def _enter(request: Request, token: str) -> Response:
    if not _is_token(request, token):
        return page(request, "login.html", 401, wrong=True)
    response = _to_page(request)
    response.set_cookie(
        _cookie(request),
        request.app.state.store.log_in(),
        path=f"{request.app.state.prefix}/admin",
        httponly=True,
        samesite="strict",
        secure=request.app.state.secure,
        max_age=int(LOGIN),
    )
    return response


async def change(request: Request) -> Response:
    """One of the page's buttons."""
    form = _form(await request.body())
    return await run_in_threadpool(_change, request, form)


def _change(request: Request, form: dict[str, list[str]]) -> Response:
    if not _is_admin(request):
        raise HTTPException(404)
    store, action, rater = request.app.state.store, form.get("do", [""])[0], form.get("rater", [""])[0]
    if action in ("pause", "resume"):
        store.set_paused(action == "pause")
    elif action == "add":
        store.add_raters(request.app.state.plan)
    elif action in ("close", "open") and rater.isdecimal() and len(rater) < 10:
        store.set_closed(int(rater), action == "close")
    elif action == "leave":
        store.log_out(request.cookies.get(_cookie(request), ""))
    elif action == "token":
        return page(request, "token.html", token=store.new_admin_token())
    else:
        raise HTTPException(400)
    request.app.state.board.forget()
    return _to_page(request)


def _to_page(request: Request) -> Response:
    return RedirectResponse(f"{request.app.state.prefix}/admin", 303)


def export(request: Request) -> Response:
    """The raw judgements, blind."""
    if not _is_admin(request):
        raise HTTPException(404)
    kind = request.path_params["kind"]
    if kind not in _MEDIA:
        raise HTTPException(404)
    rows = records(request.app.state.store, request.app.state.plan)
    return _file(to_csv(rows) if kind == "csv" else to_jsonl(rows), f"judgements-{{}}.{kind}", _MEDIA[kind])


def raters(request: Request) -> Response:
    """Who came, for paying them: what the platform said of each, and the code they were given."""
    if not _is_admin(request):
        raise HTTPException(404)
    rows = request.app.state.store.rows(
        "SELECT rater.id AS rater, parameters, code, tries, screened, closed, count(trial.id) AS tasks, "
        "coalesce(sum(done), 0) AS done FROM rater LEFT JOIN trial ON trial.rater = rater.id "
        "LEFT JOIN judgement ON judgement.trial = trial.id WHERE NOT deleted GROUP BY rater.id"
    )
    given = [json.loads(row["parameters"] or "{}") for row in rows]
    names = list(dict.fromkeys(name for one in given for name in one))
    made = []
    for row, parameters in zip(rows, given, strict=True):
        finished = row["tasks"] > 0 and row["done"] == row["tasks"] and not row["screened"]
        entry = {name: row[name] for name in ("rater", "tasks", "done", "tries", "screened", "closed")}
        made.append(
            entry
            | {"finished": int(finished), "code": (row["code"] or "") if finished else ""}
            | {f"query_{name}": parameters.get(name, "") for name in names}
        )
    return _file(to_csv(made), "raters-{}.csv", "text/csv")


def _file(text: str, name: str, media: str) -> Response:
    stamped = name.format(time.strftime("%Y%m%d-%H%M", time.gmtime()))
    return Response(
        text, media_type=f"{media}; charset=utf-8", headers={"Content-Disposition": f'attachment; filename="{stamped}"'}
    )


def _form(body: bytes) -> dict[str, list[str]]:
    try:
        return parse_qs(body.decode("utf-8", "replace"), max_num_fields=10)
    except ValueError:
        raise HTTPException(400) from None


routes = [
    Route("/admin", show),
    Route("/admin/live", live),
    Route("/admin/enter", enter, methods=["POST"]),
    Route("/admin/change", change, methods=["POST"]),
    Route("/admin/export.{kind}", export),
    Route("/admin/raters.csv", raters),
]

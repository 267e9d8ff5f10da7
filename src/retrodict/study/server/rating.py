"""What a rater sees: consent, training, one task after another, the end."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from retrodict.files import JsonObject
from retrodict.study.plan import Plan
from retrodict.study.server.pages import message, page
from retrodict.study.store import LONGEST_TRIAL, Answer, Conflict, Rater, State, Store

AHEAD = 3  # tasks whose images are loaded early
BREAK_EVERY = 25  # tasks


class Click(BaseModel):
    """What a page may send."""

    model_config = ConfigDict(extra="forbid", strict=True)

    position: int = Field(ge=0, le=100_000)
    revision: int = Field(ge=1, le=100_000)
    best: int | None = Field(ge=0, le=8)
    worst: int | None = Field(ge=0, le=8)
    cant_tell: bool
    done: bool
    seconds: float = Field(ge=0, le=LONGEST_TRIAL, allow_inf_nan=False)


def _rater(request: Request) -> Rater:
    rater: Rater | None = request.app.state.store.rater(request.path_params["token"])
    if rater is None:
        raise HTTPException(404)
    return rater


def _stopped(request: Request, rater: Rater) -> Response | None:
    if rater.closed:
        text = "Your choices so far are kept. Thank you for taking part."
        return message(request, "This link has been closed", text)
    if request.app.state.store.paused:
        text = "Your choices so far are kept. Come back later with the same link."
        return message(request, "The study is paused", text)
    return None


def show(request: Request) -> Response:
    """The one page behind a link: whatever comes next for this rater."""
    rater = _rater(request)
    stopped = _stopped(request, rater)
    if stopped is not None:
        return stopped
    plan, store, token = request.app.state.plan, request.app.state.store, request.path_params["token"]
    state = store.state(rater.id)
    if state is None and rater.trained:
        return page(request, "done.html")
    if not rater.consented:
        return page(request, "consent.html", token=token, minutes=_minutes(store, rater))
    if not rater.trained or request.query_params.get("training") == "again":
        lessons = [_lesson(i, plan) for i in range(len(plan.examples))]
        return page(request, "training.html", token=token, lessons=lessons, data=_script({"lessons": lessons}))
    assert state is not None
    return page(request, "task.html", token=token, data=_script(_task(plan, store, rater, state)), state=state)


def _minutes(store: Store, rater: Rater) -> int:
    """A guess from 20 seconds per task, in steps of five minutes."""
    count = int(store.rows("SELECT count(*) AS n FROM trial WHERE rater = ?", rater.id)[0]["n"])
    return max(5, 5 * round(count * 20 / 60 / 5))


def _script(value: Any) -> str:
    """JSON inside a script element of type application/json: no `<` may end it early."""
    return json.dumps(value).replace("<", "\\u003c")


def _url(name: str) -> str:
    return f"/pictures/{name}.png"


def _lesson(number: int, plan: Plan) -> JsonObject:
    example = plan.examples[number]
    return {
        "action": example.action,
        "source": _url(example.source),
        "candidates": [_url(name) for name in example.candidates],
        "remarks": list(example.remarks),
        "best": example.best,
        "worst": example.worst,
        "size": example.size,
    }


def _task(plan: Plan, store: Store, rater: Rater, state: State) -> JsonObject:
    """A task as the page needs it, with the addresses of the images that come after it."""
    shown = {one.key: one for one in (*plan.items, *plan.checks)}
    ahead = store.ahead(rater.id, state.position, AHEAD)
    later = [name for key, pictures in ahead for name in (shown[key].source, *pictures)]
    answer = state.answer
    return {
        "position": state.position,
        "total": state.total,
        "action": shown[state.key].action,
        "source": _url(shown[state.key].source),
        "candidates": [_url(name) for name in state.pictures],
        "size": shown[state.key].size,
        "revision": answer.revision,
        "best": answer.best,
        "worst": answer.worst,
        "cant_tell": answer.cant_tell,
        "seconds": answer.seconds,
        "later": [_url(name) for name in later],
        "rest": state.position > 0 and state.position % BREAK_EVERY == 0 and answer.revision == 0,
    }


def consent(request: Request) -> Response:
    rater = _rater(request)
    if _stopped(request, rater) is None:
        request.app.state.store.consent(rater.id)
    return _back_to_link(request)


def trained(request: Request) -> Response:
    rater = _rater(request)
    if rater.consented and _stopped(request, rater) is None:
        request.app.state.store.trained(rater.id)
    return _back_to_link(request)


def _back_to_link(request: Request) -> Response:
    return RedirectResponse(f"/r/{request.path_params['token']}", 303)


def task(request: Request) -> Response:
    """The current task as JSON, or with `?position=` an earlier one; `{"finished": true}` after the last."""
    rater = _may_rate(request)
    asked = request.query_params.get("position", "")
    return _current(request, rater, int(asked) if asked.isdecimal() and len(asked) < 7 else None)


async def judge(request: Request) -> Response:
    """Store one click. The answer comes after the commit: `{"saved": revision}`, with `next` when the task is done.

    409, with the state as it is, when another page has moved on.
    """
    body = await request.body()
    return await run_in_threadpool(_judge, request, body)


def _judge(request: Request, body: bytes) -> Response:
    rater = _may_rate(request)
    try:
        click = Click.model_validate_json(body)
        answer = Answer(click.revision, click.best, click.worst, click.cant_tell, click.done, click.seconds)
        request.app.state.store.save(rater.id, click.position, answer)
    except Conflict as conflict:
        state = conflict.state if conflict.state.position <= conflict.state.current else None
        return _current(request, rater, state.position if state else None, 409)
    except (ValidationError, ValueError) as error:
        reason = "Not a judgement." if isinstance(error, ValidationError) else str(error)
        return JSONResponse({"error": reason}, 400)
    if not click.done:
        return JSONResponse({"saved": click.revision})
    return _current(request, rater, None, saved=click.revision)


def _may_rate(request: Request) -> Rater:
    rater = _rater(request)
    if rater.closed or request.app.state.store.paused or not rater.trained:
        raise HTTPException(403)
    return rater


def _current(request: Request, rater: Rater, position: int | None, status: int = 200, saved: int = 0) -> Response:
    plan, store = request.app.state.plan, request.app.state.store
    state = store.state(rater.id, position)
    if state is not None and state.position > state.current:
        state = store.state(rater.id)
    if state is None:
        return JSONResponse({"finished": True, "saved": saved}, status)
    return JSONResponse(_task(plan, store, rater, state) | {"saved": saved}, status)


routes = [
    Route("/r/{token}", show),
    Route("/r/{token}/consent", consent, methods=["POST"]),
    Route("/r/{token}/trained", trained, methods=["POST"]),
    Route("/r/{token}/task", task),
    Route("/r/{token}/judge", judge, methods=["POST"]),
]

"""What a rater sees: consent, training, one task after another, the end."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qs

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from retrodict.files import JsonObject
from retrodict.study.answers import LONGEST_COMMENT, LONGEST_TRIAL, Answer, Rater, StaleAnswerError, State
from retrodict.study.plan import Plan
from retrodict.study.server.entry import finished, minutes
from retrodict.study.server.pages import message, page
from retrodict.study.server.status import failed_checks

AHEAD = 3  # tasks whose images are loaded early
MOST_TRIES = 3  # at the examples, before somebody of a crowd is sent away


class Click(BaseModel):
    """What a page may send."""

    model_config = ConfigDict(extra="forbid", strict=True)

    position: int = Field(ge=0, le=100_000)
    revision: int = Field(ge=1, le=100_000)
    best: int | None = Field(default=None, ge=0, le=8)
    worst: int | None = Field(default=None, ge=0, le=8)
    cant_tell: bool
    done: bool
    seconds: float = Field(ge=0, le=LONGEST_TRIAL, allow_inf_nan=False)
    ratings: list[int | None] = Field(default=[], max_length=9)
    comment: str = Field(default="", max_length=LONGEST_COMMENT)

    def answer(self) -> Answer:
        """Raises `ValueError` for text that is none."""
        self.comment.encode()
        fields = self.model_dump(exclude={"position", "ratings"})
        return Answer(**fields, ratings=tuple(self.ratings))


def _rater(request: Request) -> Rater:
    rater: Rater | None = request.app.state.store.rater(request.path_params["token"])
    if rater is None:
        raise HTTPException(404)
    return rater


def _stopped(request: Request, rater: Rater) -> Response | None:
    if rater.screened:
        return finished(request, rater)
    if rater.closed:
        return message(request, "closed")
    return message(request, "paused") if request.app.state.store.paused else None


def show(request: Request) -> Response:
    """The one page behind a link: whatever comes next for this rater."""
    rater = _rater(request)
    stopped = _stopped(request, rater)
    if stopped is not None:
        return stopped
    plan, store, token = request.app.state.plan, request.app.state.store, request.path_params["token"]
    state = store.state(rater.id)
    if state is None and rater.trained:
        return finished(request, rater)
    if not rater.consented:
        count = int(store.rows("SELECT count(*) AS n FROM trial WHERE rater = ?", rater.id)[0]["n"])
        return page(request, "consent.html", action=f"/r/{token}/consent", minutes=minutes(count), platform=False)
    if not rater.trained or request.query_params.get("training") in ("again", "wrong"):
        lessons = [_lesson(request, i, plan) for i in range(len(plan.examples))]
        data = {"lessons": lessons, **_settings(request)}
        wrong = request.query_params.get("training") == "wrong"
        return page(request, "training.html", token=token, lessons=lessons, data=_script(data), wrong=wrong)
    assert state is not None
    data = {"task": _task(request, rater, state), **_settings(request)}
    return page(request, "task.html", token=token, data=_script(data), state=state)


def _settings(request: Request) -> JsonObject:
    """What a page needs to know that is the same for all tasks."""
    design = request.app.state.plan.design
    return {
        "words": dict(request.app.state.words),
        "points": _points(request.app.state.plan),
        "comments": design.comments,
        "limit": design.seconds,
    }


def _points(plan: Plan) -> int:
    """Of the rating scale; 0 where the best and the worst are asked for."""
    return plan.design.points if plan.design.method == "rating" else 0


def _script(value: Any) -> str:
    """JSON inside a script element of type application/json: no `<` may end it early."""
    return json.dumps(value).replace("<", "\\u003c")


def _url(request: Request, name: str) -> str:
    return f"{request.app.state.prefix}/pictures/{name}.png"


def _lesson(request: Request, number: int, plan: Plan) -> JsonObject:
    example = plan.examples[number]
    return {
        "action": example.action,
        "source": _url(request, example.source),
        "candidates": [_url(request, name) for name in example.candidates],
        "remarks": list(example.remarks),
        "best": example.best,
        "worst": example.worst,
        "size": example.size,
    }


def _task(request: Request, rater: Rater, state: State) -> JsonObject:
    """A task as the page needs it, with the addresses of the images that come after it."""
    app = request.app.state
    shown, design = app.shown[state.key], app.plan.design
    ahead = app.store.ahead(rater.id, state.position, AHEAD * max(1, len(design.questions)))
    later = [name for key, images in ahead for name in (app.shown[key].source, *images)]
    answer = state.answer
    return {
        "position": state.position,
        "total": state.total,
        "action": shown.action,
        "question": design.questions[state.question] if design.questions else "",
        "source": _url(request, shown.source),
        "candidates": [_url(request, name) for name in state.images],
        "size": shown.size,
        "revision": answer.revision,
        "best": answer.best,
        "worst": answer.worst,
        "cant_tell": answer.cant_tell,
        "ratings": list(answer.ratings) or [None] * (len(state.images) if _points(app.plan) else 0),
        "comment": answer.comment,
        "done": answer.done,
        "seconds": answer.seconds,
        "later": [_url(request, name) for name in dict.fromkeys(later)],
        "rest": state.position > 0 and state.position % design.break_every == 0 and answer.revision == 0,
    }


def consent(request: Request) -> Response:
    rater = _rater(request)
    if _stopped(request, rater) is None:
        request.app.state.store.consent(rater.id)
    return _back_to_link(request)


async def trained(request: Request) -> Response:
    """The end of the examples, with what was chosen: `0-3,2-1`, the best and the worst of each."""
    body = await request.body()
    return await run_in_threadpool(_trained, request, body)


def _trained(request: Request, body: bytes) -> Response:
    rater, plan, store = _rater(request), request.app.state.plan, request.app.state.store
    if not rater.consented or _stopped(request, rater) is not None:
        return _back_to_link(request)
    right = ",".join(f"{example.best}-{example.worst}" for example in plan.examples)
    chosen = parse_qs(body.decode("ascii", "replace")).get("chosen", [""])[0] if body else ""
    if plan.crowd is None or not plan.crowd.gate or chosen == right or rater.trained:
        store.trained(rater.id)
        return _back_to_link(request)
    if store.failed_training(rater.id) >= MOST_TRIES:
        store.screen(rater.id)
    return _back_to_link(request, "?training=wrong")


def _back_to_link(request: Request, query: str = "") -> Response:
    return RedirectResponse(f"{request.app.state.prefix}/r/{request.path_params['token']}{query}", 303)


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
    app = request.app.state
    try:
        click = Click.model_validate_json(body)
        app.store.save(rater.id, click.position, click.answer(), _points(app.plan))
    except StaleAnswerError as conflict:
        state = conflict.state if conflict.state.position <= conflict.state.current else None
        return _current(request, rater, state.position if state else None, 409)
    except (ValidationError, ValueError) as error:
        reason = "Not a judgement." if isinstance(error, ValidationError) else str(error)
        return JSONResponse({"error": reason}, 400)
    if not click.done:
        return JSONResponse({"saved": click.revision})
    crowd = app.plan.crowd
    if crowd is not None and crowd.failed_checks is not None:
        failed, _ = failed_checks(app.store, app.plan, rater.id)
        if failed > crowd.failed_checks:
            app.store.screen(rater.id)
            return JSONResponse({"finished": True, "saved": click.revision})
    return _current(request, rater, None, saved=click.revision)


def _may_rate(request: Request) -> Rater:
    rater = _rater(request)
    if rater.closed or rater.screened or request.app.state.store.paused or not rater.trained:
        raise HTTPException(403)
    return rater


def _current(request: Request, rater: Rater, position: int | None, status: int = 200, saved: int = 0) -> Response:
    store = request.app.state.store
    state = store.state(rater.id, position)
    if state is not None and state.position > state.current:
        state = store.state(rater.id)
    if state is None:
        return JSONResponse({"finished": True, "saved": saved}, status)
    return JSONResponse(_task(request, rater, state) | {"saved": saved}, status)


routes = [
    Route("/r/{token}", show),
    Route("/r/{token}/consent", consent, methods=["POST"]),
    Route("/r/{token}/trained", trained, methods=["POST"]),
    Route("/r/{token}/task", task),
    Route("/r/{token}/judge", judge, methods=["POST"]),
]

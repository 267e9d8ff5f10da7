"""One link for everybody whom a platform sends: consent makes a rater of whoever comes."""

from __future__ import annotations

import re
from urllib.parse import quote

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from retrodict.study.answers import Rater
from retrodict.study.plan import Crowd
from retrodict.study.server.pages import message, page

KNOWN_IDS = ("PROLIFIC_PID", "workerId", "participant_id", "participantId", "participant", "pid", "uid", "id")
_NAME, _MOST, _LONGEST = re.compile(r"[A-Za-z][\w.-]{0,39}"), 12, 200


def _parameters(request: Request) -> dict[str, str]:
    """The query's parameters, which mean nothing here and are kept as they are; odd ones are left out."""
    given = [(name, value) for name, value in request.query_params.items() if _NAME.fullmatch(name)]
    return {name: value for name, value in given[:_MOST] if 0 < len(value) <= _LONGEST and value.isprintable()}


def _crowd(request: Request) -> Crowd:
    crowd: Crowd | None = request.app.state.plan.crowd
    if crowd is None:
        raise HTTPException(404)
    return crowd


def _person(crowd: Crowd, parameters: dict[str, str]) -> str:
    """Who somebody is to the platform; empty where it does not say."""
    name = next((name for name in (crowd.id, *KNOWN_IDS) if parameters.get(name)), "")
    if crowd.id and name != crowd.id:
        raise HTTPException(404)  # a link without it is not the whole link
    return f"{name}={parameters[name]}" if name else ""


def show(request: Request) -> Response:
    """The consent page. Opening it changes nothing, as mail and chat programs open links, too."""
    crowd, parameters = _crowd(request), _parameters(request)
    _person(crowd, parameters)
    if parameters.get("assignmentId") == "ASSIGNMENT_ID_NOT_AVAILABLE":  # how MTurk shows a task before it is accepted
        return message(request, "preview")
    if request.app.state.store.paused:
        return message(request, "paused")
    plan = request.app.state.plan
    count = (plan.design.items_per_rater or len(plan.items)) * max(1, len(plan.design.questions))
    query = "&".join(f"{quote(name)}={quote(value, safe='')}" for name, value in parameters.items())
    action = f"/enter?{query}" if query else "/enter"
    return page(request, "consent.html", action=action, minutes=minutes(count), platform=bool(parameters))


def minutes(tasks: int) -> int:
    """A guess from 20 seconds per task, in steps of five minutes."""
    return max(5, 5 * round(tasks * 20 / 60 / 5))


def enter(request: Request) -> Response:
    state, parameters = request.app.state, _parameters(request)
    person = _person(_crowd(request), parameters)
    if state.store.paused:
        return message(request, "paused")
    token = state.store.enter(state.plan, person, parameters)
    if token is None:
        return message(request, "full")
    rater = state.store.rater(token)
    assert rater is not None
    state.store.consent(rater.id)
    return RedirectResponse(f"{state.prefix}/r/{token}", 303)


def finished(request: Request, rater: Rater) -> Response:
    """The last page, with the completion code and the way back."""
    crowd = request.app.state.plan.crowd
    if rater.screened:
        return message(request, "screened")
    if crowd is None:
        return page(request, "done.html", code="", back="")
    back = crowd.return_url
    for name, value in {**rater.parameters, "code": rater.code}.items():
        back = back.replace(f"{{{name}}}", quote(value, safe=""))
    return page(request, "done.html", code=rater.code, back=re.sub(r"\{\w+\}", "", back))


routes = [Route("/enter", show), Route("/enter", enter, methods=["POST"])]

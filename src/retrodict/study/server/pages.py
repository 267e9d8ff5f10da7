"""Pages are templates, whose text is escaped."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse

from retrodict.report.kit import environment

TEMPLATES = environment("retrodict.study.server")


def page(request: Request, template: str, code: int = 200, **values: Any) -> HTMLResponse:
    return HTMLResponse(TEMPLATES.get_template(template).render(plan=request.app.state.plan, **values), code)


def message(request: Request, heading: str, text: str, code: int = 200) -> HTMLResponse:
    return page(request, "message.html", code, heading=heading, text=text)

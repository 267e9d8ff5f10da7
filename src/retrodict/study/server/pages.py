"""Pages are templates, whose text is escaped."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse

from retrodict.report.kit import environment

TEMPLATES = environment("retrodict.study.server")


def page(request: Request, template: str, status_code: int = 200, /, **values: Any) -> HTMLResponse:
    state = request.app.state
    text = TEMPLATES.get_template(template).render(plan=state.plan, w=state.words, prefix=state.prefix, **values)
    return HTMLResponse(text, status_code)


def message(request: Request, name: str, code: int = 200, more: str = "") -> HTMLResponse:
    """A page that says what the words `<name>_title` and `<name>` say."""
    words = request.app.state.words
    text = " ".join(words[one] for one in (name, more) if one in words)
    return page(request, "message.html", code, heading=words[f"{name}_title"], text=text)

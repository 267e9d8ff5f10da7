"""What the pages are made of: one shell, tables, charts, images, and numbers as text. Knows nothing of runs."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrodict.files import write_text
from retrodict.report.kit import format

if TYPE_CHECKING:
    import jinja2


def environment(*packages: str) -> jinja2.Environment:
    """Templates of these packages; whatever is inserted is escaped, and a missing value is an error."""
    import jinja2

    return jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(package) for package in packages]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )


@functools.cache
def _pages() -> jinja2.Environment:
    pages = environment("retrodict.report", "retrodict.report.kit")
    pages.filters |= {
        "num": format.number,
        "count": format.count,
        "pct": format.percent,
        "span": format.span,
        "pspan": format.percent_span,
        "clock": format.duration,
        "brief": format.brief,
    }
    return pages


def source(template: str) -> str:
    """A template as it is written."""
    environment = _pages()
    assert environment.loader is not None
    return environment.loader.get_source(environment, template)[0]


def render(template: str, **values: object) -> str:
    """A page of `report/templates` as self-contained HTML; all text that comes from a run is escaped."""
    return _pages().get_template(template).render(**values)


def write_page(path: Path, template: str, **values: Any) -> Path:
    """Render a page and write it, whole or not at all; the page's path."""
    write_text(path, render(template, **values))
    return path

"""What the pages are made of: one shell, tables, charts, images, and numbers as text. Knows nothing of runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from retrodict.files import write_text
from retrodict.report.kit import format


def render(template: str, **values: object) -> str:
    """A page of `report/templates` as self-contained HTML; all text that comes from a run is escaped."""
    import jinja2

    loaders = [jinja2.PackageLoader("retrodict.report"), jinja2.PackageLoader("retrodict.report.kit")]
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(loaders),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "num": format.number,
        "count": format.count,
        "pct": format.percent,
        "span": format.span,
        "pspan": format.percent_span,
        "clock": format.duration,
        "brief": format.brief,
    }
    return environment.get_template(template).render(**values)


def write_page(path: Path, template: str, **values: Any) -> Path:
    """Render a page and write it, whole or not at all; the page's path."""
    write_text(path, render(template, **values))
    return path

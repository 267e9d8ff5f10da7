"""One self-contained page of what a run did and how well, made from the run's files alone.

Nothing is measured here: numbers come from `results.json`, images from the Parquet files beside it, so that the page of
an old run can be made again anywhere. `kit` is what pages are made of; `page` puts the pages of runs together from
`loop`, `bench`, `probe`, `judge` and `compare`; `study` and `mining` have pages of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

PAGE, SUMMARY = "report.html", "report.md"


def write_report(runs: Path | Sequence[Path], out: Path | None = None) -> Path:
    """Write the page of one run folder, or of several on one page, and a markdown summary beside it.

    Args:
        runs: folders with a `results.json`.
        out: the page; by default `report.html` in the (first) run's folder.

    Returns:
        The page's path.

    Raises:
        ValueError: a folder has no readable `results.json`.
    """
    from retrodict.files import as_written, write_text
    from retrodict.report.page import render, summary
    from retrodict.report.run import Run

    folders = [Path(runs)] if isinstance(runs, str | Path) else [Path(run) for run in runs]
    if not folders:
        raise ValueError("Name at least one folder that holds a results.json.")
    loaded = [Run.open(folder) for folder in folders]
    page = Path(out) if out is not None else folders[0] / PAGE
    with as_written(*folders):
        html, markdown = render(loaded), summary(loaded)
    write_text(page, html)
    write_text(page.with_name(SUMMARY) if out is None else page.with_suffix(".md"), markdown)
    return page

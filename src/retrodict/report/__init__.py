"""One self-contained page that tells what a run did and what it was worth, made from the run's files alone.

Nothing is measured here: numbers come from `results.json`, pictures from the Parquet files beside it, so that the page
of an old run can be made again anywhere. Every claim in words is computed from its interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from retrodict.files import write_atomic
from retrodict.report import (
    charts,
    comparison,
    curves,
    figures,
    formatting,
    judged,
    markdown,
    probed,
    similarity,
    tables,
)
from retrodict.report.run import Run

PAGE, SUMMARY = "report.html", "report.md"


def write_report(runs: Path | Sequence[Path], out: Path | None = None) -> Path:
    """Write the page of one run folder, or of several on one page, and a markdown summary beside it.

    `out` names the page; by default it is `report.html` in the (first) run's folder. Raises `ValueError` for a folder
    without a readable `results.json`.
    """
    folders = [Path(runs)] if isinstance(runs, str | Path) else [Path(run) for run in runs]
    if not folders:
        raise ValueError("Name at least one folder that holds a results.json.")
    loaded = [Run.open(folder) for folder in folders]
    page = Path(out) if out is not None else folders[0] / PAGE
    _write(page, render(loaded))
    _write(page.with_name(SUMMARY) if out is None else page.with_suffix(".md"), markdown.markdown(loaded))
    return page


def render(runs: Sequence[Run]) -> str:
    """The page as HTML. All text that comes from a run is escaped."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("retrodict.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "num": formatting.number,
        "count": formatting.count,
        "pct": formatting.percent,
        "span": formatting.span,
        "pspan": formatting.percent_span,
        "clock": formatting.duration,
        "brief": formatting.brief,
    }
    stories = [_story(run) for run in runs]
    return environment.get_template("page.html").render(
        stories=stories, across=tables.across(runs) if len(runs) > 1 else None, title=formatting.title(runs)
    )


def _story(run: Run) -> dict[str, Any]:
    """What the templates show of one run; parts that it did not measure are None or empty."""
    confidence, weighting = charts.confidence(run), charts.weighting(run)
    return {
        "run": run,
        "results": run.results,
        "items": run.get("systems", run.main or "copy", "greedy", "n"),
        "ladder": charts.ladder(run),
        "claims": formatting.claims(run),
        "world": figures.world(run),
        "checks": tables.checks(run),
        "labels": figures.labels(run),
        "confidence": confidence,
        "confidence_title": formatting.confidence_title(confidence),
        "funnel": charts.funnel(run),
        "heatmaps": figures.heatmaps(run),
        "weighting": weighting,
        "weighting_verdict": formatting.weighting_verdict(weighting),
        "columns": figures.columns(run),
        "sample": figures.sample(run),
        "worst": figures.worst(run),
        "table": tables.score_table(run),
        "selector": tables.default_selector(run),
        "suites": tables.suite_table(run),
        "curves": curves.curves(run),
        "asymmetry": tables.asymmetry(run),
        "asymmetry_verdict": tables.asymmetry_verdict(run),
        "probe": charts.probe(run),
        "aurora": similarity.l1_table(run),
        "metrics": similarity.metrics_table(run),
        "metric_notes": similarity.metric_notes(run),
        "metric_tables": similarity.metric_tables(run),
        "motion": similarity.motion(run),
        "distance_curves": curves.distance_curves(run),
        "texts": similarity.text_table(run),
        "text_subsets": similarity.text_subsets(run),
        "text_signatures": similarity.text_signatures(run),
        "judged": judged.judged(run),
        "wins": judged.wins(run),
        "preferences": probed.preference_table(run),
        "preference_subsets": probed.preference_subsets(run),
        "comparison": comparison.as_table(run) if run.kind == "compare" else None,
        "answers": probed.answers(run),
        "answer_table": probed.answer_table(run),
        "seconds": charts.seconds(run),
        "settings": formatting.settings(run),
    }


def _write(path: Path, text: str) -> None:
    def write(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8")

    write_atomic(path, write)

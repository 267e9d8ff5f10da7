"""The page of one run or of several: which parts it has, and the same as a summary in markdown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from retrodict.files import JsonObject
from retrodict.report import bench, compare, figures, judge, kit, loop, probe
from retrodict.report.kit.format import plain, system_name
from retrodict.report.kit.tables import Table, claims, markdown_claims, markdown_table
from retrodict.report.run import Run


def render(runs: Sequence[Run]) -> str:
    """The page as HTML."""
    across = compare.across(runs) if len(runs) > 1 else None
    return kit.render("page.html", title=title(runs), across=across, stories=[_story(run) for run in runs])


def title(runs: Sequence[Run]) -> str:
    if len(runs) > 1:
        return f"{len(runs)} runs side by side"
    run = runs[0]
    if run.is_loop:
        return "Learn to explain, then learn to predict"
    if run.kind == "compare":
        return "Two runs, item by item"
    if run.kind == "train":
        return f"How the {run.get('direction')} model learned"
    name = str(run.get("bench") or "")
    system = system_name(str(run.get("system") or run.main or "copy"))
    said = {"probe": "probed on", "qa": "asked on"}.get(run.kind, "on")
    return f"{system} {said} {bench.BENCHES.get(name) or Path(name).name}"


def _story(run: Run) -> JsonObject:
    """What the templates show of one run; parts that it did not measure are None or empty."""
    return {
        "run": run,
        "results": run.results,
        "items": run.get("systems", run.main or "copy", "greedy", "n"),
        "ladder": loop.ladder(run),
        "distances": loop.distances(run),
        "exact": loop.is_exact(run),
        "training_noise": loop.training_noise(run),
        "claims": claims((run.get("comparisons") or {}).values()),
        "world": figures.world(run),
        "checks": bench.checks(run),
        "labels": figures.labels(run),
        "confidence": loop.confidence(run),
        "funnel": loop.funnel(run),
        "checked": loop.checked_by_ft(run),
        "heatmaps": figures.heatmaps(run),
        "weighting": loop.weighting(run),
        "weighting_claims": loop.weighting_claims(run),
        "columns": figures.columns(run),
        "sample": figures.sample(run),
        "without_image": figures.without_image(run),
        "worst": figures.worst(run),
        "table": bench.score_table(run),
        "selector": bench.default_selector(run),
        "suites": bench.suite_table(run),
        "curves": bench.score_curves(run),
        "rounds": loop.rounds(run),
        "reliability": loop.reliability(run),
        "calibration": loop.calibration(run),
        "still": loop.still(run),
        "expert": loop.expert(run),
        "asymmetry": loop.asymmetry(run),
        "probe": probe.groups(run),
        "l1": bench.l1_table(run),
        "metrics": bench.metrics_table(run),
        "metric_notes": bench.metric_notes(run),
        "metric_tables": bench.metric_tables(run),
        "motion": bench.motion(run),
        "distance_curves": bench.distance_curves(run),
        "texts": bench.text_table(run),
        "text_subsets": bench.text_subsets(run),
        "text_signatures": bench.text_signatures(run),
        "judged": judge.judged(run),
        "wins": judge.wins(run),
        "preferences": probe.preference_table(run),
        "preference_subsets": probe.preference_subsets(run),
        "comparison": compare.comparison(run.results) if run.kind == "compare" else None,
        "answers": probe.answers(run),
        "answer_table": probe.answer_table(run),
        "learning": loop.learning(run),
        "meters": loop.meters(run),
        "warnings": loop.warnings(run),
        "seconds": bench.seconds(run),
        "settings": bench.settings(run),
        "not_measured": loop.not_measured(run) if run.is_loop else [],
    }


def summary(runs: Sequence[Run]) -> str:
    """The main tables and the claims: one document, per run its tables, judges and claims."""
    parts = [f"# {plain(title(runs))}\n"]
    if len(runs) > 1:
        across = compare.across(runs)
        parts += _titled(
            [("Score", across.scores), ("By kind of action", across.suites), ("L1, lower is nearer", across.distances)]
        )
        parts += _compared(across.comparisons)
    for run in runs:
        if len(runs) > 1:
            parts.append(f"## {plain(run.folder.name)}\n")
        judges = judge.judged(run)
        parts += _compared([compare.comparison(run.results)] if run.kind == "compare" else [])
        parts += _titled(
            [
                ("Score", bench.score_table(run)),
                *((f"Score by the judge {plain(one.name)}", one.scores) for one in judges),
                ("Rounds", loop.rounds(run)),
                ("Expert iteration, on validation pairs", loop.expert(run)),
                *loop.meters(run),
                ("L1, lower is nearer", bench.l1_table(run)),
                ("Other metrics, all items", bench.metrics_table(run)),
                *((f"L1 by motion. {plain(part.title)}", part.table) for part in bench.motion(run)),
                ("Written actions", bench.text_table(run)),
                ("Share of items on which what happened is likelier", probe.preference_table(run)),
                ("Right answers", probe.answer_table(run)),
            ]
        )
        if lost := run.get("unscored"):
            reasons = ", ".join(f"{count} ({plain(reason)})" for reason, count in lost.items())
            parts.append(f"Not scored: {reasons}.\n")
        shown = [
            *loop.warnings(run),
            *claims((run.get("comparisons") or {}).values()),
            *(claim for one in judges for claim in one.claims),
        ]
        if shown:
            parts.append(markdown_claims(shown))
    return "\n".join(parts)


def _titled(tables: Sequence[tuple[str, Table | None]]) -> list[str]:
    return [f"{title}\n\n{markdown_table(table)}" for title, table in tables if table]


def _compared(comparisons: Sequence[compare.Comparison]) -> list[str]:
    return [f"{plain(one.headline)}\n\n{markdown_table(one.table)}" for one in comparisons]

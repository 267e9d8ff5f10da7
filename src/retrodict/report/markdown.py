"""The main tables and the claims of runs as markdown."""

from __future__ import annotations

from collections.abc import Sequence

from retrodict.report import formatting, judged, probed, similarity, tables
from retrodict.report.run import Run
from retrodict.report.tables import Table, markdown_table, plain


def markdown(runs: Sequence[Run]) -> str:
    """One document: per run its tables, judges and claims."""
    parts = [f"# {plain(formatting.title(runs))}\n"]
    for run in runs:
        if len(runs) > 1:
            parts.append(f"## {plain(run.folder.name)}\n")
        parts += [f"{title}\n\n{markdown_table(table)}" for title, table in _tables(run)]
        if lost := run.get("unscored"):
            reasons = ", ".join(f"{count} ({plain(reason)})" for reason, count in lost.items())
            parts.append(f"Not scored: {reasons}.\n")
        claims = [*formatting.claims(run), *(claim for one in judged.judged(run) for claim in one.claims)]
        if claims:
            parts.append("\n".join(f"- {plain(c.headline)} ({plain(c.detail)})" for c in claims) + "\n")
    return "\n".join(parts)


def _tables(run: Run) -> list[tuple[str, Table]]:
    found = [
        ("Score", tables.score_table(run)),
        *((f"Score by the judge {plain(one.name)}", one.scores) for one in judged.judged(run)),
        ("L1, lower is nearer", similarity.l1_table(run)),
        ("Other metrics, all items", similarity.metrics_table(run)),
        *((f"L1 by motion. {plain(part.title)}", part.table) for part in similarity.motion(run)),
        ("Written actions", similarity.text_table(run)),
        ("Share of items on which what happened is likelier", probed.preference_table(run)),
        ("Right answers", probed.answer_table(run)),
    ]
    return [(title, table) for title, table in found if table]

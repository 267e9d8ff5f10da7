"""`retrodict study report`: a page, a summary in markdown, every number as JSON, and the judgements with names.

This is where the key is read, and the only place.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from retrodict.files import write_atomic, write_json
from retrodict.study.analysis.run import analyse
from retrodict.study.export import records, to_csv, to_jsonl
from retrodict.study.plan import DATABASE, Key, read_key, read_plan
from retrodict.study.report.markdown import markdown
from retrodict.study.report.page import render
from retrodict.study.store import Store

PAGE, SUMMARY, NUMBERS = "report.html", "report.md", "results.json"


def write_report(folder: Path, out: Path) -> Path:
    """Analyse the study in `folder` and write the report to `out`; the page's path.

    Raises `ValueError` when there is no study, or nobody has judged anything.
    """
    plan, key = read_plan(folder), read_key(folder)
    with Store(folder / DATABASE) as store:
        rows = records(store, plan)
    results = analyse(plan, key, rows)
    named = [_named(row, key) for row in rows]
    _write(out / "judgements.csv", to_csv(named))
    _write(out / "judgements.jsonl", to_jsonl(named))
    write_json(out / NUMBERS, results)
    _write(out / SUMMARY, markdown(results))
    _write(out / PAGE, render(results))
    return out / PAGE


def _named(row: dict[str, Any], key: Key) -> dict[str, Any]:
    """A judgement with systems in place of pictures; in a check, the decoy by its kind."""
    if row["kind"] == "check":
        check = key.checks[row["item"]]
        names = dict.fromkeys(row["order"], "other") | {check.decoy: check.kind}
        item = check.id
    else:
        item, names = key.items[row["item"]].id, dict(key.items[row["item"]].pictures)
    shown: dict[str, Any] = {"order": [names[name] for name in row["order"]]}
    shown |= {side: names[row[side]] if row[side] else None for side in ("best", "worst")}
    return row | {"item": item} | shown


def _write(path: Path, text: str) -> None:
    def write(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8")

    write_atomic(path, write)

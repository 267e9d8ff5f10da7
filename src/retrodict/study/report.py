"""`retrodict study report`: a page, a summary in markdown, every number as JSON, and the judgements with names.

This is where the key is read, and the only place.
"""

from __future__ import annotations

from pathlib import Path

from retrodict.files import JsonObject, write_json, write_text
from retrodict.report import PAGE, SUMMARY, study
from retrodict.report.kit import write_page
from retrodict.run_folder import claim, relative_path
from retrodict.study.analysis.run import analyse
from retrodict.study.export import records, to_csv, to_jsonl
from retrodict.study.plan import DATABASE, Key, read_key, read_plan
from retrodict.study.store import Store


def write_report(folder: Path, out: Path) -> Path:
    """Analyse the study in `folder` and write the report to `out`; the page's path.

    Raises:
        ValueError: there is no study, nobody has judged anything, or `out` is another run's folder or nobody's.
    """
    plan, key = read_plan(folder), read_key(folder)
    with Store(folder / DATABASE) as store:
        rows = records(store, plan)
    results = analyse(plan, key, rows)
    claim(out, "study report", {"study": relative_path(folder, out)})
    named = [_named(row, key) for row in rows]
    write_text(out / "judgements.csv", to_csv(named))
    write_text(out / "judgements.jsonl", to_jsonl(named))
    write_json(out / "results.json", results)
    write_text(out / SUMMARY, study.markdown(results))
    return write_page(out / PAGE, "study.html", title=plan.title, **study.page(results))


def _named(row: JsonObject, key: Key) -> JsonObject:
    """A judgement with systems in place of images; in a check, the decoy by its kind."""
    if row["kind"] == "check":
        check = key.checks[row["item"]]
        names = dict.fromkeys(row["order"], "other") | {check.decoy: check.kind}
        item = check.id
    else:
        item, names = key.items[row["item"]].id, dict(key.items[row["item"]].pictures)
    shown: JsonObject = {"order": [names[name] for name in row["order"]]}
    shown |= {side: names[row[side]] if row[side] else None for side in ("best", "worst")}
    return row | {"item": item} | shown

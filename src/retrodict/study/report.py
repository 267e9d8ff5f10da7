"""`retrodict study report`: a page, a summary in markdown, every number as JSON, and the judgements with names.

This is where the key is read, and the only place.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from retrodict.files import write_json, write_text
from retrodict.report import PAGE, SUMMARY, study
from retrodict.report.kit import write_page
from retrodict.run_folder import claim, relative_path
from retrodict.study.analysis.pool import gather
from retrodict.study.analysis.run import analyse
from retrodict.study.export import to_csv, to_jsonl


def write_report(
    folders: Sequence[Path], out: Path, *, exports: Sequence[Path] = (), exclude: Sequence[str] = ()
) -> Path:
    """Analyse studies and write the report.

    Args:
        folders: studies of the same systems, whose judgements are put together.
        out: the folder to write to.
        exports: blind exports (JSON lines) that are read in place of the studies' databases.
        exclude: rules of exclusion beyond those fixed when the study was built.

    Returns:
        The page's path.

    Raises:
        ValueError: there is no study, or a damaged one; nobody has judged anything; a rule is wrong; or `out` is
            another run's folder or nobody's.
    """
    pool = gather(folders, exports)
    results = analyse(pool, exclude)
    claim(out, "study report", {"study": [relative_path(folder, out) for folder in folders]})
    named = [pool.named(row) for row in pool.rows]
    write_text(out / "judgements.csv", to_csv(named))
    write_text(out / "judgements.jsonl", to_jsonl(named))
    write_json(out / "results.json", results)
    write_text(out / SUMMARY, study.markdown(results))
    return write_page(out / PAGE, "study.html", title=pool.plan.title, **study.page(results, pool.image))

"""Measurements that end with their page: each runs, and writes `report.html` beside the numbers."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import ParamSpec

from retrodict.evaluation.bench import run_bench
from retrodict.evaluation.probe_run import run_probe
from retrodict.evaluation.qa import run_qa
from retrodict.files import JsonObject
from retrodict.report import write_report

P = ParamSpec("P")
Results = JsonObject


def with_page(run: Callable[P, Results]) -> Callable[P, Results]:
    """`run`, which writes `results.json` to its folder `out`, and then the folder's page, where there are results."""

    @wraps(run)
    def both(*args: P.args, **kwargs: P.kwargs) -> Results:
        results = run(*args, **kwargs)
        if results:
            write_report(Path(str(kwargs["out"])))
        return results

    both.__name__ = run.__name__.removeprefix("run_")
    return both


bench, probe, qa = with_page(run_bench), with_page(run_probe), with_page(run_qa)

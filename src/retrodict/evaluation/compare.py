"""`retrodict compare`: two runs, item by item and subset by subset, from the files that they wrote."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from retrodict.evaluation.benchmarks import read_results
from retrodict.evaluation.judge.protocol import TOP
from retrodict.evaluation.metrics import METRICS
from retrodict.evaluation.pool import MEASURES, ItemResult, Scored
from retrodict.evaluation.predictions import JUDGEMENTS
from retrodict.evaluation.summary import item_values
from retrodict.files import JsonMapping, JsonObject, as_written, number_of, write_json
from retrodict.run_folder import claim, relative_path
from retrodict.stats import ANY, UNIT, Scale, adjust, macro_interval, of_differences, paired_difference

JUDGE = "judge:"
EXPLAINED = ("rouge1", "rougeL", "verb", "objects", "exact", "bertscore")
_NUMBERS = ("es", "me", "score", "copy")


@dataclass(frozen=True)
class Value:
    value: float
    category: str
    group: str


def compare_runs(
    a: str | Path,
    b: str | Path,
    *,
    measure: str = "",
    rows: tuple[str, str] = ("", ""),
    out: str | Path | None = None,
) -> JsonObject:
    """Paired differences a - b on the items that both runs have, per subset, over all, and as the mean of subset means.

    `measure` is `score`, `es`, `me` or `copy` (an exact state), `l1` or another metric of the AURORA table, a text
    measure of the explained actions, or `judge:<name>`; by default what both runs have, a judge first. `rows` names a
    row in each run: a system, `<system>.k8.<verifier>` or a known row such as `copy`; by default each run's own system.
    `p` is the sign-flip test over groups and `p_holm` its adjustment over the subsets. Writes `results.json` to
    `out`, if given. Raises `ValueError` for runs without common items, without the measure, or
    without an item that has it in both, and for an `out` that is one of them, another run's, or no run's.
    """
    a, b, out = Path(a), Path(b), None if out is None else Path(out)
    with as_written(a, b):
        measure = measure or _common_measure(a, b)
        names = (rows[0] or _own_row(a), rows[1] or _own_row(b))
        first, second = (read_values(run, measure, row) for run, row in zip((a, b), names, strict=True))
    ids = [name for name in first if name in second]
    if not ids:
        raise ValueError(f"{a} and {b} have no item in common: they were not measured on the same benchmark.")
    x = np.array([first[name].value for name in ids])
    y = np.array([second[name].value for name in ids])
    if np.isnan(x - y).all():
        scored = [int((~np.isnan(values)).sum()) for values in (x, y)]
        raise ValueError(
            f"None of the {len(ids)} common items has {measure} in both runs ({scored[0]} in {a}, {scored[1]} in {b})."
        )
    categories = [first[name].category for name in ids]
    groups = [first[name].group or name for name in ids]

    scale = _scale(measure)

    def paired(chosen: npt.NDArray[np.bool_]) -> JsonObject:
        difference = paired_difference(x[chosen], y[chosen], np.array(groups)[chosen].tolist(), scale)
        both = chosen & ~np.isnan(x - y)
        means = {side: float(v[both].mean()) if difference.n else math.nan for side, v in (("a", x), ("b", y))}
        entry = difference.entry("a", "b")
        del entry["a"], entry["b"]
        return {"mean_a": means["a"], "mean_b": means["b"], **entry}

    subsets = {name: paired(np.array(categories) == name) for name in dict.fromkeys(categories)}
    adjust(subsets.values())
    macro = macro_interval(x - y, categories, groups, of_differences(scale))
    results = {
        "kind": "compare",
        "a": {"run": str(a), "row": names[0]},
        "b": {"run": str(b), "row": names[1]},
        "measure": measure,
        "higher_is_better": measure not in METRICS or METRICS[measure].higher_is_better,
        "items": {"common": len(ids), "only_a": len(first) - len(ids), "only_b": len(second) - len(ids)},
        "subsets": subsets,
        "all": paired(np.full(len(ids), True)),
        "macro": {"difference": macro.mean, "ci95": macro.ci95, "n": macro.n},
    }
    if out is not None:
        settings = {"a": relative_path(a, out), "b": relative_path(b, out), "measure": measure, "rows": list(names)}
        claim(out, "compare", settings, apart=(a, b))
        write_json(out / "results.json", results)
    return results


def _scale(measure: str) -> Scale:
    if measure.startswith(JUDGE):
        return 0.0, TOP
    if measure == "bertscore":
        return ANY
    return METRICS[measure].scale if measure in METRICS else UNIT


def _common_measure(a: Path, b: Path) -> str:
    judges = {path.stem for path in (a / JUDGEMENTS).glob("*.jsonl")} & {
        p.stem for p in (b / JUDGEMENTS).glob("*.jsonl")
    }
    if len(judges) == 1:
        return JUDGE + judges.pop()
    return "l1" if any("protocol" in read_results(run) for run in (a, b)) else "score"


def _own_row(run: Path) -> str:
    results = read_results(run)
    if system := results.get("system"):
        return str(system)
    kept = str((results.get("kept") or {}).get("fdm", "fdm"))
    return kept if kept in (results.get("systems") or {}) else "copy"


def read_values(run: Path, measure: str, row: str) -> dict[str, Value]:
    """One value per item id; NaN where it has none. Raises `ValueError` when the run does not have the measure."""
    if measure.startswith(JUDGE):
        return _judged(run, measure.removeprefix(JUDGE), row)
    if measure in EXPLAINED:
        values = {}
        for record in _lines(run / "items" / "explained.jsonl"):
            values[record["id"]] = Value(number_of(record.get(measure)), record["class"], record.get("group", ""))
        return values
    if measure in MEASURES and "protocol" not in read_results(run):
        return _scored(run, measure, row)
    return _similar(run, measure, row)


def _judged(run: Path, name: str, row: str) -> dict[str, Value]:
    records = list(_lines(run / JUDGEMENTS / f"{name}.jsonl"))
    rows = sorted({str(record["row"]) for record in records})
    if row not in rows:
        raise ValueError(f"The judge {name} of {run} has no row {row}: it has {', '.join(rows)}.")
    return {r["id"]: Value(number_of(r["score"]), r["class"], r.get("group", "")) for r in records if r["row"] == row}


def _scored(run: Path, measure: Any, row: str) -> dict[str, Value]:
    match = re.fullmatch(r"(.+?)(?:\.k(\d+)(?:\.(\w+))?|\.greedy)?", row)
    assert match is not None
    system, k, selector = match[1], int(match[2] or 1), match[3] or ("random" if match[2] else "greedy")
    items = [_item(record) for record in _lines(run / "items" / f"{system}.jsonl")]
    values = item_values(items, selector, k, measure)
    return {item.id: Value(float(v), item.category, item.group) for item, v in zip(items, values, strict=True)}


def _item(record: JsonMapping) -> ItemResult:
    return ItemResult(
        record["id"],
        record["class"],
        record["group"],
        record["action"],
        _frame(record["greedy"]),
        tuple(_frame(frame) for frame in record["pool"]),
    )


def _frame(record: JsonMapping) -> Scored:
    numbers: JsonObject = {name: number_of(record.get(name)) for name in _NUMBERS}
    return Scored(**numbers, verifiers={name: number_of(v) for name, v in record["verifiers"].items()})


def _similar(run: Path, metric: str, row: str) -> dict[str, Value]:
    values: dict[str, Value] = {}
    files = sorted((run / "items").glob("*.jsonl"))
    for path in files:
        for record in _lines(path):
            table = record.get("l1") if metric == "l1" else (record.get("metrics") or {}).get(metric)
            if isinstance(table, dict) and row in table:
                values[record["id"]] = Value(number_of(table[row]), record["class"], record.get("group", ""))
    if not values:
        raise ValueError(f"{run} has no {metric} of {row}.")
    return values


def _lines(path: Path) -> Iterator[JsonObject]:
    if not path.is_file():
        raise ValueError(f"{path.parent.parent} does not hold {path.parent.name}/{path.name}, which this compares.")
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)

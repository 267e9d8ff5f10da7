"""Tables of measured predictions: scores by an exact state, distances, copy diagnostics, motion, written actions."""

from __future__ import annotations

from dataclasses import dataclass

from retrodict.evaluation.metrics import METRICS
from retrodict.files import JsonMapping, JsonObject
from retrodict.report.kit.charts import Bar, Curve, on_one_scale
from retrodict.report.kit.format import (
    MISSING,
    duration,
    finite,
    flat,
    number,
    percent,
    selector_name,
    spoken,
    system_name,
)
from retrodict.report.kit.tables import Cell, Table, estimate, without_gaps
from retrodict.report.run import Run

BENCHES = {
    "aurora": "AURORA-Bench",
    "bytemorph": "BM-Bench",
    "motionedit": "MotionEdit-Bench",
    "gedit": "GEdit-Bench",
    "imgedit": "ImgEdit-Bench",
    "spatialmqa": "SpatialMQA",
    "embspatial": "EmbSpatial-Bench",
}
ROWS = {
    "copy": "Copy",
    "round_trip_source": "Source through the tokenizer",
    "round_trip_target": "Target through the tokenizer",
    "ground_truth": "Ground truth",
    "random_target": "Another item's target",
    "nearest": "Nearest neighbour",
}
TEXT = {
    "rouge1": "ROUGE-1",
    "rougeL": "ROUGE-L",
    "bleu": "BLEU",
    "verb": "Verb right",
    "objects": "Objects right",
    "exact": "Exact",
}


@dataclass(frozen=True)
class Motion:
    title: str
    note: str
    table: Table


def row_name(key: str) -> str:
    """A row of a table of distances: a system, a baseline, or `fdm, best by idm_fdm`."""
    return ROWS.get(key) or spoken(key)


def l1_table(run: Run) -> Table | None:
    """L1 per subset; rows as in `results.json`, the run's own last."""
    subsets = run.get("subsets")
    if not subsets or not run.get("all") or "probe" in subsets or run.kind in ("probe", "qa", "compare"):
        return None
    if len(subsets) == 1 and run.get("metrics"):  # that is all items, which have a table
        return None
    columns = [*subsets.values(), run.get("all")]
    head = [*subsets, "all"]
    if run.get("macro"):
        columns.append(run.get("macro"))
        head.append("mean of subsets")
    keys = list(next(iter(subsets.values())))
    rows = [
        (row_name(key), [estimate(column.get(key), "l1", span_digits=3, counts=True) for column in columns])
        for key in keys
    ]
    return without_gaps(Table(head, rows, row_name(run.main or "")))


def metrics_table(run: Run) -> Table | None:
    """Every metric over all items, and their number."""
    metrics = run.get("metrics")
    if not metrics:
        return None
    everything: JsonMapping = run.get("all") or {}
    names = [name for name in METRICS if name in metrics or name == "l1"]
    rows = []
    for row, entry in everything.items():
        cells = [
            estimate(entry, "l1") if name == "l1" else estimate(metrics[name]["all"].get(row), "value")
            for name in names
        ]
        rows.append((row_name(row), [*cells, Cell(str(entry["n"]))]))
    return without_gaps(Table([*(METRICS[name].title for name in names), "n"], rows, row_name(run.main or "")))


def metric_notes(run: Run) -> list[str]:
    metrics = run.get("metrics") or {}
    notes = [f"{m.title}: {m.note}." for key, m in METRICS.items() if key in metrics and m.note]
    exact = run.get("round_trip_exact")
    if metrics and "exact_patches" not in metrics and finite(exact):
        notes.append(
            f"Exact frames are not counted: of the patches that change, {percent(exact)} come back exactly from the "
            "image tokenizer."
        )
    return notes


def metric_tables(run: Run) -> list[tuple[str, Table]]:
    """The same per subset, one table a metric."""
    metrics = run.get("metrics") or {}
    tables = []
    for name in (name for name in METRICS if name in metrics):
        columns = [*metrics[name]["subsets"].values(), metrics[name].get("macro") or {}]
        rows = [
            (row_name(row), [estimate(c.get(row), "value", counts=True) for c in columns])
            for row in metrics[name]["all"]
        ]
        tables.append((METRICS[name].title, without_gaps(Table([*metrics[name]["subsets"], "mean of subsets"], rows))))
    return tables if len(run.get("subsets") or ()) > 1 else []


def motion(run: Run) -> list[Motion]:
    """L1 where much moves and where little does, split within each subset first."""
    splits = run.get("motion") or {}
    parts = []
    for key, title in (("within_subset", "Split within each subset"), ("global", "Split over all items")):
        if entry := splits.get(key):
            rows = [
                (
                    row_name(row),
                    [estimate(entry[half].get(row), "l1", span_digits=3, counts=True) for half in ("high", "low")],
                )
                for row in entry["high"]
            ]
            mix = "; ".join(f"{name} {n['high']} and {n['low']}" for name, n in entry["mix"].items())
            parts.append(
                Motion(
                    title, f"Items in the high and the low half: {mix}.", Table(["much moves", "little moves"], rows)
                )
            )
    return parts


def text_table(run: Run) -> Table | None:
    """Written actions against their floors."""
    texts = run.get("idp")
    if not texts:
        return None
    floors = texts.get("floors") or {}
    entries = {
        "Written by the model": texts.get("all"),
        "One sentence for each subset": floors.get("constant"),
        "Another item's action": floors.get("random"),
    }
    rows = [(name, _text_cells(entry)) for name, entry in entries.items() if entry]
    head = list(TEXT.values())
    if bert := texts.get("bertscore"):
        head.append("BERTScore")
        for (_, cells), key in zip(rows, ("model", "constant", "random"), strict=True):
            cells.append(estimate(bert.get(key), "value", counts=True))
    return Table(head, rows, "Written by the model")


def text_subsets(run: Run) -> Table | None:
    subsets = run.get("idp", "subsets")
    return Table(list(TEXT.values()), [(name, _text_cells(e)) for name, e in subsets.items()]) if subsets else None


def text_signatures(run: Run) -> list[str]:
    signatures = [run.get("idp", "all", "bleu", "signature"), run.get("idp", "bertscore", "signature")]
    return [str(one) for one in signatures if one]


def _text_cells(entry: JsonMapping) -> list[Cell]:
    cells = []
    for key in TEXT:
        if key == "bleu":
            cells.append(Cell(number((entry.get("bleu") or {}).get("bleu"))))
        else:
            cells.append(estimate(entry.get(key), "value", counts=True))
    return cells


def checks(run: Run) -> list[tuple[str, Cell, str]]:
    """What the scorer says of the baselines."""
    rows = [
        ("The true next frame", run.get("ground_truth"), "should be 1"),
        ("The same through the image tokenizer", run.get("tokenizer_round_trip"), "no token model can score more"),
        ("A copy of the source", run.get("systems", "copy", "greedy"), "should be 0"),
        ("The source through the image tokenizer", run.get("tokenizer_round_trip_source"), "a token model's copy"),
        ("Another item's target", run.get("random_target"), "should be 0"),
    ]
    return [(name, estimate(entry, "score"), note) for name, entry, note in rows if finite((entry or {}).get("score"))]


def score_table(run: Run) -> Table | None:
    """Every system: greedy, best of k by the default selector, and what makes up the greedy score."""
    if not run.has_scores:
        return None
    ks = [f"k{k}" for k in run.ks]
    head = [
        "Greedy",
        *("One sample" if k == "k1" else f"Best of {k[1:]}" for k in ks),
        "Edit success",
        "Minimal edit",
        "Copies",
    ]
    rows = []
    for name, entry in run.systems.items():
        greedy = entry.get("greedy") or {}
        cells = [estimate(greedy, "score"), *(estimate(entry.get(k), "score") for k in ks)]
        cells += [
            Cell(number(greedy.get("es"))),
            Cell(number(greedy.get("me"))),
            Cell(percent(greedy.get("copy_rate"), 1)),
        ]
        rows.append((system_name(name), cells))
    return Table(head, rows, system_name(run.main or ""))


def default_selector(run: Run) -> str:
    """What chose in the table's best-of-k columns."""
    key = run.get("systems", run.main or "", f"k{run.ks[-1]}", "selector") if run.ks else None
    return selector_name(str(key)) if key else MISSING


def suite_table(run: Run) -> Table | None:
    """Greedy score per suite and system, and the main system's verified one."""
    if not run.has_scores:
        return None
    suites = list(dict.fromkeys(s for entry in run.systems.values() for s in entry.get("suites") or {}))
    rows = []
    for name, entry in run.systems.items():
        rows.append((system_name(name), [estimate(_suite(entry, suite, "greedy"), "score") for suite in suites]))
        if name == run.main and run.ks and run.ks[-1] > 1:
            cells = [estimate(_suite(entry, suite, f"k{run.ks[-1]}"), "score") for suite in suites]
            rows.append((f"{system_name(name)}, best of {run.ks[-1]}", cells))
    return Table([run.suite_title(suite) for suite in suites], rows, system_name(run.main or ""))


def _suite(entry: JsonMapping, suite: str, key: str) -> object:
    return ((entry.get("suites") or {}).get(suite) or {}).get(key)


def score_curves(run: Run) -> list[Curve]:
    """K-curves of the baseline and of the main system, on one scale."""
    names = [name for name in dict.fromkeys(["ft", run.main]) if name in run.systems]
    names = [name for name in names if run.has_scores and len(run.ks) > 1 and f"k{run.ks[-1]}" in run.systems[name]]
    return on_one_scale({system_name(name): run.systems[name] for name in names}, run.ks, 0.1)


def distance_curves(run: Run) -> list[Curve]:
    """The best of k without exact state: the share of changed patches that are exact, else L1 (lower is better)."""
    exact = run.get("k_curve_exact")
    points, key = (exact, "value") if exact else (run.get("k_curve") or {}, "l1")
    ks = sorted(int(k[1:]) for k in points)
    entry: JsonObject = {
        k: {name: {"score": row[key], "ci95": row["ci95"]} for name, row in rows.items()} for k, rows in points.items()
    }
    everything = run.get("metrics", "exact_patches", "all") if exact else run.get("all")
    if greedy := (everything or {}).get(run.main or ""):
        entry["greedy"] = {"score": greedy[key], "ci95": greedy["ci95"]}
    return on_one_scale({system_name(run.main or ""): entry}, ks, 0.1 if exact else 0.02) if len(ks) > 1 else []


def seconds(run: Run) -> list[Bar]:
    stages = {name: s for name, s in (run.get("seconds") or {}).items() if finite(s)}
    scale = max(stages.values(), default=0.0)
    return [Bar(name, s, scale=scale) for name, s in stages.items() if scale]


def settings(run: Run) -> list[tuple[str, list[tuple[str, str]]]]:
    """Everything that says how the run was made, as titled lists."""
    basics = [(key, str(run.get(key))) for key in ("command", "scale", "seed", "bench") if run.get(key) is not None]
    if finite(run.get("wall_seconds")):
        basics.append(("wall time", duration(run.get("wall_seconds"))))
    if finite(run.get("peak_memory_mb")):
        basics.append(("peak memory", f"{run.get('peak_memory_mb'):,.0f} MB"))
    parts = [
        ("Run", basics),
        ("Settings", list(flat(run.get("config") or {}))),
        ("Versions", list(flat(run.get("versions") or {}))),
    ]
    return [(name, rows) for name, rows in parts if rows]

"""Tables of a benchmark without an exact state: distances, copy diagnostics, motion halves, written actions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from retrodict.report import formatting
from retrodict.report.run import Run, finite
from retrodict.report.tables import Cell, Table

ROWS = {
    "copy": "Copy",
    "round_trip_source": "Source through the tokenizer",
    "round_trip_target": "Target through the tokenizer",
    "ground_truth": "Ground truth",
    "random_target": "Another item's target",
}
METRICS = {
    "copy": ("Copies", "share that repeats the source"),
    "copy_ratio": ("Copy ratio", "distance from the source, in units of the target's"),
    "change_iou": ("Change IoU", "where the picture changed, against where the target did"),
    "clip_i": ("CLIP-I", ""),
    "clip_t": ("CLIP-T", "against a caption of the target"),
    "clip_instruction": ("CLIP, instruction", ""),
    "dino": ("DINO", ""),
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
    return ROWS.get(key) or formatting.spoken(key)


def l1_table(run: Run) -> Table | None:
    """L1 per subset; rows as in `results.json`, the run's own last."""
    subsets = run.get("subsets")
    if not subsets or not run.get("all") or "probe" in run.results:
        return None
    columns = [*subsets.values(), run.get("all")]
    head = [*subsets, "all"]
    if run.get("macro"):
        columns.append(run.get("macro"))
        head.append("mean of subsets")
    keys = list(next(iter(subsets.values())))
    rows = [(row_name(key), [_cell(column.get(key), "l1") for column in columns]) for key in keys]
    return Table(head, rows, row_name(run.main or ""))


def metrics_table(run: Run) -> Table | None:
    """Every other metric over all items."""
    found = run.get("metrics")
    if not found:
        return None
    names = [name for name in METRICS if name in found]
    rows = list(dict.fromkeys(row for name in names for row in found[name]["all"]))
    table = [(row_name(row), [_cell(found[name]["all"].get(row), "value", 2) for name in names]) for row in rows]
    return Table([METRICS[name][0] for name in names], table, row_name(run.main or ""))


def metric_notes(run: Run) -> list[str]:
    found = run.get("metrics") or {}
    return [f"{name}: {note}." for key, (name, note) in METRICS.items() if key in found and note]


def metric_tables(run: Run) -> list[tuple[str, Table]]:
    """The same per subset, one table a metric."""
    found = run.get("metrics") or {}
    tables = []
    for name in (name for name in METRICS if name in found):
        columns = [*found[name]["subsets"].values(), found[name].get("macro") or {}]
        rows = [(row_name(row), [_cell(c.get(row), "value", 2) for c in columns]) for row in found[name]["all"]]
        tables.append((METRICS[name][0], Table([*found[name]["subsets"], "mean of subsets"], rows)))
    return tables


def motion(run: Run) -> list[Motion]:
    """L1 where much moves and where little does, split within each subset first."""
    found = run.get("motion") or {}
    parts = []
    for key, title in (("within_subset", "Split within each subset"), ("global", "Split over all items")):
        if entry := found.get(key):
            rows = [
                (row_name(row), [_cell(entry[half].get(row), "l1") for half in ("high", "low")])
                for row in entry["high"]
            ]
            mix = "; ".join(f"{name} {n['high']} and {n['low']}" for name, n in entry["mix"].items())
            parts.append(Motion(title, f"Items in the high and the low half: {mix}.", _motion_table(rows)))
    return parts


def _motion_table(rows: Sequence[tuple[str, list[Cell]]]) -> Table:
    return Table(["much moves", "little moves"], list(rows))


def text_table(run: Run) -> Table | None:
    """Written actions against their floors."""
    found = run.get("idp")
    if not found:
        return None
    floors = found.get("floors") or {}
    entries = {
        "Written by the model": found.get("all"),
        "One sentence for each subset": floors.get("constant"),
        "Another item's action": floors.get("random"),
    }
    rows = [(name, _text_cells(entry)) for name, entry in entries.items() if entry]
    head = list(TEXT.values())
    if bert := found.get("bertscore"):
        head.append("BERTScore")
        for (_, cells), key in zip(rows, ("model", "constant", "random"), strict=True):
            cells.append(_cell(bert.get(key), "value", 2))
    return Table(head, rows, "Written by the model")


def text_subsets(run: Run) -> Table | None:
    found = run.get("idp", "subsets")
    return Table(list(TEXT.values()), [(name, _text_cells(e)) for name, e in found.items()]) if found else None


def text_signatures(run: Run) -> list[str]:
    found = [run.get("idp", "all", "bleu", "signature"), run.get("idp", "bertscore", "signature")]
    return [str(one) for one in found if one]


def _text_cells(entry: Mapping[str, Any]) -> list[Cell]:
    cells = []
    for key in TEXT:
        if key == "bleu":
            cells.append(Cell(formatting.number((entry.get("bleu") or {}).get("bleu"))))
        else:
            cells.append(_cell(entry.get(key), "value", 2, digits=3))
    return cells


def _cell(entry: Any, value: str, span_digits: int = 3, digits: int = 3) -> Cell:
    entry = entry if isinstance(entry, Mapping) else {}
    if not finite(entry.get(value)):
        return Cell(formatting.MISSING, f"n = {entry['n']}" if "n" in entry else "")
    interval = entry.get("ci95") or ()
    notes = [formatting.span(interval, span_digits)] if any(finite(end) for end in interval) else []
    if "n" in entry:
        notes.append(f"n = {entry['n']}")
    return Cell(formatting.number(entry[value], digits), "\n".join(notes))

"""Tables of probes and of questions."""

from __future__ import annotations

from collections.abc import Mapping

from retrodict.report.kit.charts import Bar, Group, bar, measured
from retrodict.report.kit.format import MISSING, finite, number, percent, system_name
from retrodict.report.kit.tables import Cell, Table, share
from retrodict.report.run import Run

NEGATIVES = {
    "action": ("another action", "The model sees the true frames; the sentence is another item's."),
    "counterfactual": ("a counterfactual action", "The sentence names the same things and another outcome."),
    "action_blind": (
        "another action (outcome hidden)",
        "Control: what the model prefers while it cannot see what happened. Only the rest was read off the outcome.",
    ),
    "counterfactual_blind": (
        "a counterfactual action (outcome hidden)",
        "Control: the same while the model cannot see what happened.",
    ),
    "observation": ("another outcome", "The sentence is true; the second frame is another item's."),
    "copy": ("nothing happens", "The second frame is the first one again."),
    "inverse": ("the reverse", "The two frames are swapped."),
}
DIRECTION_COLOURS = {"inverse": "idm", "forward": "fdm"}


def groups(run: Run) -> list[Group]:
    """Per negative, how often each model prefers what happened."""
    models = {name: entry for name, entry in (run.get("probe") or {}).items() if isinstance(entry, Mapping)}
    compared = []
    for key, (title, note) in NEGATIVES.items():
        bars = measured(bar(_model_name(m), entry.get(key), "share", _kind(m)) for m, entry in models.items())
        if bars:
            compared.append(Group(title, note, bars))
    return compared


def _model_name(model: str) -> str:
    return model if model in DIRECTION_COLOURS else system_name(model)


def _kind(model: str) -> str:
    return DIRECTION_COLOURS.get(model) or (model if model in ("idm", "ft", "fdm") else "other")


def preference_table(run: Run) -> Table | None:
    """Every negative by sum and per token, in every direction, with the correlation of the two log-probabilities."""
    directions = run.get("probe") or {}
    if run.kind != "probe" or not directions:
        return None
    head = [f"{direction}, {how}" for direction in directions for how in ("sum", "per token", "correlation")]
    rows = []
    for key, (title, _) in {**NEGATIVES, "action_gain": ("another action, beyond the control", "")}.items():
        if not any(key in entry for entry in directions.values()):
            continue
        cells = []
        for direction, entry in directions.items():
            one = entry.get(key) or {}
            correlation = run.get("correlation", direction, key, "spearman")
            cells += [share(one), share(one.get("per_token")), Cell(number(correlation, 2))]
        rows.append((f"than {title}", cells))
    return Table(head, rows)


def preference_subsets(run: Run) -> list[tuple[str, Table]]:
    """The same per subset, by sum: one table a direction."""
    subsets = (run.get("subsets") or {}) if run.kind == "probe" else {}
    tables = []
    for direction in run.get("probe") or {}:
        rows = []
        for key, (title, _) in NEGATIVES.items():
            cells = [share((entry.get(direction) or {}).get(key)) for entry in subsets.values()]
            if any(cell.text != MISSING for cell in cells):
                rows.append((f"than {title}", cells))
        if rows:
            tables.append((direction, Table([run.suite_title(name) for name in subsets], rows)))
    return tables


def answers(run: Run) -> list[Bar]:
    """How often answers are right by each way of answering, beside chance and the commonest answer."""
    if run.kind != "qa":
        return []
    ways = [
        bar(title, run.get("accuracy", key), "share", kind, note)
        for key, title, kind, note in (
            ("likelihood_mean", "Likeliest option", "fdm", "by mean log-probability a token"),
            ("likelihood_sum", "Likeliest option", "ft", "by the sum"),
            ("generation", "Written answer", "idm", "an answer that names no option counts as wrong"),
            ("blind_mean", "Likeliest option, without the image", "copy", "control"),
        )
    ]
    bars = [one for one in ways if one]
    for key, title in (("chance", "Chance"), ("majority", "Commonest answer")):
        if finite(run.get(key)):
            nothing = float("nan")
            bars.append(Bar(title, run.get(key), nothing, nothing, 0, "copy"))
    return bars


def answer_table(run: Run) -> Table | None:
    """The same per kind of question."""
    subsets = run.get("subsets") if run.kind == "qa" else None
    if not subsets:
        return None
    keys = [
        key for key in ("likelihood_mean", "likelihood_sum", "generation", "blind_mean") if run.get("accuracy", key)
    ]
    head = [*(key.replace("_", " ") for key in keys), "chance"]
    rows = [
        (name, [*(share(entry["accuracy"].get(key)) for key in keys), Cell(percent(entry.get("chance")))])
        for name, entry in subsets.items()
    ]
    return Table(head, rows)

"""The page of a whole loop: what each step added, from the labelled pairs to verified predictions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import get_args

from retrodict.files import JsonMapping, read_lines
from retrodict.prompts import Direction
from retrodict.report.bench import row_name
from retrodict.report.kit.charts import Bar, Curve, bar, measured, over_steps
from retrodict.report.kit.format import finite, number, percent, selector_name, system_name
from retrodict.report.kit.tables import Cell, Claim, Table, claim, estimate, share, without_gaps
from retrodict.report.run import Run
from retrodict.stats import share as share_of
from retrodict.training.config import LOG


def ladder(run: Run) -> list[Bar]:
    """What each step of the loop added: every system's greedy score, and the main one's best verified score."""
    notes = {
        "copy": "nothing happens",
        "ft": "labelled data only",
        "fdm": _learned_from(run),
        "fdm_true_labels": "the same video with its true labels",
        "fdm_expert": "and its own verified samples",
    }
    bars: list[Bar | None] = []
    for name, entry in run.systems.items():
        notes.setdefault(name, notes["fdm"] if name.startswith("fdm_round") else "greedy")
        if name.startswith("fdm_weighted"):  # an ablation, not a step: it has its own chart
            continue
        if name == "fdm_expert" and run.get("expert", "kept") == 0:  # it is the model of before
            continue
        kind = "fdm" if name == run.main else name if name in ("copy", "ft") else "other"
        greedy = run.get("runs", name, "greedy") or entry.get("greedy")
        bars.append(bar(system_name(name), greedy, "score", kind, _with_runs(notes.get(name, "greedy"), greedy)))
        if name == run.main and run.ks:
            most = f"k{run.ks[-1]}"
            chosen = (entry.get(most) or {}).get("selector", "")
            if chosen not in ("", "random"):
                best = run.get("runs", name, most, chosen) or entry[most]
                note = _with_runs(f"best of {run.ks[-1]} by {selector_name(chosen)}", best)
                bars.append(bar(f"{system_name(name)}, verified", best, "score", "verified", note))
    return measured(bars)


def _learned_from(run: Run) -> str:
    return "labelled data and annotated video" if run.get("annotation") else "labelled data only"


def _with_runs(note: str, entry: object) -> str:
    runs = entry.get("runs") if isinstance(entry, Mapping) else None
    return f"{note}; mean of {runs} training runs" if runs else note


def training_noise(run: Run) -> str:
    """What the intervals of a loop's scores leave out, in a sentence; empty where that is nothing."""
    if not run.has_scores:
        return ""
    if runs := run.get("runs", run.main or "", "greedy", "runs"):
        return f"FT, FDM and the ceiling were trained {runs} times: intervals are over test items and training runs."
    return (
        "Every model was trained once: intervals are over test items alone. Training runs of the same data differ, "
        "too: in the demo by .02 to .04 (standard deviation of three runs)."
    )


def distances(run: Run) -> list[Bar]:
    """Where no exact state gives a score: the share of changed patches that each system shows exactly, where that can
    be told, else how far its images are from the true ones; beside the baselines."""
    if run.has_scores or run.kind not in ("bench", "bootstrap", "demo"):
        return []
    notes = {
        "copy": "nothing happens",
        "round_trip_target": "the true image, encoded and decoded: what the tokenizer alone costs",
        "random_target": "what would be right elsewhere",
        "nearest": "the target of the training pair that is most like it",
        "ft": "labelled data only",
        "fdm": _learned_from(run),
    }
    kinds = {"copy": "copy", "ft": "ft", run.main: "fdm"}
    listed, key = (run.get("metrics", "exact_patches", "all"), "value") if is_exact(run) else (run.get("all"), "l1")
    rows = {
        name: row
        for name, row in (listed or {}).items()
        if isinstance(row, Mapping) and name not in ("ground_truth", "round_trip_source")
    }
    alike = len({(row.get("n"), row.get("n_unscored")) for row in rows.values()}) == 1  # then it is said once
    scale = (
        1.0 if is_exact(run) else max((row[key] for row in rows.values() if finite(row.get(key))), default=0.0) * 1.25
    )
    return measured(
        bar(
            row_name(name),
            row,
            key,
            kinds.get(name, "verified" if "best" in row_name(name) else "other"),
            notes.get(name, "") if alike else _with_n(notes.get(name, ""), row),
            scale,
        )
        for name, row in rows.items()
    )


def is_exact(run: Run) -> bool:
    """Whether patches of predictions could be told to be exactly right."""
    return bool(run.get("metrics", "exact_patches"))


def _with_n(note: str, row: JsonMapping) -> str:
    n = f"n = {row.get('n')}" + (f", {row['n_unscored']} without an image" if row.get("n_unscored") else "")
    return f"{note}; {n}" if note else n


def weighting(run: Run) -> list[Bar]:
    entries = run.get("weighting") or {}
    return measured(
        bar(str(name), _greedy(entry), "score", "fdm" if name == "none" else "other") for name, entry in entries.items()
    )


def _greedy(entry: object) -> object:
    return entry.get("greedy", entry) if isinstance(entry, Mapping) else None


def weighting_claims(run: Run) -> list[Claim]:
    """What the paired comparison says of recognition weighting."""
    comparison = run.get("comparisons", "weighted_vs_fdm")
    return [claim(comparison)] if comparison and finite(comparison.get("difference")) else []


def confidence(run: Run) -> list[Bar]:
    """Share of right labels by the inverse model's log-probability, the surest first."""
    bins = run.get("annotation", "by_confidence") or []
    known = (row for row in bins if finite(row.get("low")) and finite(row.get("high")))
    rows = sorted(known, key=lambda row: -row["high"])
    return measured(bar(_between(row["low"], row["high"]), row, "exact", "idm", f"{row['n']:,} labels") for row in rows)


def _between(low: float, high: float) -> str:
    return f"{low:.2f} to {high:.2f}".replace("-", "\N{MINUS SIGN}")


_SELECTED = {
    False: "the surest labels, every kind of action in turn",
    True: "those after which FT expects the frame, too, the same share of each kind of action",
}


def checked_by_ft(run: Run) -> bool:
    """Whether FT has chosen among the labels that the forward model learned from."""
    return bool(run.get("annotation", "checked"))


def funnel(run: Run) -> list[Bar]:
    """From mined pairs to what the forward model learned from; widths are counts."""
    steps = [
        (
            "Pairs mined",
            run.get("annotation", "mined") or run.get("mining", "pairs"),
            "moments between which something moved",
        ),
        (
            "With a single action",
            run.get("annotation", "single_action"),
            "between the others, several things happened or none",
        ),
        ("Selected", run.get("annotation", "selected"), _SELECTED[checked_by_ft(run)]),
    ]
    counts = [(name, count, note) for name, count, note in steps if finite(count)]
    scale = max((count for _, count, _ in counts), default=0)
    return [Bar(name, count, n=int(count), note=note, scale=scale) for name, count, note in counts if scale]


def rounds(run: Run) -> Table | None:
    """The rounds of the loop side by side; the one whose forward model is kept is marked."""
    entries = run.get("rounds")
    if not entries:
        return None
    most = f"k{run.ks[-1]}" if run.ks else ""
    head = ["IDM exact", "Labels exact", "Of those selected", "FDM", f"Best of {most[1:]}", "IDM, validation"]
    head.append("FDM, validation")
    rows, marked = [], ""
    for entry in entries:
        labels, fdm = entry["annotation"], entry["fdm"]
        cells = [estimate(entry["idm"], "exact"), estimate(labels, "exact")]
        cells.append(Cell(number(labels.get("selected_exact"))))
        cells += [estimate(fdm.get("greedy"), "score"), estimate(fdm.get(most), "score")]
        cells += [estimate(entry["validation"][model], "mean") for model in ("idm", "fdm")]
        name = f"Round {entry['round']}"
        rows.append((name, cells))
        if run.main == ("fdm" if entry["round"] == 1 else f"fdm_round{entry['round']}"):
            marked = name
    return without_gaps(Table(head, rows, marked))


def reliability(run: Run) -> list[Bar]:
    """How often predictions are right, by how sure they were said to be; the least sure first."""
    rows = run.get("confidence", _verifier(run), "bins") or []
    return measured(
        bar(f"said {percent(row['confidence'])}", row, "right", "verified", f"{row['n']} predictions") for row in rows
    )


def calibration(run: Run) -> JsonMapping | None:
    """What is known of the confidence in the default verifier's choices."""
    return run.get("confidence", _verifier(run)) or None


def _verifier(run: Run) -> str:
    return str(list(run.get("confidence") or [""])[-1])


def still(run: Run) -> list[Bar]:
    """How often each system changes something where nothing happens."""
    entries = run.get("still") or {}
    return measured(bar(system_name(name), entry, "share", "other") for name, entry in entries.items())


def expert(run: Run) -> Table | None:
    """What each expert iteration did to what the inverse model likes, and to what is right."""
    entries = run.get("expert", "iterations")
    if not entries:
        return None
    head = ["IDM score", "Score", "Edit success", "Minimal edit", "Copies"]
    rows = [
        (
            f"Iteration {i}" if i else "Before",
            [
                Cell(number(entry["inverse_score"], 2)),
                estimate(entry, "score"),
                *(Cell(number(entry[key])) for key in ("es", "me", "copy_rate")),
            ],
        )
        for i, entry in enumerate(entries)
    ]
    return without_gaps(Table(head, rows, rows[run.get("expert", "kept")][0]))


def asymmetry(run: Run) -> Table | None:
    """Inverse against forward at equal labels: how often exactly right, and two preferences that both have."""
    if not run.get("idm"):
        return None
    rows = []
    for name in ("idm", *(key for key in run.results if key.startswith("idm_round")), "idm_plain"):
        if entry := run.get(name):
            rows.append((system_name(name), [estimate(entry, "exact"), *_preferences(run, name)]))
    scores = [item.greedy.score for item in run.predictions("ft").values()]
    exact = share_of([score == 1 if finite(score) else math.nan for score in scores])
    if exact["n"]:
        rows.append((system_name("ft"), [estimate(exact, "share"), *_preferences(run, "ft")]))
    return Table(["Exactly right", "Not a copy", "Not the reverse"], rows)


def _preferences(run: Run, model: str) -> list[Cell]:
    return [estimate(run.get("probe", model, negative), "share") for negative in ("copy", "inverse")]


def _learned(run: Run) -> dict[str, JsonMapping]:
    """The action meters of a run's models by the models' names."""
    meters = run.get("action_meter") or {}
    return {name: entry for name, entry in meters.items() if isinstance(entry, Mapping) and finite(entry.get("pairs"))}


def learning(run: Run) -> list[Curve]:
    """How each model's loss fell, and what held-out pairs cost it with what it should be told and with another's."""
    curves = []
    for name, meter in _learned(run).items():
        lines = read_lines((run.folder if run.kind == "train" else run.folder / name) / LOG)
        if lines and meter["difference"]["n"]:  # the trained model's own measurement
            lines[-1] |= {f"eval_{key}": meter[key]["loss"] for key in ("right", "shuffled")}
        direction = meter["direction"]
        told = "action" if direction == "forward" else "pair"
        series = {
            "training": ("random", _series(lines, "loss")),
            f"right {told}": ("idm_fdm", _series(lines, "eval_right")),
            f"another {told}": ("min_copy", _series(lines, "eval_shuffled")),
        }
        curves.append(over_steps(run_name(name), series))
    return [curve for curve in curves if curve is not None]


def run_name(name: str) -> str:
    """A model of a loop, `ft_run2` is "FT, run 2", or of a training run, which has the name of its direction."""
    if name in get_args(Direction):
        return f"The {name} model"
    system, again, number = name.partition("_run")
    return f"{system_name(system)}, run {number}" if again else system_name(system)


def _series(lines: Sequence[JsonMapping], key: str) -> list[tuple[int, float]]:
    return [(line["step"], line[key]) for line in lines if finite(line.get(key))]


def meters(run: Run) -> list[tuple[str, Table]]:
    """What held-out pairs cost with what a model should be told and with another's: a table for each direction."""
    tables = []
    for direction, title in (("forward", "Does it use the action?"), ("inverse", "Does it use the frames?")):
        entries = {n: e for n, e in _learned(run).items() if e["direction"] == direction and e["difference"]["n"]}
        if not entries:
            continue
        told = "action" if direction == "forward" else "pair"
        head = [f"Right {told}", f"Another {told}", "Difference"]
        rows = [
            (
                run_name(name),
                [estimate(entry["right"], "loss"), estimate(entry["shuffled"], "loss"), _difference(entry)],
            )
            for name, entry in entries.items()
        ]
        if direction == "forward":
            head += ["No action", "Changed tokens right", "Frames right", "Copies"]
            for (_, cells), entry in zip(rows, entries.values(), strict=True):
                cells += [
                    estimate(entry["none"], "loss"),
                    *(share(entry[key]) for key in ("changed_right", "exact", "copy_rate")),
                ]
        tables.append((title, Table(head, rows)))
    return tables


def _difference(entry: JsonMapping) -> Cell:
    return estimate(entry["difference"], "difference")


def warnings(run: Run) -> list[Claim]:
    """What the action meter warns of."""
    return [
        Claim("warning", f"{run_name(name)} {entry['warning']}.", f"{entry['pairs']} held-out pairs")
        for name, entry in _learned(run).items()
        if entry.get("warning")
    ]


def not_measured(run: Run) -> list[str]:
    """Parts of the page that the run could have had and has not."""
    parts = {
        "labels of mined pairs": run.annotated(1) or (run.kind == "bootstrap" and not run.get("annotation")),
        "predictions with their images": run.test,
        "the preference probe": run.get("probe"),
        "the time of each stage": run.get("seconds"),
    }
    if run.kind == "demo":
        parts |= {
            "scores": run.systems,
            "how often the inverse model names the action": run.get("idm"),
            "labels by confidence": run.get("annotation", "by_confidence"),
            "best of several candidates": run.ks,
            "recognition weighting": run.get("weighting"),
        }
    return [name for name, value in parts.items() if not value]

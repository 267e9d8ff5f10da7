"""From the run's folders to `results.json` and the report."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence

import numpy as np

from retrodict.bootstrap.context import SECOND, Context, in_round, labelled
from retrodict.bootstrap.expert import MONITOR
from retrodict.bootstrap.measuring import IMPOSSIBLE, read_probe, same_words, scores_and_right
from retrodict.bootstrap.recipe import TINY
from retrodict.bootstrap.runner import MEMORY, read_records
from retrodict.bootstrap.scoring import round_trip, scorer
from retrodict.bootstrap.select import get_strategy
from retrodict.bootstrap.stages import LABELLING, STILL_TEST
from retrodict.dynamics import confidence
from retrodict.dynamics.adaptive import adaptive_values, sampled_until
from retrodict.dynamics.best_of_n import FITS
from retrodict.dynamics.confidence import Confidence, reliability
from retrodict.dynamics.unified import UnifiedModel
from retrodict.evaluation import similarity
from retrodict.evaluation.baselines import Predicted
from retrodict.evaluation.bench import write_recognition
from retrodict.evaluation.exact import exactness
from retrodict.evaluation.pool import ItemResult, Scorer, score_images
from retrodict.evaluation.predict import evaluate
from retrodict.evaluation.predictions import read_predictions
from retrodict.evaluation.summary import compare_runs, estimate, over_runs, summarise
from retrodict.files import JsonObject, write_json
from retrodict.loading import load_family
from retrodict.models.editors import CopyModel
from retrodict.models.token_family import TokenFamily
from retrodict.stats import mean_interval, paired_difference, share_interval
from retrodict.stats import share as share_of
from retrodict.training.config import METER
from retrodict.transitions import MANIFEST, Transition, iter_rows, read_transitions
from retrodict.versions import provenance
from retrodict.worlds import world_of
from retrodict.worlds.base import World

NOTE = "Tiny model with random weights: this run shows that all parts fit together, and its numbers mean nothing."
VERIFIERS = ("idm", "idm_fdm")
SURE = 0.8  # adaptive N stops once a candidate is right with this probability

Items = Mapping[str, Sequence[ItemResult]]
Runs = Mapping[str, Sequence[Sequence[ItemResult]]]  # of each system, each training run


def write_results(context: Context, *, command: str, wall_seconds: float) -> None:
    """Measure what the stages left and write `results.json`, `recognition.json` and `report.html`.

    Where a world owns the test transitions there are exact scores. Else `systems` says only how often each copies, and
    the rest is what `bench` says of a folder of transitions (`evaluation.similarity`).
    """
    from retrodict.report import write_report

    recipe, out = context.recipe, context.out
    test = read_transitions(out / "test")
    world, family = world_of(test), load_family(out / "fdm")  # all models of a run have the same image tokenizer
    runs = {
        system: [read_predictions(out / "predictions" / f"{name}.parquet") for name in context.runs_of(system).values()]
        for system in context.systems
    }
    items = {system: first for system, (first, *_) in runs.items()}
    probe = dict(read_probe(context))
    score = scorer(test, family)
    write_recognition(out, family, test)
    copy = evaluate(CopyModel(), test, scorer=score, n=recipe.bench.n, seed=0)
    names = world.names_action if world else same_words
    verifiers, ks = VERIFIERS if context.verifies else (), recipe.bench.ks
    near = {} if world else _near(context, family, test, items, verifiers)
    loglik = {name: entry["loglik"] for name, entry in probe.items() if "loglik" in entry}
    results = {
        "kind": "bootstrap",
        "systems": {
            "copy": summarise(copy, ks=ks),
            **{name: summarise(rows, verifiers, ks) for name, rows in items.items()},
        },
        **(_checks(family, test, score) if world else near),
        **({"runs": _over_runs(context, runs, verifiers)} if world and recipe.runs > 1 else {}),
        "comparisons": near.get("comparisons", {}) | _comparisons(context, runs, world, verifiers, loglik, test),
        **{name: exactness(probe[name]["explained"], test, names, recipe.seed) for name in context.inverse_models},
        **({"annotation": _annotation(context), "mining": _mining(context)} if recipe.annotates else {}),
        "probe": {name: entry["probe"] for name, entry in probe.items() if "probe" in entry},
        "action_meter": _meters(context),
        "probe_left_out": max(entry.get("left_out", 0) for entry in probe.values()),  # words that no model learnt
        "seconds": {name: record["seconds"] for name, record in read_records(out).items()},
        **json.loads((out / MEMORY).read_text()),
        **provenance(wall_seconds, config=recipe.model_dump(mode="json"), seed=recipe.seed, command=command),
    }
    if "weighted" in recipe.ablations:
        pairs: tuple[tuple[str, str], ...] = (("none", "fdm"), ("softened", "fdm_weighted"))
        if "fdm_weighted_true_labels" in items:
            pairs += (("none, true labels", "fdm_true_labels"), ("softened, true labels", "fdm_weighted_true_labels"))
        pairs = tuple(pair for pair in pairs if pair[1] in items)
        results["weighting"] = {name: estimate(items[key]) for name, key in pairs}
    if recipe.rounds > 1:
        results |= _rounds(context, results)
    if world and recipe.world:
        results["still"] = _still(context)
    if curves := confidence.read(context.dir(context.main)):
        results["confidence"] = {name: _confidence(items[context.main], name, curve) for name, curve in curves.items()}
        for name, rejected in json.loads((context.dir("validation") / IMPOSSIBLE).read_text()).items():
            results["confidence"][name]["impossible"] = share_of(rejected)
    if recipe.expert:
        results["expert"] = json.loads((context.dir("expert") / MONITOR).read_text())
    if loglik:
        results["loglik"] = {name: _loglik(rows, test) for name, rows in loglik.items()}
    if recipe.init == TINY:
        results |= {"family": recipe.family, "note": NOTE}
    write_json(out / "results.json", results)
    write_report(out)


def _checks(family: TokenFamily, test: Sequence[Transition], score: Scorer) -> JsonObject:
    """What the scorer says of the truth, as it is and through the image tokenizer."""
    targets = [t.target_image for t in test]
    return {
        "ground_truth": estimate(score_images(targets, test, score)),
        "tokenizer_round_trip": estimate(score_images(round_trip(family, targets), test, score)),
    }


def _near(
    context: Context, family: TokenFamily, test: Sequence[Transition], items: Items, verifiers: Sequence[str]
) -> JsonObject:
    """How near every system comes to the true frames, beside the baselines that `bench` has and nearest neighbours."""
    model = UnifiedModel(family)  # only for what it shares with the others: the image tokenizer
    predicted = {
        name: Predicted(
            name, model, verifiers, test, rows, best=f"{name}, best by {verifiers[-1]}" if verifiers else ""
        )
        for name, rows in items.items()
    }
    main = predicted.pop(context.main)
    return similarity.measure(
        main,
        context.out,
        others=list(predicted.values()),
        training=labelled(context),
        reader=context.inverse() if context.verifies else None,
        items_file="rows",
    )


def _over_runs(context: Context, runs: Runs, verifiers: Sequence[str]) -> JsonObject:
    """Of every system that was trained several times: greedy, and the best of all candidates by each selector."""
    n, selectors = context.recipe.bench.n, (*verifiers, "random", "oracle")
    return {
        system: {"greedy": over_runs(of), f"k{n}": {name: over_runs(of, name, n) for name in selectors}}
        for system, of in runs.items()
        if len(of) > 1
    }


def _comparisons(
    context: Context,
    runs: Runs,
    world: World | None,
    verifiers: Sequence[str],
    loglik: Mapping[str, Sequence[Sequence[float]]],
    test: Sequence[Transition],
) -> JsonObject:
    """Paired differences, item by item, of what the loop claims."""
    if world is None:
        if "ft" not in loglik:
            return {}
        sums = {name: [row[0] for row in loglik[name]] for name in ("fdm", "ft")}
        likelier = paired_difference(sums["fdm"], sums["ft"], [t.group or t.id for t in test])
        names = "FDM's log-likelihood of the true frame (nats)", "FT's"
        return {"fdm_vs_ft_likelihood": likelier.entry(*names)}

    def greedy(a: str, b: str) -> JsonObject:
        return compare_runs(runs[a], runs[b], names=(f"{a}.greedy", f"{b}.greedy"))

    def verified(selector: str, other: str) -> JsonObject:
        n, main, fdm = context.recipe.bench.n, context.main, runs[context.main]
        names = (f"{main}.k{n}.{selector}", f"{main}.greedy" if other == "greedy" else f"{main}.k1")
        return compare_runs(fdm, fdm, names=names, selectors=(selector, other), ks=(n, 1))

    compared = {"fdm_vs_ft": greedy("fdm", "ft")} if "ft" in runs else {}  # without videos the two would be one
    for name in context.in_rounds("fdm")[1:]:
        compared |= {f"{name}_vs_ft": greedy(name, "ft"), f"{name}_vs_fdm": greedy(name, "fdm")}
    if "fdm_true_labels" in runs:
        compared["fdm_vs_true_labels"] = greedy("fdm", "fdm_true_labels")
    if {"fdm_true_labels", "fdm_weighted_true_labels"} <= runs.keys():
        compared["weighted_vs_true_labels"] = greedy("fdm_weighted_true_labels", "fdm_true_labels")
    if "fdm_expert" in runs:
        n, main = context.recipe.bench.n, context.main
        if json.loads((context.dir("expert") / MONITOR).read_text())["kept"]:  # else the two are one
            compared["expert_vs_fdm"] = greedy("fdm_expert", main)
        names = "fdm_expert.greedy", f"{main}.k{n}.{verifiers[-1]}"
        selectors, ks = ("greedy", verifiers[-1]), (1, n)
        compared["expert_vs_verified"] = compare_runs(
            runs["fdm_expert"], runs[main], names=names, selectors=selectors, ks=ks
        )
    if f"fdm_{SECOND}" in runs:
        n, main = context.recipe.bench.n, context.main
        names = f"fdm_{SECOND}.k{n}.{verifiers[-1]}", f"{main}.k{n}.{verifiers[-1]}"
        selectors, ks = (verifiers[-1], verifiers[-1]), (n, n)
        compared["second_vs_verified"] = compare_runs(
            runs[f"fdm_{SECOND}"], runs[main], names=names, selectors=selectors, ks=ks
        )
    if "fdm_weighted" in runs:
        compared["weighted_vs_fdm"] = greedy("fdm_weighted", "fdm")
    for name in reversed(verifiers):
        compared |= {f"{name}_vs_greedy": verified(name, "greedy"), f"{name}_vs_k1": verified(name, "random")}
    return compared


def _loglik(rows: Sequence[Sequence[float]], test: Sequence[Transition]) -> JsonObject:
    groups = [t.group or t.id for t in test]
    per_token = [total / count if count else math.nan for total, count in rows]
    return {
        "sum": mean_interval([row[0] for row in rows], groups).entry("mean"),
        "per_token": mean_interval(per_token, groups).entry("mean"),
    }


def _meters(context: Context) -> JsonObject:
    """What the action meter said of each model that the run trained."""
    names = [
        *context.inverse_models,
        *(name for system in context.systems for name in context.runs_of(system).values()),
    ]
    files = {name: context.dir(name) / METER for name in names}
    return {name: json.loads(file.read_text()) for name, file in files.items() if file.is_file()}


def _annotation(context: Context, number: int = 1) -> JsonObject:
    """What is known of a round's labels: whether FT has checked them, and how many are right, where a world knows, else
    how many there are."""
    file = context.dir(in_round(LABELLING, number) + ".json")
    known: JsonObject = {"checked": number == 1 and get_strategy(context.recipe.select.strategy).checked}
    if file.is_file():
        return {**known, **json.loads(file.read_text())}
    folders = {"mined": in_round("annotated", number), "selected": in_round("selected", number)}
    return {**known, **{key: sum(1 for _ in iter_rows(context.dir(name), ["id"])) for key, name in folders.items()}}


def _rounds(context: Context, results: JsonObject) -> JsonObject:
    """The rounds side by side, what each did on validation pairs against the best before it, and which is kept."""
    entries = []
    for number in range(1, context.recipe.rounds + 1):
        idm, fdm = in_round("idm", number), in_round("fdm", number)
        entry: JsonObject = {"round": number, "idm": results[idm], "annotation": _annotation(context, number)}
        entry |= {"fdm": results["systems"][fdm], "validation": {}}
        for model, name in (("idm", idm), ("fdm", fdm)):
            measured = json.loads(context.validation(name).read_text())
            values, groups = measured["values"], measured["groups"]
            estimate = mean_interval if measured["measure"].startswith("log") else share_interval
            entry["validation"][model] = {"measure": measured["measure"], **estimate(values, groups).entry("mean")}
            if number > 1:
                before = in_round(model, context.best_round(model, number - 1))
                other = json.loads(context.validation(before).read_text())["values"]
                entry["validation"][model]["against"] = paired_difference(values, other, groups).entry(name, before)
        entries.append(entry)
    kept = {model: in_round(model, context.best_round(model)) for model in ("idm", "fdm")}
    return {"rounds": entries, "kept": kept}


def _still(context: Context) -> JsonObject:
    """How often each system's greedy frame changes something where nothing happens."""
    files = {name: context.dir(STILL_TEST) / f"{name}.json" for name in context.systems}
    return {name: share_of(json.loads(file.read_text())) for name, file in files.items() if file.is_file()}


def _confidence(items: Sequence[ItemResult], verifier: str, curve: Confidence) -> JsonObject:
    """How far calibrated probabilities hold on the test items, what adaptive N makes of them, and what is rejected."""
    scores, right = scores_and_right(items, verifier)
    sure = [curve.probability(score) for score in scores]
    table = np.array([[frame.verifiers.get(verifier, math.nan) for frame in item.pool] for item in items])
    values = np.array([[frame.score for frame in item.pool] for item in items])
    stop_at = curve.score(SURE)
    adaptive, whole = (adaptive_values(table, values, at) for at in (stop_at, math.inf))
    fits = np.array(sure) >= FITS
    parts = {"accepted": fits, "rejected": ~fits}
    return {
        **reliability(sure, right),
        "adaptive": {
            "sure": SURE,
            "candidates": float(sampled_until(table, stop_at).mean()),
            "score": float(np.nanmean(adaptive)),
            "against_all": paired_difference(adaptive, whole, [item.group for item in items]).entry(
                f"stops at {SURE}", "all candidates"
            ),
        },
        "reject": {
            name: share_of([r for r, keep in zip(right, part, strict=True) if keep]) for name, part in parts.items()
        },
    }


def _mining(context: Context) -> JsonObject:
    manifest = json.loads((context.dir("pairs") / MANIFEST).read_text())
    counts = manifest["counts"]
    return {"clips": manifest["clips"]["mined"], "pairs": counts["kept"], "dropped": counts["dropped"]}

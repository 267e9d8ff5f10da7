"""From the run's folders to `results.json` and the report."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence

from retrodict.bootstrap.recipe import TINY
from retrodict.bootstrap.runner import MEMORY, read_records
from retrodict.bootstrap.scoring import round_trip, scorer
from retrodict.bootstrap.stages import LABELLING, Context, labelled, read_probe
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
from retrodict.models.protocol import TokenFamily
from retrodict.stats import mean_interval, paired_difference
from retrodict.training.config import METER
from retrodict.transitions import MANIFEST, Transition, iter_rows, read_transitions
from retrodict.versions import provenance
from retrodict.worlds import world_of
from retrodict.worlds.base import World

NOTE = "Tiny model with random weights: this run shows that all parts fit together, and its numbers mean nothing."
VERIFIERS = ("idm", "idm_fdm")

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
    names = world.names_action if world else _same_words
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
        pairs = (("none", "fdm"), ("softened", "fdm_weighted"))
        results["weighting"] = {name: estimate(items[key]) for name, key in pairs}
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
    main = predicted.pop("fdm")
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
        n, fdm = context.recipe.bench.n, runs["fdm"]
        names = (f"fdm.k{n}.{selector}", "fdm.greedy" if other == "greedy" else "fdm.k1")
        return compare_runs(fdm, fdm, names=names, selectors=(selector, other), ks=(n, 1))

    compared = {"fdm_vs_ft": greedy("fdm", "ft")} if "ft" in runs else {}  # without videos the two would be one
    if "fdm_true_labels" in runs:
        compared["fdm_vs_true_labels"] = greedy("fdm", "fdm_true_labels")
    if "fdm_weighted" in runs:
        compared["weighted_vs_fdm"] = greedy("fdm_weighted", "fdm")
    for name in reversed(verifiers):
        compared |= {f"{name}_vs_greedy": verified(name, "greedy"), f"{name}_vs_k1": verified(name, "random")}
    return compared | {"random_vs_k1": verified("random", "random")}


def _same_words(text: str, row: Transition) -> bool:
    return text.casefold().split() == row.action.casefold().split()


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


def _annotation(context: Context) -> JsonObject:
    """What is known of the labels: how many are right, where a world knows, else how many there are."""
    if context.dir(LABELLING).is_file():
        checked: JsonObject = json.loads(context.dir(LABELLING).read_text())
        return checked
    folders = {"mined": "annotated", "selected": "selected"}
    return {key: sum(1 for _ in iter_rows(context.dir(name), ["id"])) for key, name in folders.items()}


def _mining(context: Context) -> JsonObject:
    manifest = json.loads((context.dir("pairs") / MANIFEST).read_text())
    counts = manifest["counts"]
    return {"clips": manifest["clips"]["mined"], "pairs": counts["kept"], "dropped": counts["dropped"]}

"""From the run's folders to `results.json` and the report."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from PIL import Image

from retrodict.bootstrap.recipe import TINY
from retrodict.bootstrap.runner import MEMORY, read_records
from retrodict.bootstrap.scoring import round_trip, scorer
from retrodict.bootstrap.stages import LABELLING, Context, read_probe
from retrodict.evaluation.bench import write_recognition
from retrodict.evaluation.exact import exactness
from retrodict.evaluation.metrics import L1_PROTOCOL, l1
from retrodict.evaluation.pool import ItemResult, Scored, Scorer, chosen, score_images
from retrodict.evaluation.predict import evaluate
from retrodict.evaluation.predictions import read_predictions
from retrodict.evaluation.summary import compare_runs, estimate, over_runs, summarise
from retrodict.files import JsonObject, write_json
from retrodict.loading import load_family
from retrodict.models.editors import CopyModel
from retrodict.models.protocol import TokenFamily
from retrodict.stats import mean_interval, paired_difference
from retrodict.transitions import MANIFEST, Transition, decode_image, iter_rows, read_transitions
from retrodict.versions import provenance
from retrodict.worlds import world_of
from retrodict.worlds.base import World

NOTE = "Tiny model with random weights: this run shows that all parts fit together, and its numbers mean nothing."
VERIFIERS = ("idm", "idm_fdm")

Items = Mapping[str, Sequence[ItemResult]]
Runs = Mapping[str, Sequence[Sequence[ItemResult]]]  # of each system, each training run
Shown = Callable[[int], Image.Image | None]


def write_results(context: Context, *, command: str, wall_seconds: float) -> None:
    """Measure what the stages left and write `results.json`, `recognition.json` and `report.html`.

    Where a world owns the test transitions there are exact scores. Else `systems` says only how often each copies, and
    `all` and `subsets` how far frames are from the true one (L1; copying does well where little changes).
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
    loglik = {name: entry["loglik"] for name, entry in probe.items() if "loglik" in entry}
    results = {
        "kind": "bootstrap",
        "systems": {
            "copy": summarise(copy, ks=ks),
            **{name: summarise(rows, verifiers, ks) for name, rows in items.items()},
        },
        **(_checks(family, test, score) if world else _closeness(family, test, items, verifiers)),
        **({"runs": _over_runs(context, runs, verifiers)} if world and recipe.runs > 1 else {}),
        "comparisons": _comparisons(context, runs, world, verifiers, loglik, test),
        **{name: exactness(probe[name]["explained"], test, names, recipe.seed) for name in context.inverse_models},
        "annotation": _annotation(context),
        "mining": _mining(context),
        "probe": {name: entry["probe"] for name, entry in probe.items() if "probe" in entry},
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


def _closeness(family: TokenFamily, test: Sequence[Transition], items: Items, verifiers: Sequence[str]) -> JsonObject:
    """L1 to the true frame, per class and over all, of every system, of copying, and of the tokenizer alone."""
    shown: dict[str, Shown] = {
        "copy": lambda i: test[i].source_image,
        "round_trip_target": lambda i: round_trip(family, [test[i].target_image])[0],
    }
    for name, rows in items.items():
        shown[name] = partial(_greedy_image, rows)
        if verifiers:
            shown[f"{name}, best by {verifiers[-1]}"] = partial(_best_image, rows, verifiers[-1])
    distances = {name: _distances(test, frame) for name, frame in shown.items()}
    classes: dict[str, list[int]] = defaultdict(list)
    for i, transition in enumerate(test):
        classes[transition.category].append(i)

    def table(rows: Sequence[int]) -> JsonObject:
        groups = [test[i].group or test[i].id for i in rows]
        return {name: mean_interval([d[i] for i in rows], groups).entry("l1") for name, d in distances.items()}

    subsets = {name or "no class": table(rows) for name, rows in sorted(classes.items())}
    return {"protocol": L1_PROTOCOL, "all": table(range(len(test))), "subsets": subsets}


def _distances(test: Sequence[Transition], shown: Shown) -> list[float]:
    frames = ((shown(i), transition) for i, transition in enumerate(test))
    return [math.nan if frame is None else l1(frame, transition.target_image) for frame, transition in frames]


def _greedy_image(items: Sequence[ItemResult], i: int) -> Image.Image | None:
    return _decoded(items[i].greedy)


def _best_image(items: Sequence[ItemResult], verifier: str, i: int) -> Image.Image | None:
    best = chosen(items[i], verifier)
    return None if best is None else _decoded(items[i].pool[best])


def _decoded(frame: Scored) -> Image.Image | None:
    return decode_image(frame.image, "prediction") if frame.image else None


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

    compared = {"fdm_vs_ft": greedy("fdm", "ft")}
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

"""From the demo's folders to `results.json` and the report."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from retrodict.bootstrap.demo_context import Context, Scale
from retrodict.bootstrap.demo_families import NOTE
from retrodict.bootstrap.demo_stages import FORWARD, LABELLING, read_probe
from retrodict.bootstrap.stages import MEMORY, read_records
from retrodict.evaluation.bench import (
    ItemResult,
    compare,
    estimate,
    evaluate,
    read_predictions,
    score_images,
    summarise,
)
from retrodict.evaluation.exact import exactness
from retrodict.evaluation.pool import exact_scorer
from retrodict.files import write_json
from retrodict.loading import load_family
from retrodict.models.editors import CopyModel
from retrodict.models.protocol import TokenFamily
from retrodict.training.config import Weighting
from retrodict.training.weighting import loss_weights
from retrodict.transitions import MANIFEST, Transition, read_transitions
from retrodict.versions import versions
from retrodict.worlds import get_world

VERIFIERS = ("idm", "idm_fdm")
HEATMAPS = 4


def write_results(context: Context, *, scale: Scale, command: str, wall_seconds: float) -> None:
    """Measure what the stages left and write `results.json`, `recognition.json` and `report.html`."""
    from retrodict.report import write_report

    out = context.out
    test = read_transitions(out / "test")
    world = get_world("tabletop")
    scorer = exact_scorer(world)
    items = {name: read_predictions(out / "predictions" / f"{name}.parquet") for name in FORWARD}
    family = load_family(out / "fdm")  # all models of a demo have the same image tokenizer
    _write_recognition(context, family, test)
    probe = read_probe(out)
    copy = evaluate(CopyModel(), test, scorer=scorer, n=context.settings.candidates, seed=0)
    results = {
        "kind": "demo",
        "systems": {"copy": summarise(copy), **{name: summarise(found, VERIFIERS) for name, found in items.items()}},
        "ground_truth": estimate(score_images([t.target_image for t in test], test, scorer)),
        "tokenizer_round_trip": estimate(score_images(_round_trip(family, test), test, scorer)),
        "comparisons": _comparisons(items, context.settings.candidates),
        "idm": exactness(probe["explained"]["idm"], test, world, context.seed),
        "idm_plain": exactness(probe["explained"]["idm_plain"], test, world, context.seed),
        "annotation": json.loads((out / LABELLING).read_text()),
        "mining": _mining(context),
        "weighting": {name: estimate(items[key]) for name, key in (("none", "fdm"), ("softened", "fdm_weighted"))},
        "probe": probe["probe"],
        "seconds": {name: record["seconds"] for name, record in read_records(out).items()},
        "wall_seconds": round(wall_seconds, 1),
        **json.loads((out / MEMORY).read_text()),
        "versions": versions(),
        "config": {"scale": scale, "seed": context.seed, **asdict(context.settings), "verifiers": list(VERIFIERS)},
        "scale": scale,
        "seed": context.seed,
        "command": command,
        **({} if context.family is None else {"family": context.family, "note": NOTE}),
    }
    write_json(out / "results.json", results)
    write_report(out)


def _round_trip(family: TokenFamily, test: Sequence[Transition]) -> list[Any]:
    return family.decode(family.encode([t.target_image for t in test]).codes_NL)


def _comparisons(items: dict[str, list[ItemResult]], n: int) -> dict[str, Any]:
    """Paired differences, item by item, of what the loop claims."""

    def greedy(a: str, b: str) -> Any:
        return compare(items[a], items[b], names=(f"{a}.greedy", f"{b}.greedy"))

    def verified(a: str, b: str, ka: int, kb: int) -> Any:
        names = (f"fdm.k{ka}.{a}", "fdm.greedy" if b == "greedy" else f"fdm.k{kb}")
        return compare(items["fdm"], items["fdm"], names=names, selectors=(a, b), ks=(ka, kb))

    return {
        "fdm_vs_ft": greedy("fdm", "ft"),
        "fdm_vs_true_labels": greedy("fdm", "fdm_true_labels"),
        "weighted_vs_fdm": greedy("fdm_weighted", "fdm"),
        "idm_fdm_vs_greedy": verified("idm_fdm", "greedy", n, 1),
        "idm_fdm_vs_k1": verified("idm_fdm", "random", n, 1),
        "idm_vs_greedy": verified("idm", "greedy", n, 1),
        "idm_vs_k1": verified("idm", "random", n, 1),
        "random_vs_k1": verified("random", "random", n, 1),
    }


def _mining(context: Context) -> dict[str, Any]:
    manifest = json.loads((context.dir("pairs") / MANIFEST).read_text())
    counts = manifest["counts"]
    return {"clips": context.settings.videos, "pairs": counts["kept"], "dropped": counts["dropped"]}


def _write_recognition(context: Context, family: TokenFamily, test: Sequence[Transition]) -> None:
    """Recognition weights of a few test pairs, chosen by hash, for the report's heatmap."""
    shown = sorted(test, key=lambda t: hashlib.sha256(t.id.encode()).digest())[:HEATMAPS]
    source = family.encode([t.source_image for t in shown]).features_NLD
    target = family.encode([t.target_image for t in shown]).features_NLD
    weights_NL = loss_weights(np.square(source - target).sum(-1), Weighting(method="recognition"))
    grid = list(family.spec.grid)
    found = [{"id": t.id, "grid": grid, "weights": row.tolist()} for t, row in zip(shown, weights_NL, strict=True)]
    write_json(context.out / "recognition.json", found)

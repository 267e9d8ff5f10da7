"""From the folders of `retrodict bootstrap` to `results.json` and the report."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from retrodict.bootstrap.judging import Judge, judge
from retrodict.bootstrap.pipeline_stages import SYSTEMS, Context, read_probe
from retrodict.bootstrap.stages import MEMORY, read_records
from retrodict.evaluation.metrics import L1_PROTOCOL, l1
from retrodict.evaluation.pool import ItemResult, Scored, chosen, score_images
from retrodict.evaluation.predictions import read_predictions
from retrodict.evaluation.summary import compare, estimate, summarise
from retrodict.files import write_json
from retrodict.models.small.image_tokenizer import ImageTokenizer
from retrodict.stats import mean_interval, paired_difference, share
from retrodict.transitions import MANIFEST, Transition, decode_image, iter_rows, read_transitions
from retrodict.versions import versions

VERIFIERS = ("idm", "idm_fdm")

Picture = Callable[[int], Image.Image | None]


def write_results(context: Context, *, command: str, wall_seconds: float) -> None:
    """Measure what the stages left and write `results.json` and `report.html`.

    With an exact state there are scores, as the demo has them. Without, `systems` says only how often each copies, and
    `all` and `subsets` how far frames are from the true one (L1; copying does well where little changes).
    """
    from retrodict.report import write_report

    test = read_transitions(context.dir("test"))
    judged = judge(test, context.dir("image_tokenizer"))
    items = {name: read_predictions(context.dir("predictions") / f"{name}.parquet") for name in SYSTEMS}
    found = read_probe(context)
    write_json(
        context.out / "results.json",
        {
            "kind": "bootstrap",
            "systems": _systems(context, test, judged, items),
            **(_checks(context, test, judged) if judged.exact else _closeness(context, test, items)),
            "comparisons": _comparisons(context, items, judged, found["loglik"], test),
            "idm": _named(found["explained"], test, judged),
            "loglik": {name: _loglik(rows, test) for name, rows in found["loglik"].items()},
            "mining": _mining(context),
            "annotation": {"mined": _count(context, "annotated"), "selected": _count(context, "selected")},
            "probe": found["probe"],
            "probe_left_out": found["left_out"],  # held-out actions with words that no labelled pair taught
            "seconds": {name: record["seconds"] for name, record in read_records(context.out).items()},
            "wall_seconds": round(wall_seconds, 1),
            **json.loads((context.out / MEMORY).read_text()),
            "versions": versions(),
            "config": context.recipe.model_dump(mode="json"),
            "seed": context.recipe.seed,
            "command": command,
        },
    )
    write_report(context.out)


def _systems(
    context: Context, test: Sequence[Transition], judged: Judge, items: Mapping[str, Sequence[ItemResult]]
) -> dict[str, Any]:
    copied = score_images([t.source_image for t in test], test, judged.scorer)
    ks = context.recipe.bench.ks
    return {"copy": summarise(copied), **{name: summarise(rows, VERIFIERS, ks) for name, rows in items.items()}}


def _checks(context: Context, test: Sequence[Transition], judged: Judge) -> dict[str, Any]:
    """What the scorer says of the truth, as it is and through the image tokenizer."""
    targets = [t.target_image for t in test]
    tokenizer = ImageTokenizer.load(context.dir("image_tokenizer"))
    decoded = tokenizer.decode(tokenizer.encode(targets).codes_NL)
    return {
        "ground_truth": estimate(score_images(targets, test, judged.scorer)),
        "tokenizer_round_trip": estimate(score_images(decoded, test, judged.scorer)),
    }


def _closeness(
    context: Context, test: Sequence[Transition], items: Mapping[str, Sequence[ItemResult]]
) -> dict[str, Any]:
    """L1 to the true frame, per class and over all, of every system, of copying, and of the tokenizer alone."""
    tokenizer = ImageTokenizer.load(context.dir("image_tokenizer"))
    pictures: dict[str, Picture] = {
        "copy": lambda i: test[i].source_image,
        "round_trip_target": lambda i: tokenizer.decode(tokenizer.encode([test[i].target_image]).codes_NL)[0],
    }
    for name, rows in items.items():
        pictures[name] = lambda i, rows=rows: _decoded(rows[i].greedy)  # type: ignore[misc]
        pictures[f"{name}, best by {VERIFIERS[-1]}"] = lambda i, rows=rows: _decoded(_best(rows[i]))  # type: ignore[misc]
    distances = {name: _distances(test, picture) for name, picture in pictures.items()}
    classes: dict[str, list[int]] = defaultdict(list)
    for i, transition in enumerate(test):
        classes[transition.category].append(i)

    def table(rows: Sequence[int]) -> dict[str, Any]:
        groups = [test[i].group or test[i].id for i in rows]
        return {name: _estimate("l1", [values[i] for i in rows], groups) for name, values in distances.items()}

    subsets = {name or "no class": table(rows) for name, rows in sorted(classes.items())}
    return {"protocol": L1_PROTOCOL, "all": table(range(len(test))), "subsets": subsets}


def _distances(test: Sequence[Transition], picture: Picture) -> list[float]:
    found = []
    for i, transition in enumerate(test):
        predicted = picture(i)
        found.append(math.nan if predicted is None else l1(predicted, transition.target_image))
    return found


def _best(item: ItemResult) -> Scored:
    best = chosen(item, VERIFIERS[-1])
    return Scored() if best is None else item.pool[best]


def _decoded(frame: Scored) -> Image.Image | None:
    return decode_image(frame.image, "prediction") if frame.image else None


def _comparisons(
    context: Context,
    items: Mapping[str, Sequence[ItemResult]],
    judged: Judge,
    logliks: Mapping[str, Sequence[Sequence[float]]],
    test: Sequence[Transition],
) -> dict[str, Any]:
    """Paired differences: what the annotated pairs brought, and, with an exact state, what verification brings."""
    sums = {name: [row[0] for row in logliks[name]] for name in SYSTEMS}
    likelier = paired_difference(sums["fdm"], sums["ft"], [t.group or t.id for t in test])
    found: dict[str, Any] = {
        "fdm_vs_ft_likelihood": {
            "a": "FDM's log-likelihood of the true frame (nats)",
            "b": "FT's",
            "difference": likelier.difference,
            "ci95": [likelier.low, likelier.high],
            "n": likelier.n,
            "n_unscored": likelier.n_unscored,
            "p": likelier.p,
        }
    }
    if judged.exact:
        fdm, n = items["fdm"], context.recipe.sample.n
        found["fdm_vs_ft"] = compare(fdm, items["ft"], names=("fdm.greedy", "ft.greedy"))
        for name in VERIFIERS:
            best = f"fdm.k{n}.{name}"
            found[f"{name}_vs_greedy"] = compare(
                fdm, fdm, names=(best, "fdm.greedy"), selectors=(name, "greedy"), ks=(n, 1)
            )
            found[f"{name}_vs_k1"] = compare(fdm, fdm, names=(best, "fdm.k1"), selectors=(name, "random"), ks=(n, 1))
    return found


def _named(explained: Sequence[str], test: Sequence[Transition], judged: Judge) -> dict[str, Any]:
    """How often the inverse model names the action; the floor is the action of another item of the same class."""
    named = share([judged.says(text, t) for text, t in zip(explained, test, strict=True)])
    floor = []
    for t in test:
        others = [judged.says(o.action, t) for o in test if o.category == t.category and o.id != t.id]
        if others:
            floor.append(float(np.mean(others)))
    return {"exact": named.pop("share"), **named, "floor": float(np.mean(floor)) if floor else math.nan}


def _loglik(rows: Sequence[Sequence[float]], test: Sequence[Transition]) -> dict[str, Any]:
    groups = [t.group or t.id for t in test]
    per_token = [total / count if count else math.nan for total, count in rows]
    return {
        "sum": _estimate("mean", [row[0] for row in rows], groups),
        "per_token": _estimate("mean", per_token, groups),
    }


def _estimate(name: str, values: Sequence[float], groups: Sequence[str]) -> dict[str, Any]:
    found = mean_interval(values, groups)
    return {name: found.mean, "ci95": [found.low, found.high], "n": found.n, "n_unscored": found.n_unscored}


def _mining(context: Context) -> dict[str, Any]:
    manifest = json.loads((context.dir("pairs") / MANIFEST).read_text())
    counts = manifest["counts"]
    return {"clips": manifest["clips"]["mined"], "pairs": counts["kept"], "dropped": counts["dropped"]}


def _count(context: Context, name: str) -> int:
    return sum(1 for _ in iter_rows(context.dir(name), ["id"]))

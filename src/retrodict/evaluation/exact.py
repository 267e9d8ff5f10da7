"""Tables of a benchmark whose exact state is known: the system's scores and those of the baselines."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from retrodict.dynamics.unified import UnifiedModel
from retrodict.evaluation.baselines import COPY, Predicted, other_targets
from retrodict.evaluation.pool import exact_scorer, score_images
from retrodict.evaluation.predict import evaluate
from retrodict.evaluation.predictions import write_items
from retrodict.evaluation.summary import MIN_COPY, compare, estimate, summarise
from retrodict.files import JsonObject, made_once
from retrodict.models.editors import CopyModel
from retrodict.models.protocol import ForwardModel, InverseModel
from retrodict.sampling import Sampling
from retrodict.stats import share, share_interval
from retrodict.training.validation import can_say
from retrodict.transitions import Transition
from retrodict.worlds.base import World

STILL = 100  # impossible actions, after which nothing should change

Names = Callable[[str, Transition], bool]  # whether a sentence says what happened, such as `World.names_action`


def measure(predicted: Predicted, world: World, out: Path) -> JsonObject:
    """Scores of the system and of the baselines, and paired comparisons of its selectors."""
    rows, scorer = predicted.items, exact_scorer(world)
    known = [t for t in rows if t.target is not None]
    strangers = [(t, rows[other]) for t, other in zip(rows, other_targets(rows), strict=True) if other is not None]
    alone = [t for t, _ in strangers]
    systems = {COPY: evaluate(CopyModel(), rows, scorer=scorer, n=0, seed=0), predicted.system: predicted.results}
    measured: JsonObject = {
        "systems": {
            name: summarise(results, predicted.verifiers if name == predicted.system else ())
            for name, results in systems.items()
        },
        "ground_truth": estimate(score_images([t.target_image for t in known], known, scorer)),
        "random_target": estimate(score_images([other.target_image for _, other in strangers], alone, scorer)),
        "comparisons": _comparisons(predicted),
    }
    if isinstance(forward := predicted.forward, UnifiedModel):
        still = world.sample_still(min(STILL, len(rows)), 0, namespace="still-bench")
        changed = made_once(out / "still.json", lambda: false_changes(forward, world, still))
        measured["still"] = {predicted.system: share(changed)}
    for name, results in systems.items():
        write_items(out / "items" / f"{name}.jsonl", results)
    if isinstance(predicted.forward, UnifiedModel):
        for key, part, images in (
            ("tokenizer_round_trip", known, [t.target_image for t in known]),
            ("tokenizer_round_trip_source", rows, [t.source_image for t in rows]),
        ):
            decoded = predicted.forward.family.decode(predicted.forward.codes(images))
            measured[key] = estimate(score_images(decoded, part, scorer))
    return measured


def false_changes(model: ForwardModel, world: World, still: Sequence[Transition]) -> list[float]:
    """Of each pair in which nothing happens, whether the model's greedy frame shows something else than its source; NaN
    where the model cannot express the action."""
    family = model.family if isinstance(model, UnifiedModel) else None
    said = [row for row in still if family is None or can_say(family, row.action)]
    sources, actions = [row.source_image for row in said], [row.action for row in said]
    frames = model.sample(sources, actions, 1, 0, Sampling().greedy) if said else []
    changed = {row.id: float(not world.is_copy(f.image, row)) for (f,), row in zip(frames, said, strict=True)}
    return [changed.get(row.id, math.nan) for row in still]


def explained(
    inverse: InverseModel, transitions: Sequence[Transition], world: World, seed: int, out: Path
) -> JsonObject:
    """How well the inverse model that verifies reads actions off true pairs; `out/explained.json` keeps its words."""
    known = [t for t in transitions if t.target is not None]

    def explain() -> list[str]:
        explanations = inverse.explain([(t.source_image, t.target_image) for t in known])
        return [explanation.action for explanation in explanations]

    return exactness(made_once(out / "explained.json", explain), known, world.names_action, seed)


def exactness(explained: Sequence[str], test: Sequence[Transition], names: Names, seed: int) -> JsonObject:
    """How often the exact action is named; the floor is naming the action of another scene of the suite.

    The floor is NaN where no suite has a second scene.
    """
    named = share_interval([float(names(text, t)) for text, t in zip(explained, test, strict=True)])
    rng = np.random.default_rng(seed)
    floor = []
    for t in test:
        others = [o.action for o in test if o.category == t.category and o.id != t.id]
        if others:
            floor.append(float(names(others[rng.integers(len(others))], t)))
    mean = float(np.mean(floor)) if floor else math.nan
    return {"exact": named.mean, "ci95": named.ci95, "n": named.n, "floor": mean}


def _comparisons(predicted: Predicted) -> JsonObject:
    """The default selector's best-of-n against greedy, against one sample, and against picking what moved most."""
    system, results, verifiers = predicted.system, predicted.results, predicted.verifiers
    size = min(len(item.pool) for item in results)
    if not verifiers or size < 2:
        return {}
    best = verifiers[-1]
    name = f"{system}.k{size}.{best}"
    others = {
        "verified_vs_greedy": (f"{system}.greedy", "greedy", 1),
        "verified_vs_k1": (f"{system}.k1", "random", 1),
        **({"verified_vs_min_copy": (f"{system}.k{size}.{MIN_COPY}", MIN_COPY, size)} if MIN_COPY in verifiers else {}),
    }
    return {
        key: compare(results, results, names=(name, other), selectors=(best, selector), ks=(size, k))
        for key, (other, selector, k) in others.items()
    }

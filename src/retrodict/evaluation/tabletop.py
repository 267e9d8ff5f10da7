"""The tabletop benchmark's tables: exact scores of the system beside those of pictures whose worth is known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from retrodict.dynamics.unified import UnifiedModel
from retrodict.evaluation.baselines import other_targets
from retrodict.evaluation.pool import ItemResult, evaluate, score_images, tabletop_scorer
from retrodict.evaluation.predictions import write_items
from retrodict.evaluation.resume import made_once
from retrodict.evaluation.summary import MIN_COPY, compare, estimate, summarise
from retrodict.models.editors import CopyModel
from retrodict.models.protocol import ForwardModel, InverseModel
from retrodict.transitions import Transition


def measure(
    system: str,
    forward: ForwardModel | None,
    verifiers: Sequence[str],
    transitions: Sequence[Transition],
    results: Sequence[ItemResult],
    out: Path,
) -> dict[str, Any]:
    """Scores of the system and of the known pictures, and paired comparisons of its selectors."""
    copy = evaluate(CopyModel(), transitions, scorer=tabletop_scorer, n=0, seed=0)
    truth = score_images([t.target_image for t in transitions], transitions, tabletop_scorer)
    strangers = [(t, other) for t, other in zip(transitions, other_targets(transitions), strict=True)]
    known = [(t, transitions[other].target_image) for t, other in strangers if other is not None]
    rows = {"copy": copy, system: results}
    measured: dict[str, Any] = {
        "systems": {name: summarise(found, verifiers if name == system else ()) for name, found in rows.items()},
        "ground_truth": estimate(truth),
        "random_target": estimate(score_images([p for _, p in known], [t for t, _ in known], tabletop_scorer)),
        "comparisons": _comparisons(system, results, verifiers),
    }
    for name, found in rows.items():
        write_items(out / "items" / f"{name}.jsonl", found)
    if isinstance(forward, UnifiedModel):
        for key, pictures in (
            ("tokenizer_round_trip", [t.target_image for t in transitions]),
            ("tokenizer_round_trip_source", [t.source_image for t in transitions]),
        ):
            decoded = forward.family.decode(forward.codes(pictures))
            measured[key] = estimate(score_images(decoded, transitions, tabletop_scorer))
    return measured


def explained(inverse: InverseModel, transitions: Sequence[Transition], seed: int, out: Path) -> dict[str, Any]:
    """How well the inverse model that verifies reads actions off true pairs; `out/explained.json` keeps its words."""
    from retrodict.evaluation.exactness import exactness

    def explain() -> list[str]:
        return [found.action for found in inverse.explain([(t.source_image, t.target_image) for t in transitions])]

    return exactness(made_once(out / "explained.json", explain), transitions, seed)


def _comparisons(system: str, results: Sequence[ItemResult], verifiers: Sequence[str]) -> dict[str, Any]:
    """The default selector's best-of-n against greedy, against one sample, and against picking what moved most."""
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

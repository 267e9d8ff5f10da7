"""`retrodict bench`: predictions for every item of a benchmark, scored, with all numbers in `results.json`.

The parts, for code that runs its own loop: `evaluate` makes and scores predictions, `write_predictions` and
`write_items` store them, `summarise` and `compare` turn them into estimates with intervals.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from retrodict.dynamics.unified import UnifiedModel
from retrodict.dynamics.verify import InverseAndForwardLikelihood, InverseLikelihood, Verifier
from retrodict.evaluation.pool import (
    ItemResult,
    Scored,
    Scorer,
    evaluate,
    item_result,
    score_frame,
    score_images,
    tabletop_scorer,
)
from retrodict.evaluation.predictions import read_predictions, write_items, write_predictions
from retrodict.evaluation.summary import compare, estimate, item_values, summarise
from retrodict.models.editors import CopyModel
from retrodict.models.protocol import ForwardModel
from retrodict.progress import Progress
from retrodict.transitions import Transition, write_json, write_rows

__all__ = [
    "ItemResult",
    "Scored",
    "Scorer",
    "compare",
    "estimate",
    "evaluate",
    "item_values",
    "read_predictions",
    "run_bench",
    "score_images",
    "summarise",
    "tabletop_scorer",
    "write_items",
    "write_predictions",
]

BENCHES = ("tabletop", "aurora")
VERIFIERS = ("idm", "idm_fdm", "random", "none")
PICTURES = (".png", ".jpg", ".jpeg", ".webp")


def run_bench(
    bench: str,
    *,
    out: Path,
    data: Path | None = None,
    model: str = "small",
    predictions: Path | None = None,
    n: int = 8,
    verifier: str = "idm_fdm",
    seed: int = 0,
    items: int = 300,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure `model` (a name for `retrodict.load`, or "copy") on a benchmark and return what `results.json` holds.

    `predictions` names a folder of pictures called `<item id>.png` (or .jpg, .webp) that are scored in place of a
    model's. `items` is the number of tabletop items, sampled in the namespace "bench". "aurora" reads `data`. Writes
    `results.json`, `items/`, `predictions/`, `test/` (tabletop's items) and `report.html` to `out`. Raises
    `ValueError` for unknown names and missing data.
    """
    if bench not in BENCHES:
        raise ValueError(f'No benchmark "{bench}": use one of {", ".join(BENCHES)}.')
    if verifier not in VERIFIERS:
        raise ValueError(f'No verifier "{verifier}": use one of {", ".join(VERIFIERS)}.')
    if bench == "aurora" and data is None:
        raise ValueError("The benchmark aurora needs --data: the folder that holds test.json or manifest.json.")
    began = time.monotonic()
    transitions = _transitions(bench, data, items, seed)
    system, forward, verifiers = _system(model, verifier, predictions)
    drawn = 0 if verifier == "none" or forward is None else n
    out = Path(out)
    if bench == "tabletop":  # real benchmarks have owners: their pictures are not copied around
        write_rows(out / "test" / "test.parquet", transitions)
    scorer = tabletop_scorer if bench == "tabletop" else _no_state
    if progress is not None:
        progress.stage("predict", f"{len(transitions)} items, {1 + drawn} frames each, by {system}")
    if forward is None:
        assert predictions is not None
        results = _from_folder(predictions, transitions, scorer)
    elif bench == "aurora" and system == "copy":
        results = [item_result(t, Scored()) for t in transitions]
    else:
        results = evaluate(
            forward, transitions, scorer=scorer, verifiers=verifiers, n=drawn, seed=seed, progress=progress
        )
    if progress is not None:
        progress.done(f"{len(results)} items")
    if bench == "tabletop" or system != "copy":
        write_predictions(out / "predictions" / f"{system}.parquet", results)
    if bench == "tabletop":
        measured = _tabletop(system, forward, verifiers, transitions, results, out)
        if verifiers:
            measured["idm"] = _explained(model, transitions, seed)
    else:
        from retrodict.evaluation.aurora import measure

        measured = measure(system, forward, verifiers, transitions, results, out)
    return _finish(
        out,
        {"system": system, **measured},
        bench,
        began,
        seed,
        model=model,
        verifier=verifier,
        n=drawn,
        items=len(transitions),
    )


def _transitions(bench: str, data: Path | None, items: int, seed: int) -> list[Transition]:
    if bench == "aurora":
        from retrodict.data.aurora import read_aurora

        assert data is not None
        return read_aurora(data)
    from retrodict.worlds import tabletop

    return [example.transition("test") for example in tabletop.sample(items, seed, namespace="bench")]


def _system(model: str, verifier: str, predictions: Path | None) -> tuple[str, ForwardModel | None, list[Verifier]]:
    """The row's name, the model behind it (None for given pictures), and the verifiers, the default one last."""
    if predictions is not None:
        return Path(predictions).resolve().name or "predictions", None, []
    if model == "copy":
        return "copy", CopyModel(), []
    from retrodict.models.load import load

    forward = load(model, role="forward")
    found: list[Verifier] = []
    if verifier in ("idm", "idm_fdm"):
        inverse = load(model, role="inverse")
        found.append(InverseLikelihood(inverse))
        if verifier == "idm_fdm":
            found.append(InverseAndForwardLikelihood(inverse))
    return Path(model).name or model, forward, found


def _from_folder(folder: Path, transitions: Sequence[Transition], scorer: Scorer) -> list[ItemResult]:
    if not Path(folder).is_dir():
        raise ValueError(f"{folder} is no folder of predictions.")
    pictures = {path.stem: path for path in sorted(Path(folder).iterdir()) if path.suffix.lower() in PICTURES}
    if not any(t.id in pictures for t in transitions):
        raise ValueError(f"{folder} holds no picture named after an item, such as {transitions[0].id}.png.")
    results = []
    for transition in transitions:
        frame = Scored(reason="no picture of this name")
        if path := pictures.get(transition.id):
            try:
                frame = score_frame(Image.open(path).convert("RGB"), transition, scorer)
            except OSError as error:
                frame = Scored(reason=f"unreadable picture: {error}")
        results.append(item_result(transition, frame))
    return results


def _no_state(image: Image.Image, transition: Transition) -> Scored:
    return Scored(reason="no exact state")


def _tabletop(
    system: str,
    forward: ForwardModel | None,
    verifiers: Sequence[Verifier],
    transitions: Sequence[Transition],
    results: Sequence[ItemResult],
    out: Path,
) -> dict[str, Any]:
    copy = evaluate(CopyModel(), transitions, scorer=tabletop_scorer, n=0, seed=0)
    truth = score_images([t.target_image for t in transitions], transitions, tabletop_scorer)
    rows = {"copy": copy, system: results}
    names = [v.name for v in verifiers]
    measured: dict[str, Any] = {
        "systems": {name: summarise(found, names if name == system else ()) for name, found in rows.items()},
        "ground_truth": estimate(truth),
        "comparisons": _comparisons(system, results, names),
    }
    for name, found in rows.items():
        write_items(out / "items" / f"{name}.jsonl", found)
    if isinstance(forward, UnifiedModel):
        decoded = forward.family.decode(forward.codes([t.target_image for t in transitions]))
        measured["tokenizer_round_trip"] = estimate(score_images(decoded, transitions, tabletop_scorer))
    return measured


def _explained(model: str, transitions: Sequence[Transition], seed: int) -> dict[str, Any]:
    """How well the inverse model that verifies reads actions off true pairs."""
    from retrodict.evaluation.exactness import exactness
    from retrodict.models.load import load

    found = load(model, role="inverse").explain([(t.source_image, t.target_image) for t in transitions])
    return exactness([explanation.action for explanation in found], transitions, seed)


def _comparisons(system: str, results: Sequence[ItemResult], verifiers: Sequence[str]) -> dict[str, Any]:
    """The default selector's best-of-n against greedy and against one sample."""
    size = min(len(item.pool) for item in results)
    if not verifiers or size < 2:
        return {}
    best = verifiers[-1]
    name = f"{system}.k{size}.{best}"
    return {
        "verified_vs_greedy": compare(
            results, results, names=(name, f"{system}.greedy"), selectors=(best, "greedy"), ks=(size, 1)
        ),
        "verified_vs_k1": compare(
            results, results, names=(name, f"{system}.k1"), selectors=(best, "random"), ks=(size, 1)
        ),
    }


def _finish(out: Path, measured: dict[str, Any], bench: str, began: float, seed: int, **config: Any) -> dict[str, Any]:
    from retrodict.versions import versions

    results = {
        "kind": "bench",
        "bench": bench,
        **measured,
        "seed": seed,
        "config": config,
        "wall_seconds": round(time.monotonic() - began, 1),
        "versions": versions(),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }
    write_json(out / "results.json", results)
    from retrodict.evaluation.report import write_report

    write_report(out)
    return results

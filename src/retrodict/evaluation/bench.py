"""`retrodict bench`: predictions for every item of a benchmark, scored, with all numbers in `results.json`.

The parts, for code that runs its own loop: `evaluate` makes and scores predictions, `write_predictions` and
`write_items` store them, `summarise` and `compare` turn them into estimates with intervals.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from PIL import Image

from retrodict.dynamics.unified import UnifiedModel
from retrodict.dynamics.verifiers import NONE, VERIFIERS, Parts, check_verifier
from retrodict.dynamics.verify import InverseLikelihood, ScoredBy, Verifier
from retrodict.evaluation.bertscore import ENGLISH, BertScore
from retrodict.evaluation.features import Embedder
from retrodict.evaluation.metrics import L1_PROTOCOL, L1_PROTOCOLS, l1
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
from retrodict.evaluation.recognition import write_recognition
from retrodict.evaluation.resume import parts_of
from retrodict.evaluation.summary import MIN_COPY, compare, estimate, item_values, summarise
from retrodict.files import write_json
from retrodict.models.editors import CopyModel
from retrodict.models.protocol import ForwardModel, InverseModel
from retrodict.progress import Progress
from retrodict.run_folder import Input, claim
from retrodict.sampling import Sampling
from retrodict.transitions import Transition, write_rows
from retrodict.versions import versions

__all__ = [
    "ItemResult",
    "Scored",
    "Scorer",
    "bench_items",
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
PICTURES = (".png", ".jpg", ".jpeg", ".webp")


def run_bench(
    bench: str,
    *,
    out: Path,
    data: Path | None = None,
    model: str = "small",
    inverse: str = "",
    predictions: Path | None = None,
    n: int = 8,
    verifier: str = "idm_fdm",
    sampling: Sampling = Sampling(),
    seed: int = 0,
    items: int = 300,
    subsets: Sequence[str] = (),
    limit: int | None = None,
    protocol: str = L1_PROTOCOL,
    metrics: Sequence[str] = (),
    captions: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure `model` (a name for `retrodict.load`, or "copy") on a benchmark and return what `results.json` holds.

    `sampling` shapes the candidates; its guidance holds for the greedy frame, too.

    `predictions` names a folder of pictures called `<item id>.png` (or .jpg, .webp) that are scored in place of a
    model's. `inverse` names the model that verifies and explains, by default `model`. `items` is the number of
    tabletop items, sampled in the namespace "bench". "aurora" reads `data`: its `subsets`, the first `limit` items of
    each, with the L1 `protocol`, the `metrics` that need a model ("clip", "dino" and, for written actions, "bertscore";
    or "clip=FOLDER") and `captions`, a JSON file of item id and what the target shows. Writes `results.json`, `items/`,
    `predictions/`, `test/` (tabletop's items) and `report.html` to `out`. The same call again goes on: finished batches
    of predictions are kept; `protocol`, `metrics` and `captions` may change, as they only measure. Raises `ValueError`
    for unknown names, missing data, and an `out` that holds a run with other settings.
    """
    check_verifier(verifier)
    if verifier != NONE and VERIFIERS[verifier].needs_world and bench != "tabletop":
        raise ValueError(f'The verifier "{verifier}" needs exact states, which {bench} does not have: choose another.')
    if protocol not in L1_PROTOCOLS:
        raise ValueError(f'No L1 protocol "{protocol}": use one of {", ".join(L1_PROTOCOLS)}.')
    began = time.monotonic()
    transitions = bench_items(bench, data=data, items=items, seed=seed, subsets=subsets, limit=limit)
    described = _captions(captions)
    embedders, bert = _metrics(metrics)
    system, forward, reader, verifiers = _system(model, inverse, verifier, predictions)
    drawn = 0 if verifier == NONE or forward is None else n
    scorer = tabletop_scorer if bench == "tabletop" else _no_state
    given = None if predictions is None else _from_folder(predictions, transitions, scorer)
    out = Path(out)
    settings = {
        "bench": bench,
        "model": model,
        "inverse": inverse,
        "predictions": predictions,
        "n": n,
        "verifier": verifier,
        **asdict(sampling),
        "seed": seed,
        "items": items,
        "subsets": subsets,
        "limit": limit,
        "retrodict": versions().get("retrodict"),
    }
    inputs: dict[str, Input] = {"data": data}
    if predictions is None:
        inputs |= {"model weights": model, "inverse weights": inverse}
    claim(out, "bench", settings, inputs=inputs, apart=() if predictions is None else [predictions])
    if bench == "tabletop":  # real benchmarks have owners: their pictures are not copied around
        write_rows(out / "test" / "test.parquet", transitions)
    if progress is not None:
        frames = f"{1 + drawn} frame{'s' if drawn else ''} each"
        progress.stage("predict", f"{len(transitions)} items, {frames}, by {system}")
    file = out / "predictions" / f"{system}.parquet"
    predicting, resumed = time.monotonic(), file.exists() or parts_of(file).exists()
    if forward is None:
        assert given is not None
        results = given
        write_predictions(file, results)
    elif bench == "aurora" and system == "copy":
        results = [item_result(t, Scored()) for t in transitions]
    else:
        results = evaluate(
            forward,
            transitions,
            scorer=scorer,
            verifiers=verifiers,
            n=drawn,
            seed=seed,
            sampling=sampling,
            keep=file,
            progress=progress,
        )
    predicted = time.monotonic() - predicting
    if progress is not None:
        progress.done(f"{len(results)} items")
        progress.stage("measure", f"{len(transitions)} items")
    if isinstance(forward, UnifiedModel):
        write_recognition(out, forward.family, transitions)
    if bench == "tabletop":
        from retrodict.evaluation import tabletop

        measured = tabletop.measure(system, forward, [v.name for v in verifiers], transitions, results, out)
        if reader is not None:
            measured["idm"] = tabletop.explained(reader, transitions, seed, out)
    else:
        from retrodict.evaluation import aurora

        measured = aurora.measure(
            system,
            forward,
            verifiers,
            transitions,
            results,
            out,
            protocol=protocol,
            embedders=embedders,
            captions=described,
            progress=progress,
        )
        if reader is not None:
            from retrodict.evaluation.inverse_eval import measure_explanations

            measured["idp"] = measure_explanations(reader, transitions, out, bert=bert)
    if progress is not None:
        progress.done(f"{len(results)} items")
    return _finish(
        out,
        {"system": system, **measured},
        bench,
        began,
        seed,
        {} if resumed else {"predict": round(predicted, 1)},  # of a part it would say little
        model=model if predictions is None else str(predictions),
        inverse=inverse,
        verifier=verifier,
        **asdict(sampling),
        n=drawn,
        items=len(transitions),
        data=None if data is None else str(data),
        subsets=list(dict.fromkeys(t.category for t in transitions)),
        limit=limit,
        metrics=list(metrics),
    )


def bench_items(
    bench: str, *, data: Path | None, items: int, seed: int, subsets: Sequence[str] = (), limit: int | None = None
) -> list[Transition]:
    """The items of a benchmark, as `run_bench` describes them."""
    if bench not in BENCHES:
        raise ValueError(f'No benchmark "{bench}": use one of {", ".join(BENCHES)}.')
    if bench == "aurora":
        from retrodict.data.aurora import SUBSETS, read_aurora

        if data is None:
            raise ValueError("The benchmark aurora needs --data: the folder that holds test.json or manifest.json.")
        seen: Counter[str] = Counter()
        kept = []
        for transition in read_aurora(data, tuple(subsets) or SUBSETS):
            seen[transition.category] += 1
            if limit is None or seen[transition.category] <= limit:
                kept.append(transition)
        return kept
    from retrodict.worlds import tabletop

    return [example.transition("test") for example in tabletop.sample(items, seed, namespace="bench")]


def _captions(file: Path | None) -> Mapping[str, str]:
    if file is None:
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is no JSON file: {error}.") from error
    if not isinstance(found, dict) or not all(isinstance(text, str) for text in found.values()):
        raise ValueError(f"{file} is no JSON object of item ids and captions.")
    return found


def _metrics(names: Sequence[str]) -> tuple[list[Embedder], BertScore | None]:
    """The models behind metrics; each is a name or name=FOLDER."""
    bert: BertScore | None = None
    embedders = []
    for kind, _, model in (name.partition("=") for name in names):
        if kind == "bertscore":
            bert = BertScore(replace(ENGLISH, model=model) if model else ENGLISH)
        else:
            embedders.append(Embedder(kind, model))
    return embedders, bert


def _system(
    model: str, inverse: str, verifier: str, predictions: Path | None
) -> tuple[str, ForwardModel | None, InverseModel | None, list[Verifier]]:
    """The row's name, the model behind it (None for given pictures), what explains, and the verifiers, the default one
    last."""
    if predictions is not None:
        return Path(predictions).resolve().name or "predictions", None, None, []
    if model == "copy":
        return "copy", CopyModel(), None, []
    from retrodict.loading import load

    forward = load(model, role="forward")
    name = Path(model).name or model
    if verifier in (NONE, "random"):  # the expectation of a random choice needs no scores
        return name, forward, None, []
    kind = VERIFIERS[verifier]
    reader = load(inverse or model, role="inverse") if kind.needs_inverse else None
    verifiers: list[Verifier] = [ScoredBy(MIN_COPY, _distance_from_source)]
    if reader is not None:
        verifiers.append(InverseLikelihood(reader))
    if verifier != "idm" and (isinstance(forward, UnifiedModel) or not kind.needs_forward):
        from retrodict.worlds import get_world

        def asked() -> InverseModel:
            assert reader is not None, "a verifier says what it needs"
            return reader

        verifiers.append(kind.make(Parts(asked, get_world("tabletop").explains)))
    return name, forward, reader, verifiers


def _distance_from_source(source: Image.Image, action: str, candidate: Image.Image) -> float:
    """What a selector scores that only avoids copies: a verifier must beat it."""
    return l1(candidate, source)


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


def _finish(
    out: Path,
    measured: dict[str, Any],
    bench: str,
    began: float,
    seed: int,
    seconds: Mapping[str, float],
    **config: Any,
) -> dict[str, Any]:
    from retrodict.versions import provenance

    results = {
        "kind": "bench",
        "bench": bench,
        **measured,
        "seconds": dict(seconds),
        **provenance(time.monotonic() - began, config=config, seed=seed),
    }
    write_json(out / "results.json", results)
    from retrodict.report import write_report

    write_report(out)
    return results

"""`retrodict bench`: predictions for every item of a benchmark, scored, with all numbers in `results.json`.

The parts, for code that runs its own loop: `evaluate` makes and scores predictions, `write_predictions` and
`write_items` store them, `summarise` and `compare` turn them into estimates with intervals.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
from PIL import Image

from retrodict.chat.edits import EditEndpoint
from retrodict.dynamics.unified import UnifiedModel
from retrodict.dynamics.verifiers import NONE, VERIFIERS, Parts, check_verifier
from retrodict.dynamics.verify import InverseLikelihood, ScoredBy, Verifier
from retrodict.errors import check_count
from retrodict.evaluation import exact, similarity
from retrodict.evaluation.baselines import COPY, Predicted
from retrodict.evaluation.benchmarks import Benchmark, open_benchmark
from retrodict.evaluation.bertscore import ENGLISH, BertScore
from retrodict.evaluation.features import Embedder
from retrodict.evaluation.inverse_eval import measure_explanations
from retrodict.evaluation.metrics import L1_PROTOCOL, L1_PROTOCOLS, l1
from retrodict.evaluation.pool import ItemResult, Scored, Scorer, item_result, score_frame, score_images
from retrodict.evaluation.predict import evaluate, parts_of, prediction_shards
from retrodict.evaluation.predictions import JUDGEMENTS, read_predictions, write_items, write_predictions
from retrodict.evaluation.summary import MIN_COPY, compare, estimate, item_values, summarise
from retrodict.files import JsonObject, write_json
from retrodict.images import read_image
from retrodict.models.editors import CopyModel
from retrodict.models.protocol import ForwardModel, InverseModel
from retrodict.models.token_family import TokenFamily
from retrodict.progress import Progress, QuietProgress
from retrodict.run_folder import RECORD, Input, check
from retrodict.sampling import MOST_CANDIDATES, Sampling
from retrodict.shards import ALL, Shard, Where, run_shards
from retrodict.training.config import Weighting
from retrodict.training.weighting import loss_weights
from retrodict.transitions import Transition
from retrodict.versions import provenance, versions
from retrodict.worlds import DEFAULT, get_world
from retrodict.worlds.base import World

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
    "write_items",
    "write_predictions",
]

HEATMAPS = 8  # items whose recognition weights are kept
IMAGES = (".png", ".jpg", ".jpeg", ".webp")


def run_bench(
    bench: str | Path,
    *,
    out: str | Path,
    data: str | Path | None = None,
    model: str = "small",
    inverse: str = "",
    predictions: str | Path | None = None,
    n: int = 8,
    verifier: str = "idm_fdm",
    sampling: Sampling = Sampling(),
    seed: int = 0,
    items: int | None = None,
    subsets: Sequence[str] = (),
    limit: int | None = None,
    protocol: str = L1_PROTOCOL,
    metrics: Sequence[str] = (),
    captions: str | Path | None = None,
    where: Where = ALL,
    progress: Progress | None = None,
) -> JsonObject:
    """Measure a model on a benchmark. The same call again resumes: finished batches of predictions are kept.

    Writes `results.json`, `items/`, `predictions/` and, where the benchmark samples its items, `test/`.

    Args:
        bench: a world, a published benchmark, or a folder of transitions (`open_benchmark`).
        out: folder to write to.
        data: folder of a published benchmark's data.
        model: what predicts: a name for `retrodict.load`, or "copy".
        inverse: what verifies and explains; by default `model`.
        predictions: folder of images called `<item id>.png` (or .jpg, .webp), scored instead of a model's.
        n: candidates of each item.
        verifier: what picks the best candidate.
        sampling: shapes the candidates; its guidance holds for the greedy frame, too.
        seed: of everything random.
        items: how many items, the subsets in turn; by default all, or 300 of a world.
        subsets: those to keep.
        limit: only the first so many items of each subset.
        protocol: how L1 compares images of unequal size. It, `metrics` and `captions` may change when a run resumes.
        metrics: those that need a model: "clip", "dino", "bertscore", or "clip=FOLDER".
        captions: JSON file of item ids and what their targets show, for CLIP-T.
        where: of several processes with the same `out`, which part of the predictions this one makes; or a Ray
            cluster, which makes them all.
        progress: receives how far the work is.

    Returns:
        What `results.json` holds (docs/evaluation.md); nothing where other processes are still at their shares.

    Raises:
        ValueError: an unknown name, missing data, or an `out` that holds a run with other settings.
    """
    check_verifier(verifier)
    check_count("n", n, MOST_CANDIDATES)
    for name, number in (("items", items), ("limit", limit)):
        if number is not None:
            check_count(name, number)
    if protocol not in L1_PROTOCOLS:
        raise ValueError(f'No L1 protocol "{protocol}": use one of {", ".join(L1_PROTOCOLS)}.')
    began, progress, out = time.monotonic(), progress or QuietProgress(), Path(out)
    data, predictions, captions = (None if path is None else Path(path) for path in (data, predictions, captions))
    benchmark = open_benchmark(bench, data=data, items=items, subsets=subsets, limit=limit, seed=seed)
    if verifier != NONE and VERIFIERS[verifier].needs_world and benchmark.world is None:
        raise ValueError(f'The verifier "{verifier}" needs exact states, which {bench} does not have: choose another.')
    if benchmark.world is not None and (metrics or captions is not None):
        raise ValueError(f"{bench} has exact states, beside which metrics and captions say nothing: leave them out.")
    described = _captions(captions)
    settings = {
        "bench": benchmark.name,
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
    inputs: dict[str, Input] = {"data": benchmark.folder}
    if predictions is None:
        inputs |= {"model weights": model, "inverse weights": inverse}
    record = check(out, "bench", settings, inputs=inputs, apart=() if predictions is None else [predictions])
    embedders, bert = _metrics(metrics)
    system, forward, reader, verifiers = _system(model, inverse, verifier, predictions, benchmark.world)
    copies = system == COPY and benchmark.world is None  # the sources once more: nothing to score, nothing to store
    sampled = 0 if verifier == NONE or forward is None or copies else n
    given = None if predictions is None else _from_folder(predictions, benchmark)
    write_json(out / RECORD, record)  # not before: a misspelt name leaves the folder free
    benchmark.store(out / "test")
    frames = f"{1 + sampled} frame{'s' if sampled else ''} each"
    progress.stage("predict", f"{len(benchmark.items)} items, {frames}, by {system}")
    file = out / "predictions" / f"{system}.parquet"
    predicting, resumed = time.monotonic(), file.exists() or parts_of(file).exists()
    told = ""
    if given is not None:
        results, told = given.results, given.told()
        if file.is_file() and _images(read_predictions(file)) != _images(results):
            told += _set_judgements_aside(out)
        write_predictions(file, results)
    elif copies:
        results = [item_result(t, Scored()) for t in benchmark.items]
    else:
        assert forward is not None, "a system that gives no images has a model"
        predict: JsonObject = {"scorer": benchmark.scorer, "verifiers": verifiers, "n": sampled, "seed": seed}
        predict |= {"sampling": sampling, "keep": file}
        if where != ALL and not file.is_file():
            opened = partial(open_benchmark, bench, data=data, items=items, subsets=subsets, limit=limit, seed=seed)
            plan = partial(_shards, opened, model, inverse, verifier, sampled, seed, sampling, file)
            if run_shards(prediction_shards(forward, benchmark.items, **predict), where, progress, plan):
                progress.done("this share; others are at theirs")
                return {}
        results = evaluate(forward, benchmark.items, **predict, progress=progress)
    seconds = {} if resumed else {"predict": round(time.monotonic() - predicting, 1)}  # of a part it would say little
    progress.done(f"{len(results)} items{told}")
    progress.stage("measure", f"{len(results)} items")
    if isinstance(forward, UnifiedModel):
        write_recognition(out, forward.family, benchmark.items)
    predicted = Predicted(system, forward, [v.name for v in verifiers], benchmark.items, results)
    if benchmark.world is not None:
        measured = exact.measure(predicted, benchmark.world, out)
        if reader is not None:
            measured["idm"] = exact.explained(reader, benchmark.items, benchmark.world, seed, out)
    else:
        measured = similarity.measure(
            predicted,
            out,
            reader=reader,
            protocol=protocol,
            embedders=embedders,
            captions=described,
            progress=progress,
        )
        if reader is not None:
            measured["idp"] = measure_explanations(reader, benchmark.items, out, bert=bert)
    progress.done(f"{len(results)} items")
    config = {
        "model": model if predictions is None else str(predictions),
        "inverse": inverse,
        "verifier": verifier,
        **asdict(sampling),
        "n": sampled,
        "items": len(benchmark.items),
        "data": benchmark.folder and str(benchmark.folder),
        "subsets": list(dict.fromkeys(t.category for t in benchmark.items)),
        "limit": limit,
        "metrics": list(metrics),
    }
    summary = {
        "kind": "bench",
        "bench": benchmark.name,
        "system": system,
        **measured,
        "seconds": seconds,
        **({} if given is None else {"files": {"extra": given.extra, "twice": given.twice}}),
        **({"usage": forward.usage} if isinstance(forward, EditEndpoint) else {}),
        **provenance(time.monotonic() - began, config=config, seed=seed),
    }
    write_json(out / "results.json", summary)
    return summary


def _shards(
    opened: Callable[[], Benchmark],
    model: str,
    inverse: str,
    verifier: str,
    n: int,
    seed: int,
    sampling: Sampling,
    file: Path,
) -> list[Shard]:
    """The batches of predictions, in another process."""
    benchmark = opened()
    _, forward, _, verifiers = _system(model, inverse, verifier, None, benchmark.world)
    assert forward is not None
    return prediction_shards(
        forward,
        benchmark.items,
        scorer=benchmark.scorer,
        verifiers=verifiers,
        n=n,
        seed=seed,
        sampling=sampling,
        keep=file,
    )


def _captions(file: Path | None) -> Mapping[str, str]:
    if file is None:
        return {}
    try:
        captions = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is no JSON file: {error}.") from error
    if not isinstance(captions, dict) or not all(isinstance(text, str) for text in captions.values()):
        raise ValueError(f"{file} is no JSON object of item ids and captions.")
    return captions


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
    model: str, inverse: str, verifier: str, predictions: Path | None, world: World | None
) -> tuple[str, ForwardModel | None, InverseModel | None, list[Verifier]]:
    """The row's name, the model behind it (None for given images), what explains, and the verifiers, the default one
    last."""
    if predictions is not None:
        return Path(predictions).resolve().name or "predictions", None, None, []
    if model == "copy":
        return "copy", CopyModel(), None, []
    from retrodict.loading import load

    forward = load(model, role="forward")
    name = str(getattr(forward, "name", "")) or Path(model).name or model
    if verifier in (NONE, "random"):  # the expectation of a random choice needs no scores
        return name, forward, None, []
    kind = VERIFIERS[verifier]
    reader = load(inverse or model, role="inverse") if kind.needs_inverse else None
    verifiers: list[Verifier] = [ScoredBy(MIN_COPY, _distance_from_source)]
    if reader is not None:
        verifiers.append(InverseLikelihood(reader))
    if verifier != "idm" and (isinstance(forward, UnifiedModel) or not kind.needs_forward):

        def asked() -> InverseModel:
            assert reader is not None, "a verifier says what it needs"
            return reader

        verifiers.append(kind.make(Parts(asked, (world or get_world(DEFAULT)).explains)))
    return name, forward, reader, verifiers


def _distance_from_source(source: Image.Image, action: str, candidate: Image.Image) -> float:
    """What a selector scores that only avoids copies: a verifier must beat it."""
    return l1(candidate, source)


def _images(results: Sequence[ItemResult]) -> list[tuple[str, bytes]]:
    return [(result.id, result.greedy.image) for result in results]


def _set_judgements_aside(out: Path) -> str:
    """What judges said of other images no longer stands beside these; what they answered stays in their cache."""
    said = [file for file in (out / JUDGEMENTS).glob("*.json*") if not file.name.endswith(".card.json")]
    if not said:
        return ""
    number = next(i for i in count(1) if not (out / JUDGEMENTS / f"earlier-{i}").exists())
    aside = out / JUDGEMENTS / f"earlier-{number}"
    aside.mkdir()
    for file in said:
        file.rename(aside / file.name)
    return f"; {aside} has what judges said of other images"


@dataclass(frozen=True)
class _Given:
    """Images that somebody else made, and how their files fit the items."""

    results: list[ItemResult]
    extra: list[str]  # files that are named after no item
    twice: list[str]  # files that another one of the same name, but for its suffix, stands in for

    def told(self) -> str:
        """What a reader should know of them, for the end of a line."""
        missing = sum(not result.greedy.image for result in self.results)
        said = [f"{missing:,} without an image that can be read"] if missing else []
        for names, what in ((self.extra, "named after no item"), (self.twice, "of a name that stands twice")):
            if names:
                more = f" and {len(names) - 1:,} more" if len(names) > 1 else ""
                said.append(f"{what}: {names[0]}{more}")
        return "".join(f"; {part}" for part in said)


def _from_folder(folder: Path, benchmark: Benchmark) -> _Given:
    if not Path(folder).is_dir():
        raise ValueError(f"{folder} is no folder of predictions.")
    files = [path for path in sorted(Path(folder).rglob("*")) if path.suffix.lower() in IMAGES]
    images = {path.relative_to(folder).as_posix().removesuffix(path.suffix): path for path in files}
    names = {t.id for t in benchmark.items}
    if not names & images.keys():
        raise ValueError(f"{folder} holds no image named after an item, such as {benchmark.items[0].id}.png.")
    results = []
    for transition in benchmark.items:
        frame = Scored(reason="no image of this name")
        if path := images.get(transition.id):
            try:
                frame = score_frame(read_image(path), transition, benchmark.scorer)
            except (OSError, ValueError) as error:
                frame = Scored(reason=f"unreadable image: {error}")
        results.append(item_result(transition, frame))
    shown = [path.relative_to(folder).as_posix() for path in files]
    return _Given(
        results,
        [path.relative_to(folder).as_posix() for name, path in images.items() if name not in names],
        [name for name, path in zip(shown, files, strict=True) if path not in images.values()],
    )


def write_recognition(out: Path, family: TokenFamily, transitions: Sequence[Transition]) -> None:
    """Recognition weights of a few items, chosen by hash, for heatmaps.

    Writes `recognition.json`: `[{"id", "grid": [rows, columns], "weights": [one per image token]}]`.
    """
    kept = [t for t in transitions if t.target is not None]
    shown = sorted(kept, key=lambda t: hashlib.sha256(t.id.encode()).digest())[:HEATMAPS]
    if not shown:
        return
    source = family.encode([t.source_image for t in shown]).features_NLD
    target = family.encode([t.target_image for t in shown]).features_NLD
    weights_NL = loss_weights(np.square(source - target).sum(-1), Weighting(method="recognition"))
    grid = list(family.spec.grid)
    write_json(
        out / "recognition.json",
        [{"id": t.id, "grid": grid, "weights": row.tolist()} for t, row in zip(shown, weights_NL, strict=True)],
    )

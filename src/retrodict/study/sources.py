"""Where a study's images come from: run folders of `retrodict bench`, or folders of images named after items."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from PIL import Image

from retrodict.evaluation.benchmarks import items_in, items_of_run
from retrodict.evaluation.pool import ItemResult, Scored, chosen
from retrodict.evaluation.predictions import GREEDY, read_predictions
from retrodict.files import as_written
from retrodict.images import read_image
from retrodict.transitions import Transition, decode_image

BENCH_SCORE = "bench score"  # the automatic score that bench keeps beside every frame, where it has one

Scores = Mapping[str, Mapping[str, float]]  # judge -> item id -> score


@dataclass(frozen=True)
class System:
    """Images by item id, opened when they are needed, and what is known of the same frames."""

    name: str
    origin: str
    images: Mapping[str, Callable[[], Image.Image]]
    frames: Mapping[str, int] = field(default_factory=dict)  # item id -> candidate; -1 is greedy
    scores: Scores = field(default_factory=dict)


def read_system(given: str) -> list[System]:
    """The systems of `[NAME=]FOLDER[@VERIFIER]`.

    A run folder has one system per file in `predictions/`: its greedy frame, or with `@VERIFIER` the candidate that the
    verifier picks. Any other folder is one system whose images are named after items. Raises `ValueError`.
    """
    name, folder, verifier = _parse(given)
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder: name what `retrodict bench` wrote, or a folder of images.")
    files = sorted((folder / "predictions").glob("*.parquet"))
    if not files:
        if verifier:
            raise ValueError(f"{folder} holds no predictions of bench, so @{verifier} has nothing to choose from.")
        return [_from_images(name or folder.resolve().name, folder)]
    if name and len(files) > 1:
        raise ValueError(f"{folder} holds {len(files)} systems, so it cannot be called {name}.")
    return [_from_run(name or _run_name(file, verifier), file, verifier) for file in files]


def read_items(given: Sequence[str], data: Path | None) -> list[Transition]:
    """The items that the first run folder was measured on, or those of the benchmark in `data`."""
    runs = [folder for _, folder, _ in map(_parse, given) if (folder / "results.json").is_file()]
    if runs:
        return items_of_run(runs[0], data)
    if data is None:
        raise ValueError("These folders hold images only: name the folder of the benchmark with --data.")
    return items_in(data)


def judge_scores(origin: str, frames: Mapping[str, int]) -> dict[str, dict[str, float]]:
    """What `retrodict judge` says of these frames of a run, by judge and item; empty where nobody judged them."""
    file = Path(origin)
    by_judge: dict[str, dict[str, float]] = {}
    run = file.parent.parent
    with as_written(run):
        for path in sorted((run / "judge").glob("*.jsonl")):
            for line in path.read_text(encoding="utf-8").splitlines():
                row = json.loads(line)
                is_shown = frames.get(row["id"]) == row["candidate"]
                if is_shown and row["row"].startswith(f"{file.stem}.") and row["score"] is not None:
                    by_judge.setdefault(path.stem, {})[row["id"]] = row["score"] + 0.0  # a text is no score
    return by_judge


def folder_of(given: str) -> Path:
    """What is read of `[NAME=]FOLDER[@VERIFIER]`: the predictions of a run folder, or a folder of images."""
    folder = _parse(given)[1]
    predictions = folder / "predictions"
    return predictions if predictions.is_dir() else folder


def _parse(given: str) -> tuple[str, Path, str]:
    name, equals, rest = given.partition("=")
    if not equals or Path(given).exists():
        name, rest = "", given
    path, at, verifier = rest.rpartition("@")
    if not at or Path(rest).exists():
        path, verifier = rest, ""
    return name.strip(), Path(path), verifier


def _run_name(file: Path, verifier: str) -> str:
    return f"{file.stem}@{verifier}" if verifier else file.stem


def _from_run(name: str, file: Path, verifier: str) -> System:
    shown = {item.id: _frame(item, verifier, file) for item in read_predictions(file)}
    predicted = {i: frame.image for i, (_, frame) in shown.items() if frame.image}
    images = {i: partial(decode_image, data, f"prediction of {i}") for i, data in predicted.items()}
    frames = {i: shown[i][0] for i in images}
    scores = {i: frame.score for i, (_, frame) in shown.items() if not math.isnan(frame.score)}
    return System(
        name,
        str(file.resolve()),
        images,
        frames,
        ({BENCH_SCORE: scores} if scores else {}) | judge_scores(str(file), frames),
    )


def _frame(item: ItemResult, verifier: str, file: Path) -> tuple[int, Scored]:
    if not verifier:
        return GREEDY, item.greedy
    if item.pool and not any(verifier in frame.verifiers for frame in item.pool):
        known = ", ".join(sorted({name for frame in item.pool for name in frame.verifiers})) or "none"
        raise ValueError(f"{file} has no candidates scored by {verifier}; known verifiers: {known}.")
    best = chosen(item, verifier)
    return (GREEDY, Scored()) if best is None else (best, item.pool[best])


def _from_images(name: str, folder: Path) -> System:
    """Every file whose name ends as an image's does; one image an item."""
    Image.init()
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in Image.EXTENSION and path.is_file():  # no pipe, which would never end
            if path.stem in files:
                raise ValueError(f"{folder} has two images of {path.stem}: {files[path.stem].name} and {path.name}.")
            files[path.stem] = path
    if not files:
        raise ValueError(f"{folder} holds neither predictions of bench nor images named after items.")
    return System(name, str(folder.resolve()), {stem: partial(_read, path) for stem, path in files.items()})


def _read(path: Path) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)  # more pixels than any prediction has
        return read_image(path)

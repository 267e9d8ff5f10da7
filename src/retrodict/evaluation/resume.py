"""Runs that go on: a folder belongs to one run's settings, and what is finished in it is not made again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from retrodict.evaluation.pool import ItemResult
from retrodict.evaluation.predictions import read_predictions, write_predictions
from retrodict.files import write_json
from retrodict.transitions import Transition
from retrodict.versions import versions

SETTINGS = "settings.json"


def claim(out: Path, command: str, models: Sequence[str], **settings: Any) -> None:
    """Make `out` the folder of a run with these settings, or go on with it.

    `models` are names for `load`: of those that are folders, the state of the weights is a setting too. Raises
    `ValueError` when `out` holds a run with other settings, or results of unknown ones.
    """
    weights = {name: _weights(Path(name)) for name in models if name and Path(name).is_dir()}
    text = json.dumps({"command": command, **settings, "weights": weights, "retrodict": versions().get("retrodict")})
    wanted, file, remedy = json.loads(text), out / SETTINGS, "choose another --out, or delete that folder"
    if file.is_file():
        found = json.loads(file.read_text(encoding="utf-8"))
        if other := [key for key in {**wanted, **found} if found.get(key) != wanted.get(key)]:
            changed = ", ".join(f"{key} {found.get(key)} and not {wanted.get(key)}" for key in other)
            raise ValueError(f"{out} holds a run with {changed}: {remedy}.")
    elif (out / "results.json").is_file():
        raise ValueError(f"{out} holds results of another run: {remedy}.")
    else:
        write_json(file, wanted)


def _weights(folder: Path) -> str:
    """Changes when a file of weights does. Their bytes are not read, which would cost as much as loading them."""
    files = [(str(path.relative_to(folder)), path.stat()) for path in sorted(folder.rglob("*.safetensors"))]
    lines = [f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def predicted_once(
    file: Path, transitions: Sequence[Transition], n: int, make: Callable[[], list[ItemResult]]
) -> list[ItemResult]:
    """The predictions in `file` if they are those of these items with `n` candidates each, else made and written."""
    if file.is_file():
        found = read_predictions(file)
        if [(i.id, i.action, len(i.pool)) for i in found] == [(t.id, t.action, n) for t in transitions]:
            return found
    made = make()
    write_predictions(file, made)
    return made


def made_once(file: Path, make: Callable[[], Any], whole: Callable[[Any], bool] = lambda value: True) -> Any:
    """The JSON value in `file`, else made, and written where it is `whole`. Floats come back bit by bit, NaN too."""
    if file.is_file():
        return json.loads(file.read_text(encoding="utf-8"))
    made = make()
    if whole(made):
        write_json(file, made)
    return json.loads(json.dumps(made))


def parts_of(predictions: Path) -> Path:
    """Where finished batches lie until `predictions` can be written."""
    return predictions.with_name(f"{predictions.stem}-parts")

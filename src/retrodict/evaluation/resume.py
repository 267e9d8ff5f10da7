"""Runs that go on: what is finished is not made again."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from retrodict.evaluation.pool import ItemResult
from retrodict.evaluation.predictions import read_predictions, write_predictions
from retrodict.files import write_json
from retrodict.transitions import Transition


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

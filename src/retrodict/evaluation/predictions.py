"""Predictions on disk: Parquet with images for people and `datasets`, JSON lines with every number for scripts."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from retrodict.evaluation.pool import ItemResult, Scored
from retrodict.files import JsonObject, write_atomic, write_lines
from retrodict.transitions import open_parquet

JUDGEMENTS = "judge"  # of a run, the folder of what judges said of its predictions
GREEDY = -1  # the candidate index of the greedy frame
_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_TEXT = ("id", "class", "group", "action", "reason")
_NUMBERS = ("es", "me", "score", "copy")


def write_predictions(path: Path, items: Sequence[ItemResult]) -> None:
    """Write one Parquet row per frame; the file appears only when it is complete.

    Columns: `id, class, group, action, candidate` (-1 is greedy), `image` (a Hugging Face Image), `es, me, score, copy,
    reason`, and `verifier_<name>` per verifier (null where it was not asked).
    """
    verifiers = list(dict.fromkeys(name for item in items for _, frame in _frames(item) for name in frame.verifiers))
    rows = [_row(item, i, frame, verifiers) for item in items for i, frame in _frames(item)]
    table = pa.Table.from_pylist(rows, schema=_schema(verifiers))
    compression = {"image.bytes": "none"} | {n: "zstd" for n in table.column_names if n != "image"}
    write_atomic(Path(path), lambda tmp: pq.write_table(table, tmp, compression=compression, row_group_size=500))


def read_predictions(path: Path) -> list[ItemResult]:
    """What `write_predictions` wrote, in its order."""
    items: dict[str, JsonObject] = {}
    file = open_parquet(path)
    if missing := {*_TEXT, *_NUMBERS, "candidate", "image"} - {*file.schema_arrow.names}:
        raise ValueError(f"{path} holds no predictions of bench: it has no column {sorted(missing)[0]}.")
    for batch in file.iter_batches(batch_size=500):
        for row in batch.to_pylist():
            item = items.setdefault(row["id"], {"row": row, "greedy": Scored(), "pool": []})
            if row["candidate"] == GREEDY:
                item["greedy"] = _frame(row)
            else:
                item["pool"].append(_frame(row))
    return [
        ItemResult(i["row"]["id"], i["row"]["class"], i["row"]["group"], i["row"]["action"], i["greedy"], (*i["pool"],))
        for i in items.values()
    ]


def write_items(path: Path, items: Sequence[ItemResult]) -> None:
    """Write one JSON object per line and item, without images.

    An object is `{"id", "class", "group", "action", "greedy": F, "pool": [F, ...]}`, where F is `{"es", "me",
    "score", "copy", "verifiers": {name: score}}` and, where there is no score, `"reason"`. A number that does not exist
    is null.
    """
    write_lines(path, [_record(item) for item in items])


def _record(item: ItemResult) -> JsonObject:
    return {
        "id": item.id,
        "class": item.category,
        "group": item.group,
        "action": item.action,
        "greedy": _numbers(item.greedy),
        "pool": [_numbers(frame) for frame in item.pool],
    }


def _frames(item: ItemResult) -> Iterator[tuple[int, Scored]]:
    yield GREEDY, item.greedy
    yield from enumerate(item.pool)


def _schema(verifiers: Sequence[str]) -> pa.Schema:
    columns: list[tuple[str, pa.DataType]] = [
        *((name, pa.string()) for name in _TEXT),
        ("candidate", pa.int64()),
        ("image", _IMAGE),
        *((name, pa.float64()) for name in _NUMBERS),
        *((f"verifier_{name}", pa.float64()) for name in verifiers),
    ]
    features = {
        name: {"_type": "Image"}
        if kind == _IMAGE
        else {"dtype": "float64" if kind == pa.float64() else str(kind), "_type": "Value"}
        for name, kind in columns
    }
    return pa.schema(columns, metadata={b"huggingface": json.dumps({"info": {"features": features}}).encode()})


def _row(item: ItemResult, candidate: int, frame: Scored, verifiers: Sequence[str]) -> JsonObject:
    return {
        "id": item.id,
        "class": item.category,
        "group": item.group,
        "action": item.action,
        "candidate": candidate,
        "image": {"bytes": frame.image, "path": None} if frame.image else None,
        "reason": frame.reason,
        **{name: getattr(frame, name) for name in _NUMBERS},
        **{f"verifier_{name}": frame.verifiers.get(name) for name in verifiers},
    }


def _frame(row: JsonObject) -> Scored:
    return Scored(
        image=(row["image"] or {}).get("bytes") or b"",
        reason=row["reason"],
        verifiers={
            n.removeprefix("verifier_"): v for n, v in row.items() if n.startswith("verifier_") and v is not None
        },
        **{name: row[name] for name in _NUMBERS},
    )


def _numbers(frame: Scored) -> JsonObject:
    numbers: JsonObject = {name: _or_null(getattr(frame, name)) for name in _NUMBERS}
    numbers["verifiers"] = {name: _or_null(value) for name, value in frame.verifiers.items()}
    return numbers | ({"reason": frame.reason} if frame.reason else {})


def _or_null(value: float) -> float | None:
    return value if math.isfinite(value) else None

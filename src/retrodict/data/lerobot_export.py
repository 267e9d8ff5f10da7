"""Annotated pairs as subtasks of the LeRobotDataset v3 that they were mined from: language columns, as lerobot 0.6 has
them, and a confidence for each frame, for which those have no field."""

from __future__ import annotations

import math
import os
import shutil
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from retrodict.data.lerobot import Dataset, episodes_of, open_dataset, read_table
from retrodict.files import JsonObject, write_atomic, write_json
from retrodict.run_folder import claim
from retrodict.transitions import FramePair, Transition, iter_rows

PERSISTENT, EVENTS, CONFIDENCE = "language_persistent", "language_events", "subtask_confidence"
_SUBTASK = "subtask"
_COLUMNS = ["action", "action_source", "logprob", "tokens", "t_source", "t_target", "provenance"]

_EVENT = [("role", pa.string(), False), ("content", pa.string(), True), ("style", pa.string(), True)]
_TAIL = [("camera", pa.string(), True), ("tool_calls", pa.list_(pa.string()), True)]  # JSON


def _rows_of(*fields: tuple[str, pa.DataType, bool]) -> pa.DataType:
    return pa.list_(pa.struct([pa.field(name, kind, nullable=empty) for name, kind, empty in fields]))


_TYPES = {
    PERSISTENT: _rows_of(*_EVENT, ("timestamp", pa.float32(), False), *_TAIL),
    EVENTS: _rows_of(*_EVENT, *_TAIL),
}
_FEATURES = {name: {"dtype": "language", "shape": [1], "names": None} for name in _TYPES}
_FEATURES[CONFIDENCE] = {"dtype": "float32", "shape": [1], "names": None}


@dataclass(frozen=True)
class Span:
    """An action of an episode, from its first frame to its last, in seconds of the episode."""

    start: float
    stop: float
    action: str
    confidence: float  # geometric mean probability of its tokens; 1 where a person named it


def export_lerobot(labelled: Path, data: Path, out: Path) -> Counter[str]:
    """Write a copy of a data set in which the annotated actions are its subtasks.

    `language_persistent` gets a row of style `subtask` for each action, in place of the subtasks that it has, on every
    frame of the episode. As LeRobot reads it, one lasts until the next; `subtask_confidence` tells for each frame
    whether an action was annotated there at all (else 0), and how sure the model was. Where actions overlap, the surest
    stays. Videos are linked, not copied, where the file system can.

    Args:
        labelled: transitions of pairs that were mined from `data` with the layout `lerobot`.
        data: a LeRobotDataset v3.
        out: a new folder.

    Returns:
        How many rows became subtasks, and how many did not, by reason.

    Raises:
        ValueError: `data` is no such data set, rows are not from it or from several of its cameras, or `out` holds
            something else.
    """
    dataset = open_dataset(data)
    if dataset.is_v2:
        raise ValueError(f"{data} is a LeRobot data set of version 2, which has no language: convert it with lerobot.")
    counts: Counter[str] = Counter()
    spans = _spans(labelled, dataset, counts)
    claim(out, "export", {"kind": "lerobot"}, inputs={"labelled": labelled}, apart=[data])
    for path in sorted(file for file in data.rglob("*") if file.is_file()):
        target, name = out / path.relative_to(data), path.relative_to(data).parts
        target.parent.mkdir(parents=True, exist_ok=True)
        if name[0] == "data" and path.suffix == ".parquet":
            _write(target, _annotated(read_table(path, None), spans))
        elif name != ("meta", "info.json") and not target.exists():
            _copy(path, target, link=name[0] == "videos")
    write_json(out / "meta" / "info.json", {**dataset.info, "features": {**dataset.info["features"], **_FEATURES}})
    return counts


def _spans(labelled: Path, dataset: Dataset, counts: Counter[str]) -> dict[int, list[Span]]:
    """The actions of each episode, in order, none of which overlap."""
    begins = {int(episode["episode_index"]): episode for episode in episodes_of(dataset)}
    episodes: dict[int, list[Span]] = defaultdict(list)
    cameras: set[str] = set()
    for row in iter_rows(labelled, _COLUMNS):
        camera, number = row.provenance.get("camera"), row.provenance.get("episode")
        if camera not in dataset.cameras or number not in begins or not isinstance(row, Transition):
            raise ValueError(f"{labelled}: {row.id} is no labelled pair of {dataset.root}: mine that, and annotate it.")
        cameras.add(camera)
        begin = float(begins[number][f"videos/{camera}/from_timestamp"])
        episodes[number].append(Span(row.t_source - begin, row.t_target - begin, row.action, confidence(row)))
    if len(cameras) > 1:
        raise ValueError(
            f"{labelled} has pairs of {len(cameras)} cameras ({', '.join(sorted(cameras))}): mine one alone."
        )
    kept = {}
    for number, spans in episodes.items():
        kept[number] = _apart(spans)
        counts["subtasks"] += len(kept[number])
        counts["overlapping"] += len(spans) - len(kept[number])
    return kept


def confidence(row: FramePair) -> float:
    """The geometric mean probability of the action's tokens; 1 where a person named it, 0 where nothing is known."""
    if not isinstance(row, Transition):
        return 0.0
    if row.action_source != "idm":
        return 1.0
    return math.exp(row.logprob / row.tokens) if row.tokens and math.isfinite(row.logprob) else 0.0


def _apart(spans: Iterable[Span]) -> list[Span]:
    """The surest of those that overlap, in order of time; of equally sure ones the first."""
    kept: list[Span] = []
    for span in sorted(spans, key=lambda one: (-one.confidence, one.start)):
        at = bisect_left([one.start for one in kept], span.start)
        before, after = kept[at - 1] if at else None, kept[at] if at < len(kept) else None
        if (before is None or before.stop <= span.start) and (after is None or span.stop <= after.start):
            kept.insert(at, span)
    return kept


def _annotated(table: pa.Table, spans: Mapping[int, list[Span]]) -> pa.Table:
    """The rows of a data file with the language columns and the confidence."""
    episode_N = table["episode_index"].to_numpy()
    time_N = table["timestamp"].to_numpy().astype(np.float64)
    old = table[PERSISTENT].to_pylist() if PERSISTENT in table.column_names else [[]] * len(table)
    rows: list[list[JsonObject]] = [[]] * len(table)
    confidence_N = np.zeros(len(table), np.float32)
    for number in np.unique(episode_N):
        inside = np.flatnonzero(episode_N == number)
        times = time_N[inside]
        kept = [row for row in old[inside[0]] or [] if row.get("style") != _SUBTASK]
        for span in spans.get(int(number), ()):
            frame = int(np.argmin(np.abs(times - span.start)))
            kept.append({"role": "assistant", "content": span.action, "style": _SUBTASK, "timestamp": times[frame]})
            shown = (times >= times[frame]) & (times <= span.stop + 1e-3)
            confidence_N[inside[shown]] = span.confidence
        kept.sort(key=lambda row: (float(row["timestamp"]), row.get("style") or "", row.get("role") or ""))
        for i in inside:
            rows[i] = kept
    columns: dict[str, pa.Array] = {PERSISTENT: pa.array(rows, _TYPES[PERSISTENT]), CONFIDENCE: pa.array(confidence_N)}
    if EVENTS not in table.column_names:
        columns[EVENTS] = pa.array([[]] * len(table), _TYPES[EVENTS])
    for name, column in columns.items():
        at = table.schema.get_field_index(name)
        table = table.append_column(name, column) if at < 0 else table.set_column(at, name, column)
    return table.replace_schema_metadata(None)  # it would describe the columns that were there


def _write(path: Path, table: pa.Table) -> None:
    """One row group an episode, as LeRobot writes them."""
    episode_N = table["episode_index"].to_numpy()
    starts = [0, *(np.flatnonzero(np.diff(episode_N)) + 1).tolist(), len(table)]

    def write(temporary: Path) -> None:
        with pq.ParquetWriter(temporary, table.schema) as writer:
            for start, stop in pairwise(starts):
                writer.write_table(table.slice(start, stop - start))

    write_atomic(path, write)


def _copy(source: Path, target: Path, *, link: bool) -> None:
    """Video files are large and never written again: they are one file under two names, where that can be."""
    try:
        if link:
            os.link(source.resolve(), target)
            return
    except OSError:  # another file system
        pass
    shutil.copyfile(source, target)

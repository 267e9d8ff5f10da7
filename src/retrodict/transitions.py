"""Frame pairs and transitions: the rows that every stage reads and writes.

A `FramePair` is two moments of one clip; a `Transition` is a pair with the action that leads from the first to the
second. Both live in Parquet files whose images are Hugging Face `Image` structs, so `datasets.load_dataset("parquet",
data_files="DIR/*.parquet")` shows them as images. A stage's directory holds one or more `*.parquet` files and a
`manifest.json` (which `data_dir=` would take for data).
"""

from __future__ import annotations

import json
import random
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from retrodict.files import JsonMapping, JsonObject, write_atomic, write_json
from retrodict.images import encode_png, html_row, read_image  # noqa: F401 (PNG is what rows hold)

ActionSource = Literal["human", "template", "idm"]

MANIFEST = "manifest.json"
NO_LIKELIHOOD = "no_likelihood"  # in a row's provenance: why its label has none
_ROW_GROUP = 100


@dataclass(frozen=True, kw_only=True, repr=False, slots=True)
class FramePair:
    """Two frames of one clip, in order. Images are encoded bytes (PNG or JPEG), or None when a stage kept none."""

    id: str
    clip: str = ""  # path as given, relative to the mined folder
    clip_sha256: str = ""
    category: str = ""  # column `class`: what selection is round-robin over
    group: str = ""  # rows of one group never straddle a split
    frame_source: int = 0  # index in decode order
    frame_target: int = 0
    t_source: float = 0.0  # seconds
    t_target: float = 0.0
    source: bytes | None = None
    target: bytes | None = None
    motion: float = float("nan")
    sharpness: float = float("nan")
    provenance: JsonMapping = field(default_factory=dict)

    @property
    def cluster(self) -> str:
        """What is resampled and split as a whole: the group, or the row itself where it has none."""
        return self.group or self.id

    @property
    def source_image(self) -> Image.Image:
        return decode_image(self.source, f"source of {self.id}")

    @property
    def target_image(self) -> Image.Image:
        return decode_image(self.target, f"target of {self.id}")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._title!r})"

    @property
    def _title(self) -> str:
        return self.id

    def _repr_html_(self) -> str:
        """Both frames, as notebooks show them."""
        frames = (("source", self.source), ("target", self.target))
        shown = [(decode_image(data, side), side, False) for side, data in frames if data is not None]
        return html_row(self._title, shown)


@dataclass(frozen=True, kw_only=True, repr=False, slots=True)
class Transition(FramePair):
    """A frame pair and the action between its frames.

    `logprob` is the natural-log probability that the labelling model gave the action (a sum over `tokens` tokens); NaN
    where the label did not come from a model.
    """

    action: str = ""
    action_source: ActionSource = "human"
    logprob: float = float("nan")
    tokens: int = 0
    split: str = ""

    @property
    def _title(self) -> str:
        return f"{self.id}: {self.action}"


_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_PAIR_FIELDS = [
    ("id", pa.string()),
    ("clip", pa.string()),
    ("clip_sha256", pa.string()),
    ("class", pa.string()),
    ("group", pa.string()),
    ("frame_source", pa.int64()),
    ("frame_target", pa.int64()),
    ("t_source", pa.float64()),
    ("t_target", pa.float64()),
    ("source", _IMAGE),
    ("target", _IMAGE),
    ("motion", pa.float64()),
    ("sharpness", pa.float64()),
    ("provenance", pa.string()),
]
_ACTION_FIELDS = [
    ("action", pa.string()),
    ("action_source", pa.string()),
    ("logprob", pa.float64()),
    ("tokens", pa.int64()),
    ("split", pa.string()),
]


def _features(columns: list[tuple[str, pa.DataType]]) -> bytes:
    def feature(kind: pa.DataType) -> JsonObject:
        if kind == _IMAGE:
            return {"_type": "Image"}
        return {"dtype": "float64" if kind == pa.float64() else str(kind), "_type": "Value"}

    return json.dumps({"info": {"features": {name: feature(kind) for name, kind in columns}}}).encode()


def schema(kind: type[FramePair]) -> pa.Schema:
    """The Arrow schema of `FramePair` or `Transition`, with the metadata that makes `datasets` show the images."""
    columns = _PAIR_FIELDS + (_ACTION_FIELDS if issubclass(kind, Transition) else [])
    return pa.schema(columns, metadata={b"huggingface": _features(columns)})


def _to_record(row: FramePair) -> JsonObject:
    record = {f.name: getattr(row, f.name) for f in fields(row)}
    record["class"] = record.pop("category")
    for side in ("source", "target"):
        record[side] = None if record[side] is None else {"bytes": record[side], "path": None}
    record["provenance"] = json.dumps(dict(record["provenance"]), sort_keys=True)
    return record


def _from_record(record: JsonObject) -> FramePair:
    kind = Transition if "action" in record else FramePair
    given = {name: value for name, value in record.items() if value is not None}
    given["category"] = given.pop("class", "")
    for side in ("source", "target"):
        given[side] = given.get(side, {}).get("bytes")
    given["provenance"] = json.loads(given.get("provenance") or "{}")
    if not isinstance(given["provenance"], dict) or not isinstance(given.get("id"), str):
        raise ValueError("it has no id, or its provenance is no JSON object.")
    return kind(**given)


def to_table(rows: Iterable[FramePair], kind: type[FramePair]) -> pa.Table:
    return pa.Table.from_pylist([_to_record(row) for row in rows], schema=schema(kind))


def write_rows(
    path: Path,
    rows: Iterable[FramePair],
    kind: type[FramePair] = Transition,
    notes: Mapping[bytes, bytes] | None = None,
) -> None:
    """Write rows to one Parquet file as they come. It appears under its name only when complete.

    `notes` go into its footer; they are read last, so what yields the rows may still fill them.
    """
    remaining = iter(rows)

    def write(temporary: Path) -> None:
        with pq.ParquetWriter(temporary, schema(kind), compression=_compression(kind)) as writer:
            while part := list(islice(remaining, _ROW_GROUP)):
                writer.write_table(to_table(part, kind))
            writer.add_key_value_metadata(dict(notes or {}))

    write_atomic(path, write)


def _compression(kind: type[FramePair]) -> dict[str, str]:
    """Image bytes are compressed already: leaving them alone keeps reading fast."""
    images = {name for name, column in _PAIR_FIELDS if column == _IMAGE}
    plain = {name: "zstd" for name in schema(kind).names if name not in images}
    return plain | {f"{name}.{part}": "none" for part in ("bytes", "path") for name in sorted(images)}


def row_files(directory: Path) -> list[Path]:
    """The Parquet files of a stage's directory, in order. Raises `ValueError` when there are none."""
    if files := sorted(Path(directory).glob("*.parquet")):
        return files
    raise ValueError(f"{directory} holds no .parquet files: give the output directory of an earlier stage.")


def read_notes(file: Path) -> dict[bytes, bytes]:
    """The notes in a file's footer. Raises `ValueError` when it is no readable Parquet file."""
    return dict(open_parquet(file).metadata.metadata or {})


def open_parquet(file: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(file)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{file} is not a readable Parquet file ({error}): remove it, and make it again.") from None


def read_rows(directory: Path, columns: list[str] | None = None) -> list[FramePair]:
    """All rows of a stage's directory, in file and row order.

    `columns` limits what is read (`id` always is); the other fields keep their defaults. Raises `ValueError` when the
    directory holds no rows.
    """
    return list(iter_rows(directory, columns))


def iter_rows(directory: Path, columns: list[str] | None = None) -> Iterator[FramePair]:
    """The same, one file open at a time; no more than 256 rows are in memory."""
    for file in row_files(directory):
        yield from file_rows(file, columns)


def file_rows(file: Path, columns: list[str] | None = None, only: Collection[int] | None = None) -> Iterator[FramePair]:
    """The rows of one file, or `only` those of these numbers, without reading the row groups between them."""
    reader = open_parquet(file)
    wanted = _columns_of(file, reader.schema_arrow, columns)
    stop = 0
    for group in range(reader.metadata.num_row_groups):
        start, stop = stop, stop + reader.metadata.row_group(group).num_rows
        if only is not None and not any(number in only for number in range(start, stop)):
            continue
        batches = reader.iter_batches(batch_size=256, row_groups=[group], columns=wanted)
        records = (record for batch in batches for record in batch.to_pylist())
        for number, record in enumerate(records, start):
            if only is None or number in only:
                try:
                    row = _from_record(record)
                except ValueError as error:
                    raise ValueError(f"{file}, row {number} is not as a stage writes it: {error}") from None
                yield row


def read_transitions(directory: Path) -> list[Transition]:
    """The labelled rows of a directory; a `ValueError` says so when it holds unlabelled pairs."""
    rows = read_rows(directory)
    transitions = [row for row in rows if isinstance(row, Transition)]
    if len(transitions) < len(rows):
        raise ValueError(f"{directory} holds frame pairs without actions: run `retrodict annotate` on it first.")
    return transitions


def _columns_of(file: Path, found: pa.Schema, columns: list[str] | None) -> list[str]:
    """Which columns of a file are read: ours, all or these and the id; what else others have added is left alone.

    Raises `ValueError` when there is no id, or a column holds something else than ours of its name.
    """
    if "id" not in found.names:
        raise ValueError(f"{file} holds no rows of a stage: it has no column id.")
    ours = dict(_PAIR_FIELDS + _ACTION_FIELDS)
    read = [name for name in found.names if name in ours and (columns is None or name in {"id", *columns})]
    for name in read:
        if _sort(found.field(name).type) not in (_sort(ours[name]), "nothing"):
            raise ValueError(f"{file}: its column {name} is of {found.field(name).type}, and not of {ours[name]}.")
    return read


def _sort(kind: pa.DataType) -> str:
    """What a column holds, however wide: libraries widen and encode what they write back."""
    if pa.types.is_dictionary(kind):
        return _sort(kind.value_type)
    if pa.types.is_struct(kind):
        return "image" if "bytes" in {kind.field(i).name for i in range(kind.num_fields)} else "struct"
    sorts = {
        "nothing": pa.types.is_null(kind),
        "text": pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind),
        "number": pa.types.is_integer(kind) or pa.types.is_floating(kind),
    }
    return next((name for name, holds in sorts.items() if holds), str(kind))


def label(pair: FramePair, **action: Any) -> Transition:
    """`pair` with an action: `label(pair, action="...", action_source="idm", logprob=-1.2, tokens=6)`."""
    return Transition(**{f.name: getattr(pair, f.name) for f in fields(FramePair)}, **action)


def split_by_group(rows: list[Transition], fraction: float, seed: int) -> tuple[list[Transition], list[Transition]]:
    """Split rows so that no group is on both sides; about `fraction` of the groups go to the second part."""
    groups = sorted({row.cluster for row in rows})
    random.Random(seed).shuffle(groups)
    held_out = set(groups[: round(len(groups) * fraction)])
    first = [row for row in rows if row.cluster not in held_out]
    return first, [row for row in rows if row.cluster in held_out]


def decode_image(data: bytes | None, what: str) -> Image.Image:
    if data is None:
        raise ValueError(f"The {what} has no image: it was written with --no-frames.")
    return read_image(data, f"The {what}")


def write_manifest(
    directory: Path, *, kind: str, config: JsonMapping, kept: int, dropped: Mapping[str, int], **more: Any
) -> None:
    """Record what a stage made: its config, the versions it ran with, and counts kept and dropped by reason."""
    from retrodict.versions import versions

    counts = {"kept": kept, "dropped": dict(sorted(dropped.items()))}
    write_json(
        directory / MANIFEST,
        {"kind": kind, "counts": counts, "config": dict(config), "versions": versions(), **more},
    )

"""Labelled image pairs in a JSON, JSON Lines, CSV or Parquet file, with a map from its columns to ours.

Covers AURORA's JSON and Parquet, MagicBrush, Action-Genome-Edit and Kubric-Edit.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from retrodict.data.files import inside, read_csv, read_records
from retrodict.data.items import Item, UnusableError, as_text, state
from retrodict.data.layouts import PRESETS, Columns
from retrodict.files import LONGEST_ACTION, JsonObject, is_text, text_lines, visible
from retrodict.images import read_image
from retrodict.transitions import Transition


def image_pairs(file: Path, columns: Columns = PRESETS["aurora"], *, root: Path | None = None) -> Iterator[Item]:
    """The rows of a file of labelled image pairs, each read when it is called.

    Args:
        file: `.json` (a list), `.jsonl`, `.csv` (with a header) or `.parquet`; or a folder of Parquet files, or of
            images with one of the others.
        columns: which column holds what; see `layouts.PRESETS`.
        root: folder that image paths start from; by default that of `file`, or the nearest of its three parents that
            the first row's source is found from: published lists count from the top of their repository.

    Raises:
        ValueError: the file cannot be read, or lacks a column in every row.
    """
    if file.is_dir() and not any(file.glob("*.parquet")):
        file = _list_in(file)
    root = root or _root_of(file, columns)
    for number, row in enumerate(_checked(_rows(file), columns, file)):
        named = as_text(row.get(columns.id)) if columns.id else ""
        identity = f"{file.stem}/{named or number}"
        read = partial(_transition, row, number, identity, file, columns, root)
        yield Item(identity, partial(_key, row, number, identity, columns, root), read)


def _key(row: JsonObject, number: int, identity: str, columns: Columns, root: Path) -> str:
    """What the transition is made of: the row, and the files that it names."""
    digest = hashlib.sha256(f"{number} {identity}".encode())
    for name, value in sorted(row.items()):
        digest.update(f"\0{name}\0{value!r}".encode(errors="surrogateescape"))
    for name in (columns.source, columns.target):
        if path := _path(row.get(name)):
            with suppress(ValueError):  # a path that leads elsewhere is never read
                digest.update(f"\0{state(inside(root, path))}".encode())
    return digest.hexdigest()[:16]


def _transition(row: JsonObject, number: int, identity: str, file: Path, columns: Columns, root: Path) -> Transition:
    if not any(row.values()):
        raise UnusableError("bad_row")
    said = row.get(columns.action)
    action = visible(as_text(said))
    if isinstance(said, bool | list | dict) or not is_text(str(said)):
        raise UnusableError("action_no_text")
    if not action:
        raise UnusableError("no_action")
    if len(action) > LONGEST_ACTION:
        raise UnusableError("action_too_long")
    source, target = (_image(row.get(name), root) for name in (columns.source, columns.target))
    path = _path(row.get(columns.source))
    match = re.search(columns.group_pattern, path) if columns.group_pattern else None
    group = as_text(row.get(columns.group)) if columns.group else (match[1] if match else path)
    return Transition(
        id=identity,
        clip=path or identity,
        category=as_text(row.get(columns.category)) if columns.category else "",
        group=group or identity,
        frame_target=1,
        source=source,
        target=target,
        provenance={"file": file.name, "row": number},
        action=action,
        action_source="human",
    )


def _path(value: object) -> str:
    if isinstance(value, dict):
        value = value.get("path")
    return value if isinstance(value, str) else ""


def _image(value: object, root: Path) -> bytes:
    """The image as it is encoded. Raises `UnusableError` when there is none that can be opened."""
    if isinstance(value, dict) and isinstance(value.get("bytes"), bytes) and value["bytes"]:
        data: bytes = value["bytes"]
    elif isinstance(value, bytes):
        data = value
    elif path := _path(value):
        try:
            file = inside(root, path)
            if not file.is_file():  # a pipe would be waited for without end
                raise UnusableError("missing_image")
            data = file.read_bytes()
        except OSError:
            raise UnusableError("unreadable_image") from None
        except ValueError:
            raise UnusableError("outside_folder") from None
    else:
        raise UnusableError("no_image")
    try:
        read_image(data)  # as training will
    except ValueError as error:
        raise UnusableError("broken_image") from error
    return data


def _root_of(file: Path, columns: Columns) -> Path:
    own = file if file.is_dir() else file.parent
    first = next(iter(_rows(file)), None)
    path = _path(first.get(columns.source)) if isinstance(first, dict) else ""
    if not path or path.startswith(("/", "\\")) or ".." in path:  # no path of a published list
        return own
    for folder in (own, *own.absolute().parents[:3]):
        with suppress(ValueError):  # a path that leads elsewhere is never read
            if inside(folder, path).is_file():
                return folder
    return own


def _list_in(folder: Path) -> Path:
    """The one file in a folder of images that lists them."""
    lists = sorted(
        path for path in folder.iterdir() if path.suffix.lower() in _READERS and not path.name.startswith(".")
    )
    if len(lists) != 1:
        names = ", ".join(path.name for path in lists) or "none"
        raise ValueError(
            f"{folder} should hold .parquet files, or one .csv, .json or .jsonl file, and has {names}: name the file."
        )
    return lists[0]


def _checked(rows: Iterable[JsonObject], columns: Columns, file: Path) -> Iterator[JsonObject]:
    """The rows as they come; at their end, an error when not one had the columns that are needed."""
    seen: set[str] = set()
    for row in rows:
        if not isinstance(row, dict):
            raise ValueError(f"{file} is not a list of objects with named columns.")
        seen |= row.keys()
        yield row
    for name in (columns.source, columns.target, columns.action):
        if name not in seen:
            has = ", ".join(sorted(seen)) or "no rows"
            raise ValueError(f"{file} has no column {name!r}: map the columns to those it has ({has}).")


def _rows(file: Path) -> Iterator[JsonObject]:
    files = sorted(file.glob("*.parquet")) if file.is_dir() else [file]
    if not files[0].is_file():
        raise ValueError(f"{file} does not exist.")
    for part in files:
        read = _READERS.get(part.suffix.lower())
        if read is None:
            raise ValueError(f"{part} is no list of image pairs by its name: it should end with {', '.join(_READERS)}.")
        yield from read(part)


def _parquet_rows(file: Path) -> Iterator[JsonObject]:
    try:
        for batch in pq.ParquetFile(file).iter_batches(batch_size=64):
            yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{file} is not a readable Parquet file: {error}.") from None


def _json_lines(file: Path) -> Iterator[JsonObject]:
    for number, line in enumerate(text_lines(file), 1):
        if line.strip():
            try:
                yield json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{file}, line {number} is not JSON: {error}.") from None


_READERS: Mapping[str, Callable[[Path], Iterable[JsonObject]]] = {
    ".csv": read_csv,
    ".tsv": read_csv,
    ".json": read_records,
    ".jsonl": _json_lines,
    ".parquet": _parquet_rows,
}

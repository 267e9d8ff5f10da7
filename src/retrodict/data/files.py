"""Files that a manifest names: found by name, and never outside their folder."""

from __future__ import annotations

import codecs
import csv
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, TextIO, cast

from retrodict.files import JsonObject, text_lines
from retrodict.video.clips import SUFFIXES, ClipRef, open_folders, readable


def inside(root: Path, name: str) -> Path:
    """`root / name`, or `name` where it is the whole path of something in `root`.

    Raises `ValueError` when it would leave `root`: lists come from strangers.
    """
    base = Path(os.path.normpath(root.absolute()))
    named = PurePosixPath(name.replace("\\", "/"))
    path = Path(os.path.normpath(base / named))
    if not named.parts or "\0" in name or named.parts[0].endswith(":") or path == base or not path.is_relative_to(base):
        raise ValueError(
            f"A list names {name!r}, which is not a path inside {root}: correct that entry, or name a folder that "
            "holds it."
        )
    path = root / path.relative_to(base)
    try:
        there = path.exists()
    except OSError as error:  # no disk has names as long
        raise ValueError(f"A list names {name[:80]!r}...: {error.strerror}.") from None
    whole = root.resolve()
    if whole.parent.name == "snapshots" and (whole.parents[1] / "blobs").is_dir():
        whole = whole.parents[1]  # in the hub's cache, a version's files are links to what all versions share
    if there and not path.resolve().is_relative_to(whole):
        raise ValueError(f"A list names {name!r}, which links outside {root}: copy the file there.")
    return path


def bad_row(table: Path, line: int) -> ClipRef:
    """Stands for a row of a list that cannot be read, so that it is counted."""
    return ClipRef(path=table, name=f"{table.name}:{line}", unusable="bad_row")


def folder(root: Path) -> Path:
    if not root.is_dir():
        raise ValueError(f"{root} is not a folder: give the folder that holds the videos.")
    return root


def video_index(root: Path) -> dict[str, Path]:
    """Video files below a folder by stem, the first in order of path where a stem repeats."""
    videos: dict[str, Path] = {}
    for path in sorted(Path(where, name) for where, names in open_folders(folder(root), []) for name in names):
        if path.suffix.lower() in SUFFIXES and not path.name.startswith("."):
            videos.setdefault(path.stem, path)
    return videos


def below(root: Path) -> list[Path]:
    """A folder and those in it, by name: where a collection's parts lie once all its archives are unpacked."""
    with os.scandir(folder(root)) as entries:
        names = sorted(one.name for one in entries if not one.name.startswith(".") and one.is_dir())
    return [root, *(root / name for name in names)]


def listed_in(root: Path, names: Sequence[str]) -> Path:
    """The folder, `root` or one in it, that the paths of a list count from: where the first that exists is found."""
    places = below(root)
    return next((place for name in names for place in places if (place / name).is_file()), root)


def annotation(given: Path | None, root: Path, names: Sequence[str]) -> Path:
    """The annotation file given, or else the first of the usual names that lies in `given`, a folder, or in or just
    below `root`."""
    if given is not None and given.is_file():
        return given
    for folder in [given] if given is not None else below(root):
        for pattern in names:
            if matches := sorted(folder.glob(pattern)):
                return matches[0]
    looked = ", ".join(names)
    raise ValueError(f"No annotation file in {given or root}: looked for {looked}. Name it with --annotations.")


def read_csv(path: Path, needed: Sequence[str] = ()) -> Iterator[dict[str, str]]:
    """Rows of a CSV file with a header, in UTF-8 or UTF-16, parted by commas, semicolons or tabs, or by what Excel's
    first line says (`sep=;`).

    Of a row with more cells than the header it is not clear what is what: all its cells are empty.

    Raises:
        ValueError: a needed column is missing, two have one name, or the file is no such text; it is named.
    """
    with path.open("rb") as raw:
        encoding = "utf-16" if raw.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"
    try:
        with path.open(newline="", encoding=encoding) as file:
            yield from _table(path, file, needed)
    except UnicodeError:
        raise ValueError(f"{path} is no text in UTF-8 or UTF-16: save it as that.") from None
    except csv.Error as error:
        raise _no_csv(path, error) from None


def read_rows(path: Path) -> list[list[str]]:
    """Rows of a CSV file without a header, in UTF-8 and parted by commas. Raises `ValueError` where it is none."""
    try:
        return list(csv.reader(text_lines(path)))
    except csv.Error as error:
        raise _no_csv(path, error) from None


def _no_csv(path: Path, error: csv.Error) -> ValueError:
    return ValueError(f"{path} is no CSV file ({error}): is a quotation mark in it never closed?")


def _table(path: Path, file: TextIO, needed: Sequence[str]) -> Iterator[dict[str, str]]:
    start, header, told = 0, file.readline(), ""
    while header and (not header.strip() or (not told and (told := _separator(header)))):
        start, header = file.tell(), file.readline()
    if "\0" in header:
        raise ValueError(f"{path} is no text in UTF-8, nor in UTF-16 with a byte order mark: save it as UTF-8.")
    file.seek(start)
    reader = csv.DictReader(file, skipinitialspace=True, delimiter=told or max(",;\t", key=header.count))
    names = reader.fieldnames or []
    if missing := [name for name in needed if name not in names]:
        raise ValueError(f"{path} has no column {missing[0]!r}: it should have {', '.join(needed)}.")
    if repeated := [name for name, count in Counter(names).items() if name and count > 1]:
        raise ValueError(f"{path} has several columns called {repeated[0]!r}: rename all but one.")
    for row in reader:
        astray = any(cast("dict[str | None, Any]", row).pop(None, ()))  # a comma that no quotation marks hold
        yield {name: "" if astray else value or "" for name, value in row.items()}


def _separator(line: str) -> str:
    """The character of a line `sep=;`; empty for any other line."""
    name, _, said = line.rstrip("\r\n").strip('"').partition("=")
    return said if name.strip().lower() == "sep" and len(said) == 1 else ""


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a JSON file: {error}.") from None


def read_records(path: Path) -> list[JsonObject]:
    """The objects that a JSON file lists. Raises `ValueError`, naming the file, where it holds anything else."""
    try:
        records = read_json(path)
    except ValueError as error:
        hint = " If every line is an object, call it .jsonl." if "Extra data" in str(error) else ""
        raise ValueError(f"{error}{hint}") from None
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise ValueError(f"{path} is not a list of objects with named columns.")
    return records


def shown_name(path: Path, root: Path) -> str:
    return readable(path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name)

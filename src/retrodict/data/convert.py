"""Labelled data of any layout, written as a directory that every later stage reads."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import count
from pathlib import Path

from retrodict.data.items import Item, UnusableError
from retrodict.files import JsonMapping, write_json
from retrodict.progress import Progress, QuietProgress
from retrodict.run_folder import RECORD, check
from retrodict.transitions import FramePair, Transition, file_rows, read_notes, write_manifest, write_rows

_ITEMS = 500  # per file: what a killed run repeats
_LEDGER = b"retrodict.items"  # key and reason of every item of the file; no reason: it gave a row


def write_transitions(
    items: Iterable[Item],
    out: Path,
    *,
    source: JsonMapping,
    inputs: Iterable[Path] = (),
    total: int = 0,
    progress: Progress | None = None,
) -> Counter[str]:
    """Read labelled items and write their transitions to `out`; return how many were dropped, by reason.

    The same call again reads what is new or has changed, be it a label or a file, and takes out what is gone.

    Args:
        items: of `labelled_clips` or `image_pairs`.
        out: a new directory, or that of an earlier call for the same `source`.
        source: where the items come from; JSON values. It stands in the manifest.
        inputs: the files and folders that the items are read from.
        total: number of items, where it is known.

    Raises:
        ValueError: `out` holds something else, or not one item gave a transition.
    """
    progress = progress or QuietProgress()
    record = check(out, "import", source, apart=inputs)
    recorded = {key: reason for file in _files(out) for key, reason in _ledger(file)}
    kept, dropped = 0, Counter[str]()
    seen: set[str] = set()
    ids: set[str] = set()
    new: list[tuple[str, Item]] = []

    def take(reasons: Iterable[str]) -> None:
        nonlocal kept
        for reason in reasons:
            kept += not reason
            dropped.update([reason] if reason else [])

    def flush() -> None:
        write_json(out / RECORD, record)
        take(_write(out, new))
        new.clear()

    for number, item in enumerate(items):
        progress.advance(number, total, f"{kept:,} transitions")
        if item.id in ids:
            dropped["repeated_id"] += 1
            continue
        ids.add(item.id)
        key = item.key()
        seen.add(key)
        if key in recorded:
            take([recorded[key]])
            continue
        new.append((key, item))
        if len(new) == _ITEMS:
            flush()
    if new:
        flush()
    if not kept:  # a disk may be gone: what an earlier call wrote stays
        _clean(out)
        raise ValueError(_nothing(out, dropped))
    _forget(out, recorded.keys() - seen)
    write_manifest(out, kind="transitions", config=dict(source), kept=kept, dropped=dropped)
    return dropped


def _files(out: Path) -> list[Path]:
    return sorted(out.glob("transitions-*.parquet"))


def _ledger(file: Path) -> list[tuple[str, str]]:
    return [(key, reason) for key, reason in json.loads(read_notes(file)[_LEDGER])]


def _write(out: Path, items: Iterable[tuple[str, Item]]) -> list[str]:
    """Write a file of new items; return their reasons."""
    ledger: list[tuple[str, str]] = []
    notes: dict[bytes, bytes] = {}

    def rows() -> Iterator[Transition]:
        for key, item in items:
            reason = ""
            try:
                yield item.read()
            except UnusableError as error:
                reason = error.reason
            ledger.append((key, reason))
        notes[_LEDGER] = json.dumps(ledger).encode()

    taken = {file.name for file in _files(out)}
    name = next(name for number in count() if (name := f"transitions-{number:05d}.parquet") not in taken)
    write_rows(out / name, rows(), notes=notes)
    return [reason for _, reason in ledger]


def _forget(out: Path, keys: Collection[str]) -> None:
    """Take out the rows of items that are gone, or are something else now."""
    for file in _files(out) if keys else ():
        ledger = _ledger(file)
        kept = [(key, reason) for key, reason in ledger if key not in keys]
        if not kept:
            file.unlink()
        elif len(kept) < len(ledger):
            write_rows(file, _rows_of(file, ledger, keys), notes={_LEDGER: json.dumps(kept).encode()})


def _rows_of(file: Path, ledger: Iterable[tuple[str, str]], without: Collection[str]) -> Iterator[FramePair]:
    rows = file_rows(file)
    for key, reason in ledger:
        if not reason and (row := next(rows)) and key not in without:
            yield row


def _nothing(out: Path, dropped: Mapping[str, int]) -> str:
    reasons = ", ".join(f"{number} {reason}" for reason, number in sorted(dropped.items()))
    hint = " Paths of images start from the file's folder, unless --images names another that holds them all."
    astray = any(dropped.get(reason) for reason in ("missing_image", "outside_folder"))
    return f"No transition could be read ({reasons or 'no rows'}); nothing was written to {out}." + hint * astray


def _clean(out: Path) -> None:
    for file in _files(out):
        if all(reason for _, reason in _ledger(file)):
            file.unlink()
    if not _files(out):
        (out / RECORD).unlink(missing_ok=True)
        with suppress(OSError):  # not there, or not empty
            out.rmdir()

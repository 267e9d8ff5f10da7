"""Labelled data of any layout, written as a directory that every later stage reads."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import count, islice
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from retrodict.data.items import Item, transitions
from retrodict.files import write_json
from retrodict.progress import Progress, QuietProgress
from retrodict.run_folder import RECORD, check
from retrodict.transitions import write_manifest, write_rows

_ITEMS = 500  # per file: what a killed run repeats
_SOURCE, _DROPPED = b"retrodict.source", b"retrodict.dropped"


def write_transitions(
    items: Iterable[Item],
    out: Path,
    *,
    source: Mapping[str, Any],
    inputs: Iterable[Path] = (),
    total: int = 0,
    progress: Progress | None = None,
) -> Counter[str]:
    """Read labelled items and write their transitions to `out`; return how many were dropped, by reason.

    The same call again continues: what an earlier one wrote is not read again.

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
    origin = json.dumps(dict(source), sort_keys=True).encode()
    record = check(out, "import", source, apart=inputs)
    remaining, read = iter(items), 0
    kept, dropped, files = 0, Counter[str](), list[Path]()
    try:
        for number in count():
            part = list(islice(remaining, _ITEMS))
            if not part:
                break
            files.append(out / f"transitions-{number:05d}.parquet")
            if not files[-1].is_file():
                write_json(out / RECORD, record)
                _write(files[-1], _told(part, read, total, progress), origin)
            read += len(part)
            footer = pq.read_metadata(files[-1])
            kept += footer.num_rows
            dropped.update(json.loads(footer.metadata[_DROPPED]))
            progress.advance(read, total, f"{kept:,} transitions")
    finally:
        if not kept:
            _clean(out, [*files, out / RECORD])
    if not kept:
        reasons = ", ".join(f"{number} {reason}" for reason, number in sorted(dropped.items()))
        hint = " Paths of pictures start from the file's folder, unless --pictures names another."
        raise ValueError(
            f"No transition could be read ({reasons or 'no rows'}); nothing was written to {out}."
            + hint * bool(dropped["missing_picture"])
        )
    write_manifest(out, kind="transitions", config=dict(source), kept=kept, dropped=dropped)
    return dropped


def _clean(out: Path, files: Iterable[Path]) -> None:
    for file in files:
        file.unlink(missing_ok=True)
    with suppress(OSError):  # not there, or not empty
        out.rmdir()


def _write(file: Path, items: Iterable[Item], origin: bytes) -> None:
    dropped: Counter[str] = Counter()
    rows = list(transitions(items, dropped))
    write_rows(file, rows, notes={_SOURCE: origin, _DROPPED: json.dumps(dropped, sort_keys=True).encode()})


def _told(items: Iterable[Item], read: int, total: int, progress: Progress) -> Iterator[Item]:
    for done, item in enumerate(items, read):
        progress.advance(done, total)
        yield item

"""Labelled data of any layout, written as a directory that every later stage reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from retrodict.transitions import MANIFEST, Transition, write_manifest, write_rows

_ROWS = 1000  # per file


def write_transitions(
    rows: Iterable[Transition], out: Path, *, source: Mapping[str, Any], dropped: Counter[str] | None = None
) -> int:
    """Write labelled transitions to `out`, a new directory, and return their number.

    `rows` may be lazy; `dropped` is the counter that their reader fills. Raises `ValueError` when `out` is not empty,
    or when there are no rows.
    """
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise ValueError(f"{out} is a file or not empty: give a new directory.")
    rows = iter(rows)
    kept = 0
    while part := list(islice(rows, _ROWS)):
        write_rows(out / f"transitions-{kept // _ROWS:05d}.parquet", part)
        kept += len(part)
    dropped = dropped if dropped is not None else Counter()
    if not kept:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(dropped.items()) if count)
        raise ValueError(f"No transition could be read ({reasons or 'no rows'}); nothing was written to {out}.")
    write_manifest(out, kind="transitions", config=dict(source), kept=kept, dropped=+dropped)
    assert (out / MANIFEST).is_file()
    return kept

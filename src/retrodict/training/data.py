"""What a model learns from: transitions of several sources, whose images stay on disk until they are asked for."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, overload

from retrodict.files import visible
from retrodict.training.config import Source, TrainData
from retrodict.transitions import (
    FramePair,
    Transition,
    file_rows,
    label,
    open_parquet,
    read_rows,
    schema,
    split_by_group,
)

READ = 512  # rows whose images are in memory at a time
LATE = ["source", "target", "provenance"]


class RowRef(NamedTuple):
    """Where a row's images are: a Parquet file and the row's number in it."""

    file: Path
    row: int


class Stored(Sequence[Transition]):
    """Transitions without their images and provenance, which are read from disk when an item is asked for.

    At the paper's size the images are some 15 GB, and training needs them once, to tokenize them.
    """

    def __init__(self, rows: Sequence[Transition], refs: Sequence[RowRef]) -> None:
        assert len(rows) == len(refs)
        self.rows = rows
        self.refs = refs

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Transition: ...
    @overload
    def __getitem__(self, index: slice) -> list[Transition]: ...
    def __getitem__(self, index: int | slice) -> Transition | list[Transition]:
        if isinstance(index, int):
            return self._with_images([range(len(self))[index]])[0]
        return self._with_images(range(len(self))[index])

    def __iter__(self) -> Iterator[Transition]:
        for start in range(0, len(self), READ):
            yield from self[start : start + READ]

    def only(self, chosen: Sequence[int]) -> Stored:
        return Stored([self.rows[i] for i in chosen], [self.refs[i] for i in chosen])

    def _with_images(self, chosen: Sequence[int]) -> list[Transition]:
        wanted: dict[Path, set[int]] = {}
        for i in chosen:
            wanted.setdefault(self.refs[i].file, set()).add(self.refs[i].row)
        images = {
            RowRef(file, number): row
            for file, numbers in wanted.items()
            for number, row in zip(sorted(numbers), file_rows(file, LATE, numbers), strict=True)
        }
        pairs = ((self.rows[i], images[self.refs[i]]) for i in chosen)
        return [replace(row, **{name: getattr(image, name) for name in LATE}) for row, image in pairs]


def stored_transitions(directory: Path, *, labelled: bool = True) -> Stored:
    """The rows of a directory; frame pairs without actions only where they need not be `labelled`.

    Raises:
        ValueError: There are no rows, or some without actions, or with empty ones.
    """
    columns = [name for name in schema(Transition if labelled else FramePair).names if name not in LATE]
    files = sorted(Path(directory).glob("*.parquet"))
    if labelled and any("action" not in open_parquet(file).schema_arrow.names for file in files):
        raise ValueError(f"{directory} holds frame pairs without actions: run `retrodict annotate` on it first.")
    rows = [row if isinstance(row, Transition) else label(row) for row in read_rows(directory, columns)]
    if labelled and (silent := next((row.id for row in rows if not visible(row.action)), None)) is not None:
        raise ValueError(f"{directory}: transition {silent} has no action, so nothing can be learned from it.")
    refs = [RowRef(file, row) for file in files for row in range(open_parquet(file).metadata.num_rows)]
    return Stored(rows, refs)


def source_rows(source: Source) -> Stored:
    """The rows of a source, as many as the recipe takes of it."""
    rows = stored_transitions(source.path)
    if source.rows is None or source.rows >= len(rows):
        return rows
    return rows.only(sorted(random.Random(source.seed).sample(range(len(rows)), source.rows)))


def joined(parts: Sequence[Stored]) -> Stored:
    """The rows of all parts, in their order."""
    return Stored([row for part in parts for row in part.rows], [ref for part in parts for ref in part.refs])


def fit_and_val(data: TrainData, seed: int) -> tuple[Stored, Stored]:
    """What to train on and what to measure on."""
    mixed = joined([source_rows(source) for source in data.train])
    if data.val is not None:
        return mixed, stored_transitions(data.val)
    _, val = split_by_group(list(mixed.rows), data.val_share, seed)
    held_out = {id(row) for row in val}
    numbers = range(len(mixed))
    return (
        mixed.only([i for i in numbers if id(mixed.rows[i]) not in held_out]),
        mixed.only([i for i in numbers if id(mixed.rows[i]) in held_out]),
    )

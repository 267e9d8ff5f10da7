"""Which pseudo-labels the forward model learns from: stratified top-K (arXiv 2506.06006, Algorithm 1)."""

from __future__ import annotations

import math
import pickle
import shutil
import sys
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from retrodict.files import write_json
from retrodict.run_folder import RECORD, check, fingerprint, relative_path
from retrodict.transitions import (
    MANIFEST,
    Transition,
    file_rows,
    read_notes,
    row_files,
    write_manifest,
    write_rows,
)

ROWS = "transitions-00000.parquet"
COLLECTION = "collection"  # in a row's provenance: the collection of videos that it comes from
_PART = 256  # rows that are in memory at a time, with their images; more where that would make too many parts
_MOST_PARTS = 500
_SCRATCH = ".parts"
_MADE_OF = b"retrodict.made_of"


def select(transitions: Sequence[Transition], top_k: int, *, without_likelihood: bool = False) -> list[Transition]:
    """Take each class's most likely remaining label in turn (round-robin over classes), until `top_k` are taken.

    Classes take turns in alphabetical order, and equal likelihoods are ordered by id, so that the result depends on the
    set of transitions alone. Those without a likelihood are never taken, or last with `without_likelihood`. Fewer than
    `top_k` come back when there are no more.
    """
    ids, classes = [t.id for t in transitions], [t.category for t in transitions]
    return [transitions[i] for i in _ranking(ids, classes, [t.logprob for t in transitions], top_k, without_likelihood)]


def _ranking(
    ids: Sequence[str], classes: Sequence[str], logprobs: Sequence[float], top_k: int, without_likelihood: bool
) -> list[int]:
    """Positions of the rows to take, in the order in which they are taken."""
    if top_k < 1:
        raise ValueError(f"top_k must be at least 1, not {top_k}.")
    scored = [i for i, logprob in enumerate(logprobs) if without_likelihood or not math.isnan(logprob)]
    scored.sort(key=lambda i: (math.inf if math.isnan(logprobs[i]) else -logprobs[i], ids[i]))  # NaN sorts arbitrarily
    taken: Counter[str] = Counter()
    turns = np.empty(len(scored), np.int64)
    for n, i in enumerate(scored):
        turns[n] = taken[classes[i]]
        taken[classes[i]] += 1
    number = {name: n for n, name in enumerate(sorted(taken))}
    order = np.lexsort((np.array([number[classes[i]] for i in scored]), turns))
    return [scored[n] for n in order[:top_k]]


def select_dir(
    transitions: Path, *, top_k: int, out: Path, without_likelihood: bool = False, per_collection: bool = False
) -> None:
    """Select among a directory of annotated transitions; the same call again does it anew if they have changed.

    Two passes: what decides is read of all rows, the images of the chosen ones alone.

    Args:
        transitions: directory that `annotate` wrote.
        top_k: how many to keep.
        out: a new directory, or that of an earlier call with the same directory and `top_k`.
        without_likelihood: whether rows without a likelihood are taken, too, after all others.
        per_collection: keep so many of each collection of videos, one after the other.

    Raises:
        ValueError: no row has a likelihood or an action, or `out` is another run's or the transitions' own directory.
    """
    files = row_files(transitions)
    settings = {
        "transitions": relative_path(transitions, out),
        "top_k": top_k,
        "without_likelihood": without_likelihood,
        **({"per_collection": True} if per_collection else {}),
    }
    record = check(out, "select", settings, apart=[transitions])
    made_of = fingerprint(transitions).encode()
    if (out / MANIFEST).is_file() and read_notes(out / ROWS).get(_MADE_OF) == made_of:
        return
    ids, classes, logprobs, collections, starts = _what_decides(transitions, files, per_collection)
    rows_of: dict[str, list[int]] = {}
    for i, collection in enumerate(collections):
        rows_of.setdefault(collection, []).append(i)
    chosen = [
        rows[n]
        for _, rows in sorted(rows_of.items())
        for n in _ranking(
            [ids[i] for i in rows], [classes[i] for i in rows], [logprobs[i] for i in rows], top_k, without_likelihood
        )
    ]
    if not chosen:
        raise ValueError(f"No transition in {transitions} has a likelihood: run `retrodict annotate` first.")
    write_json(out / RECORD, record)
    (out / MANIFEST).unlink(missing_ok=True)
    write_rows(out / ROWS, _in_order(files, starts, chosen, out / _SCRATCH), notes={_MADE_OF: made_of})
    unscored = sum(map(math.isnan, logprobs))
    dropped = Counter({"no likelihood": unscored, "below the top": len(ids) - unscored - len(chosen)})
    write_manifest(out, kind="transitions", config={"top_k": top_k}, kept=len(chosen), dropped=+dropped)


def _what_decides(
    transitions: Path, files: Sequence[Path], per_collection: bool
) -> tuple[list[str], list[str], Sequence[float], list[str], list[int]]:
    """Ids, classes, log-probabilities and collections of all rows, and the number of the first row of each file."""
    ids: list[str] = []
    classes: list[str] = []
    logprobs = array("d")
    collections: list[str] = []
    starts: list[int] = []
    for file in files:
        starts.append(len(ids))
        for row in file_rows(file, ["class", "logprob", "action", *(["provenance"] if per_collection else [])]):
            if not isinstance(row, Transition):
                raise ValueError(f"{transitions} holds frame pairs without actions: run `retrodict annotate` on it.")
            ids.append(row.id)
            classes.append(sys.intern(row.category))
            logprobs.append(row.logprob)
            collections.append(sys.intern(str(row.provenance.get(COLLECTION, ""))))
    return ids, classes, logprobs, collections, starts


def _in_order(
    files: Sequence[Path], starts: Sequence[int], chosen: Sequence[int], scratch: Path
) -> Iterator[Transition]:
    """The chosen rows with their images. Each file is read once; the rows are sorted through parts on disk."""
    size = max(_PART, math.ceil(len(chosen) / _MOST_PARTS))
    order_of = {number: n for n, number in enumerate(chosen)}
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        with ExitStack() as stack:
            parts = [stack.enter_context((scratch / str(n)).open("w+b")) for n in range(math.ceil(len(chosen) / size))]
            for file, start, stop in zip(files, starts, [*starts[1:], None], strict=True):
                only = {number - start for number in order_of if start <= number and (stop is None or number < stop)}
                numbers = sorted(only)
                for number, row in zip(numbers, file_rows(file, only=only), strict=True):
                    n = order_of[start + number]
                    pickle.dump((n, row), parts[n // size])
            for n, part in enumerate(parts):
                part.seek(0)
                count = min(size, len(chosen) - n * size)
                yield from (row for _, row in sorted((pickle.load(part) for _ in range(count)), key=lambda one: one[0]))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)

"""The inverse model pseudo-labels frame pairs (arXiv 2506.06006, section 3.2): one greedy action each, and its
likelihood."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path

from PIL import Image

from retrodict.loading import load
from retrodict.models.protocol import InverseModel
from retrodict.progress import Progress, QuietProgress
from retrodict.run_folder import claim, relative_path
from retrodict.shards import ALL, Shard, Share, run_shards
from retrodict.transitions import (
    MANIFEST,
    FramePair,
    Transition,
    file_rows,
    label,
    open_parquet,
    read_notes,
    row_files,
    write_manifest,
    write_rows,
)

BATCH = 256  # pairs whose frames are in memory at a time
_MADE_OF, _DROPPED = b"retrodict.made_of", b"retrodict.dropped"
NO_WORDS, NO_IMAGES = "no action", "no image"  # reasons for which a pair is not labelled


def annotate(model: InverseModel, pairs: Sequence[FramePair], name: str = "") -> list[Transition]:
    """Label pairs.

    Args:
        model: says which action each pair shows.
        pairs: frame pairs with images.
        name: the model's name, for each row's provenance.

    Returns:
        One transition per pair, in order; its action is empty where the model gave no words.
    """
    # Adjacent pairs of a clip share a frame: it becomes one object, which the model reads once.
    frames: dict[bytes | None, Image.Image] = {}
    for pair in pairs:
        for data, side in ((pair.source, "source_image"), (pair.target, "target_image")):
            if data not in frames:
                frames[data] = getattr(pair, side)
    explanations = model.explain([(frames[pair.source], frames[pair.target]) for pair in pairs])
    transitions = []
    for pair, explanation in zip(pairs, explanations, strict=True):
        labelled = label(
            pair,
            action=explanation.action,
            action_source="idm",
            logprob=explanation.logprob.sum,
            tokens=explanation.logprob.count,
            split="train",
        )
        provenance = {**pair.provenance, "annotator": name, "prompt": explanation.prompt, "decoding": "greedy"}
        transitions.append(replace(labelled, provenance=provenance))
    return transitions


def annotate_dir(
    pairs: Path,
    *,
    model: str | Path,
    out: Path,
    progress: Progress | None = None,
    share: Share = ALL,
) -> bool:
    """Label every pair of a directory: each file of pairs gives a file of the same name.

    The same call again labels what is new: a file whose pairs have changed is made anew, one whose pairs are gone is
    removed. Pairs without images, and those to which the model gives no words, are dropped and counted.

    Args:
        pairs: directory that `mine` wrote.
        model: name or folder of an inverse model; see `retrodict.load`.
        out: a new directory, or that of an earlier call with the same pairs and model.
        share: which of several processes this is. Each labels its share of the files, and the manifest is written by
            every one that finds all files made.

    Returns:
        Whether all files are made; else other processes are still at their shares.

    Raises:
        ValueError: no pair has images, or `out` is another run's or the pairs' own directory.
    """
    files = row_files(pairs)
    claim(out, "annotate", {"pairs": relative_path(pairs, out)}, inputs={"model": str(model)}, apart=[pairs])
    inverse = lru_cache(maxsize=1)(lambda: load(model, role="inverse"))  # only when there is something to label
    shards = [
        Shard(
            partial(_is_made, out / file.name, file),
            partial(_annotate_file, inverse, file, out / file.name, str(model)),
            open_parquet(file).metadata.num_rows,
        )
        for file in files
    ]
    if not all(shard.is_made() for shard in shards):
        (out / MANIFEST).unlink(missing_ok=True)  # it counts what is no more
    if run_shards(shards, share, progress or QuietProgress()):
        return False
    _finish(out, files, str(model), sum(shard.rows for shard in shards))
    return True


def _annotate_file(
    model: Callable[[], InverseModel], file: Path, target: Path, name: str, tell: Callable[[int], None]
) -> None:
    dropped: Counter[str] = Counter()
    notes = {_MADE_OF: _made_of(file)}  # before its rows are read: a file that changes meanwhile is read again

    def rows() -> Iterator[Transition]:
        shown = 0
        for batch in _batches(file_rows(file)):
            usable = [pair for pair in batch if pair.source is not None and pair.target is not None]
            labelled = annotate(model(), usable, name) if usable else []
            yield from (row for row in labelled if row.action)
            dropped[NO_WORDS] += sum(not row.action for row in labelled)
            dropped[NO_IMAGES] += len(batch) - len(usable)
            shown += len(batch)
            tell(shown)
        notes[_DROPPED] = json.dumps(+dropped).encode()

    write_rows(target, rows(), notes=notes)


def _batches(rows: Iterable[FramePair]) -> Iterator[list[FramePair]]:
    remaining = iter(rows)
    while batch := list(islice(remaining, BATCH)):
        yield batch


def _made_of(file: Path) -> bytes:
    stat = file.stat()
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    return json.dumps({"size": stat.st_size, "modified": stat.st_mtime_ns, "sha256": digest}).encode()


def _is_made(target: Path, file: Path) -> bool:
    """Whether `target` holds the labels of what `file` holds now. Its bytes are read where its time has changed."""
    if not target.is_file():
        return False
    made_of, stat = json.loads(read_notes(target)[_MADE_OF]), file.stat()
    if (made_of["size"], made_of["modified"]) == (stat.st_size, stat.st_mtime_ns):
        return True
    return bool(made_of["size"] == stat.st_size and made_of["sha256"] == json.loads(_made_of(file))["sha256"])


def _finish(out: Path, files: Sequence[Path], model: str, pairs: int) -> None:
    """Remove labels whose pairs are gone, and count the others."""
    stale = {file.name for file in out.glob("*.parquet")} - {file.name for file in files}
    for name in stale:
        (out / name).unlink(missing_ok=True)
    dropped: Counter[str] = Counter()
    for file in files:
        dropped.update(json.loads(read_notes(out / file.name)[_DROPPED]))
    kept = pairs - sum(dropped.values())
    if not kept and dropped[NO_IMAGES] == pairs:
        raise ValueError(f"No frame pair has images: mine them without --no-frames ({out} holds no labels).")
    write_manifest(out, kind="transitions", config={"model": model}, kept=kept, dropped=dropped)

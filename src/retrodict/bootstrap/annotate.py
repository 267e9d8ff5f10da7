"""The inverse model pseudo-labels frame pairs (arXiv 2506.06006, section 3.2): one greedy action each, and its
likelihood. A forward model can check the labels: which of several makes the target likely."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import cast

from PIL import Image

from retrodict.bootstrap.select import CHECK_WEIGHT, FORWARD
from retrodict.files import JsonMapping, visible
from retrodict.loading import load
from retrodict.models.protocol import InverseModel, Pair, ProposingInverseModel, ScoringForwardModel
from retrodict.progress import Progress, QuietProgress
from retrodict.run_folder import claim, relative_path
from retrodict.shards import ALL, Shard, Where, run_shards
from retrodict.transitions import (
    MANIFEST,
    NO_LIKELIHOOD,
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
PROPOSALS = 4  # sampled labels of a pair, beside the greedy one, among which a forward model chooses
_MADE_OF, _DROPPED = b"retrodict.made_of", b"retrodict.dropped"
UNCHECKED = "unchecked_action"  # in a checked row's provenance: the label that the forward model has replaced
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
    explanations = model.explain(_frames(pairs))
    transitions = []
    for pair, explanation in zip(pairs, explanations, strict=True):
        labelled = label(
            pair,
            action=visible(explanation.action),
            action_source="idm",
            logprob=explanation.logprob.sum,
            tokens=explanation.logprob.count,
            split="train",
        )
        provenance = {**pair.provenance, "annotator": name, "prompt": explanation.prompt, "decoding": "greedy"}
        if explanation.logprob.reason:
            provenance[NO_LIKELIHOOD] = explanation.logprob.reason
        transitions.append(replace(labelled, provenance=provenance))
    return transitions


def check(
    inverse: InverseModel, forward: ScoringForwardModel, labelled: Sequence[Transition], *, seed: int = 0
) -> list[Transition]:
    """Let a forward model choose among the labels of each pair.

    A wrong label is often one that the inverse model finds nearly as likely as the right one, and after which the
    forward model expects another frame.

    Args:
        inverse: the model that wrote the labels; where it can `propose`, it samples `PROPOSALS` more for each pair.
        forward: says how likely a target is after an action.
        labelled: what `annotate` gave, with images.
        seed: of the sampled labels.

    Returns:
        The rows with that label which makes log p(action | source, target) + `CHECK_WEIGHT` * log p(target | source,
        action) largest, and in their provenance the second of these likelihoods, as `FORWARD`, and the label that it
        took the place of, as `UNCHECKED`.
    """
    pairs = _frames(labelled)
    labels = [{row.action: (row.logprob, row.tokens)} for row in labelled]
    if hasattr(inverse, "propose"):
        for known, more in zip(
            labels, cast(ProposingInverseModel, inverse).propose(pairs, PROPOSALS, seed, 1.0), strict=True
        ):
            for explanation in more:
                if explanation.action:
                    known.setdefault(explanation.action, (explanation.logprob.sum, explanation.logprob.count))
    asked = [(pair, action) for pair, known in zip(pairs, labels, strict=True) for action in known]
    sides = [pair[0] for pair, _ in asked], [action for _, action in asked], [pair[1] for pair, _ in asked]
    scored = iter(forward.score_targets(*sides))
    checked = []
    for row, known in zip(labelled, labels, strict=True):
        expected = {action: next(scored).sum for action in known}
        best = max(known, key=lambda action: known[action][0] + CHECK_WEIGHT * expected[action])
        logprob, tokens = known[best]
        provenance = {**row.provenance, FORWARD: expected[best]}
        if best != row.action:
            provenance[UNCHECKED] = row.action
        checked.append(replace(row, action=best, logprob=logprob, tokens=tokens, provenance=provenance))
    return checked


def _frames(pairs: Sequence[FramePair]) -> list[Pair]:
    """The images of pairs. Adjacent pairs of a clip share a frame: it becomes one object, which a model reads once."""
    frames: dict[bytes | None, Image.Image] = {}
    for pair in pairs:
        for data, side in ((pair.source, "source_image"), (pair.target, "target_image")):
            if data not in frames:
                frames[data] = getattr(pair, side)
    return [(frames[pair.source], frames[pair.target]) for pair in pairs]


def annotate_dir(
    pairs: Path,
    *,
    model: str | Path,
    out: Path,
    progress: Progress | None = None,
    where: Where = ALL,
) -> bool:
    """Label every pair of a directory: each file of pairs gives a file of the same name.

    The same call again labels what is new: a file whose pairs have changed is made anew, one whose pairs are gone is
    removed. Pairs without images, and those to which the model gives no words, are dropped and counted.

    Args:
        pairs: directory that `mine` wrote.
        model: name or folder of an inverse model; see `retrodict.load`.
        out: a new directory, or that of an earlier call with the same pairs and model.
        where: which of several processes this is. Each labels its share of the files, and the manifest is written by
            every one that finds all files made. Or a Ray cluster, which labels them all.

    Returns:
        Whether all files are made; else other processes are still at their shares.

    Raises:
        ValueError: no pair has images, or `out` is another run's or the pairs' own directory.
    """
    return _write_labels(
        pairs,
        out,
        partial(_annotating, str(model)),
        command="annotate",
        settings={"pairs": relative_path(pairs, out)},
        models={"model": str(model)},
        progress=progress,
        where=where,
    )


def check_dir(
    labelled: Path,
    *,
    model: str | Path,
    forward: str | Path,
    out: Path,
    progress: Progress | None = None,
    where: Where = ALL,
) -> bool:
    """`check` the labels of a directory that `annotate_dir` wrote; files, resuming and sharing are as there.

    Args:
        labelled: directory of annotated transitions.
        model: the inverse model that wrote the labels.
        forward: the forward model that checks them.
        out: a new directory, or that of an earlier call with the same arguments.

    Returns:
        Whether all files are made.
    """
    return _write_labels(
        labelled,
        out,
        partial(_checking, str(model), str(forward)),
        command="check",
        settings={"labelled": relative_path(labelled, out), "proposals": PROPOSALS, "weight": CHECK_WEIGHT},
        models={"model": str(model), "forward": str(forward)},
        progress=progress,
        where=where,
    )


LabelRows = Callable[[Sequence[FramePair]], list[Transition]]


def _annotating(model: str) -> LabelRows:
    inverse = lru_cache(maxsize=1)(lambda: load(model, role="inverse"))  # only when there is something to label
    return lambda rows: annotate(inverse(), rows, model)


def _checking(model: str, forward: str) -> LabelRows:
    load_inverse = lru_cache(maxsize=1)(lambda: load(model, role="inverse"))
    load_forward = lru_cache(maxsize=1)(lambda: cast(ScoringForwardModel, load(forward, role="forward")))
    return lambda rows: check(load_inverse(), load_forward(), [row for row in rows if isinstance(row, Transition)])


def _write_labels(
    pairs: Path,
    out: Path,
    labeller: Callable[[], LabelRows],
    *,
    command: str,
    settings: JsonMapping,
    models: Mapping[str, str],
    progress: Progress | None,
    where: Where,
) -> bool:
    files = row_files(pairs)
    claim(out, command, settings, inputs=models, apart=[pairs])
    plan = partial(_shards, files, out, labeller)
    shards = plan()
    if not all(shard.is_made() for shard in shards):
        (out / MANIFEST).unlink(missing_ok=True)  # it counts what is no more
    if run_shards(shards, where, progress or QuietProgress(), plan):
        return False
    _finish(out, files, models, sum(shard.rows for shard in shards))
    return True


def _shards(files: Sequence[Path], out: Path, labeller: Callable[[], LabelRows]) -> list[Shard]:
    label_rows = labeller()
    return [
        Shard(
            partial(_is_made, out / file.name, file),
            partial(_annotate_file, label_rows, file, out / file.name),
            open_parquet(file).metadata.num_rows,
        )
        for file in files
    ]


def _annotate_file(
    label_rows: LabelRows,
    file: Path,
    target: Path,
    tell: Callable[[int], None],
) -> None:
    dropped: Counter[str] = Counter()
    notes = {_MADE_OF: _made_of(file)}  # before its rows are read: a file that changes meanwhile is read again

    def rows() -> Iterator[Transition]:
        shown = 0
        for batch in _batches(file_rows(file)):
            usable = [pair for pair in batch if pair.source is not None and pair.target is not None]
            labelled = label_rows(usable) if usable else []
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


def _finish(out: Path, files: Sequence[Path], models: Mapping[str, str], pairs: int) -> None:
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
    write_manifest(out, kind="transitions", config=models, kept=kept, dropped=dropped)

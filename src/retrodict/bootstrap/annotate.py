"""The inverse model labels frame pairs (arXiv 2506.06006, section 3.2): one greedy action each, and its likelihood."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image

from retrodict.loading import load
from retrodict.models.protocol import InverseModel
from retrodict.progress import Progress
from retrodict.run_folder import claim, place
from retrodict.transitions import FramePair, Transition, label, read_rows, write_manifest, write_rows

SHARD = 1024  # pairs per output file: the unit that resumes


def annotate(model: InverseModel, pairs: Sequence[FramePair], name: str = "") -> list[Transition]:
    """Label pairs. `name` says in each row's provenance which model did it."""
    # Adjacent pairs of a clip share a frame: it becomes one object, which the model reads once.
    frames: dict[bytes | None, Image.Image] = {}
    for pair in pairs:
        for data, side in ((pair.source, "source_image"), (pair.target, "target_image")):
            if data not in frames:
                frames[data] = getattr(pair, side)
    explanations = model.explain([(frames[pair.source], frames[pair.target]) for pair in pairs])
    transitions = []
    for pair, found in zip(pairs, explanations, strict=True):
        labelled = label(
            pair,
            action=found.action,
            action_source="idm",
            logprob=found.logprob.sum,
            tokens=found.logprob.count,
            split="train",
        )
        provenance = {**pair.provenance, "annotator": name, "prompt": found.prompt, "decoding": "greedy"}
        transitions.append(replace(labelled, provenance=provenance))
    return transitions


def annotate_dir(
    pairs: Path,
    *,
    model: str | Path,
    out: Path,
    progress: Progress | None = None,
    shards: Callable[[int], bool] = lambda shard: True,
) -> None:
    """Label every pair of a directory, in files of 1,024 rows. Files that exist are not made again.

    `shards` says which of them this call makes, so that several processes can share the work; the manifest is written
    by the call that finds all of them made. Pairs to which the model gives no words are dropped and counted.
    """
    rows = [row for row in read_rows(pairs) if row.source is not None and row.target is not None]
    if not rows:
        raise ValueError(f"{pairs} holds no frame pairs with pictures: mine them without --no-frames.")
    settings = {"pairs": place(pairs, out), "model": None if Path(model).is_dir() else str(model)}
    claim(out, "annotate", settings, inputs={"model": str(model)}, apart=[pairs])
    inverse = load(model, role="inverse")
    starts = range(0, len(rows), SHARD)
    for shard, start in enumerate(starts):
        file = out / f"transitions-{shard:05d}.parquet"
        if shards(shard) and not file.is_file():
            labelled = annotate(inverse, rows[start : start + SHARD], name=str(model))
            write_rows(file, [row for row in labelled if row.action])
        if progress is not None:
            progress.advance(min(start + SHARD, len(rows)), len(rows))
    if all((out / f"transitions-{shard:05d}.parquet").is_file() for shard in range(len(starts))):
        kept = len(read_rows(out, ["id"]))
        dropped = {"no action": len(rows) - kept} if kept < len(rows) else {}
        write_manifest(out, kind="transitions", config={"model": str(model)}, kept=kept, dropped=dropped)

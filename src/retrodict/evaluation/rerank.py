"""Candidates of any program for many actions, each list sorted by how well it shows its action.

The file of tasks has one object a line; `source` may stand for `file_name`, and `id` is optional:

    {"id": "1", "file_name": "a.png", "action": "push the red ball to the left", "candidates": ["b.png", "c.png"]}
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from retrodict.data.files import inside
from retrodict.dynamics.verify import Pool, Verifier
from retrodict.files import JsonObject, is_text, read_lines, text_lines, visible, write_lines
from retrodict.images import no_pipe, read_image
from retrodict.models.protocol import Candidate
from retrodict.progress import Progress, QuietProgress
from retrodict.run_folder import Input, claim

RANKED = "ranked.jsonl"
BATCH = 16  # tasks that are scored together, and what a killed run repeats


@dataclass(frozen=True)
class Task:
    """One action, and the images that may show its outcome; paths are as the file names them."""

    id: str
    source: str
    action: str
    candidates: tuple[str, ...]


@dataclass
class _Read:
    """A task whose images were read, and why some could not be."""

    task: Task
    key: str = ""  # of all that its scores are made of
    images: dict[str, Image.Image] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)


def rerank_tasks(
    tasks: Path,
    *,
    out: Path,
    verifier: Verifier,
    settings: JsonObject,
    inputs: dict[str, Input],
    images: Path | None = None,
    progress: Progress | None = None,
) -> list[JsonObject]:
    """Score the candidates of every task and write them, best first, to `out/ranked.jsonl`.

    The same call again scores only what is new, or whose images have changed. An image that cannot be read costs its
    own score alone: its reason stands where the score would.

    Args:
        tasks: file of tasks, as this module says.
        out: folder to write to.
        verifier: what scores.
        settings: all that decides what the verifier says, for the folder's record.
        inputs: the models behind it, for the record.
        images: folder that paths start from; by default that of `tasks`.
        progress: receives how far the work is.

    Returns:
        `{"id", "source", "action", "ranked": [{"image", "score"} or {"image", "reason"}]}` of each task; `reason` in
        place of `ranked` where there is no source to start from.

    Raises:
        ValueError: the file cannot be read, or `out` holds another run.
    """
    progress = progress or QuietProgress()
    root = images or tasks.parent
    wanted = list(read_tasks(tasks))
    claim(out, "rerank", settings, inputs=inputs, apart=[tasks])
    known = {record["key"]: record for record in _written(out / RANKED)}
    records: list[JsonObject] = []
    for start in range(0, len(wanted), BATCH):
        progress.advance(start, len(wanted))
        batch = [_read(task, root) for task in wanted[start : start + BATCH]]
        new = [read for read in batch if read.key not in known]
        known |= {record["key"]: record for record in _scored(verifier, new)}
        records += [known[read.key] for read in batch]
        if new:
            write_lines(out / RANKED, records)
    write_lines(out / RANKED, records)
    return records


def read_tasks(file: Path) -> Iterator[Task]:
    """The tasks of a file. Raises `ValueError`, naming file and line, for one that is none."""
    seen: set[str] = set()
    try:
        lines = list(text_lines(file))
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error}.") from None
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                task = _task(number, json.loads(line))
                if task.id in seen:
                    raise ValueError(f"a second task is called {task.id!r}: ids must differ.")
            except (ValueError, RecursionError) as error:  # what json.loads raises is a ValueError
                raise ValueError(f"{file}, line {number}: {error}") from None
            seen.add(task.id)
            yield task
    if not seen:
        raise ValueError(f"{file} holds no tasks: give one JSON object a line.")


def _task(number: int, record: object) -> Task:
    if not isinstance(record, dict):
        raise ValueError("this is no JSON object.")
    source, action, candidates = record.get("file_name", record.get("source")), record.get("action"), []
    if isinstance(record.get("candidates"), list):
        candidates = record["candidates"]
    if not isinstance(source, str) or not isinstance(action, str) or not visible(action):
        raise ValueError("`file_name` and `action` must be texts.")
    if not candidates or not all(isinstance(name, str) for name in candidates):
        raise ValueError("`candidates` must be a list of images' paths.")
    if not all(map(is_text, (source, action, *candidates, str(record.get("id"))))):
        raise ValueError("this holds half a character, which is no text.")
    return Task(str(record.get("id", number)), source, visible(action), tuple(dict.fromkeys(candidates)))


def _read(task: Task, root: Path) -> _Read:
    digest = hashlib.sha256(f"{task}".encode(errors="surrogateescape"))
    read = _Read(task)
    for name in (task.source, *task.candidates):
        try:
            data = no_pipe(inside(root, name)).read_bytes()
            digest.update(b"\0" + hashlib.sha256(data).digest())
            read.images[name] = read_image(data, name)
        except (OSError, ValueError) as error:
            words = error.strerror if isinstance(error, OSError) else None
            read.reasons[name] = words or str(error)
            digest.update(b"\0?")
    read.key = digest.hexdigest()[:16]
    return read


def _scored(verifier: Verifier, batch: Sequence[_Read]) -> list[JsonObject]:
    pools = {
        read.key: Pool(
            read.images[read.task.source],
            read.task.action,
            [Candidate(read.images[name]) for name in read.task.candidates if name in read.images],
        )
        for read in batch
        if read.task.source in read.images
    }
    scores = dict(zip(pools, _scores(verifier, list(pools.values())), strict=True))
    return [_record(read, scores.get(read.key)) for read in batch]


def _scores(verifier: Verifier, pools: list[Pool]) -> list[list[float] | str]:
    """The scores of each pool, or why it has none: one that cannot be scored must not cost its neighbours theirs."""
    filled = [pool for pool in pools if pool.candidates]
    if len(filled) < len(pools):
        rest = iter(_scores(verifier, filled))
        return [next(rest) if pool.candidates else [] for pool in pools]
    try:
        return list(verifier.scores(pools)) if pools else []
    except ValueError as error:
        return [str(error)] if len(pools) == 1 else [_scores(verifier, [pool])[0] for pool in pools]


def _record(read: _Read, scores: list[float] | str | None) -> JsonObject:
    task = read.task
    record: JsonObject = {"id": task.id, "source": task.source, "action": task.action, "key": read.key}
    if scores is None or isinstance(scores, str):
        return record | {"reason": scores or read.reasons[task.source]}
    names = [name for name in task.candidates if name in read.images]
    order = sorted(range(len(names)), key=lambda i: (math.isnan(scores[i]), -scores[i], i))
    ranked: list[JsonObject] = [
        {"image": names[i], "reason": "the verifier gives no score"}
        if math.isnan(scores[i])
        else {"image": names[i], "score": scores[i]}
        for i in order
    ]
    ranked += [{"image": name, "reason": read.reasons[name]} for name in task.candidates if name in read.reasons]
    return record | {"ranked": ranked}


def _written(file: Path) -> list[JsonObject]:
    return [record for record in read_lines(file) if isinstance(record, dict) and "key" in record]

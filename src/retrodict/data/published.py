"""Published benchmarks of image editing, as their authors lay them out: one reader each.

    bytemorph   BM-Bench of ByteMorph (arXiv 2506.03107), with targets and captions
    motionedit  MotionEdit-Bench (arXiv 2512.10284), frame pairs of video
    gedit       GEdit-Bench of Step1X-Edit (arXiv 2504.17761); no targets
    imgedit     the basic part of ImgEdit-Bench (arXiv 2505.20275); no targets

Columns are those of the cards on the Hugging Face Hub and of the authors' own scripts (`docs/evaluation.md`).
The images belong to their owners: read their terms.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

from retrodict.data.files import inside
from retrodict.files import JsonMapping, JsonObject, visible
from retrodict.transitions import Transition

_BATCH = 32  # rows whose images are in memory at a time
_IMGEDIT = "basic_edit.json"


def read_bytemorph(folder: Path) -> list[Transition]:
    """BM-Bench: a subset for each kind of motion, and the caption of each target.

    Raises:
        ValueError: the folder holds no such rows, or one without its instruction or source.
    """
    needed = ("edit_type", "image_id", "src_img", "tgt_img", "edit_prompt")
    return [
        _transition(
            "BM-Bench",
            id=f"{row['edit_type']}-{row['image_id']}",
            category=str(row["edit_type"]),
            action=row["edit_prompt"],
            source=_bytes(row["src_img"]),
            target=_bytes(row["tgt_img"]),
            caption=row.get("tgt_img_caption"),
        )
        for row in hub_rows(folder, "BM-Bench", needed)
    ]


def read_motionedit(folder: Path) -> list[Transition]:
    """MotionEdit-Bench. Its target is the one other image that a row has besides `input_image`.

    Raises:
        ValueError: the folder holds no such rows, one lacks its instruction or source, or there are several images
            that could be the target.
    """
    rows = []
    for row in hub_rows(folder, "MotionEdit-Bench", ("id", "prompt", "input_image")):
        others = [name for name, value in row.items() if name != "input_image" and _is_image(value)]
        if len(others) > 1:
            raise ValueError(f"{folder}: {' and '.join(others)} could each be MotionEdit-Bench's target: keep one.")
        target = _bytes(row[others[0]]) if others else None
        action, source = row["prompt"], _bytes(row["input_image"])
        rows.append(
            _transition("MotionEdit-Bench", id=str(row["id"]), category="", action=action, source=source, target=target)
        )
    return rows


def read_gedit(folder: Path) -> list[Transition]:
    """GEdit-Bench: a subset for each language and task; ids are the paths under which results are published.

    Raises:
        ValueError: the folder holds no such rows, or one without its instruction or source.
    """
    needed = ("task_type", "key", "instruction", "instruction_language", "input_image")
    return [
        _transition(
            "GEdit-Bench",
            id=f"{row['task_type']}/{row['instruction_language']}/{row['key']}",
            category=f"{row['instruction_language']}/{row['task_type']}",
            action=row["instruction"],
            source=_bytes(row.get("input_image_raw")) or _bytes(row["input_image"]),
            group=str(row["key"]),
        )
        for row in hub_rows(folder, "GEdit-Bench", needed)
    ]


def read_imgedit(folder: Path) -> list[Transition]:
    """ImgEdit-Bench, basic: `basic_edit.json` and its images, beside it, in `singleturn` or in `Benchmark/singleturn`.

    Raises:
        ValueError: there is no such file, it has another shape, or an image is missing.
    """
    file = folder / _IMGEDIT
    try:
        records = json.loads(file.read_text(encoding="utf-8"))
        rows = [(key, record["id"], record["prompt"], record["edit_type"]) for key, record in records.items()]
    except OSError:
        raise ValueError(f"{folder} is no ImgEdit-Bench: it holds no {_IMGEDIT}.") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{file} is no listing of ImgEdit-Bench ({error}).") from None
    roots = [root for part in ("", "singleturn", "Benchmark/singleturn") if (root := folder / part).is_dir()]
    transitions = []
    for key, name, prompt, kind in rows:
        path = next((path for root in roots if (path := inside(root, name)).is_file()), None)
        if path is None:
            raise ValueError(f"{folder} lacks the image {name} of ImgEdit-Bench's item {key}.")
        transitions.append(
            _transition("ImgEdit-Bench", id=key, category=kind, action=prompt, source=path.read_bytes(), group=name)
        )
    return transitions


def hub_rows(folder: Path, name: str, needed: Sequence[str]) -> Iterator[JsonObject]:
    """The rows of a data set of the Hugging Face Hub as it was downloaded: Parquet files, else Arrow files, in the
    folder and below; images are `{"bytes", "path"}`.

    Args:
        folder: where the files lie.
        name: of the data set, for messages.
        needed: columns that there must be.

    Raises:
        ValueError: there are no such files, one cannot be read, or lacks a column.
    """
    files = sorted(folder.rglob("*.parquet")) or sorted(folder.rglob("*.arrow"))
    if not files:
        raise ValueError(f"{folder} is no {name}: it holds no .parquet or .arrow files.")
    for file in files:
        try:
            names, batches = _opened(file)
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{file} cannot be read: {error}") from None
        if missing := [column for column in needed if column not in names]:
            raise ValueError(f"{file} is not of {name}: it has no column {missing[0]}, but {', '.join(names)}.")
        for batch in batches:
            yield from batch.to_pylist()


def _opened(file: Path) -> tuple[list[str], Iterator[pa.RecordBatch]]:
    """Column names, and batches of rows."""
    if file.suffix == ".parquet":
        parquet = pq.ParquetFile(file)
        return parquet.schema_arrow.names, parquet.iter_batches(batch_size=_BATCH)
    try:
        stream = pyarrow.ipc.open_stream(file)  # what `datasets` writes
    except pa.ArrowInvalid:
        arrow = pyarrow.ipc.open_file(file)
        return arrow.schema.names, (arrow.get_batch(i) for i in range(arrow.num_record_batches))
    return stream.schema.names, iter(stream)


def _is_image(value: object) -> bool:
    return isinstance(value, dict) and {"bytes", "path"} == set(value) and bool(value["bytes"])


def _bytes(value: JsonMapping | None) -> bytes | None:
    """The encoded image of a column."""
    data: bytes | None = (value or {}).get("bytes")
    return data or None


def _transition(
    name: str,
    *,
    id: str,
    category: str,
    action: str | None,
    source: bytes | None,
    target: bytes | None = None,
    caption: str | None = None,
    group: str = "",
) -> Transition:
    said = visible(action or "")
    if not said or source is None:
        lacks = "source image" if source is None else "instruction"
        raise ValueError(f"{name} item {id} has no {lacks}: a score without one would mean nothing.")
    return Transition(
        id=id,
        category=category,
        group=group,
        frame_target=1,
        source=source,
        target=target,
        provenance={"benchmark": name} | ({"caption": caption} if caption else {}),
        action=said,
        split="test",
    )

"""AURORA-Bench (McGill-NLP/AURORA): 50 items with an instruction for each of eight phenomena; five have targets.

Reads the public layout (`test.json` next to `data/`), the compact copy (`manifest.json` next to `images/`), and the
Parquet of the Hugging Face Hub (`McGill-NLP/aurora-bench`: input, instruction, source), which has no targets. The
images belong to their owners (Charades, Something-Something, COCO and others): read their terms.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from retrodict.data.published import hub_rows
from retrodict.files import JsonMapping, JsonObject, visible
from retrodict.transitions import Transition

SUBSETS = ("magicbrush", "ag", "something", "whatsup", "kubric")  # those with targets; arXiv 2506.06006 uses them
SOURCE_ONLY = ("clevr", "emu", "epic")  # only a judge can score these
EXTRAS = ("caption", "counterfactual_action")  # columns of some records; where they are kept: `provenance`


def read_aurora(folder: Path, subsets: tuple[str, ...] = SUBSETS) -> list[Transition]:
    """The benchmark's items in file order; `target` is None where the file is missing upstream (two are).

    `category` is the subset; `group` is what items share: the photo of an edit sequence, the clip, the scene.
    `provenance["aurora"]` holds the file names and, where the record has them, a `caption` of the target and a
    `counterfactual_action`. An item has the same id in all layouts: its subset and its number in it.

    Raises `ValueError` for an unknown subset, a folder of another layout, an empty instruction, a path that leaves the
    folder, a missing source.
    """
    folder = Path(folder)
    if unknown := set(subsets) - {*SUBSETS, *SOURCE_ONLY}:
        raise ValueError(f"AURORA-Bench has no {', '.join(sorted(unknown))}: use {', '.join(SUBSETS + SOURCE_ONLY)}.")
    try:
        items = [_transition(folder, record) for record in _records(folder) if record["subset"] in subsets]
    except KeyError as error:
        raise ValueError(f"{folder}: a record has no {error}, so this is not an AURORA-Bench listing.") from None
    if not items:
        raise ValueError(f"{folder} holds no items of {', '.join(subsets)}.")
    return items


def _records(folder: Path) -> Iterator[JsonObject]:
    """Records of any layout as `id, subset, source, target, instruction, origin`; images as paths, or as they are."""
    compact, public = folder / "manifest.json", folder / "test.json"
    counts: Counter[str] = Counter()
    if compact.is_file():
        for record in _load(compact):
            yield {**record, "origin": record.get("orig_source") or record["source"]}
    elif public.is_file():
        for record in _load(public):
            task = record["task"]
            counts[task] += 1
            yield {
                "id": f"{task}-{counts[task]:03d}",
                "subset": task,
                "source": record["input"],
                "target": record.get("output"),
                "instruction": record.get("instruction"),
                "origin": record["input"],
                **{name: record.get(name) for name in EXTRAS},
            }
    elif any(folder.rglob("*.parquet")):
        for record in hub_rows(folder, "AURORA-Bench", ("input", "instruction", "source")):
            subset, image = record["source"], record["input"]
            counts[subset] += 1
            yield {
                "id": f"{subset}-{counts[subset]:03d}",
                "subset": subset,
                "source": image["bytes"],
                "target": None,
                "instruction": record["instruction"],
                "origin": image["path"] or f"{counts[subset]}",
            }
    else:
        raise ValueError(f"{folder} is no AURORA-Bench: it holds no manifest.json, test.json or .parquet file.")


def _load(path: Path) -> list[JsonObject]:
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(records, list):
        raise ValueError(f"{path} is not a list of records.")
    return records


def _transition(folder: Path, record: JsonMapping) -> Transition:
    name = record["id"]
    action = visible(record.get("instruction") or "")
    if not action:
        raise ValueError(f"AURORA-Bench item {name} has no instruction: a score without one would mean nothing.")
    source = _read(folder, record["source"], name)
    if source is None:
        raise ValueError(f"AURORA-Bench item {name} has no source image {record['source']}.")
    return Transition(
        id=name,
        clip=record["origin"] if isinstance(record["source"], bytes) else record["source"],
        category=record["subset"],
        group=f"{record['subset']}/{_shared(Path(record['origin']))}",
        source=source,
        target=_read(folder, record["target"], name) if record.get("target") else None,
        provenance={
            "aurora": {k: v for k in ("source", "target", "origin") if not isinstance(v := record[k], bytes)}
            | _extras(record)
        },
        action=action,
        split="test",
    )


def _extras(record: JsonMapping) -> dict[str, str]:
    return {name: record[name] for name in EXTRAS if record.get(name)}


def _shared(origin: Path) -> str:
    """What an item shares with its neighbours: the folder of one photo or clip, or the clip in the file's name."""
    if origin.parent.name not in ("images", "", "."):
        return origin.parent.name
    return origin.name.split(".mp4")[0] if ".mp4" in origin.name else origin.stem


def _read(folder: Path, path: str | bytes, name: str) -> bytes | None:
    """The image at a path of the folder, None where there is none; or one that is there already."""
    if isinstance(path, bytes):
        return path
    inside = folder.resolve()
    full = (inside / path).resolve()
    if not full.is_relative_to(inside):
        raise ValueError(f"AURORA-Bench item {name} points outside its folder: {path}")
    return full.read_bytes() if full.is_file() else None

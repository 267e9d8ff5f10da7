"""Benchmarks: the items that models are measured on, and who can say exactly what an image of them shows.

A benchmark is a world by its name (it samples its items), a published one (`PUBLISHED`) with the folder that holds it,
or anybody's folder of transitions: Parquet files, as every stage writes them, or images beside a `metadata.jsonl`, as
Hugging Face's `imagefolder` has them, with one object a line:

    {"file_name": "a.png", "target": "b.png", "action": "push the red ball to the left"}

`source` may stand for `file_name`; `target` may be missing; `id`, `class` (the item's subset) and `group` are optional.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from retrodict.data.aurora import SUBSETS, read_aurora
from retrodict.data.files import inside
from retrodict.data.published import read_bytemorph, read_gedit, read_imgedit, read_motionedit
from retrodict.evaluation import PUBLISHED
from retrodict.evaluation.pool import Scorer, exact_scorer, no_state
from retrodict.files import JsonObject, is_text, text_lines, visible, write_lines
from retrodict.images import read_image, write_image
from retrodict.models.hub import is_hub_id, rows_folder
from retrodict.run_folder import claim
from retrodict.transitions import Transition, read_transitions, write_rows
from retrodict.worlds import WORLDS, get_world, world_of
from retrodict.worlds.base import World

ITEMS = 300  # sampled from a world where no number is given
METADATA = "metadata.jsonl"
_READERS: Mapping[str, Callable[[Path, tuple[str, ...]], list[Transition]]] = {
    "aurora": lambda folder, subsets: read_aurora(folder, subsets or SUBSETS),
    "bytemorph": lambda folder, _: read_bytemorph(folder),
    "motionedit": lambda folder, _: read_motionedit(folder),
    "gedit": lambda folder, _: read_gedit(folder),
    "imgedit": lambda folder, _: read_imgedit(folder),
}
assert tuple(_READERS) == PUBLISHED, "each published benchmark has a reader"


@dataclass(frozen=True, eq=False)
class Benchmark:
    """The items of a benchmark, and the world that owns them all, if there is one.

    With a world, predictions have exact scores; without one, their similarity to the targets is measured.
    """

    name: str  # as it was asked for
    items: list[Transition]
    folder: Path | None = None  # where they lie; None where a world sampled them for this run

    @cached_property
    def world(self) -> World | None:
        return world_of(self.items)

    @cached_property
    def scorer(self) -> Scorer:
        return no_state if self.world is None else exact_scorer(self.world)

    def store(self, folder: Path) -> None:
        """Write sampled items to `folder`. The images of all others have owners and stay where they are."""
        if self.folder is None:
            write_rows(folder / "test.parquet", self.items)


def export_items(benchmark: Benchmark, out: Path) -> int:
    """Write what another program needs to predict a benchmark's items: sources and actions, as `METADATA` has them.

    Args:
        benchmark: whose items.
        out: a new folder. `out/sources/<id>.png` and `out/metadata.jsonl`; its predictions are to be called `<id>.png`.

    Returns:
        How many items there are.

    Raises:
        ValueError: `out` holds something else, or an id is no name of a file.
    """
    names = [inside(out, f"sources/{item.id}.png") for item in benchmark.items]
    ids = json.dumps([item.id for item in benchmark.items])
    claim(out, "bench --export", {"bench": benchmark.name, "items": hashlib.sha256(ids.encode()).hexdigest()})
    for path, item in zip(names, benchmark.items, strict=True):
        write_image(path, item.source_image)
    write_lines(
        out / METADATA,
        (
            {"id": item.id, "file_name": f"sources/{item.id}.png", "action": item.action, "class": item.category}
            for item in benchmark.items
        ),
    )
    return len(names)


def open_benchmark(
    name: str | Path,
    *,
    data: Path | None = None,
    items: int | None = None,
    subsets: Sequence[str] = (),
    limit: int | None = None,
    seed: int = 0,
) -> Benchmark:
    """The benchmark of a name or a folder.

    Args:
        name: a world, one of `PUBLISHED`, or a folder of transitions.
        data: folder of a published benchmark's data.
        items: how many, the subsets in turn; by default all, or 300 of a world.
        subsets: those to keep; by default all that have targets.
        limit: the first so many of each subset.
        seed: of what a world samples.

    Raises:
        ValueError: there is no such benchmark, its data cannot be read, or it has no such subset.
    """
    name, folder = str(name), Path(name)
    if name in WORLDS:
        world = get_world(name)
        rows = world.sample(ITEMS if items is None else items, seed, namespace="bench", split="test")
        return Benchmark(name, choose_items(rows, None, subsets, limit))
    if name in PUBLISHED:
        if data is None:
            raise ValueError(f"The benchmark {name} needs --data: the folder that holds it.")
        rows, folder = _READERS[name](data, tuple(subsets)), data
        _refuse_doubles(folder, rows)
    elif folder.is_dir() or name.startswith("hf:/") or is_hub_id(name):
        folder = rows_folder(name)
        rows = read_folder(folder)
    else:
        known = ", ".join((*WORLDS, *PUBLISHED))
        raise ValueError(f'No benchmark "{name}": use {known}, or a folder of transitions.')
    return Benchmark(name, choose_items(rows, items, subsets, limit), folder)


def choose_items(
    rows: Sequence[Transition], items: int | None = None, subsets: Sequence[str] = (), limit: int | None = None
) -> list[Transition]:
    """Some rows, in their order: of these subsets, at most `limit` of each, and `items` in all, the subsets in turn."""
    known = dict.fromkeys(row.category for row in rows)
    if unknown := [name for name in subsets if name not in known]:
        raise ValueError(f"There is no subset {unknown[0]}: use some of {', '.join(known)}.")
    seen: Counter[str] = Counter()
    ranked = []
    for i, row in enumerate(rows):
        if not subsets or row.category in subsets:
            ranked.append((seen[row.category], i))
            seen[row.category] += 1
    kept = sorted((turn, i) for turn, i in ranked if limit is None or turn < limit)[:items]
    return [rows[i] for i in sorted(i for _, i in kept)]


def read_results(run: Path) -> JsonObject:
    """What a run measured, from its `results.json`. Raises `ValueError` where there is none to read."""
    path = run / "results.json"
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"{run} holds no results.json: name a folder that demo, bootstrap or bench wrote.") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    if not isinstance(results, dict):
        raise ValueError(f"{path} is not a results file.")
    return results


def items_of_run(run: Path, data: Path | None = None) -> list[Transition]:
    """The items that a run was about: those that it stored, else its benchmark's, which `data` says where to find.

    Raises `ValueError` where neither can be had, or `run` is no run's folder.
    """
    results = read_results(run)
    if "kind" not in results:
        raise ValueError(f"{run / 'results.json'} is of no run: name a folder that demo, bootstrap or bench wrote.")
    if stored := stored_items(run):
        return stored
    config = results.get("config") or {}
    name, where = str(results.get("bench") or ""), config.get("data")
    folder = data or (Path(where) if where and isinstance(where, str) else None)
    if name not in PUBLISHED:
        name, folder = str(folder or name), None
    if name in WORLDS or not (folder or Path(name)).is_dir() or not name:
        raise ValueError(f"{run} does not hold the images of its items: name the benchmark's folder with --data.")
    items, subsets, limit = (config.get(key) for key in ("items", "subsets", "limit"))
    return open_benchmark(name, data=folder, items=items, subsets=subsets or (), limit=limit).items


def stored_items(run: Path) -> list[Transition]:
    """The items that a run keeps beside its results, also before there are any."""
    return read_transitions(run / "test") if any((run / "test").glob("*.parquet")) else []


def items_in(folder: Path) -> list[Transition]:
    """The items of a folder that is all there is to go by: anybody's transitions, else a published benchmark."""
    ours = (folder / METADATA).is_file() or any(folder.glob("*.parquet"))
    return read_folder(folder) if ours else read_aurora(folder)


def written(row: Transition, key: str) -> str | None:
    """A row's text metadata besides its action: a "caption" of the target, a "counterfactual_action"."""
    text: str | None = row.provenance.get("aurora", row.provenance).get(key)
    return text or None


def read_folder(folder: Path) -> list[Transition]:
    """Anybody's transitions: the rows of Parquet files, else of `metadata.jsonl`. A row without a class gets the
    folder's name for one.

    Raises:
        ValueError: the folder holds neither, a row lacks its action or its source, or an id occurs twice; in
            `metadata.jsonl`, naming file and line, also: a path leaves the folder, an image cannot be read.
    """
    rows = list(_from_metadata(folder)) if (folder / METADATA).is_file() else _from_parquet(folder)
    if not rows:
        raise ValueError(f"{folder} holds no transitions.")
    _refuse_doubles(folder, rows)
    return [row if row.category else replace(row, category=folder.resolve().name) for row in rows]


def _refuse_doubles(folder: Path, rows: Sequence[Transition]) -> None:
    for name, count in Counter(row.id for row in rows).items():
        if count > 1:
            raise ValueError(f"{folder} holds {count} transitions called {name}: ids must differ.")


def _from_parquet(folder: Path) -> list[Transition]:
    if not any(folder.glob("*.parquet")):
        raise ValueError(f"{folder} holds neither {METADATA} nor .parquet files: give a folder of transitions.")
    rows = read_transitions(folder)
    for row in rows:
        if row.source is None or not visible(row.action):
            lacks = "action" if row.source else "source image"
            raise ValueError(f"{folder}: transition {row.id} has no {lacks}, so nothing can be predicted from it.")
    return rows


def _from_metadata(folder: Path) -> Iterator[Transition]:
    file = folder / METADATA
    for number, line in enumerate(text_lines(file), 1):
        if line.strip():
            try:
                yield _transition(folder, number, json.loads(line))
            except (ValueError, OSError, RecursionError) as error:  # what json.loads raises is a ValueError
                raise ValueError(f"{file}, line {number}: {error}") from None


def _transition(folder: Path, number: int, record: object) -> Transition:
    if not isinstance(record, dict):
        raise ValueError("this is no JSON object.")
    fields = {key: record.get(key) for key in ("file_name", "source", "target", "action", "id", "class", "group")}
    for key, value in fields.items():
        if value is not None and (
            isinstance(value, bool) or not isinstance(value, str | int) or not is_text(str(value))
        ):
            raise ValueError(f"`{key}` is no text.")
    texts = {key: "" if value is None else str(value).strip() for key, value in fields.items()}
    source, action = texts["file_name"] or texts["source"], visible(texts["action"])
    if not source or not action:
        raise ValueError(f"there is no `{'action' if source else 'file_name'}`.")
    name = texts["id"] or f"{number:05d}"
    if "\\" in name or not all(part.strip(".") for part in name.split("/")):
        raise ValueError(f"the id {name!r} is no file name, which predictions are called by.")
    return Transition(
        id=name,
        clip=source,
        category=texts["class"],
        group=texts["group"] or source,
        frame_target=1,
        source=_image(folder, source),
        target=_image(folder, texts["target"]) if texts["target"] else None,
        provenance={"file": METADATA, "line": number},
        action=action,
        split="test",
    )


def _image(folder: Path, name: str) -> bytes:
    path = inside(folder, name)
    if not path.is_file():
        raise ValueError(f"there is no image {name} in {folder}.")
    data = path.read_bytes()
    read_image(data, name)  # refuses what is broken or no image
    return data

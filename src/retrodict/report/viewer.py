"""Every item of runs, to look at: one page over the runs' own files, served on loopback or written as files.

The page is a list of all items (`items.js`); what is known of one (`details/<n>.js`) and each image (`images/...`) is
read when it is asked for. A server and a folder of files answer the same paths, and scripts in place of requests also
work where a browser opens the page from a disk.
"""

from __future__ import annotations

import functools
import json
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from retrodict.dynamics.best_of_n import choose
from retrodict.evaluation.judge.protocol import TOP
from retrodict.evaluation.metrics import METRICS
from retrodict.evaluation.pool import MEASURES
from retrodict.evaluation.predictions import GREEDY, JUDGEMENTS
from retrodict.evaluation.summary import default_selector
from retrodict.files import JsonMapping, JsonObject, as_written, read_lines, write_atomic
from retrodict.report import kit
from retrodict.report.kit.format import finite, spoken
from retrodict.report.run import Run
from retrodict.run_folder import claim
from retrodict.transitions import Transition, open_parquet

STATIC = Path(__file__).parent / "static"
PAGE = "index.html"
_TYPES = {".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".css": "text/css"}
_VERIFIER = "verifier_"
_EXACT = {"score": "Score", "es": "Edit success", "me": "Minimal edit"}  # of an exact state, best first
_DIGITS = 4  # of values in the list; details have them all


class Frames:
    """The predictions of one system: every number of every frame; images stay in the file until they are looked at."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        self._images = functools.lru_cache(maxsize=4)(self._read_images)  # row groups that are in memory
        with open_parquet(path) as file:
            columns = [name for name in file.schema_arrow.names if name != "image"]
            rows = [row for batch in file.iter_batches(columns=columns) for row in batch.to_pylist()]
            sizes = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
        self._groups = [(group, i) for group, size in enumerate(sizes) for i in range(size)]
        self.items: dict[str, dict[int, JsonObject]] = {}
        shown = [valid for group in range(len(sizes)) for valid in self._images(group).is_valid().to_pylist()]
        for position, (row, has_image) in enumerate(zip(rows, shown, strict=True)):
            place = {"position": position, "shown": has_image}
            self.items.setdefault(row["id"], {})[row["candidate"]] = row | place
        self.verifiers = [name.removeprefix(_VERIFIER) for name in columns if name.startswith(_VERIFIER)]
        self.size = max((len(frames) - 1 for frames in self.items.values()), default=0)

    def image(self, id: str, candidate: int) -> bytes:
        """The encoded image of a frame; empty where it has none."""
        group, position = self._groups[self.items[id][candidate]["position"]]
        with self._lock:
            data: bytes | None = self._images(group)[position].as_py()
        return data or b""

    def chosen(self, id: str, verifier: str) -> int | None:
        """The candidate that a verifier likes best; None where it could score none."""
        pool = {i: frame[_VERIFIER + verifier] for i, frame in self.items.get(id, {}).items() if i != GREEDY}
        if all(not finite(score) for score in pool.values()):
            return None
        return list(pool)[choose([score if finite(score) else math.nan for score in pool.values()])]

    def _read_images(self, group: int) -> Any:
        with pq.ParquetFile(self._path, memory_map=True) as file:
            return file.read_row_group(group, columns=["image.bytes"]).column(0).combine_chunks().field("bytes")


@dataclass(frozen=True, eq=False)
class Column:
    """What stands side by side: the greedy frames of a system, or those that its verifier chose."""

    run: int
    system: str
    title: str
    rows: tuple[str, ...]  # its names in what judges and metrics wrote
    verifier: str = ""


class Viewer:
    """What there is to see of runs.

    Args:
        folders: of runs; items that several of them have stand side by side.

    Raises:
        ValueError: a folder is no run's, or no run has items.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self.runs = [Run.open(folder) for folder in folders]
        with as_written(*folders):
            self._read()

    def _read(self) -> None:
        self.frames = [
            {path.stem: Frames(path) for path in sorted((run.folder / "predictions").glob("*.parquet"))}
            for run in self.runs
        ]
        self.items: dict[str, Transition] = {}
        for run in self.runs:
            for name, item in run.test.items():
                self.items.setdefault(name, item)
        self.ids = list(self.items)
        if not self.ids:
            names = ", ".join(str(run.folder) for run in self.runs)
            raise ValueError(f"There are no items to see in {names}: name folders that demo, bootstrap or bench wrote.")
        self.columns = list(self._columns())
        self._records = [self._measured(column) for column in self.columns]
        self._judged = [_judgements(run.folder / JUDGEMENTS) for run in self.runs]
        self._told = [_by_id(run.folder / "items" / "explained.jsonl") for run in self.runs]
        self.index = self._index()

    def _columns(self) -> Iterator[Column]:
        for i, run in enumerate(self.runs):
            of = f"{run.folder.resolve().name}: " if len(self.runs) > 1 else ""
            for system, frames in self.frames[i].items():
                yield Column(i, system, of + spoken(system), (system,))
                best = default_selector(frames.verifiers)
                if frames.size > 1 and best:
                    row = f"{system}.k{frames.size}.{best}"
                    yield Column(i, system, of + spoken(row), (row, f"{system}, best by {best}"), best)

    def _measured(self, column: Column) -> dict[str, JsonMapping]:
        run = self.runs[column.run]
        return dict(run.records("rows") or run.records(column.system))

    def _frame(self, column: Column, id: str) -> int | None:
        """Which frame of an item a column shows: -1 is the greedy one, None that there is none."""
        frames = self.frames[column.run][column.system]
        if column.verifier:
            return frames.chosen(id, column.verifier)
        return GREEDY if GREEDY in frames.items.get(id, {}) else None

    def _shown(self, column: Column, id: str) -> int | None:
        """The same where it has an image."""
        candidate = self._frame(column, id)
        shown = candidate is not None and self.frames[column.run][column.system].items[id][candidate]["shown"]
        return candidate if shown else None

    def _values(self, at: int, id: str) -> dict[str, float]:
        """Every number of a column's frame: of the exact state, of metrics, of judges."""
        column = self.columns[at]
        candidate, values = self._frame(column, id), dict[str, float]()
        if candidate is not None:
            frame = self.frames[column.run][column.system].items[id][candidate]
            values |= {name: frame[name] for name in MEASURES if finite(frame.get(name))}
        record = self._records[at].get(id) or {}
        tables = {"l1": record.get("l1"), **(record.get("metrics") or {})}
        for name, table in tables.items():
            known = [table[row] for row in column.rows if isinstance(table, Mapping) and finite(table.get(row))]
            values |= {name: known[0]} if known else {}
        for judge, lines in self._judged[column.run].items():
            for line in lines.get(id, ()):
                if line.get("row") in column.rows and finite(line.get("score")):
                    values[f"judge:{judge}"] = line["score"]
        return values

    def _reason(self, at: int, id: str) -> str:
        """Why a column has nothing to show of an item, or nothing to say; empty where it has both."""
        column = self.columns[at]
        candidate = self._frame(column, id)
        if candidate is None:
            return "no prediction"
        frame = self.frames[column.run][column.system].items[id][candidate]
        judged = [
            line["reason"]
            for lines in self._judged[column.run].values()
            for line in lines.get(id, ())
            if line.get("row") in column.rows and line.get("reason")
        ]
        exact = finite(frame.get("score")) or frame["reason"] == "no exact state"
        own = "" if exact else frame["reason"]
        return str((self._records[at].get(id) or {}).get("reason") or own or "") or ", ".join(judged)

    def _index(self) -> JsonObject:
        """What the list needs: columns, measures, and of every item its words, frames, values and reasons."""
        values = [[self._values(at, id) for at in range(len(self.columns))] for id in self.ids]
        present = {name for row in values for one in row for name in one}
        judges = sorted(name for name in present if name.startswith("judge:"))
        measures = [*(n for n in _EXACT if n in present), *judges, *(n for n in METRICS if n in present)]
        titles = {**_EXACT, **{name: metric.title for name, metric in METRICS.items()}}
        items = []
        for n, (id, row) in enumerate(zip(self.ids, values, strict=True)):
            item = self.items[id]
            items.append(
                {
                    "id": id,
                    "subset": self._subset(item),
                    "action": item.action,
                    "target": item.target is not None,
                    "frames": [self._shown(column, id) for column in self.columns],
                    "values": [[_short(one.get(name)) for name in measures] for one in row],
                    "reasons": [self._reason(at, id) for at in range(len(self.columns))],
                    "n": n,
                }
            )
        return {
            "title": ", ".join(run.folder.resolve().name for run in self.runs),
            "columns": [{"title": c.title, "run": c.run, "system": c.system} for c in self.columns],
            "measures": [
                {
                    "title": titles.get(name, f"Judge {name.removeprefix('judge:')}"),
                    "higher": name not in METRICS or METRICS[name].higher_is_better,
                    "judge": name.startswith("judge:"),
                }
                for name in measures
            ],
            "items": items,
        }

    def _subset(self, item: Transition) -> str:
        return self.runs[0].suite_title(item.category)

    def detail(self, n: int) -> JsonObject:
        """What is known of item `n` beyond the list: all candidates with their scores, judges' words, what was read."""
        id = self.ids[n]
        pools = []
        for i, systems in enumerate(self.frames):
            for system, frames in systems.items():
                shown = [
                    {
                        "candidate": candidate,
                        "image": f"images/{i}/{system}/{candidate}/{n}" if frame["shown"] else "",
                        "scores": {name: frame[name] for name in MEASURES if finite(frame.get(name))},
                        "verifiers": {
                            v: frame[_VERIFIER + v] for v in frames.verifiers if finite(frame[_VERIFIER + v])
                        },
                        "chosen": [v for v in frames.verifiers if frames.chosen(id, v) == candidate],
                        "reason": frame["reason"],
                    }
                    for candidate, frame in frames.items.get(id, {}).items()
                ]
                pools.append({"title": self._title(i, spoken(system)), "frames": shown})
        words = [
            {
                **{
                    key: line[key]
                    for key in ("score", "es", "me", "outcome", "reason", "detail", "choices", "replies")
                    if line.get(key) not in (None, "", [])
                },
                "judge": self._title(i, judge),
                "row": spoken(line["row"]) if "row" in line else f"{spoken(line['a'])} against {spoken(line['b'])}",
            }
            for i, judged in enumerate(self._judged)
            for judge, lines in judged.items()
            for line in lines.get(id, ())
        ]
        told = [
            {"title": self._title(i, "What the inverse model read off the true pair"), "text": one["explained"]}
            for i, lines in enumerate(self._told)
            if (one := lines.get(id)) and one.get("explained")
        ]
        item = self.items[id]
        return {
            "pools": pools,
            "words": words,
            "told": told,
            "group": item.group,
            "clip": item.clip,
            "top": TOP,
            "facts": self._more(id),
        }

    def _more(self, id: str) -> list[list[str]]:
        """How much moves, where that was measured."""
        told = [(records.get(id) or {}).get("motion") for records in self._records]
        motion: JsonMapping = next((one for one in told if one), {})
        return [[str(key).replace("_", " "), str(value)] for key, value in motion.items() if value is not None]

    def _title(self, run: int, text: str) -> str:
        return f"{self.runs[run].folder.resolve().name}: {text}" if len(self.runs) > 1 else text

    def _image(self, parts: Sequence[str]) -> bytes | None:
        """Of `source/<n>`, `target/<n>` or `<run>/<system>/<candidate>/<n>`; None where there is none."""
        try:
            id = self.ids[int(parts[-1])]
            if len(parts) == 2 and parts[0] in ("source", "target"):
                return self.items[id].source if parts[0] == "source" else self.items[id].target
            run, system, candidate, _ = parts
            return self.frames[int(run)][system].image(id, int(candidate)) or None
        except (KeyError, IndexError, ValueError):
            return None

    def get(self, path: str) -> tuple[bytes, str] | None:
        """The bytes at a path of the page and their type; None where there is nothing."""
        if path in ("", PAGE):
            return kit.render("view.html", title=self.index["title"]).encode(), _TYPES[".html"]
        if path == "view.css":
            text = kit.source("style.css") + (STATIC / path).read_text(encoding="utf-8")
            return text.encode(), _TYPES[".css"]
        if path == "view.js":
            return (STATIC / path).read_bytes(), _TYPES[".js"]
        if path == "items.js":
            return _call("viewItems", self.index), _TYPES[".js"]
        room, _, rest = path.partition("/")
        if room == "images":
            data = self._image(rest.split("/"))
            return (data, "image/jpeg" if data[:2] == b"\xff\xd8" else "image/png") if data else None
        number = rest.removesuffix(".js")
        if room == "details" and rest.endswith(".js") and number.isdecimal() and int(number) < len(self.ids):
            return _call("viewDetail", int(number), self.detail(int(number))), _TYPES[".js"]
        return None

    def paths(self) -> Iterator[str]:
        """Every path that the page can ask for."""
        yield from (PAGE, "view.css", "view.js", "items.js")
        for n, id in enumerate(self.ids):
            yield f"details/{n}.js"
            yield f"images/source/{n}"
            if self.items[id].target is not None:
                yield f"images/target/{n}"
            for i, systems in enumerate(self.frames):
                for system, frames in systems.items():
                    yield from (f"images/{i}/{system}/{candidate}/{n}" for candidate in frames.items.get(id, {}))

    def write(self, out: Path) -> int:
        """Write the page as files, which a browser opens without a server; how many bytes they have.

        Raises:
            ValueError: `out` holds something else.
        """
        claim(
            out,
            "view",
            {"runs": [str(run.folder.resolve()) for run in self.runs]},
            apart=[run.folder for run in self.runs],
        )
        total = 0
        for path in self.paths():
            if (answer := self.get(path)) is not None:
                write_atomic(out / path, functools.partial(_put, answer[0]))
                total += len(answer[0])
        return total


def _put(data: bytes, path: Path) -> None:
    path.write_bytes(data)


def _judgements(folder: Path) -> dict[str, dict[str, list[JsonObject]]]:
    """What judges said, by their names and items."""
    judged: dict[str, dict[str, list[JsonObject]]] = {}
    for path in sorted(folder.glob("*.jsonl")):
        lines = judged.setdefault(path.stem, {})
        for line in read_lines(path):
            lines.setdefault(str(line["id"]), []).append(line)
    return judged


def _by_id(path: Path) -> dict[str, JsonObject]:
    return {str(line["id"]): line for line in read_lines(path)}


def _short(value: float | None) -> float | None:
    return None if value is None else round(value, _DIGITS)


def _call(function: str, *values: object) -> bytes:
    """A script that hands values over. Only ASCII, so that it reads alike in every encoding; names nothing of a run."""
    return (
        f"{function}({', '.join(json.dumps(value, ensure_ascii=True, allow_nan=False) for value in values)})\n".encode()
    )

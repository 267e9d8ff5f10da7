"""A run's folder as the report reads it: every file but `results.json` may be missing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from retrodict.evaluation.baselines import COPY
from retrodict.evaluation.benchmarks import items_of_run, read_results, stored_items
from retrodict.evaluation.pool import ItemResult, Scored, item_result
from retrodict.evaluation.predictions import JUDGEMENTS, read_predictions
from retrodict.files import JsonObject
from retrodict.report.kit.format import finite
from retrodict.report.kit.images import hashed
from retrodict.transitions import Transition, iter_rows
from retrodict.worlds import WORLDS, get_world, world_of
from retrodict.worlds.base import World


@dataclass(frozen=True, eq=False)
class Run:
    folder: Path
    results: JsonObject
    _read: dict[str, dict[str, ItemResult]] = field(default_factory=dict)

    @staticmethod
    def open(folder: Path) -> Run:
        return Run(folder, read_results(folder))

    def get(self, *keys: str) -> Any:
        """A value of `results.json`, or None where any of the keys is missing."""
        value: Any = self.results
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return value

    @property
    def kind(self) -> str:
        return str(self.results.get("kind") or "")

    @property
    def is_loop(self) -> bool:
        """Whether the run is the whole loop, whose page is a story."""
        return self.kind not in ("bench", "probe", "qa", "compare", "train")

    @cached_property
    def systems(self) -> dict[str, JsonObject]:
        return {name: entry for name, entry in (self.get("systems") or {}).items() if isinstance(entry, dict)}

    @cached_property
    def has_scores(self) -> bool:
        """Whether an exact state gave scores. Without one, only distances say how the systems did."""
        return any(finite((entry.get("greedy") or {}).get("score")) for entry in self.systems.values())

    @cached_property
    def main(self) -> str | None:
        """The system that the run is about."""
        kept = str(self.get("kept", "fdm") or "fdm")  # of several rounds, the best
        name = kept if kept in self.systems else next((name for name in self.systems if name != "copy"), None)
        return name or (str(self.get("system")) if self.get("system") and not self.is_loop else None)

    @cached_property
    def ks(self) -> list[int]:
        sizes = {int(k[1:]) for entry in self.systems.values() for k in entry if k[:1] == "k" and k[1:].isdigit()}
        return sorted(sizes)

    @cached_property
    def test(self) -> dict[str, Transition]:
        """The run's items by id; none where it stored none and its benchmark is gone."""
        try:
            return {row.id: row for row in stored_items(self.folder) or items_of_run(self.folder)}
        except (ValueError, OSError):
            return {}

    @cached_property
    def world(self) -> World | None:
        """The world whose items these are."""
        name = str(self.get("bench"))
        return get_world(name) if name in WORLDS else world_of(self.test.values())

    def suite_title(self, category: str) -> str:
        return self.world.suites.get(category, category) if self.world else category

    @cached_property
    def judges(self) -> list[JsonObject]:
        """What judges wrote, by name: the numbers of `judge/<name>.json`, and `verdicts`, score by (row, item)."""
        entries = []
        for path in sorted((self.folder / JUDGEMENTS).glob("*.json")):
            entry = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(entry, dict) and entry.get("kind") == "judge":
                entries.append({**entry, "verdicts": self._verdicts(path.with_suffix(".jsonl"))})
        return entries

    @cached_property
    def pairwise(self) -> list[JsonObject]:
        """What judges of pairs wrote."""
        entries = (json.loads(p.read_text(encoding="utf-8")) for p in sorted((self.folder / JUDGEMENTS).glob("*.json")))
        return [entry for entry in entries if isinstance(entry, dict) and entry.get("kind") == "pairwise"]

    def _verdicts(self, path: Path) -> dict[tuple[str, str], float | None]:
        return {(line["row"], line["id"]): line["score"] for line in _lines(path)}

    def records(self, system: str) -> dict[str, JsonObject]:
        """The lines of `items/<system>.jsonl` by item id."""
        return {line["id"]: line for line in _lines(self.folder / "items" / f"{system}.jsonl")}

    def predictions(self, system: str) -> dict[str, ItemResult]:
        """Scored predictions by item id; empty where the run stored none. Copy's are the sources themselves."""
        if system not in self._read:
            path = self.folder / "predictions" / f"{system}.parquet"
            items = read_predictions(path) if path.is_file() else []
            if not items and system == self.main == COPY:
                items = [item_result(t, Scored(image=t.source or b"", copy=1.0)) for t in self.test.values()]
            self._read[system] = {item.id: item for item in items}
        return self._read[system]

    def annotated(self, count: int) -> list[Transition]:
        """The first `count` labelled pairs by hash of their ids, those with images."""
        folder = self.folder / "annotated"
        if not any(folder.glob("*.parquet")):
            return []
        chosen = sorted((row.id for row in iter_rows(folder, ["id"])), key=hashed)[:count]
        wanted, rows = set(chosen), dict[str, Transition]()
        for row in iter_rows(folder):
            if row.id in wanted and isinstance(row, Transition) and row.source and row.target:
                rows[row.id] = row
        return [rows[name] for name in chosen if name in rows]


def _lines(path: Path) -> Iterator[JsonObject]:
    if path.is_file():
        with path.open(encoding="utf-8") as file:
            for line in file:
                yield json.loads(line)

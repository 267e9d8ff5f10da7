"""The page of a loop that still runs: its stages, and the first images of what is there already."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Literal

from retrodict.files import JsonObject
from retrodict.report import PAGE, figures, kit
from retrodict.report.kit.images import Pair, uri
from retrodict.report.run import Run

PREVIEW = "preview"  # folder: what a trained model predicts, while the run's own are being trained


@dataclass(frozen=True)
class Step:
    """A stage of the run; `seconds` and `summary` are those of one that is done."""

    name: str
    purpose: str
    state: Literal["done", "running", "waiting"] = "waiting"
    seconds: float = 0.0
    summary: str = ""


class LivePage:
    """Writes `report.html` of a run whose numbers are not there yet. The final page takes its place."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._run = Run(folder, {"kind": "bootstrap"})
        self._shown: JsonObject = {}

    def write(self, steps: Sequence[Step]) -> None:
        """The page as of now; each part is made once, when its stage is done."""
        parts: dict[str, tuple[set[str], Callable[[], object]]] = {
            "preview": ({"preview"}, partial(_preview, self._folder)),
            "world": ({"world", "split"}, partial(figures.world, self._run)),
            "labels": ({"annotate"}, partial(figures.labels, self._run)),
        }
        done = {step.name for step in steps if step.state == "done"}
        for part, (stages, make) in parts.items():
            if stages & done and part not in self._shown:
                self._shown[part] = make()
        shown = {name: self._shown.get(name) for name in parts}
        now = f"{datetime.now():%H:%M:%S}"
        kit.write_page(self._folder / PAGE, "live.html", title="The loop is running", steps=steps, now=now, **shown)


def _preview(folder: Path) -> Pair | None:
    """The prediction that the stage `preview` left."""
    record = folder / PREVIEW / "prediction.json"
    if not record.is_file():
        return None
    said = json.loads(record.read_text(encoding="utf-8"))
    source, predicted = ((folder / PREVIEW / f"{name}.png").read_bytes() for name in ("source", "predicted"))
    return Pair(uri(source), uri(predicted), said["action"], note=said["note"])

"""The page beside reranked candidates: a contact sheet, best first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from retrodict.data.files import inside
from retrodict.files import JsonMapping
from retrodict.images import no_pipe
from retrodict.report import kit
from retrodict.report.kit.format import count
from retrodict.report.kit.images import shape_of, uri

PAGE = "index.html"
SHOWN = 100  # tasks on the page: more would be slow to open
SIDE, LARGE = 200, 8_000


@dataclass(frozen=True)
class Cell:
    """An image with its score, or what is said instead."""

    image: str
    title: str
    text: str
    best: bool = False
    shape: float = 1.0


def write_page(out: Path, records: Sequence[JsonMapping], root: Path) -> Path:
    """Write the contact sheet of `evaluation.rerank.rerank_tasks`.

    Args:
        out: folder of the run.
        records: one for each task, as they were written.
        root: folder that the images' paths start from.

    Returns:
        The page's path.
    """
    images = sum(len(record.get("ranked", ())) for record in records)
    rows = [(record["action"], record.get("reason", ""), _cells(record, root)) for record in records[:SHOWN]]
    title = f"{count(images)} candidates for {count(len(records))} actions, best first"
    return kit.write_page(out / PAGE, "rerank.html", title=title, rows=rows, left=len(records) - len(rows))


def _cells(record: JsonMapping, root: Path) -> list[Cell]:
    source = _cell(root, record["source"], "before")
    return [
        source,
        *(
            _cell(root, entry["image"], f"{entry['score']:.2f}" if "score" in entry else entry["reason"], rank == 0)
            for rank, entry in enumerate(record.get("ranked", ()))
        ),
    ]


def _cell(root: Path, name: str, text: str, first: bool = False) -> Cell:
    try:
        data = no_pipe(inside(root, name)).read_bytes()
        return Cell(uri(data, SIDE, LARGE), name, text, first, shape_of(data))
    except (OSError, ValueError):  # what could not be read has its reason already
        return Cell("", name, text)

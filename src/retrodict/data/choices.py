"""What people preferred: pairs of edited images with a human choice, as they are published, or anybody's file.

    editreward  EditReward-Bench (TIGER-Lab, arXiv 2509.26346), as the Hub's files
    mmrb2       the editing part of Multimodal RewardBench 2 (arXiv 2512.16899): `edit.json` beside its images
    FILE        JSON lines, whose paths are counted from the file's folder:

    {"source": "a.png", "action": "wave", "first": "b.png", "second": "c.png", "preferred": "first"}

`preferred` may also be "second" or "tie"; `id`, `class` and `group` are optional.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from retrodict.data.files import inside
from retrodict.data.items import as_text
from retrodict.data.published import hub_rows
from retrodict.files import JsonMapping, text_lines, visible
from retrodict.images import no_pipe

PREFERRED = {"first": 1.0, "tie": 0.5, "second": 0.0}
_RANKING = re.compile(r"\s*([A-D])\s*([>=])\s*([A-D])\s*")
_COMPARED = re.compile(r"([A-D])vs([A-D])")


@dataclass(frozen=True, eq=False)
class Choice:
    """Two images made for one source and instruction, and the one that people preferred.

    `preferred` is 1 for the first, 0 for the second, 0.5 for neither. `group` is what pairs share.
    """

    id: str
    category: str
    group: str
    source: bytes
    action: str
    first: bytes
    second: bytes
    preferred: float


def read_choices(name: str, data: Path | None = None) -> tuple[list[Choice], int]:
    """The pairs of a published set, or of a file.

    Args:
        name: "editreward", "mmrb2", or the path of a file of JSON lines.
        data: folder of a published set.

    Returns:
        The pairs, and how many of the set were left out as they have several sources or images.

    Raises:
        ValueError: there is no such set or file, or it cannot be read.
    """
    if name in SETS:
        if data is None:
            raise ValueError(f"--on {name} needs --data: the folder that holds it.")
        read = list(SETS[name](data))
    elif Path(name).is_file():
        read = list(_lines(Path(name)))
    else:
        raise ValueError(f'There are no human choices "{name}": use {", ".join(SETS)}, or a file of JSON lines.')
    choices = [choice for choice in read if choice is not None]
    if not choices:
        raise ValueError(f"{data or name} holds no pair of images with a human choice.")
    return choices, len(read) - len(choices)


def _editreward(folder: Path) -> Iterator[Choice | None]:
    """The two candidates of a row are those of its `comparison_type`, as "AvsC"; `ranking` names them so, too."""
    needed = ("id", "instruction", "source_image", "candidate_1", "candidate_2", "ranking")
    for row in hub_rows(folder, "EditReward-Bench", needed):
        ranking, compared = _RANKING.fullmatch(row["ranking"]), _COMPARED.search(str(row.get("comparison_type")))
        first, second = compared.groups() if compared else ("A", "B")
        if ranking is None or {ranking[1], ranking[3]} != {first, second}:
            raise ValueError(
                f"{folder}: the ranking {row['ranking']!r} of {row['id']} is none of {first} and {second}."
            )
        preferred = 0.5 if ranking[2] == "=" else float(ranking[1] == first)
        name = str(row["id"])
        images = (row[key]["bytes"] for key in ("source_image", "candidate_1", "candidate_2"))
        source, one, other = images
        category = str(row.get("dataset") or "")
        yield Choice(name, category, name.split("_", maxsplit=1)[0], source, row["instruction"], one, other, preferred)


def _mmrb2(folder: Path) -> Iterator[Choice | None]:
    """Pairs with one source and one image on each side; others are left out."""
    file = folder / "edit.json"
    try:
        pairs = json.loads(file.read_text(encoding="utf-8"))["pairs"]
        for pair in pairs:
            images = {key: _of(pair[key]["response_content"], "image") for key in ("response_a", "response_b")}
            sources, texts = _of(pair["prompt_content"], "image"), _of(pair["prompt_content"], "text")
            preferred = {"A": 1.0, "B": 0.0}.get(str(pair["human_preference"]).strip().upper(), 0.5)
            if [len(names) for names in (sources, *images.values())] != [1, 1, 1]:
                yield None
                continue
            source, first, second = (
                inside(folder, name).read_bytes() for name in (*sources, *images["response_a"], *images["response_b"])
            )
            name, kind = str(pair["pair_id"]), str(pair.get("prompt_source") or "")
            yield Choice(name, kind, f"{kind}/{sources[0]}", source, " ".join(texts), first, second, preferred)
    except OSError as error:
        raise ValueError(f"{folder} is no built MMRB2: {error.filename} cannot be read.") from None
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise ValueError(f"{file} is no edit.json of MMRB2 ({error!r}).") from None


def _of(content: list[list[str]], kind: str) -> list[str]:
    return [value for one, value in content if one == kind]


def _lines(file: Path) -> Iterator[Choice]:
    for number, line in enumerate(text_lines(file), 1):
        if line.strip():
            try:
                yield _choice(file.parent, number, json.loads(line))
            except (ValueError, KeyError, TypeError, OSError, RecursionError) as error:
                raise ValueError(f"{file}, line {number}: {error!r} (see docs/evaluation.md).") from None


def _choice(root: Path, number: int, record: JsonMapping) -> Choice:
    source, first, second = (no_pipe(inside(root, record[key])).read_bytes() for key in ("source", "first", "second"))
    if record["preferred"] not in PREFERRED:
        raise ValueError(f"`preferred` is first, second or tie, not {record['preferred']}")
    preferred, group = PREFERRED[record["preferred"]], as_text(record.get("group")) or record["source"]
    name, kind = as_text(record.get("id")) or str(number), as_text(record.get("class"))
    if not (action := visible(str(record["action"]))):
        raise ValueError("`action` is empty")
    return Choice(name, kind, group, source, action, first, second, preferred)


SETS: Mapping[str, Callable[[Path], Iterator[Choice | None]]] = {"editreward": _editreward, "mmrb2": _mmrb2}

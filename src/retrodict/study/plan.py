"""The two files of a study: what raters may be shown, and the key that says who made which image."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from retrodict.files import JsonMapping, JsonObject

PLAN, KEY, DATABASE, PICTURES = "study.json", "key.json", "study.sqlite", "pictures"
MOST_CANDIDATES = 9  # the keys 1 to 9

CheckKind = Literal["noise", "truth"]


@dataclass(frozen=True)
class Design:
    """How many items of each subset, how many raters, and what share of the items comes twice."""

    per_subset: int = 20
    raters: int = 3
    repeat_share: float = 0.1


PRESETS = {"default": Design(), "paper": Design(per_subset=5, raters=14)}  # arXiv 2506.06006, section 4.3


@dataclass(frozen=True)
class Shown:
    """One question as the server knows it. Images are named by keyed hashes; `candidates` is sorted by name."""

    key: str
    subset: str
    action: str
    source: str
    candidates: tuple[str, ...]
    size: tuple[int, int]  # width and height of every image


@dataclass(frozen=True)
class Plan:
    """What the server knows: nothing in here tells the systems apart."""

    title: str
    consent: tuple[str, ...]  # paragraphs of the first page
    items: tuple[Shown, ...]
    checks: tuple[Shown, ...]
    examples: tuple[Example, ...]
    raters: int
    repeat_share: float
    seed: int

    @property
    def candidates(self) -> int:
        return len(self.items[0].candidates)

    @property
    def pictures(self) -> frozenset[str]:
        shown: tuple[Shown | Example, ...] = (*self.items, *self.checks, *self.examples)
        return frozenset(name for one in shown for name in (one.source, *one.candidates))


@dataclass(frozen=True)
class Example:
    """A worked example of the training page: drawn for it, with what there is to say about each candidate."""

    action: str
    source: str
    candidates: tuple[str, ...]
    remarks: tuple[str, ...]
    best: int
    worst: int
    size: tuple[int, int]


@dataclass(frozen=True)
class KeyedItem:
    """An item as the report knows it.

    `pictures` maps an image's name to its system; `frames` says which frame of the system's run it is (-1: greedy);
    `scores` is judge -> system -> score, as known when the study was built.
    """

    id: str
    group: str
    subset: str
    pictures: Mapping[str, str]
    frames: Mapping[str, int] = field(default_factory=dict)
    scores: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)


@dataclass(frozen=True)
class KeyedCheck:
    """An attention check: `decoy` is the image of noise, which must be worst, or the truth, which must not be."""

    id: str
    kind: CheckKind
    decoy: str


@dataclass(frozen=True)
class Key:
    salt: str
    systems: tuple[str, ...]
    items: Mapping[str, KeyedItem]
    checks: Mapping[str, KeyedCheck]
    inputs: Mapping[str, str]  # system -> where its images came from
    left_out: Mapping[str, int] = field(default_factory=dict)  # items without an image, per system


def to_json(value: Plan | Key) -> JsonObject:
    return asdict(value)


def read_plan(folder: Path) -> Plan:
    """Raises `ValueError` when `folder` holds no study."""
    fields = _load(folder, PLAN)
    return Plan(
        **fields
        | {
            "consent": tuple(fields["consent"]),
            "items": _shown(fields["items"]),
            "checks": _shown(fields["checks"]),
            "examples": tuple(
                Example(**one | {name: tuple(one[name]) for name in ("candidates", "remarks", "size")})
                for one in fields["examples"]
            ),
        }
    )


def read_key(folder: Path) -> Key:
    fields = _load(folder, KEY)
    return Key(
        **fields
        | {
            "systems": tuple(fields["systems"]),
            "items": {name: KeyedItem(**item) for name, item in fields["items"].items()},
            "checks": {name: KeyedCheck(**check) for name, check in fields["checks"].items()},
        }
    )


def _shown(rows: Sequence[JsonMapping]) -> tuple[Shown, ...]:
    return tuple(Shown(**{**row, "candidates": tuple(row["candidates"]), "size": tuple(row["size"])}) for row in rows)


def _load(folder: Path, name: str) -> JsonObject:
    path = Path(folder) / name
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(
            f"{folder} holds no study: make one with `retrodict study build ... --out {folder}`."
        ) from None
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    assert isinstance(value, dict)
    return value

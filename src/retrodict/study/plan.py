"""The two files of a study: what raters may be shown, and the key that says who made which image."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from retrodict.files import JsonObject

PLAN, KEY, DATABASE, PICTURES = "study.json", "key.json", "study.sqlite", "pictures"
MOST_CANDIDATES = 9  # the keys 1 to 9
VERSION = 2  # of both files

CheckKind = Literal["noise", "truth"]
Method = Literal["best-worst", "rating"]
_STRICT: Any = {"extra": "forbid"}  # pydantic: an unknown field is an error
T = TypeVar("T")


@dataclass(frozen=True)
class Design:
    """What is asked, of how many items, of whom.

    Attributes:
        per_subset: items of each subset.
        raters: personal links that are made with the study.
        repeat_share: share of a rater's items that come twice.
        items_per_rater: items of one rater, evenly spread over raters; 0: all.
        raters_per_item: after so many judgements an item is given to nobody else; 0: no end.
        method: "best-worst" of the candidates, or a "rating" of each.
        show: candidates on the page at a time, another choice of them for each rater; 0: all. 2 is pairwise.
        points: of the rating scale.
        questions: asked one after another about the same candidates; none: one question about all criteria.
        comments: whether raters may write something about a task.
        seconds: how long candidates are in view; 0: as long as the rater wants.
        break_every: tasks after which the page proposes a break.
    """

    per_subset: int = 20
    raters: int = 3
    repeat_share: float = 0.1
    items_per_rater: int = 0
    raters_per_item: int = 0
    method: Method = "best-worst"
    show: int = 0
    points: int = 5
    questions: tuple[str, ...] = ()
    comments: bool = False
    seconds: int = 0
    break_every: int = 25

    __pydantic_config__ = _STRICT


PRESETS = {"default": Design(), "paper": Design(per_subset=5, raters=14)}  # arXiv 2506.06006, section 4.3


@dataclass(frozen=True)
class Crowd:
    """How people whom a platform sends become raters.

    Attributes:
        id: query parameter that says who somebody is; "": the known ones of platforms.
        code: completion code; "": one of each rater's own.
        return_url: where the last page leads; `{code}` and `{PARAMETER}` are filled in.
        failed_checks: with more failed attention checks than this a rater ends without a code.
        gate: whether training must be answered right before the study begins.
    """

    id: str = ""
    code: str = ""
    return_url: str = ""
    failed_checks: int | None = None
    gate: bool = True

    __pydantic_config__ = _STRICT


@dataclass(frozen=True)
class Shown:
    """One item as the server knows it. Images are named by keyed hashes; `candidates` is sorted by name."""

    key: str
    subset: str
    action: str
    source: str
    candidates: tuple[str, ...]
    size: tuple[int, int]  # width and height of every image

    __pydantic_config__ = _STRICT


@dataclass(frozen=True)
class Check(Shown):
    """An attention check: `decoy` is the image of noise, which must be worst, or the truth, which must not be."""

    decoy: str
    kind: CheckKind


@dataclass(frozen=True)
class Example:
    """A worked example of the training page, with what there is to say about each candidate."""

    action: str
    source: str
    candidates: tuple[str, ...]
    remarks: tuple[str, ...]
    best: int
    worst: int
    size: tuple[int, int]

    __pydantic_config__ = _STRICT


@dataclass(frozen=True)
class Plan:
    """What the server knows: nothing in here tells the systems apart.

    Attributes:
        consent: paragraphs of the first page.
        digests: SHA-256 of every image by its name.
        exclude: rules of exclusion, fixed before anybody is asked (`analysis.exclude`).
        words: what replaces the English words of the pages (`words`).
    """

    title: str
    consent: tuple[str, ...]
    items: tuple[Shown, ...]
    checks: tuple[Check, ...]
    examples: tuple[Example, ...]
    design: Design
    seed: int
    digests: Mapping[str, str]
    crowd: Crowd | None = None
    exclude: tuple[str, ...] = ()
    words: Mapping[str, str] = field(default_factory=dict)
    version: int = VERSION

    __pydantic_config__ = _STRICT

    @property
    def candidates(self) -> int:
        """How many are on the page at a time."""
        return self.design.show or len(self.items[0].candidates)

    @property
    def id(self) -> str:
        """What differs between studies, and is no secret: 8 hex digits."""
        return hashlib.sha256("".join(item.key for item in self.items).encode()).hexdigest()[:8]


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

    __pydantic_config__ = _STRICT


@dataclass(frozen=True)
class Key:
    """Who made which image.

    Attributes:
        checks: attention check -> item id.
        inputs: system -> where its images came from.
        left_out: system -> how many items it has no image of.
        reshaped: system -> how many of its images have another shape than their source.
    """

    salt: str
    systems: tuple[str, ...]
    items: Mapping[str, KeyedItem]
    checks: Mapping[str, str]
    inputs: Mapping[str, str]
    left_out: Mapping[str, int] = field(default_factory=dict)
    reshaped: Mapping[str, int] = field(default_factory=dict)
    version: int = VERSION

    __pydantic_config__ = _STRICT


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def to_json(value: Plan | Key) -> JsonObject:
    return asdict(value)


def read_plan(folder: Path) -> Plan:
    """What `folder/study.json` holds.

    Raises:
        ValueError: there is none, it is damaged, or of another version.
    """
    return _load(folder, PLAN, Plan)


def read_key(folder: Path) -> Key:
    """What `folder/key.json` holds; raises as `read_plan`."""
    return _load(folder, KEY, Key)


def _load(folder: Path, name: str, kind: type[T]) -> T:
    from pydantic import TypeAdapter, ValidationError

    path = Path(folder) / name
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(
            f"{path} is missing: bring it back from a backup, or make a study with `retrodict study build`."
        ) from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}): bring it back from a backup.") from None
    version = value.get("version") if isinstance(value, dict) else None
    if isinstance(version, int) and version != VERSION:
        raise ValueError(
            f"{path} is of version {version} and this retrodict reads {VERSION}: use the one that built the study."
        )
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise ValueError(
            f"{path} is not what `retrodict study build` of this version writes ({where}: {first['msg']}): bring it "
            "back from a backup, or use the version that built the study."
        ) from None


def check_images(folder: Path, digests: Mapping[str, str]) -> None:
    """Raises `ValueError` when an image is not what it was when the study was built."""
    for name, expected in digests.items():
        path = folder / f"{name}.png"
        if not path.is_file():
            raise ValueError(f"{path} is missing: bring it back from a backup.")
        if digest(path.read_bytes()) != expected:
            raise ValueError(f"{path} has changed since the study was built: bring it back from a backup.")

"""Labelled things that are read one at a time: each gives a transition, or a reason why it gives none."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from retrodict.transitions import Transition


@dataclass(frozen=True)
class Item:
    """One labelled thing of a collection.

    Attributes:
        id: of its transition; of several with one id the first counts.
        key: changes when anything that it is made of does, such as its label or its files; decodes nothing.
        read: decodes it; raises `UnusableError`.
    """

    id: str
    key: Callable[[], str]
    read: Callable[[], Transition]


class UnusableError(Exception):
    """One labelled thing gives no transition: `reason` is a word for counting."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def transitions(items: Iterable[Item], dropped: Counter[str]) -> Iterator[Transition]:
    """What the items give, as it is asked for; those that give none are counted in `dropped` by reason."""
    for item in items:
        try:
            yield item.read()
        except UnusableError as error:
            dropped[error.reason] += 1


def as_text(value: object) -> str:
    """What a cell says; empty where it says nothing. 0 is a name like any other, of the first episode for one.

    Half a character, which JSON can hold and no file can, becomes a question mark. Bytes are read as UTF-8.
    """
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return "" if value is None or value != value else str(value).encode(errors="replace").decode()


def sampled(items: Iterable[Item], count: int, seed: int) -> list[Item]:
    """So many items, in their order. Which ones depends on the seed and the ids: a longer list keeps most."""
    every = list(items)
    order = sorted(range(len(every)), key=lambda i: hashlib.sha256(f"{seed} {every[i].id}".encode()).digest())
    return [every[i] for i in sorted(order[:count])]


def state(path: Path) -> str:
    """Size and time of change of a file; empty where there is none."""
    try:
        stat = path.stat()
    except OSError:
        return ""
    return f"{stat.st_size} {stat.st_mtime_ns}"

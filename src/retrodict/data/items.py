"""Labelled things that are read one at a time: each gives a transition, or a reason why it gives none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from retrodict.transitions import Transition

Item = Callable[[], Transition]  # decodes pictures only when called; raises `UnusableError`


class UnusableError(Exception):
    """One labelled thing gives no transition: `reason` is a word for counting."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def transitions(items: Iterable[Item], dropped: Counter[str]) -> Iterator[Transition]:
    """What the items give, as it is asked for; those that give none are counted in `dropped` by reason."""
    for item in items:
        try:
            yield item()
        except UnusableError as error:
            dropped[error.reason] += 1

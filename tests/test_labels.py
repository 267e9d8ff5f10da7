"""How many labels are right, by hand: pairs of a world whose truth is known."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from retrodict.bootstrap.labels import labelling
from retrodict.transitions import FramePair, Transition


class Told:
    """A world that knows what happened in each pair, and no more, as no more is asked of it."""

    def __init__(self, truth: Mapping[str, str | None]) -> None:
        self.truth = truth

    def true_action(self, pair: FramePair, truth: Path) -> str | None:
        return self.truth[pair.id]

    def same_action(self, a: str, b: str) -> bool:
        return a.lower() == b.lower()


def row(name: str, action: str, logprob: float = -1.0) -> Transition:
    return Transition(id=name, action=action, logprob=logprob)


def test_selected_labels_count_as_they_were_selected(tmp_path: Path) -> None:
    world: Any = Told({"a": "push", "b": "turn", "c": "paint", "d": None})
    annotated = [row("a", "push", -3), row("b", "push"), row("c", "Paint"), row("d", "push")]
    selected = [row("a", "turn"), row("b", "turn"), row("d", "push")]  # a forward model has replaced two labels
    found = labelling(world, annotated, selected, tmp_path)
    assert (found["exact"], found["n"], found["mined"]) == (pytest.approx(2 / 3), 3, 4)
    assert (found["selected"], found["selected_exact"]) == (3, pytest.approx(1 / 3)), "`d` shows no action: wrong"
    assert [(bin["low"], bin["exact"]) for bin in found["by_confidence"]] == [(-3, 1), (-1, 0), (-1, 1)]

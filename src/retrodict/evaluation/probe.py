"""Preference probe (arXiv 2506.06006, section 2): does a model find what happened likelier than what did not?

Things that did not happen: another action of the same suite in place of the true one, another observation of the
same suite in place of the target, a copy (the target is the source), and the inverse (source and target swapped).
No text or picture has to be generated, so that the probe compares directions that are hard to compare otherwise.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from retrodict.evaluation.stats import share
from retrodict.models.protocol import InverseModel, LogProb, ScoringForwardModel
from retrodict.transitions import Transition

Explains = Callable[[str, Image.Image, Image.Image], bool]
NEGATIVES = ("action", "observation", "copy", "inverse")
_MISSING = LogProb(math.nan, 0)


@dataclass(frozen=True)
class _Item:
    source: Image.Image
    target: Image.Image
    action: str
    other_action: str | None  # None where the suite offers no other
    other_target: Image.Image | None
    inverse_action: str | None  # the action, unless it also leads from target to source


@dataclass(frozen=True)
class _Query:
    """One log-probability to compute."""

    item: int
    source: Image.Image
    target: Image.Image
    action: str


def tabletop_explains(action: str, source: Image.Image, target: Image.Image) -> bool:
    """Whether the action leads from one tabletop picture to the other, by the world's own rules."""
    from retrodict.worlds import tabletop
    from retrodict.worlds.tabletop.scene import same_scene

    stated = tabletop.parse_action(action)
    if stated is None:
        return False
    before, after = tabletop.parse(source, "cells"), tabletop.parse(target, "cells")
    outcome = tabletop.apply(before, stated)
    return outcome is not None and same_scene(outcome, after)


def probe_inverse(
    model: InverseModel,
    transitions: Sequence[Transition],
    *,
    seed: int = 0,
    explains: Explains | None = None,
) -> dict[str, Any]:
    """Preferences of log p(action | source, target): see `_probe` for what is returned."""

    def score(queries: Sequence[_Query]) -> list[LogProb]:
        return model.score([(q.source, q.target) for q in queries], [q.action for q in queries])

    return _probe(score, transitions, seed, explains)


def probe_forward(
    model: ScoringForwardModel,
    transitions: Sequence[Transition],
    *,
    seed: int = 0,
    explains: Explains | None = None,
) -> dict[str, Any]:
    """Preferences of log p(target | source, action): see `_probe` for what is returned."""

    def score(queries: Sequence[_Query]) -> list[LogProb]:
        return model.score_targets(
            [q.source for q in queries], [q.action for q in queries], [q.target for q in queries]
        )

    return _probe(score, transitions, seed, explains)


def _probe(
    score: Callable[[Sequence[_Query]], list[LogProb]],
    transitions: Sequence[Transition],
    seed: int,
    explains: Explains | None,
) -> dict[str, Any]:
    """For each negative `{"share", "ci95", "n", "n_unscored", "per_token": {the same on mean log-probability}}`.

    The share counts items whose reference has the strictly higher log-probability; the interval is Wilson's.
    `explains` says whether an action leads from a source to a target: what happens to be true (swapping two things is
    its own inverse) is no negative. Without it, only the same text counts as the same action. Where the suite offers
    no negative, the item is unscored.

    `action_blind` is the control for `action`: the same comparison with the source in place of the target, so that the
    model cannot see what happened. A true action names things that are in the scene and another one often does not, and
    some sentences are likelier than others whatever happens. Only what `action` has beyond `action_blind` was read off
    the outcome. `action_gain` compares the two actions by how much the outcome raised them:
    log p(. | source, target) - log p(. | source, source), which cancels what the blind control measures. (A forward
    model scores pictures, so there it asks which action favours the target over a copy.)
    """
    items = _items(transitions, seed, explains)
    n = len(items)
    every = range(n)

    def ask(make: Callable[[int], _Query | None]) -> list[LogProb]:
        asked = [q for i in every if (q := make(i)) is not None]
        answers = dict(zip((q.item for q in asked), score(asked) if asked else [], strict=True))
        return [answers.get(i, _MISSING) for i in every]

    def query(i: int, source: Image.Image, target: Image.Image | None, action: str | None) -> _Query | None:
        return None if target is None or action is None else _Query(i, source, target, action)

    truth = ask(lambda i: query(i, items[i].source, items[i].target, items[i].action))
    other = ask(lambda i: query(i, items[i].source, items[i].target, items[i].other_action))
    copied = ask(lambda i: query(i, items[i].source, items[i].source, items[i].action))
    copied_other = ask(lambda i: query(i, items[i].source, items[i].source, items[i].other_action))
    observed = ask(lambda i: query(i, items[i].source, items[i].other_target, items[i].action))
    swapped = ask(lambda i: query(i, items[i].target, items[i].source, items[i].inverse_action))
    return {
        "action": _preference(truth, other),
        "observation": _preference(truth, observed),
        "copy": _preference(truth, copied),
        "inverse": _preference(truth, swapped),
        "action_blind": _preference(copied, copied_other),
        "action_gain": _preference(_gain(truth, copied), _gain(other, copied_other)),
    }


def _preference(reference: Sequence[LogProb], negative: Sequence[LogProb]) -> dict[str, Any]:
    rows = list(zip(reference, negative, strict=True))
    return {
        **share([_higher(a.sum, b.sum) for a, b in rows]),
        "per_token": share([_higher(a.mean, b.mean) for a, b in rows]),
    }


def _higher(a: float, b: float) -> float:
    return math.nan if math.isnan(a) or math.isnan(b) else float(a > b)


def _gain(seen: Sequence[LogProb], blind: Sequence[LogProb]) -> list[LogProb]:
    return [LogProb(s.sum - b.sum, s.count) for s, b in zip(seen, blind, strict=True)]


def _items(transitions: Sequence[Transition], seed: int, explains: Explains | None) -> list[_Item]:
    """Pictures, decoded once, and the negatives of each item. Items without a target are left out."""
    kept = [t for t in transitions if t.target is not None]
    sources, targets = [t.source_image for t in kept], [t.target_image for t in kept]
    suites: dict[str, list[int]] = {}
    for i, transition in enumerate(kept):
        suites.setdefault(transition.category, []).append(i)

    def action_is_false(i: int, j: int) -> bool:
        if explains is None:
            return kept[j].action.casefold().split() != kept[i].action.casefold().split()
        return not explains(kept[j].action, sources[i], targets[i])

    def target_is_false(i: int, j: int) -> bool:
        if explains is None:
            return kept[j].target != kept[i].target
        return not explains(kept[i].action, sources[i], targets[j])

    items = []
    for i, transition in enumerate(kept):
        # The order depends on the seed and the two ids alone: leaving an item out does not reshuffle the others.
        peers = sorted(suites[transition.category], key=lambda j: _draw(seed, kept[i].id, kept[j].id))
        other_action = next((kept[j].action for j in peers if action_is_false(i, j)), None)
        other_target = next((targets[j] for j in peers if target_is_false(i, j)), None)
        own_inverse = explains is not None and explains(transition.action, targets[i], sources[i])
        inverse_action = None if own_inverse else transition.action
        items.append(_Item(sources[i], targets[i], transition.action, other_action, other_target, inverse_action))
    return items


def _draw(seed: int, item: str, peer: str) -> bytes:
    return hashlib.blake2b(f"{seed}/{item}/{peer}".encode(), digest_size=8).digest()

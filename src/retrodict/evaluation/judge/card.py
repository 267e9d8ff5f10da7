"""The card of a judge: does it know right from wrong where the answer is known?

It scores, on the same items, the true target, a copy of the source, the transition run backwards, the target of another
item, and the true target under another action. A judge that does not put the truth above the copy is not trusted.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

from retrodict.evaluation.benchmarks import written
from retrodict.evaluation.judge.protocol import Judge, Question
from retrodict.evaluation.judge.results import compare, estimate
from retrodict.files import JsonObject
from retrodict.progress import Progress
from retrodict.stats import shown
from retrodict.transitions import Transition, decode_image
from retrodict.worlds import world_of
from retrodict.worlds.base import World

TRUTH, COPY = "ground_truth", "copy"
ROWS = (TRUTH, COPY, "inverse", "random", "counterfactual")
DESCRIPTIONS = {
    TRUTH: "the true target",
    COPY: "the source again, as if nothing had happened",
    "inverse": "from the target back to the source, under the same action",
    "random": "the true target of another item of the subset",
    "counterfactual": "the true target under an action that did not happen",
}


def card_items(transitions: Sequence[Transition], count: int) -> list[Transition]:
    """The items that the card is made on: those with a target that come first by the hash of their ids."""
    kept = [t for t in transitions if t.target is not None]
    return sorted(kept, key=lambda t: _hash("card", t.id))[:count]


def card_questions(transitions: Sequence[Transition], count: int) -> dict[str, list[Question | None]]:
    """Questions per row of the card, aligned with `card_items`; None where an item has no such question.

    What happens to be true is no negative: an action that is its own inverse, an image that also fits. The rules of
    the items' world say so; without one, another wording is taken for another action.
    """
    items = card_items(transitions, count)
    world = world_of(transitions)
    return {row: [_question(row, item, transitions, world) for item in items] for row in ROWS}


def make_card(
    judge: Judge, transitions: Sequence[Transition], count: int, progress: Progress | None = None
) -> JsonObject:
    """Judge the rows and say whether the judge can be trusted; `trusted` is what `retrodict judge` goes by.

    Trusted: the 95 % interval of the paired difference of ground truth and copy lies above 0, and its sign-flip p is
    below 0.05 (which takes six items at least, where an interval alone could be of width 0 from two). `blind_to` names
    the other rows that it does not put below the ground truth in the same sense.
    """
    items = card_items(transitions, count)
    questions = card_questions(transitions, count)
    flat = [question for row in ROWS for question in questions[row] if question is not None]
    answers = iter(judge.score(flat, progress))
    verdicts = {row: [None if q is None else next(answers) for q in questions[row]] for row in ROWS}
    rows: JsonObject = {}
    differences: JsonObject = {}
    for row in ROWS:
        asked = [i for i, v in enumerate(verdicts[row]) if v is not None]
        mine = [v for v in verdicts[row] if v is not None]
        part = [items[i] for i in asked]
        truth = [v for i in asked if (v := verdicts[TRUTH][i]) is not None]
        rows[row] = {"what": DESCRIPTIONS[row], "n_without": len(items) - len(asked), **estimate(mine, part)}
        if row != TRUTH:
            differences[row] = compare(truth, mine, part, (TRUTH, row))
    trusted = shown(differences[COPY]["ci95"], differences[COPY]["p"]) > 0
    blind = [r for r, d in differences.items() if r != COPY and d["n"] and shown(d["ci95"], d["p"]) <= 0]
    why = _why(differences, trusted) + (f"; it does not tell it from: {', '.join(blind)}" if blind and trusted else "")
    verdict = {"trusted": trusted, "blind_to": blind, "why": why}
    return {"items": len(items), "rows": rows, "differences": differences, **verdict}


def _why(differences: JsonObject, trusted: bool) -> str:
    over_copy = differences[COPY]
    low, high = over_copy["ci95"]
    if math.isnan(low):
        return f"only {over_copy['n']} items have a score for both the ground truth and the copy"
    interval = f"95 % interval {low:.2f} to {high:.2f}, n = {over_copy['n']}, p = {over_copy['p']:.3f}"
    says = f"ground truth - copy = {over_copy['difference']:.2f} ({interval})"
    return f"it tells the ground truth from a copy: {says}" if trusted else f"it does not tell them apart: {says}"


def _question(row: str, item: Transition, transitions: Sequence[Transition], world: World | None) -> Question | None:
    assert item.source is not None
    source, target, action = item.source, item.target, item.action
    assert target is not None
    if row == TRUTH:
        return Question(item.id, source, action, target)
    if row == COPY:
        return Question(item.id, source, action, source)
    if row == "inverse":
        own = _explains(item, action, target, source, world)
        return None if own else Question(item.id, target, action, source)
    peers = [t for t in transitions if t.category == item.category and t.id != item.id]
    peers.sort(key=lambda t: _hash(item.id, t.id))
    if row == "random":
        other = next((t.target for t in peers if t.target is not None and _is_other_image(item, t, world)), None)
        return None if other is None else Question(item.id, source, action, other)
    counterfactual = _other_action(item, peers, world)
    return None if counterfactual is None else Question(item.id, source, counterfactual, target)


def _is_other_image(item: Transition, other: Transition, world: World | None) -> bool:
    assert item.source is not None
    same = other.target == item.target or (item.group and other.group == item.group)
    return other.target is not None and not same and not _explains(item, item.action, item.source, other.target, world)


def _other_action(item: Transition, peers: Sequence[Transition], world: World | None) -> str | None:
    """An action that could have happened and did not: one that the world allows, one that people wrote, else that of
    another item of the subset."""
    if world is not None:
        return min(world.alternatives(item), key=lambda text: _hash(item.id, text), default=None)
    words = item.action.casefold().split()
    other = next((t.action for t in peers if t.action.casefold().split() != words), None)
    return written(item, "counterfactual_action") or other


def _explains(item: Transition, action: str, source: bytes, target: bytes, world: World | None) -> bool:
    """Whether the action leads from one image to the other, where rules can say so."""
    if world is None:
        return False
    return world.explains(action, decode_image(source, "source"), decode_image(target, "target"), item)


def _hash(*parts: str) -> bytes:
    return hashlib.blake2b("/".join(parts).encode(), digest_size=8).digest()

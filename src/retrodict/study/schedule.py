"""What each rater sees, in which order: items, repeats of some of them, attention checks."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from retrodict.study.plan import Plan, Shown

Kind = Literal["item", "repeat", "check"]


@dataclass(frozen=True)
class Trial:
    """One question for one rater; `order` holds image names in the order in which they are shown."""

    key: str
    kind: Kind
    order: tuple[str, ...]
    question: int = 0


@dataclass
class Load:
    """How often each item, and each choice of candidates of it, has been judged or is about to be."""

    items: Counter[str] = field(default_factory=Counter)
    choices: Counter[tuple[str, frozenset[str]]] = field(default_factory=Counter)

    def add(self, key: str, images: Iterable[str]) -> None:
        self.items[key] += 1
        self.choices[key, frozenset(images)] += 1


def assigned(plan: Plan, load: Load, rng: random.Random) -> list[Shown]:
    """The items of the next rater: those with the fewest judgements, evenly over subsets; none when all have enough."""
    design = plan.design
    most = design.raters_per_item or load.items.total() + 1
    wanted = [item for item in plan.items if load.items[item.key] < most]
    rng.shuffle(wanted)
    turns: Counter[tuple[int, str]] = Counter()
    ranked = []
    for item in wanted:
        level = load.items[item.key], item.subset
        ranked.append((level[0], turns[level], item))
        turns[level] += 1
    ranked.sort(key=lambda one: one[:2])
    return [item for *_, item in ranked[: design.items_per_rater or len(ranked)]]


def schedule(plan: Plan, items: Sequence[Shown], load: Load, rng: random.Random) -> list[Trial]:
    """All trials of a rater: every item once, `repeat_share` of them again later, checks spread between.

    Items and candidates come in an order of the rater's own. A repeat shows the candidates in another order than
    before, and stands in the second half when the first showing was in the first half, so that it is not remembered.
    Several questions about the same candidates follow each other. `load` is told of the items.
    """
    trials = [Trial(item.key, "item", _sample(plan, item, load, rng)) for item in items]
    rng.shuffle(trials)
    for trial in trials:
        load.add(trial.key, trial.order)
    half = (len(trials) + 1) // 2
    repeated = rng.sample(trials[:half], min(round(plan.design.repeat_share * len(trials)), half))
    later = [Trial(trial.key, "repeat", _reordered(trial.order, rng)) for trial in repeated]
    trials = trials[:half] + _shuffled_in(trials[half:], later, rng)
    checks = [
        Trial(check.key, "check", _with(check.decoy, check.candidates, plan.candidates, rng))
        for check in rng.sample(plan.checks, min(len(plan.checks), max(2, round(len(trials) / 20))))
    ]
    spread = _spread(trials, checks, rng)
    questions = range(max(1, len(plan.design.questions)))
    return [Trial(t.key, t.kind, t.order, question) for t in spread for question in questions]


def _sample(plan: Plan, item: Shown, load: Load, rng: random.Random) -> tuple[str, ...]:
    """The candidates of an item in a random order; where only some are shown, a choice that few raters have had."""
    if plan.candidates == len(item.candidates):
        return tuple(rng.sample(item.candidates, len(item.candidates)))
    choices = list(itertools.combinations(item.candidates, plan.candidates))
    rng.shuffle(choices)
    chosen = min(choices, key=lambda choice: load.choices[item.key, frozenset(choice)])
    return tuple(rng.sample(chosen, len(chosen)))


def _with(decoy: str, candidates: Sequence[str], count: int, rng: random.Random) -> tuple[str, ...]:
    others = rng.sample([one for one in candidates if one != decoy], count - 1)
    return tuple(rng.sample([decoy, *others], count))


def _reordered(order: Sequence[str], rng: random.Random) -> tuple[str, ...]:
    again = list(order)
    while len(order) > 1 and tuple(again) == tuple(order):
        again = rng.sample(order, len(order))
    return tuple(again)


def _shuffled_in(trials: Sequence[Trial], more: Sequence[Trial], rng: random.Random) -> list[Trial]:
    """`more` at random positions among `trials`, whose own order stays."""
    positions = set(rng.sample(range(len(trials) + len(more)), len(more)))
    rows, rest = iter(more), iter(trials)
    return [next(rows) if i in positions else next(rest) for i in range(len(trials) + len(more))]


def _spread(trials: list[Trial], checks: Sequence[Trial], rng: random.Random) -> list[Trial]:
    """One check at a random position of each of as many equal stretches, never the very first trial."""
    stretch = len(trials) / max(len(checks), 1)
    for i in reversed(range(len(checks))):  # from the end, so that earlier positions stay where they are
        first, last = max(1, round(i * stretch)), max(1, round((i + 1) * stretch) - 1)
        trials.insert(rng.randint(first, max(first, last)), checks[i])
    return trials

"""What each rater sees, in which order: items, repeats of some of them, attention checks."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from retrodict.study.plan import Plan, Shown

Kind = Literal["item", "repeat", "check"]


@dataclass(frozen=True)
class Trial:
    """One question for one rater; `order` holds image names in the order in which they are shown."""

    key: str
    kind: Kind
    order: tuple[str, ...]


def schedule(plan: Plan, rater: int) -> list[Trial]:
    """All trials of a rater: every item once, `repeat_share` of them again later, checks spread between.

    Items and candidates come in an order of the rater's own. A repeat shows the candidates in another order than
    before, and stands in the second half when the first showing was in the first half, so that it is not remembered.
    """
    rng = random.Random(f"{plan.seed}/{rater}")
    items = [_trial(shown, "item", rng) for shown in rng.sample(plan.items, len(plan.items))]
    half = (len(items) + 1) // 2
    repeated = rng.sample(items[:half], min(round(plan.repeat_share * len(items)), half))
    shown = {one.key: one for one in plan.items}
    later = [_trial(shown[trial.key], "repeat", rng, avoid=trial.order) for trial in repeated]
    trials = items[:half] + _shuffled_in(items[half:], later, rng)
    checks = [_trial(check, "check", rng) for check in rng.sample(plan.checks, len(plan.checks))]
    return _spread(trials, checks, rng)


def _trial(shown: Shown, kind: Kind, rng: random.Random, avoid: Sequence[str] = ()) -> Trial:
    order = rng.sample(shown.candidates, len(shown.candidates))
    while order == list(avoid):
        order = rng.sample(shown.candidates, len(shown.candidates))
    return Trial(shown.key, kind, tuple(order))


def _shuffled_in(trials: Sequence[Trial], more: Sequence[Trial], rng: random.Random) -> list[Trial]:
    """`more` at random places among `trials`, whose own order stays."""
    places = set(rng.sample(range(len(trials) + len(more)), len(more)))
    rows, rest = iter(more), iter(trials)
    return [next(rows) if i in places else next(rest) for i in range(len(trials) + len(more))]


def _spread(trials: list[Trial], checks: Sequence[Trial], rng: random.Random) -> list[Trial]:
    """One check at a random place of each of as many equal stretches, never the very first trial."""
    stretch = len(trials) / max(len(checks), 1)
    for i in reversed(range(len(checks))):  # from the end, so that earlier places stay where they are
        first, last = max(1, round(i * stretch)), max(1, round((i + 1) * stretch) - 1)
        trials.insert(rng.randint(first, max(first, last)), checks[i])
    return trials

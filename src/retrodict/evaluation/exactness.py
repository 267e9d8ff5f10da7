"""How often an inverse model names the exact action, in the simulated world."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from retrodict.stats import mean_interval
from retrodict.transitions import Transition


def exactness(explained: Sequence[str], test: Sequence[Transition], seed: int) -> dict[str, Any]:
    """How often the exact action is named; the floor is naming the action of another scene of the suite.

    The floor is NaN where no suite has a second scene.
    """
    from retrodict.worlds import tabletop

    named = mean_interval([float(tabletop.exact(text, t)) for text, t in zip(explained, test, strict=True)])
    rng = np.random.default_rng(seed)
    floor = []
    for t in test:
        others = [o.action for o in test if o.category == t.category and o.id != t.id]
        if others:
            floor.append(float(tabletop.exact(others[rng.integers(len(others))], t)))
    share = float(np.mean(floor)) if floor else math.nan
    return {"exact": named.mean, "ci95": named.ci95, "n": named.n, "floor": share}

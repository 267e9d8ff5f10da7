"""How often the statistics of the human study err, on simulated raters.

    python benchmarks/study_errors.py --studies 1000

A rater's thought of a picture is the system's worth, plus the luck of that picture (the same for all raters; standard
deviation `--spread`), plus a whim (standard deviation 1); the largest is best, the smallest worst. Without a
preference all systems are worth the same, and a test at .05 should reject one study in twenty. With one, the interval
of a system's score should hold the score that endless items and raters would give in 95 of 100 studies. Prints one JSON
object per design, with 95 % Wilson intervals.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

import numpy as np

from retrodict.stats import paired_difference, wilson
from retrodict.study.analysis.panel import Panel, Values
from retrodict.study.analysis.systems import scores, wilcoxon

WORTH = (0.0, 0.3, 0.6, 0.9)
DESIGNS = {"default, all subsets": (100, 3), "default, one subset": (20, 3), "paper, all subsets": (25, 14)}


def simulate(rng: np.random.Generator, worth: tuple[float, ...], items: int, raters: int, spread: float) -> Values:
    """Best and worst picks as scores [items, raters, systems]."""
    shape = (items, raters, len(worth))
    thought_IRS = np.array(worth) + spread * rng.normal(size=(items, 1, len(worth))) + rng.normal(size=shape)
    scores_IRS = np.zeros(shape)
    np.put_along_axis(scores_IRS, thought_IRS.argmax(2)[:, :, None], 1, axis=2)
    np.put_along_axis(scores_IRS, thought_IRS.argmin(2)[:, :, None], -1, axis=2)
    return scores_IRS


def as_panel(scores_IRS: Values) -> Panel:
    items, raters, systems = scores_IRS.shape
    ids = tuple(str(i) for i in range(items))
    return Panel(scores_IRS, tuple("abcd"[:systems]), ids, ("all",) * items, ids, tuple(range(raters)))


def without_preference(studies: int, items: int, raters: int, spread: float, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    flips = wilcoxons = 0
    for _ in range(studies):
        panel = as_panel(simulate(rng, (0.0,) * 4, items, raters, spread))
        item_IS = panel.item_scores
        flips += paired_difference(item_IS[:, 0], item_IS[:, 1]).p < 0.05
        wilcoxons += wilcoxon((panel.scores_IRS[:, :, 0] - panel.scores_IRS[:, :, 1]).ravel()) < 0.05
    return {"sign_flip_over_items": _share(flips, studies), "wilcoxon_over_judgements": _share(wilcoxons, studies)}


def with_preference(studies: int, items: int, raters: int, spread: float, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    truth = simulate(rng, WORTH, 100_000, 1, spread).mean((0, 1))
    ordered = held = 0
    widths = []
    for _ in range(studies):
        systems = list(scores(as_panel(simulate(rng, WORTH, items, raters, spread)))["systems"].values())
        ordered += bool(np.all(np.diff([one["score"] for one in systems]) > 0))
        held += sum(one["ci95"][0] <= true <= one["ci95"][1] for one, true in zip(systems, truth, strict=True))
        widths += [one["ci95"][1] - one["ci95"][0] for one in systems]
    n = studies * len(WORTH)
    return {
        "true_scores": truth.round(3).tolist(),
        "right_order": _share(ordered, studies),
        "interval_holds_truth": _share(held, n),
        "mean_interval_width": round(float(np.mean(widths)), 3),
    }


def _share(count: int, n: int) -> dict[str, Any]:
    interval = wilson(int(count), n)
    return {"share": round(interval.mean, 4), "ci95": [round(interval.low, 4), round(interval.high, 4)], "n": n}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--spread", type=float, nargs="+", default=[0.0, 0.5, 1.0])
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    for name, (items, raters) in DESIGNS.items():
        for spread in given.spread:
            record: dict[str, Any] = {"design": name, "items": items, "raters": raters, "spread": spread}
            record |= {"without": without_preference(given.studies, items, raters, spread, given.seed)}
            record |= {"with": with_preference(given.studies // 5, items, raters, spread, given.seed)}
            print(json.dumps(record), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""How often the statistics of the human study err, on simulated raters.

    python benchmarks/study_errors.py --studies 1000

A rater's thought of an image is the system's worth, plus the luck of that image (the same for all raters; standard
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
from retrodict.study.analysis.power import Assumption, needed, power, simulate, simulated_panel
from retrodict.study.analysis.systems import scores, wilcoxon

WORTH = (0.0, 0.3, 0.6, 0.9)
FULL, SPREAD = (0, 0.0), (20, 0.3)  # items per rater (0: all), share of judgements that never come
DESIGNS = {
    "default, all subsets": (100, 3, *FULL),
    "default, one subset": (20, 3, *FULL),
    "paper, all subsets": (25, 14, *FULL),
    "balanced, 20 items each, 30 % dropped out": (100, 3, *SPREAD),
}


def without_preference(studies: int, design: tuple[int, int, int, float], spread: float, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    items, per_item, per_rater, dropout = design
    flips = wilcoxons = 0
    for _ in range(studies):
        panel = simulated_panel(rng, np.zeros(4), items, per_item, luck=spread, dropout=dropout, per_rater=per_rater)
        item_IS = panel.item_scores
        flips += paired_difference(item_IS[:, 0], item_IS[:, 1]).p < 0.05
        difference_IR = panel.scores_IRS[:, :, 0] - panel.scores_IRS[:, :, 1]
        wilcoxons += wilcoxon(difference_IR[~np.isnan(difference_IR)]) < 0.05
    return {"sign_flip_over_items": _share(flips, studies), "wilcoxon_over_judgements": _share(wilcoxons, studies)}


def with_preference(studies: int, design: tuple[int, int, int, float], spread: float, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    items, per_item, per_rater, dropout = design
    truth = simulate(rng, np.array(WORTH), 100_000, 1, spread).mean((0, 1))
    ordered = held = 0
    widths = []
    for _ in range(studies):
        panel = simulated_panel(
            rng, np.array(WORTH), items, per_item, luck=spread, dropout=dropout, per_rater=per_rater
        )
        entries = list(scores(panel)["systems"].values())
        ordered += bool(np.all(np.diff([one["score"] for one in entries]) > 0))
        held += sum(one["ci95"][0] <= true <= one["ci95"][1] for one, true in zip(entries, truth, strict=True))
        widths += [one["ci95"][1] - one["ci95"][0] for one in entries]
    n = studies * len(WORTH)
    return {
        "true_scores": truth.round(3).tolist(),
        "right_order": _share(ordered, studies),
        "interval_holds_truth": _share(held, n),
        "mean_interval_width": round(float(np.mean(widths)), 3),
    }


def promised(studies: int, seed: int) -> dict[str, Any]:
    """What `retrodict study power` finds, and how often other studies of that size show the difference."""
    assumption = Assumption(difference=0.25, dropout=0.3, items_per_rater=20)
    line = needed(assumption, 3, goal=0.8, studies=200, seed=seed)
    items = int(line.split("|")[1])
    again = power(assumption, items, 3, studies=studies, seed=seed + 1)
    return {"power": " ".join(line.split()), "again": [round(v, 3) for v in (again.mean, *again.ci95)], "n": studies}


def _share(count: int, n: int) -> dict[str, Any]:
    interval = wilson(int(count), n)
    return {"share": round(interval.mean, 4), "ci95": [round(interval.low, 4), round(interval.high, 4)], "n": n}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--spread", type=float, nargs="+", default=[0.0, 0.5, 1.0])
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    for name, design in DESIGNS.items():
        for spread in given.spread:
            entry: dict[str, Any] = {"design": name, "spread": spread}
            entry |= {"without": without_preference(given.studies, design, spread, given.seed)}
            entry |= {"with": with_preference(given.studies // 5, design, spread, given.seed)}
            print(json.dumps(entry), flush=True)
    print(json.dumps(promised(given.studies // 2, given.seed)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

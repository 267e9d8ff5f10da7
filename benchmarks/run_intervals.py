"""How often the intervals over training runs hold the true mean, in simulated runs and items.

    python benchmarks/run_intervals.py --trials 1500

Each row is a number of runs and of items, and the standard deviations between runs, between items, and of a run on an
item. The intervals are those of `retrodict.stats.repeated`, which should hold it in 95 of 100 trials.
"""

from __future__ import annotations

import argparse

import numpy as np

from retrodict.stats import repeated

SETTINGS = [
    (3, 60, 0.15, 0.5, 0.3),
    (3, 500, 0.018, 0.4, 0.3),
    (3, 500, 0.03, 0.3, 0.4),
    (3, 500, 0.0, 0.3, 0.4),
    (5, 500, 0.03, 0.3, 0.4),
    (5, 60, 0.15, 0.5, 0.3),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1500)
    trials = parser.parse_args().trials
    rng = np.random.default_rng(1)
    print("runs items  sd of runs, items, both   coverage  mean half width")
    for runs, items, by_run, by_item, by_both in SETTINGS:
        held, widths = 0, []
        for _ in range(trials):
            values_RI = rng.normal(0, by_run, (runs, 1)) + rng.normal(0, by_item, items)
            estimate = repeated(values_RI + rng.normal(0, by_both, (runs, items)))
            held += estimate.low <= 0 <= estimate.high
            widths.append((estimate.high - estimate.low) / 2)
        print(
            f"{runs:4} {items:5}  {by_run:.3f} {by_item:.3f} {by_both:.3f}  {held / trials:.3f}  {np.mean(widths):.3f}"
        )


if __name__ == "__main__":
    main()

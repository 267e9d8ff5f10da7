"""How often the 95 % intervals that are printed hold the true mean, in simulated items and training runs.

    python benchmarks/intervals.py items --trials 2000
    python benchmarks/intervals.py runs --trials 1500

`items`: `retrodict.stats.mean_interval` for values of several kinds, of 6, 12 and 50 items and of 15 clusters of 1 to
20 items that share the greater part of what they vary by; and `macro_interval` of 5 subsets. `runs`:
`retrodict.stats.repeated`; each row is a number of runs and of items, and the standard deviations between runs, between
items, and of a run on an item.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from retrodict.stats import macro_interval, mean_interval, repeated

Sample = Callable[[np.random.Generator, int], npt.NDArray[np.float64]]
CLUSTERS = np.repeat(np.arange(15), [1, 1, 1, 2, 2, 2, 3, 3, 4, 4, 5, 6, 8, 12, 20])
SUBSETS = np.repeat(np.arange(5), 12)
SHARED = 0.6  # of a value, where items share a cluster
KINDS: dict[str, Sample] = {
    "differences, normal": lambda rng, n: rng.normal(0, 1, n),
    "differences, half of them 0": lambda rng, n: np.where(rng.random(n) < 0.5, 0, rng.choice([-1, 1, 0.5, -0.5], n)),
    "scores 0 to 1, many 0 or 1": lambda rng, n: np.clip(rng.normal(0.6, 0.6, n), 0, 1),
    "a judge's, 0 to 10": lambda rng, n: np.clip(rng.normal(4, 3.5, n).round(), 0, 10),
    "distances, exponential": lambda rng, n: rng.exponential(1, n),
}
RUNS = [
    (3, 60, 0.15, 0.5, 0.3),
    (3, 500, 0.018, 0.4, 0.3),
    (3, 500, 0.03, 0.3, 0.4),
    (3, 500, 0.0, 0.3, 0.4),
    (5, 500, 0.03, 0.3, 0.4),
    (5, 60, 0.15, 0.5, 0.3),
]


def over_items(trials: int) -> None:
    print("| values | n = 6 | n = 12 | n = 50 | 15 uneven clusters | 5 subsets of 12 |\n|---|---|---|---|---|---|")
    for kind, sample in KINDS.items():
        rng = np.random.default_rng(2)
        truth = float(sample(rng, 4_000_000).mean())
        shares = []
        for items in (6, 12, 50, len(CLUSTERS), len(SUBSETS)):
            held = 0
            for _ in range(trials):
                values = sample(rng, items)
                if items == len(CLUSTERS):
                    values = SHARED * sample(rng, 15)[CLUSTERS] + (1 - SHARED) * values
                    estimate = mean_interval(values, CLUSTERS.astype(str))
                elif items == len(SUBSETS):
                    estimate = macro_interval(values, SUBSETS.astype(str).tolist())
                else:
                    estimate = mean_interval(values)
                held += estimate.low <= truth <= estimate.high
            shares.append(f"{held / trials:.3f}")
        print(f"| {kind} | " + " | ".join(shares) + " |", flush=True)


def over_runs(trials: int) -> None:
    rng = np.random.default_rng(1)
    print("runs items  sd of runs, items, both   coverage  mean half width")
    for runs, items, by_run, by_item, by_both in RUNS:
        held, widths = 0, []
        for _ in range(trials):
            values_RI = rng.normal(0, by_run, (runs, 1)) + rng.normal(0, by_item, items)
            estimate = repeated(values_RI + rng.normal(0, by_both, (runs, items)))
            held += estimate.low <= 0 <= estimate.high
            widths.append((estimate.high - estimate.low) / 2)
        print(
            f"{runs:4} {items:5}  {by_run:.3f} {by_item:.3f} {by_both:.3f}  {held / trials:.3f}  {np.mean(widths):.3f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("over", choices=("items", "runs"))
    parser.add_argument("--trials", type=int, default=2000)
    options = parser.parse_args()
    (over_items if options.over == "items" else over_runs)(options.trials)


if __name__ == "__main__":
    main()

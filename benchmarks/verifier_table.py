"""Which verifier tells right from wrong? On an exact world, over one pool of candidates for each item.

    python benchmarks/verifier_table.py --model small
    python benchmarks/verifier_table.py --model demo/fdm --inverse demo/idm --temperature 1

Prints a markdown table, best first, and with --out writes its numbers. For each verifier:

    pairs   of two candidates of an item that differ in their exact score, how often it likes the better one more; a
            tie is half right. The mean over the items that have such pairs, with its interval.
    regret  the best exact score in the pool less that of the candidate it likes best, the mean over all items; of
            several that it likes best alike, their mean.
    saved   regret of a random choice less its own, paired by item, with Holm's p over all verifiers.
    ties    the share of those pairs to which it gives the same score, or none.
    ms      CPU milliseconds for each candidate, on one thread; equal candidates of an item are scored once.

`least copy` likes what differs most from the source, `FDM` is the forward model's own likelihood, and `exact state` is
the world's rules. --reward adds verifiers with weights: clip_t=FOLDER, editreward=FOLDER, editscore=FOLDER.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import numpy.typing as npt
import torch

from retrodict.dynamics.unified import UnifiedModel
from retrodict.dynamics.verifiers import VERIFIERS, Parts, make_verifier
from retrodict.dynamics.verify import Pool, ScoredBy, Verifier
from retrodict.evaluation.judge.rewards import open_reward
from retrodict.evaluation.metrics import l1
from retrodict.evaluation.summary import best_of_k
from retrodict.files import JsonObject, write_json
from retrodict.loading import load
from retrodict.models.protocol import image_of
from retrodict.report.kit.format import p_value
from retrodict.sampling import Sampling
from retrodict.stats import UNIT, adjust, paired_difference, share_interval
from retrodict.transitions import Transition
from retrodict.worlds import get_world
from retrodict.worlds.base import World

Values = npt.NDArray[np.float64]
BATCH = 16


class Likelihood:
    """The forward model's own likelihood, which its candidates carry."""

    name = "fdm"

    def scores(self, pools: Sequence[Pool]) -> list[list[float]]:
        return [[candidate.logprob.sum for candidate in pool.candidates] for pool in pools]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", default="tabletop")
    parser.add_argument("--model", default="small", help="the forward model: small, or a folder")
    parser.add_argument("--inverse", help="the inverse model; by default --model")
    parser.add_argument("--items", type=int, default=500)
    parser.add_argument("-n", type=int, default=8)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reward", action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    world = get_world(options.world)
    forward, inverse = load(options.model, "forward"), load(options.inverse or options.model, "inverse")
    assert isinstance(forward, UnifiedModel)
    items = world.sample(options.items, options.seed, namespace="bench", split="test")
    parts = Parts(lambda: inverse, lambda action, source, target: False, lambda: forward, options.seed)
    known = {name: make_verifier(name, parts) for name, kind in VERIFIERS.items() if not kind.needs_world}
    verifiers: dict[str, Verifier] = {VERIFIERS[name].title: one for name, one in known.items() if one is not None}
    verifiers |= {"FDM": Likelihood(), "least copy": ScoredBy("min_copy", lambda source, _, target: l1(target, source))}
    verifiers |= {one.partition("=")[0]: open_reward(one) for one in options.reward}
    exact, scores, seconds = measure(world, forward, items, verifiers, options.n, options.temperature, options.seed)
    rows = sorted((row(name, s, exact, seconds.get(name)) for name, s in scores.items()), key=lambda r: -r["pairs"])
    chance = missed(scores["random"], exact)
    for one in rows:
        one["saved"] = paired_difference(chance, missed(scores[one["verifier"]], exact), scale=UNIT).entry(
            "random", one["verifier"]
        )
    adjust(one["saved"] for one in rows if one["verifier"] != "random")
    show(rows, exact)
    if options.out is not None:
        write_json(options.out, {"verifiers": rows, "items": len(items), "settings": vars(options) | {"out": None}})


def measure(
    world: World,
    forward: UnifiedModel,
    items: Sequence[Transition],
    verifiers: dict[str, Verifier],
    n: int,
    temperature: float,
    seed: int,
) -> tuple[Values, dict[str, Values], dict[str, float]]:
    """Exact scores [I, N], those of each verifier, and its CPU seconds for each candidate."""
    exact, rules, scores = [], [], {name: list[list[float]]() for name in verifiers}
    seconds = dict.fromkeys(verifiers, 0.0)
    for start in range(0, len(items), BATCH):
        batch = items[start : start + BATCH]
        sources, actions = [item.source_image for item in batch], [item.action for item in batch]
        sampled = forward.sample(sources, actions, n, seed + start, Sampling(temperature=temperature))
        pools = [Pool(s, a, c) for s, a, c in zip(sources, actions, sampled, strict=True)]
        for item, pool in zip(batch, pools, strict=True):
            images = [image_of(candidate) for candidate in pool.candidates]
            exact.append([world.score(image, item).score for image in images])
            rules.append([float(world.explains(item.action, item.source_image, image, item)) for image in images])
        for name, verifier in verifiers.items():
            began = time.process_time()
            scores[name] += verifier.scores(pools)
            seconds[name] += time.process_time() - began
        print(f"{min(start + BATCH, len(items))} of {len(items)} items", end="\r", flush=True, file=sys.stderr)
    found = {name: np.array(values, dtype=np.float64) for name, values in scores.items()}
    found["exact state"] = np.array(rules)
    return np.array(exact), found, {name: value / len(items) / n for name, value in seconds.items()}


def row(name: str, scores_IN: Values, exact_IN: Values, seconds: float | None) -> JsonObject:
    right, tied = zip(*map(agreement, scores_IN, exact_IN), strict=True)
    pairs = share_interval(np.array(right))
    regret = share_interval(missed(scores_IN, exact_IN))
    ties = share_interval(np.array(tied))
    return {
        "verifier": name,
        "pairs": pairs.mean,
        "pairs_ci95": pairs.ci95,
        "n_pairs": pairs.n,
        "regret": regret.mean,
        "regret_ci95": regret.ci95,
        "n": regret.n,
        "ties": ties.mean,
        "ms": None if seconds is None else 1000 * seconds,
    }


def missed(scores_IN: Values, exact_IN: Values) -> Values:
    """What the best candidate of each item scores above the one that is liked best."""
    weights_IN = best_of_k(scores_IN, exact_IN.shape[1])
    return np.asarray(exact_IN.max(1) - (weights_IN * exact_IN).sum(1))


def agreement(scores_N: Values, exact_N: Values) -> tuple[float, float]:
    """Over pairs of candidates of one item that differ in their exact score: how often the verifier is right, and how
    often it cannot tell; NaN where there is no such pair."""
    outcomes = []
    for i, j in combinations(range(len(exact_N)), 2):
        if exact_N[i] != exact_N[j]:
            order = np.sign(scores_N[i] - scores_N[j]) * np.sign(exact_N[i] - exact_N[j])
            outcomes.append(0.0 if np.isnan(order) else float(order))
    if not outcomes:
        return float("nan"), float("nan")
    return float(np.mean([(outcome + 1) / 2 for outcome in outcomes])), float(np.mean([o == 0 for o in outcomes]))


def show(rows: Sequence[JsonObject], exact_IN: Values) -> None:
    def span(ends: Sequence[float], value: float) -> str:
        return f"{value:.3f} [{ends[0]:.3f}, {ends[1]:.3f}]"

    print(
        f"n = {len(exact_IN)} items of {exact_IN.shape[1]} candidates; exact score of one {exact_IN.mean():.3f}, ",
        end="",
    )
    print(f"of the best {exact_IN.max(1).mean():.3f}; items whose candidates differ: {rows[0]['n_pairs']}\n")
    print(
        "| verifier | pairs right | regret | saved over random (p, Holm) | ties | CPU ms a candidate |\n"
        + "|---" * 6
        + "|"
    )
    for one in rows:
        ms = "" if one["ms"] is None else f"{one['ms']:.2f}"
        pairs, regret = span(one["pairs_ci95"], one["pairs"]), span(one["regret_ci95"], one["regret"])
        saved = f"{one['saved']['difference']:+.3f} ({p_value(one['saved'].get('p_holm'))})"
        print(f"| {one['verifier']} | {pairs} | {regret} | {saved} | {one['ties']:.1%} | {ms} |")


if __name__ == "__main__":
    main()

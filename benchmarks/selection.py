"""Do adaptive N and pruning beat plain best-of-N at equal cost? On a finished demo's models and test scenes.

    retrodict demo --seed 1 --out demo && python benchmarks/selection.py demo --out selection.json

One pool of 32 candidates per scene answers all of it. Differences are paired over scenes, with bootstrap intervals.

Adaptive: waves of two, at most 8; the threshold is calibrated on every other scene and measured on the rest, against
plain best-of-k at the same mean number of candidates (between two k, interpolated).

Pruning: M candidates are decoded to the half, the best k of them by some score are finished, verified, and the best is
taken. By `own` likelihood the halves cost their decoding only; by `idm` each is scored with the source's image tokens
in place of the missing half. Cost counts tokens: of decoding and scoring, or of decoding alone, as if scores were free.
"""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from retrodict.dynamics.adaptive import Scores, adaptive_values, calibrate, sampled_until
from retrodict.dynamics.batches import collate, example, supervised_logits, token_nll
from retrodict.dynamics.sequences import build
from retrodict.dynamics.unified import UnifiedModel
from retrodict.dynamics.verify import InverseAndForwardLikelihood, InverseLikelihood, Pool, scores_of_all
from retrodict.evaluation.pool import exact_scorer
from retrodict.evaluation.summary import best_of_k
from retrodict.files import write_json
from retrodict.loading import load
from retrodict.models.protocol import Candidate
from retrodict.stats import paired_difference
from retrodict.transitions import Transition, read_transitions
from retrodict.worlds import get_world

SCORER = exact_scorer(get_world("tabletop"))

POOL, MOST = 32, 8
SELECTORS = ("idm_fdm", "idm")
Pools = dict[str, Scores]  # by name: what is known of each candidate, [I, POOL]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--forward", default="fdm")
    parser.add_argument("--items", type=int, default=500)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    forward, inverse = load(arguments.demo / arguments.forward, "forward"), load(arguments.demo / "idm", "inverse")
    assert isinstance(forward, UnifiedModel)
    assert isinstance(inverse, UnifiedModel)
    test = read_transitions(arguments.demo / "test")[: arguments.items]
    parts = [_known(forward, inverse, test[start : start + 16]) for start in range(0, len(test), 16)]
    pools = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    tokens = forward.family.spec.tokens
    results = {"adaptive": _adaptive(pools), "pruning": _pruning(pools, tokens, 2 * tokens + 14), "n": len(test)}
    write_json(arguments.out, results)
    for kind in ("adaptive", "pruning"):
        for row in results[kind]:
            low, high = row["ci95"]
            line = ", ".join(
                f"{name} {value}" for name, value in row.items() if name not in ("ci95", "difference", "n")
            )
            print(f"{kind}: {line}: difference {row['difference']:+.4f} [{low:+.4f}, {high:+.4f}], n {row['n']}")


def _known(forward: UnifiedModel, inverse: UnifiedModel, items: list[Transition]) -> Pools:
    sources, actions = [t.source_image for t in items], [t.action for t in items]
    pools = forward.sample(sources, actions, POOL, 0)
    verifiers = [InverseLikelihood(inverse), InverseAndForwardLikelihood(inverse)]
    rows = zip(sources, actions, pools, strict=True)
    scores = scores_of_all(verifiers, [Pool(source, action, pool) for source, action, pool in rows])
    seen: dict[str, list[list[float]]] = {**scores, "value": [], "own_half": []}
    half = forward.family.spec.tokens // 2
    sources_PL = forward.codes(sources)
    halves: list[Pool] = []
    for item, source_L, pool in zip(items, sources_PL, pools, strict=True):
        distinct = list(dict.fromkeys(pool))
        values = {c: SCORER(c.image, item).score for c in distinct}
        own = dict(zip(distinct, _own_half(forward, source_L, item.action, distinct, half), strict=True))
        seen["value"].append([values[c] for c in pool])
        seen["own_half"].append([own[c] for c in pool])
        codes = [np.concatenate([_codes(c)[:half], source_L[half:]]) for c in pool]
        half_read = [Candidate(c.image, code_L, c.tokenizer) for c, code_L in zip(pool, codes, strict=True)]
        halves.append(Pool(item.source_image, item.action, half_read))
    seen["idm_half"] = InverseLikelihood(inverse).scores(halves)
    return {name: np.array(rows) for name, rows in seen.items()}


def _codes(candidate: Candidate) -> Any:
    assert candidate.codes_L is not None
    return candidate.codes_L


@torch.inference_mode()
def _own_half(model: UnifiedModel, source_L: Any, action: str, pool: list[Candidate], half: int) -> list[float]:
    family = model.family
    rows = [build(family, "forward", source_L=source_L, target_L=_codes(c), action=action) for c in pool]
    batch = collate([example(family, row) for row in rows], family.pad)
    nll_BS = token_nll(supervised_logits(family, "forward", batch), batch["labels"])
    return [-float(total) for total in nll_BS[:, :half].sum(1)]


def _adaptive(pools: Pools) -> list[dict[str, Any]]:
    rows = []
    for name in SELECTORS:
        scores_IBN = pools[name].reshape(-1, POOL // MOST, MOST)
        values_IBN = pools["value"].reshape(-1, POOL // MOST, MOST)
        calibration, measured = slice(0, None, 2), slice(1, None, 2)
        for loss in (0.0, 0.005, 0.02):
            dev = (scores_IBN[calibration].reshape(-1, MOST), values_IBN[calibration].reshape(-1, MOST))
            stop_at = calibrate(*dev, loss=loss)
            flat = (scores_IBN[measured].reshape(-1, MOST), values_IBN[measured].reshape(-1, MOST))
            sampled = float(sampled_until(flat[0], stop_at).mean())
            value_I = adaptive_values(*flat, stop_at).reshape(-1, POOL // MOST).mean(1)
            plain_I = _plain(pools, name, sampled)[measured]
            best_I = _plain(pools, name, MOST)[measured]
            settings = {"selector": name, "loss allowed": loss, "mean N": round(sampled, 2)}
            means = {"value": round(float(value_I.mean()), 4)}
            rows.append({**settings, "against": f"best of {sampled:.2f}", **means, **_paired(value_I, plain_I)})
            rows.append({**settings, "against": f"best of {MOST}", **means, **_paired(value_I, best_I)})
    return rows


def _plain(pools: Pools, name: str, k: float) -> Scores:
    """What best-of-k can be expected to give, [I]; between two whole k, their mixture."""
    low, share = math.floor(k), k - math.floor(k)
    weights = best_of_k(pools[name], low)
    if share:
        weights = (1 - share) * weights + share * best_of_k(pools[name], low + 1)
    values: Scores = (weights * pools["value"]).sum(1)
    return values


def _pruning(pools: Pools, tokens: int, scored: int) -> list[dict[str, Any]]:
    """`tokens` to decode a candidate, `scored` to score one."""
    rows = []
    for counted, score_cost in (("decoding and scoring", scored), ("decoding", 0)):
        budget = MOST * (tokens + score_cost)
        plain_I = _plain(pools, "idm_fdm", MOST)
        for by, half_cost in (("own_half", tokens / 2), ("idm_half", tokens / 2 + score_cost)):
            for kept in (2, 4, 6):
                begun = min(POOL, int((budget - kept * (tokens / 2 + score_cost)) // half_cost))
                if begun > kept:
                    value_I = _pruned(pools, by, begun, kept)
                    settings = {"cost of": counted, "by": by, "begun": begun, "kept": kept}
                    rows.append({**settings, "against": f"best of {MOST}", **_paired(value_I, plain_I)})
    return rows


def _pruned(pools: Pools, by: str, begun: int, kept: int) -> Scores:
    """The value of the best finished candidate, [I], over disjoint parts of the pool."""
    values = []
    for start in range(0, POOL - begun + 1, begun):
        part = slice(start, start + begun)
        finished_IK = np.argsort(-pools[by][:, part], axis=1, kind="stable")[:, :kept]
        best_I = np.take_along_axis(pools["idm_fdm"][:, part], finished_IK, 1).argmax(1)
        chosen_I1 = np.take_along_axis(finished_IK, best_I[:, None], 1)
        values.append(np.take_along_axis(pools["value"][:, part], chosen_I1, 1)[:, 0])
    mean: Scores = np.mean(values, axis=0)
    return mean


def _paired(a_I: Scores, b_I: Scores) -> dict[str, Any]:
    difference = paired_difference(a_I, b_I, None)
    return {"difference": difference.difference, "ci95": [difference.low, difference.high], "n": difference.n}


if __name__ == "__main__":
    main()

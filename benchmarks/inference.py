"""Verified best-of-N and annotation: ours against `transformers.generate`, in one process on the same weights.

    python benchmarks/inference.py                          # the shipped small model on a CPU, a few minutes
    python benchmarks/inference.py --model demo --rounds 3  # another folder with a forward and an inverse model
    python benchmarks/inference.py --gpu                    # 7B sizes with random weights: see gpu/decode.py

Each round times every way on the same prompts, one after the other; ratios are taken within a round, and the median and
the extremes over rounds are printed. Greedy images and captions must be equal before anything is timed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from generate_baseline import Baseline, batched, published
from PIL import Image

from retrodict.dynamics.generate import sample_images
from retrodict.dynamics.unified import UnifiedModel
from retrodict.dynamics.verify import InverseLikelihood, Pool
from retrodict.files import write_json
from retrodict.loading import load
from retrodict.models.token_family import IntArray
from retrodict.sampling import Sampling
from retrodict.versions import versions
from retrodict.worlds import tabletop

K = 8


@dataclass(frozen=True)
class Sizes:
    """How much each round times."""

    prompts: int
    pairs: int
    in_flight: int


@dataclass(frozen=True)
class Prompts:
    sources: list[Image.Image]
    targets: list[Image.Image]
    actions: list[str]
    sources_PL: IntArray
    targets_PL: IntArray


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="small")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prompts", type=int, default=4, help="single prompts timed in each round")
    parser.add_argument("--pairs", type=int, default=16, help="pairs annotated one by one in each round")
    parser.add_argument("--in-flight", type=int, default=64, help="prompts, and pairs of ours, that run together")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, help="write the numbers as JSON")
    parser.add_argument("--gpu", action="store_true", help="the other benchmark, with its own options")
    if "--gpu" in sys.argv:
        from gpu.decode import main as on_gpu

        on_gpu([argument for argument in sys.argv[1:] if argument != "--gpu"])
        return
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    forward, inverse = load(arguments.model, role="forward"), load(arguments.model, role="inverse")
    assert isinstance(forward, UnifiedModel)
    assert isinstance(inverse, UnifiedModel)
    sizes = Sizes(arguments.prompts, arguments.pairs, arguments.in_flight)
    results = measure(forward, inverse, arguments.rounds, sizes)
    results |= {"threads": arguments.threads, "model": arguments.model, "versions": versions()}
    for name, value in results["ratios"].items():
        print(f"{name:58} {value['median']:6.2f}  [{value['low']:.2f}, {value['high']:.2f}]")
    for name, value in results["milliseconds"].items():
        print(f"{name:58} {value:8.1f} ms")
    if arguments.out:
        write_json(arguments.out, results)
    else:
        print(json.dumps(results["versions"]))


def measure(forward: UnifiedModel, inverse: UnifiedModel, rounds: int, sizes: Sizes) -> dict[str, Any]:
    """`{"ratios": {name: {"median", "low", "high"}}, "milliseconds": {way: median}}`."""
    theirs_f, theirs_i = Baseline(forward.family), Baseline(inverse.family)  # type: ignore[arg-type]
    _check(forward, inverse, theirs_f, theirs_i)
    times: list[dict[str, float]] = []
    for number in range(rounds + 1):
        made = _prompts(forward, max(sizes.in_flight, sizes.pairs, sizes.prompts), number)
        seen = _round(forward, inverse, theirs_f, theirs_i, made, sizes)
        if number:  # the first one warms up
            times.append(seen)
    ratios = {
        "verified best of 8 / one sample (<= 2.5)": ("ours verified", "ours one"),
        "prompts in flight, verified, each / one lone sample (<= 1.3)": ("ours verified, in flight", "ours one"),
        "published / ours, best of 8 (>= 8)": ("published", "ours verified"),
        "transformers at its best / ours, best of 8 (>= 2)": ("transformers", "ours verified"),
        "generate one sample / ours one sample": ("generate one", "ours one"),
        "ours verified best of 8 / generate one sample": ("ours verified", "generate one"),
        "annotation one by one / ours, per pair (>= 4)": ("annotated one by one", "ours annotated"),
    }
    summary = {}
    for name, (above, below) in ratios.items():
        values = [seen[above] / seen[below] for seen in times]
        summary[name] = {"median": statistics.median(values), "low": min(values), "high": max(values)}
    milliseconds = {way: 1000 * statistics.median(seen[way] for seen in times) for way in times[0]}
    return {"ratios": summary, "milliseconds": milliseconds, "rounds": rounds, "sizes": asdict(sizes)}


def _prompts(forward: UnifiedModel, count: int, seed: int) -> Prompts:
    rows = [e.transition("test") for e in tabletop.sample(count, seed, namespace="inference-benchmark")]
    sources, targets = [r.source_image for r in rows], [r.target_image for r in rows]
    for image in (*sources, *targets):
        image.load()
    return Prompts(sources, targets, [r.action for r in rows], forward.codes(sources), forward.codes(targets))


def _check(forward: UnifiedModel, inverse: UnifiedModel, theirs_f: Baseline, theirs_i: Baseline) -> None:
    """The same weights must say the same things."""
    made = _prompts(forward, 8, 1000)
    codes_PNL, _ = sample_images(forward.family, made.sources_PL, made.actions, 1, 0, Sampling(0))
    written = inverse.explain_codes(made.sources_PL, made.targets_PL)
    for i, action in enumerate(made.actions):
        theirs_1L = theirs_f.images(made.sources_PL[i], action, 1, greedy=True)
        assert theirs_1L[0].tolist() == codes_PNL[i, 0].tolist(), f"greedy images differ for '{action}'"
        caption = theirs_i.caption(made.sources_PL[i], made.targets_PL[i])
        assert caption == written[i].action, f"captions differ: '{caption}' and '{written[i].action}'"
    print("greedy images and captions are those of transformers.generate", flush=True)


def _round(
    forward: UnifiedModel,
    inverse: UnifiedModel,
    theirs_f: Baseline,
    theirs_i: Baseline,
    made: Prompts,
    sizes: Sizes,
) -> dict[str, float]:
    """Seconds per prompt, or per pair, of each way."""
    verifier = InverseLikelihood(inverse)

    def verified(start: int, stop: int) -> None:
        part = slice(start, stop)
        pools = forward.sample(made.sources[part], made.actions[part], K, 0)
        rows = zip(made.sources[part], made.actions[part], pools, strict=True)
        verifier.scores([Pool(source, action, pool) for source, action, pool in rows])

    def one_by_one(i: int) -> None:
        caption = theirs_i.caption(made.sources_PL[i], made.targets_PL[i])
        theirs_i.scores(made.sources_PL[i], [made.targets_PL[i]], caption)

    source, action = made.sources_PL, made.actions
    return {
        "ours one": _each(sizes.prompts, lambda i: forward.sample(made.sources[i : i + 1], action[i : i + 1], 1, 0)),
        "ours verified": _each(sizes.prompts, lambda i: verified(i, i + 1)),
        "ours verified, in flight": _each(1, lambda i: verified(0, sizes.in_flight)) / sizes.in_flight,
        "generate one": _each(sizes.prompts, lambda i: theirs_f.images(source[i], action[i], 1)),
        "transformers": _each(sizes.prompts, lambda i: batched(theirs_f, theirs_i, source[i], action[i], K)),
        "published": _each(
            max(1, sizes.prompts // 2), lambda i: published(theirs_f, theirs_i, source[i], action[i], K)
        ),
        "ours annotated": _each(
            1, lambda i: inverse.explain_codes(source[: sizes.in_flight], made.targets_PL[: sizes.in_flight])
        )
        / sizes.in_flight,
        "annotated one by one": _each(sizes.pairs, one_by_one),
    }


def _each(count: int, run: Callable[[int], object]) -> float:
    began = time.perf_counter()
    for i in range(count):
        run(i)
    return (time.perf_counter() - began) / count


if __name__ == "__main__":
    main()

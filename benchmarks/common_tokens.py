"""What a copy of the source is worth as a draft: the share of image tokens that source and target have in common.

    python benchmarks/common_tokens.py --model small --bench tabletop
    python benchmarks/common_tokens.py --model anole --model liquid --bench aurora --data AURORA

Image tokens of still parts of real video may flicker: then drafts hold for short runs, and a run is what a pass
verifies. Per subset: share of tokens in common, with a 95 % interval over groups; the mean length of runs of common
tokens; and how many tokens a pass would accept (width 64) if the model gave the target's own tokens, which bounds what
decoding can save.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from retrodict.evaluation.benchmarks import open_benchmark
from retrodict.loading import load_family
from retrodict.placement import place
from retrodict.stats import mean_interval

WIDTH = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", help="a model's folder or name; repeatable", required=True)
    parser.add_argument("--bench", default="tabletop")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--items", type=int, default=200)
    arguments = parser.parse_args()
    items = open_benchmark(arguments.bench, data=arguments.data, items=arguments.items).items
    rows = [item for item in items if item.target is not None]
    print("| model | subset | n | tokens in common | mean run | accepted a pass |")
    print("|---|---|---:|---:|---:|---:|")
    for name in arguments.model:
        family = load_family(name, "forward")
        place(family.module)
        images = [image for row in rows for image in (row.source_image, row.target_image)]
        same_NL = np.equal(*np.moveaxis(family.encode(images).codes_NL.reshape(len(rows), 2, -1), 1, 0))
        for subset in ("all", *dict.fromkeys(row.category for row in rows)):
            chosen = [i for i, row in enumerate(rows) if subset in ("all", row.category)]
            share = mean_interval(same_NL[chosen].mean(1).tolist(), [rows[i].cluster for i in chosen])
            runs = [run for i in chosen for run in run_lengths(same_NL[i])]
            accepted = same_NL.shape[1] / np.mean([passes(same_NL[i]) for i in chosen])
            interval = f"{share.mean:.3f} [{share.low:.3f}, {share.high:.3f}]"
            cells = (Path(name).name, subset, len(chosen), interval, f"{np.mean(runs or [0]):.1f}", f"{accepted:.1f}")
            print(f"| {' | '.join(map(str, cells))} |")


def run_lengths(same_L: np.ndarray) -> list[int]:
    """Lengths of runs of common tokens."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], same_L.astype(int), [0]])))
    return (edges[1::2] - edges[::2]).tolist()


def passes(same_L: np.ndarray, width: int = WIDTH) -> int:
    """Forward passes with the source as the draft, where each gives the tokens up to the first that differs."""
    at = count = 0
    while at < len(same_L):
        ahead = same_L[at + 1 : at + width]
        at += 1 + (len(ahead) if ahead.all() else int(np.argmin(ahead)))
        count += 1
    return count


if __name__ == "__main__":
    main()

"""Find the moments of videos between which something happens, and let an inverse model say what.

    python examples/label_my_videos.py clips/ --model runs/mine --out labelled

The model must have been trained on images like these: see recipes/bootstrap.yaml. The one that comes with the package
knows its simulated world alone.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import retrodict
from retrodict.transitions import read_transitions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", type=Path, nargs="+", help="video files, or folders of them")
    parser.add_argument("--model", default="small", help="a folder that training wrote, or small")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to; the same command resumes")
    arguments = parser.parse_args()

    mined = retrodict.mine(arguments.videos, arguments.out / "pairs")
    print(f"{mined.pairs} frame pairs of {mined.clips} clips")
    retrodict.annotate(arguments.out / "pairs", model=arguments.model, out=arguments.out / "transitions")

    rows = read_transitions(arguments.out / "transitions")
    print("The surest labels (log-probability per word):")
    for row in sorted(rows, key=lambda row: -row.logprob / row.tokens)[:10]:
        print(f"  {row.logprob / row.tokens:6.2f}  {row.clip} {row.t_source:.1f}-{row.t_target:.1f} s: {row.action}")


if __name__ == "__main__":  # mining starts worker processes, which import this file
    main()

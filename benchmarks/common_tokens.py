"""What a copy of the source is worth as a draft: the share of image tokens that source and target have in common.

    python benchmarks/common_tokens.py --model small --bench tabletop
    python benchmarks/common_tokens.py --model anole --model liquid --bench aurora --data AURORA
    python benchmarks/common_tokens.py --learn patches --learn net --clips CLIPS --apart 1 --apart 20

Image tokens of still parts of real video may flicker: then drafts hold for short runs, and a run is what a pass
verifies. Per subset: share of tokens in common, with a 95 % interval over groups; the mean length of runs of common
tokens; and how many tokens a pass would accept (width 64) if the model gave the target's own tokens, which bounds what
decoding can save.

`--learn` makes the small family's image tokenizer out of these images, a table of patches or a net: one of each half of
the groups, which then encodes the other half. `--clips` takes pairs of frames of a folder's videos, so many frames
apart, six of a clip, spread over it; a clip is a group.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from retrodict.evaluation.benchmarks import open_benchmark
from retrodict.images import encode_png
from retrodict.loading import load_family
from retrodict.models.token_family import Codes
from retrodict.placement import place
from retrodict.stats import mean_interval
from retrodict.training.config import TokenizerConfig
from retrodict.training.image_tokenizer import make_tokenizer
from retrodict.transitions import Transition
from retrodict.video.clip_miner import decode_some
from retrodict.video.clips import ClipError, folder_clips
from retrodict.video.decode import open_video

WIDTH = 64
OF_A_CLIP = 6  # pairs
LEARNT = {"patches": TokenizerConfig(), "net": TokenizerConfig(context=2)}
Encode = Callable[[list[Image.Image]], Codes]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", default=[], help="a model's folder or name; repeatable")
    parser.add_argument("--learn", action="append", default=[], choices=list(LEARNT))
    parser.add_argument("--bench", default="tabletop")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--clips", type=Path, help="a folder of videos in place of a benchmark")
    parser.add_argument("--apart", type=int, action="append", help="frames; with --clips, repeatable")
    parser.add_argument("--items", type=int, default=200, help="of a benchmark")
    arguments = parser.parse_args()
    if arguments.clips:
        rows = [row for apart in arguments.apart or [20] for row in frames_apart(arguments.clips, apart)]
    else:
        items = open_benchmark(arguments.bench, data=arguments.data, items=arguments.items).items
        rows = [item for item in items if item.target is not None]
    print("| tokenizer | subset | n | tokens in common | mean run | accepted a pass |")
    print("|---|---|---:|---:|---:|---:|")
    for name in arguments.model:
        family = load_family(name, "forward")
        place(family.module)
        show(Path(name).name, rows, common(rows, family.encode))
    for kind in arguments.learn:
        show(f"small's, {kind}", rows, common_learnt(rows, LEARNT[kind]))


def frames_apart(clips: Path, apart: int) -> list[Transition]:
    """Pairs of frames that lie `apart` frames from each other, six of each clip of a folder, spread over it."""
    rows = []
    for ref in folder_clips(clips):
        with open_video(ref.path) as video:
            count = sum(1 for _ in video.decode())
        begins = sorted({int(at) for at in np.linspace(0, count - 1 - apart, OF_A_CLIP) if at >= 0})
        try:
            wanted = {i for begin in begins for i in (begin, begin + apart)}
            images = {
                item.index: encode_png(Image.fromarray(video.view.bgr(item.frame)[..., ::-1]))
                for item, video in decode_some(ref, wanted)
            }
        except ClipError:
            continue
        rows += [
            Transition(
                id=f"{ref.name}@{begin}",
                category=f"{apart} frames apart",
                group=ref.name,
                source=images[begin],
                target=images[begin + apart],
            )
            for begin in begins
        ]
    return rows


def common(rows: Sequence[Transition], encode: Encode) -> NDArray[np.bool_]:
    """Whether source and target have each token in common, [N, L]."""
    images = [image for row in rows for image in (row.source_image, row.target_image)]
    same_NL: NDArray[np.bool_] = np.equal(*np.moveaxis(encode(images).codes_NL.reshape(len(rows), 2, -1), 1, 0))
    return same_NL


def common_learnt(rows: Sequence[Transition], config: TokenizerConfig) -> NDArray[np.bool_]:
    """The same by tokenizers of which none has seen the groups that it encodes."""
    groups = sorted({row.cluster for row in rows})
    halves = set(groups[::2]), set(groups[1::2])
    chosen = [[i for i, row in enumerate(rows) if row.cluster in half] for half in halves]
    parts = []
    for own, other in (chosen, chosen[::-1]):
        tokenizer = make_tokenizer([rows[i] for i in other], config.model_copy(update={"image_size": (96, 96)}))
        parts.append(common([rows[i] for i in own], tokenizer.encode))
    same_NL = np.concatenate(parts)
    return same_NL[np.argsort(np.concatenate(chosen))]


def show(name: str, rows: Sequence[Transition], same_NL: NDArray[np.bool_]) -> None:
    subsets = list(dict.fromkeys(row.category for row in rows))
    for subset in subsets if len(subsets) == 1 else ("all", *subsets):
        chosen = [i for i, row in enumerate(rows) if subset in ("all", row.category)]
        share = mean_interval(same_NL[chosen].mean(1).tolist(), [rows[i].cluster for i in chosen])
        runs = [run for i in chosen for run in run_lengths(same_NL[i])]
        accepted = same_NL.shape[1] / np.mean([passes(same_NL[i]) for i in chosen])
        interval = f"{share.mean:.3f} [{share.low:.3f}, {share.high:.3f}]"
        cells = (name, subset, len(chosen), interval, f"{np.mean(runs or [0]):.1f}", f"{accepted:.1f}")
        print(f"| {' | '.join(map(str, cells))} |", flush=True)


def run_lengths(same_L: NDArray[np.bool_]) -> list[int]:
    """Lengths of runs of common tokens."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], same_L.astype(int), [0]])))
    return (edges[1::2] - edges[::2]).tolist()


def passes(same_L: NDArray[np.bool_], width: int = WIDTH) -> int:
    """Forward passes with the source as the draft, where each gives the tokens up to the first that differs."""
    at = count = 0
    while at < len(same_L):
        ahead = same_L[at + 1 : at + width]
        at += 1 + (len(ahead) if ahead.all() else int(np.argmin(ahead)))
        count += 1
    return count


if __name__ == "__main__":
    main()

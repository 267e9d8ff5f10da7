"""What mining costs and what it chooses, measured on a folder of video.

    python benchmarks/mining.py CLIPS [speed] [scale] [cuts] [dissolves] [sharpness] [vectors]

All numbers are ratios within one run on the same files, so they hold on a busy or a slow machine:

speed      CPU time of `mine` over decoding alone, and of full-size Farneback with the paper's greedy rule over `mine`
scale      clips/s of two worker processes over one
cuts       known cuts found, false alarms per 1,000 frames, and the same on shots joined at random
dissolves  pairs across dissolves of 12 to 50 frames, rendered between shots joined at random
sharpness  Laplacian variance of keyframes over the clip's median frame, for `mine` and for the paper's rule
vectors    rank correlation, over the frames of a clip, of the codec's motion vectors with the optical flow

Everything is one thread per process. Baselines use PyAV, OpenCV and NumPy only.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import av
import cv2
import numpy as np
from scipy.stats import spearmanr

from retrodict.video import ClipRef, MineConfig, mine, process_clip
from retrodict.video.clips import folder_clips
from retrodict.video.decode import luma, open_video
from retrodict.video.motion import Meter

# Cuts that were found by eye, by file name; files that are not named hold none.
KNOWN_CUTS = {
    "bikes_cuts.mp4": [30, 76, 137, 187, 242],
    "dog_snow_5fps.mp4": [25],
    "sintel_trailer_10s.mp4": [104, 113, 166, 185, 214],  # two of them fades through black
}


def packets(path: Path) -> Iterator[list[av.VideoFrame]]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_count = 1
        for packet in container.demux(stream):
            try:
                yield packet.decode()
            except av.FFmpegError:
                continue


def decode_only(clips: list[Path]) -> int:
    return sum(len(frames) for path in clips for frames in packets(path))


def grey(frame: av.VideoFrame) -> np.ndarray:
    plane = frame.planes[0]
    return np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: frame.height, : frame.width]


def cpu(work: Callable[[], object]) -> float:
    """CPU seconds of this process."""
    begin = time.process_time()
    work()
    return time.process_time() - begin


def farneback_seconds(clips: list[Path], frames_per_clip: int) -> float:
    """CPU seconds for Farneback at full size on every frame, from the first frames of each clip."""
    total = 0.0
    for path in clips:
        count = decode_only([path])
        planes = []
        for frames in packets(path):
            planes += [grey(frame).copy() for frame in frames]
            if len(planes) > frames_per_clip:
                break
        flow = cpu(lambda planes=planes: [magnitude(a, b) for a, b in pairwise(planes)])
        total += flow / max(1, len(planes) - 1) * (count - 1)
    return total


def magnitude(before: np.ndarray, after: np.ndarray) -> float:
    flow = cv2.calcOpticalFlowFarneback(before, after, None, 0.5, 3, 15, 3, 5, 1.2, 0)
    return float(cv2.magnitude(flow[..., 0], flow[..., 1]).mean())


def speed(clips: list[Path], rounds: int = 7) -> None:
    with tempfile.TemporaryDirectory() as out:
        mine(clips[:1], Path(out), executor_name="serial")  # imports are paid once, not per clip; see the last line
    decode, mined = [], []
    for _ in range(rounds):  # interleaved, so that both meet the same neighbours
        decode.append(cpu(lambda: decode_only(clips)))
        with tempfile.TemporaryDirectory() as out:
            mined.append(cpu(lambda out=out: mine(clips, Path(out), executor_name="serial")))
    ratio = [m / d for m, d in zip(mined, decode, strict=True)]
    say("speed", "mine / decode only, CPU time", np.median(ratio), "at most 2.3")
    say("speed", "  of the rounds", ", ".join(f"{r:.2f}" for r in ratio))
    flow = farneback_seconds(clips, 12) + np.median(decode)
    say("speed", "full Farneback with the paper's rule / mine, CPU time", flow / np.median(mined), "at least 20")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory() as out:
        code = (
            "import sys; from pathlib import Path; from retrodict.video import mine; mine([*map(Path, sys.argv[2:])], "
        )
        code += "Path(sys.argv[1]), workers=2)"
        subprocess.run([sys.executable, "-c", code, out, *map(str, clips)], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    whole = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    say("speed", "the same with start-up of three processes / decode only", whole / np.median(decode))


def scale(clips: list[Path], copies: int = 4, rounds: int = 3) -> None:
    """Wall time of one and of two workers, over copies of the clips under new names."""
    with tempfile.TemporaryDirectory() as folder:
        for number in range(copies):
            for path in clips:
                shutil.copy(path, Path(folder, f"{number:02d}-{path.name}"))
        ratios = []
        for _ in range(rounds):
            seconds = []
            for workers in (1, 2):
                with tempfile.TemporaryDirectory() as out:
                    seconds.append(mine(Path(folder), Path(out), workers=workers).wall_seconds)
            ratios.append(seconds[0] / seconds[1])
    load = os.getloadavg()[0]
    say("scale", f"clips/s of 2 workers / of 1 ({copies * len(clips)} clips)", np.median(ratios), "at least 1.7")
    say("scale", "  of the rounds", ", ".join(f"{r:.2f}" for r in ratios) + f"; load average at the end {load:.1f}")


def cuts(clips: list[Path], joins: int = 60) -> None:
    config = MineConfig(frames=False)
    frames = alarms = known = detected = straddling = 0
    for path in clips:
        result = process_clip(ClipRef(path=path, name=path.name), config)
        true = set(KNOWN_CUTS.get(path.name, []))
        frames += result.frames
        known += len(true & set(KNOWN_CUTS.get(path.name, [])))
        detected += len(true & set(result.cuts))
        false = sorted(set(result.cuts) - true)
        alarms += len(false)
        chosen = [keyframe.index for keyframe in result.keyframes]
        straddling += sum(chosen[i] < cut <= chosen[j] for i, j in result.pairs for cut in true)
        if false:
            say("cuts", f"  false alarms in {path.name}", false)
    say("cuts", f"pairs that straddle one of {known} known cuts", straddling, "0")
    say("cuts", f"false alarms per 1,000 of {frames} frames", 1000 * alarms / frames, "at most 2")
    joined_cuts(clips, joins)


def joined_cuts(clips: list[Path], joins: int) -> None:
    """Shots of 24 frames of different clips, chosen at random, joined, put into a frame, and encoded anew."""
    rng = random.Random(0)
    shots = {}
    for path in clips:
        if path.name not in KNOWN_CUTS and not path.name.startswith("edge_"):
            images = [f.reformat(320, 240, "rgb24").to_ndarray() for part in packets(path) for f in part]
            shots[path.name] = [images[i : i + 24] for i in range(0, len(images) - 24, 24)]
    pattern = cv2.resize(np.random.default_rng(0).integers(0, 256, (45, 60, 3), np.uint8), (480, 360))
    frames = {
        "plain": lambda p: p,
        "under bars": lambda p: np.pad(p[36:-36], ((36, 36), (0, 0), (0, 0))),
        "between patterned side bars": lambda p: framed(pattern[:240, :426], cv2.resize(p, (135, 240)), 0, 146),
        "in half of a split screen": lambda p: np.concatenate([pattern[:240, :320], p], axis=1),
        "between patterned captions": lambda p: framed(pattern[:, :320], cv2.resize(p, (320, 180)), 90, 0),
    }
    for kind, put in frames.items():
        missed = false = 0
        for _ in range(joins // 6):
            # One clip of a scene each: two clips filmed from the same tripod would join without a cut to be seen.
            scenes = {"asl" if name.startswith("asl") else name: name for name in shots}
            names = rng.sample(sorted(scenes.values()), 7)
            images = [put(p) for name in names for p in rng.choice(shots[name])]
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder, "joined.mp4")
                encode(path, images)
                marked = set(process_clip(ClipRef(path=path, name="joined"), MineConfig(frames=False)).cuts)
            true = set(range(24, 24 * 7, 24))
            missed += len(true - marked)
            false += len(marked - true)
        say(
            "cuts",
            f"joined by lot, {kind}: missed of {joins // 6 * 6}, false in {joins // 6 * 168} frames",
            (missed, false),
        )


def framed(frame: np.ndarray, image: np.ndarray, top: int, left: int) -> np.ndarray:
    whole = frame.copy()
    whole[top : top + image.shape[0], left : left + image.shape[1]] = image
    return whole


def dissolves(clips: list[Path], repeats: int = 6) -> None:
    """Four shots of 65 to 90 frames of different clips, one dissolved into the next."""
    rng = random.Random(0)
    shots = {}
    for path in clips:
        if path.name not in KNOWN_CUTS and not path.name.startswith("edge_"):
            images = [f.reformat(320, 240, "rgb24").to_ndarray() for part in packets(path) for f in part]
            if len(images) >= 90:
                shots["asl" if path.name.startswith("asl") else path.name] = images
    across = pairs = unlike = 0
    for length in (12, 25, 38, 50):
        for _ in range(repeats):
            images, middles = [], []
            for name in rng.sample(sorted(shots), 4):
                count = rng.randint(65, 90)
                begin = rng.randint(0, len(shots[name]) - count)
                shot = shots[name][begin : begin + count]
                if images:
                    middles.append(len(images) - length / 2)
                    for i, (before, after) in enumerate(zip(images[-length:], shot[:length], strict=True)):
                        share = (i + 1) / (length + 1)
                        mixed = cv2.addWeighted(before, 1 - share, after, share, 0)
                        images[len(images) - length + i] = mixed
                    shot = shot[length:]
                images += shot
            with tempfile.TemporaryDirectory() as folder:
                encode(Path(folder, "joined.mp4"), images)
                result = process_clip(ClipRef(path=Path(folder, "joined.mp4"), name="joined"), MineConfig(frames=False))
            chosen = [keyframe.index for keyframe in result.keyframes]
            # Across: more than half of the dissolve lies between them.
            sides = [[np.clip((index - middle) / length + 0.5, 0, 1) for middle in middles] for index in chosen]
            across += sum(any(b - a > 0.5 for a, b in zip(sides[i], sides[j], strict=True)) for i, j in result.pairs)
            pairs += len(result.pairs)
            unlike += result.unlike
    say("dissolves", f"pairs across one of {4 * repeats * 3} dissolves, of {pairs} pairs", across)
    say("dissolves", "  pairs dropped as their frames have nothing in common", unlike)


def encode(path: Path, images: list[np.ndarray]) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt, stream.options = "yuv420p", {"preset": "veryfast"}
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def sharpness(clips: list[Path]) -> None:
    ours, papers, worst = [], [], ("", 9.0)
    for path in clips:
        planes = [grey(frame).copy() for frames in packets(path) for frame in frames]
        sharp = np.array([cv2.Laplacian(plane, cv2.CV_64F).var() for plane in planes])
        small = [cv2.resize(plane, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA) for plane in planes]
        motion = [0.0, *(magnitude(a, b) for a, b in pairwise(small))]
        result = process_clip(ClipRef(path=path, name=path.name), MineConfig(frames=False))
        if not result.pairs or path.name.startswith("edge_"):
            continue
        ratio = float(np.median(sharp[[k.index for k in result.keyframes]]) / np.median(sharp))
        ours.append(ratio)
        worst = min(worst, (path.name, ratio), key=lambda named: named[1])
        papers.append(float(np.median(sharp[greedy(motion)]) / np.median(sharp)))
    say("sharpness", f"keyframe / median frame, median of {len(ours)} clips", np.median(ours), "at least 0.95")
    say("sharpness", "  the paper's greedy rule on Farneback, a quarter size", np.median(papers))
    say("sharpness", f"  lowest clip, {worst[0]}", worst[1])


def vectors(clips: list[Path]) -> None:
    """Mean length of the vectors into the past, over the image, in frame widths; those between frames of a file."""
    correlations = []
    for path in clips:
        motion = []
        with open_video(path) as video:
            video._stream.codec_context.options |= {"flags2": "+export_mvs"}
            meter = Meter(MineConfig(), video.fps)
            for item in video.decode():
                exported = item.frame.side_data.get("MOTION_VECTORS")
                if meter.push(item.index, item.seconds, item.pts, luma(item.frame)) and exported is not None:
                    one = exported.to_ndarray()
                    area = one["w"].astype(float) * one["h"] * (one["source"] < 0)
                    length = np.hypot(one["motion_x"], one["motion_y"]) / np.maximum(one["motion_scale"], 1)
                    motion.append((meter.track.motion[-1], float((length * area).sum())))
        if len(motion) > 10:
            correlations.append(float(spearmanr(*zip(*motion[1:], strict=True)).statistic))
    say(
        "vectors",
        f"rank correlation with the flow, median of {len(correlations)} clips",
        np.median(correlations),
        "0.8",
    )
    say("vectors", "  at least .8 in", sum(value >= 0.8 for value in correlations))
    say("vectors", "  lowest, highest", [round(min(correlations), 2), round(max(correlations), 2)])


def greedy(motion: list[float], k: int = 6, gap: int = 20) -> list[int]:
    chosen: list[int] = []
    for i in np.argsort(motion)[::-1]:
        if len(chosen) < k and all(abs(i - j) >= gap for j in chosen):
            chosen.append(int(i))
    return chosen


def say(part: str, what: str, value: object, target: str = "") -> None:
    shown = f"{value:.3g}" if isinstance(value, float) else json.dumps(value) if isinstance(value, list) else str(value)
    print(f"{part:10}{what:75} {shown:>10}  {target}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path, help="folder of video files")
    parts = {
        "speed": speed,
        "scale": scale,
        "cuts": cuts,
        "dissolves": dissolves,
        "sharpness": sharpness,
        "vectors": vectors,
    }
    parser.add_argument("parts", nargs="*", default=list(parts), help=f"of {', '.join(parts)}; all by default")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    clips = [ref.path for ref in folder_clips(options.clips)]
    for part in options.parts:
        parts[part](clips)


if __name__ == "__main__":
    main()

"""Whether mining survives: kill -9, broken files, and an hour of video.

    python benchmarks/mining_endurance.py CLIPS [kill] [broken] [memory] [fill] [long]

kill    200 copies of small clips; the whole run, or one worker, is killed with -9 at 20 random moments, run after run;
        then the run is finished and its output compared with that of a run nobody disturbed, byte by byte
broken  300 mutated copies of the clips: bytes flipped or zeroed, cut off, emptied, texts under video names
memory  peak memory of mining one minute and one hour of the same rendered video
fill    200 pieces of the clips, mined with fresh memory filled with one of four bytes (glibc's MALLOC_PERTURB_), in one
        process, in two and on Ray: all twelve outputs are compared byte by byte
long    the clips one after the other, for thirteen minutes: CPU time over decoding alone, and peak memory, whole, in
        windows, in windows that overlap, and shot by shot, in turn
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from retrodict.video import MineConfig, mine
from retrodict.video.clips import folder_clips

RUN = (
    "import sys; from pathlib import Path; from retrodict.video import mine, MineConfig; "
    "mine(Path(sys.argv[1]), Path(sys.argv[2]), MineConfig(min_gap=4), workers=2, shard_clips=8)"
)
# VmHWM, as ru_maxrss would begin with what the process that started this one had used.
PEAK = (
    "import re, sys; from pathlib import Path; from retrodict.video import ClipRef, MineConfig, process_clip; "
    "result = process_clip(ClipRef(path=Path(sys.argv[1]), name='clip'), MineConfig()); "
    "assert len(result.pairs) + result.unlike == 5, result.reason; "
    "peak = int(re.search(r'VmHWM:\\s+(\\d+) kB', Path('/proc/self/status').read_text())[1]); "
    "print(result.frames, peak // 1024)"
)


def kill(clips: list[Path]) -> None:
    rng = random.Random(0)
    small = sorted(clips, key=lambda path: path.stat().st_size)[:10]
    with tempfile.TemporaryDirectory() as folder:
        videos, out = Path(folder, "videos"), Path(folder, "out")
        videos.mkdir()
        for number in range(200):
            source = small[number % len(small)]
            shutil.copy(source, videos / f"{number:03d}-{source.name}")
        mine(videos, Path(folder, "calm"), MineConfig(min_gap=4), executor_name="serial", shard_clips=8)
        kills: Counter[str] = Counter()
        while kills.total() < 20:
            run = subprocess.Popen([sys.executable, "-c", RUN, str(videos), str(out)])
            time.sleep(rng.uniform(1.0, 3.0))
            workers = children(run.pid)
            if kills.total() % 2 and workers and run.poll() is None:
                os.kill(rng.choice(workers), 9)
                kills["worker"] += 1
                time.sleep(rng.uniform(0.2, 1.0))
            if run.poll() is None:
                kills["run"] += 1
            run.kill()
            run.wait()
            if run.returncode == 0:  # finished before it was struck: start over with what is left to kill
                shutil.rmtree(out)
        subprocess.run([sys.executable, "-c", RUN, str(videos), str(out)], check=True)
        ledger = [json.loads(line)["clip"] for line in (out / "clips.jsonl").read_text().splitlines()]
        same = {p.name: p.read_bytes() for p in out.iterdir()} == {
            p.name: p.read_bytes() for p in Path(folder, "calm").iterdir()
        }
        say("kill", f"clips in the ledger of 200 (distinct) after {dict(kills)}", f"{len(ledger)} ({len(set(ledger))})")
        say("kill", "the same bytes as a calm run", same)


def children(parent: int) -> list[int]:
    workers = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:  # ended meanwhile
            continue
        if int(fields[1]) == parent:
            workers.append(int(stat.parent.name))
    return workers


def broken(clips: list[Path]) -> None:
    rng = random.Random(1)
    with tempfile.TemporaryDirectory() as folder:
        videos = Path(folder, "videos")
        videos.mkdir()
        for number in range(300):
            source = rng.choice(clips)
            (videos / f"{number:03d}{source.suffix}").write_bytes(mutated(source.read_bytes(), rng))
        result = mine(videos, Path(folder, "out"), MineConfig(), timeout=60)
    say("broken", "accounted for, of 300", result.clips)
    say("broken", "without pairs, by reason", json.dumps(result.dropped))
    say("broken", "crashed or hung a worker", sum(result.dropped.get(why, 0) for why in ("crashed", "hung")))


def mutated(data: bytes, rng: random.Random) -> bytes:
    how = rng.choice(["flip", "flip", "zero", "cut", "empty", "text", "both"])
    if how == "empty":
        return b""
    if how == "text":
        return b"#EXTM3U\nfile:///etc/hostname\n" * rng.randint(1, 100)
    changed = bytearray(data)
    if how in ("flip", "both"):
        for _ in range(rng.choice([1, 10, 100, 1000])):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
    if how == "zero":
        begin = rng.randrange(len(changed))
        end = min(len(changed), begin + 5000)
        changed[begin:end] = bytes(end - begin)
    return bytes(changed[: rng.randrange(len(changed))] if how in ("cut", "both") else changed)


def memory() -> None:
    with tempfile.TemporaryDirectory() as folder:
        minute = Path(folder, "minute.mp4")
        render(minute, 60 * 25)
        for name, minutes in (("one minute", 1), ("one hour", 60)):
            path = Path(folder, f"{minutes}.mkv")
            repeat(minute, path, minutes)
            done = subprocess.run([sys.executable, "-c", PEAK, str(path)], check=True, capture_output=True, text=True)
            frames, peak = done.stdout.split()
            say("memory", f"peak of {name}, {frames} frames of 320 x 240", f"{peak} MiB")


def render(path: Path, frames: int) -> None:
    """A texture that drifts at a changing speed."""
    texture = np.kron(np.random.default_rng(0).integers(0, 255, (40, 60)), np.ones((12, 12))).astype(np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        grey = np.full((360, 320), 128, np.uint8)
        for number in range(frames):
            x = int(60 + 50 * np.sin(number / 40 + (number / 900) ** 2 % 3))
            grey[:240] = texture[x : x + 240, x : x + 320]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="yuv420p")))
        container.mux(stream.encode())


def repeat(source: Path, target: Path, times: int, length: float = 60) -> None:
    """The same packets over and over, `length` seconds apart: nothing is encoded again."""
    with av.open(str(target), "w") as out:
        stream = None
        for turn in range(times):
            with av.open(str(source)) as container:
                stream = stream or out.add_stream_from_template(container.streams.video[0])
                for packet in container.demux(video=0):
                    if packet.dts is not None:
                        shift = int(turn * length / packet.time_base)
                        packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, stream
                        out.mux(packet)


FILLED = (
    "import sys; from pathlib import Path; from retrodict.video import mine, MineConfig; "
    "mine(Path(sys.argv[1]), Path(sys.argv[2]), MineConfig(min_gap=4), executor_name=sys.argv[3], workers=2, "
    "shard_clips=50)"
)


def fill(clips: list[Path]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        videos = Path(folder, "videos")
        videos.mkdir()
        made = pieces(clips, videos, 200)
        outputs = {}
        for byte in (0, 85, 165, 255):
            for executor in ("serial", "processes", "ray"):
                out = Path(folder, f"{executor}-{byte}")
                command = [sys.executable, "-c", FILLED, str(videos), str(out), executor]
                subprocess.run(
                    command, check=True, env=os.environ | {"MALLOC_PERTURB_": str(byte)}, capture_output=True
                )
                outputs[byte, executor] = {path.name: path.read_bytes() for path in out.iterdir()}
                say(
                    "fill",
                    f"  {executor}, memory filled with {byte}, as the first",
                    outputs[byte, executor] == outputs[0, "serial"],
                )
        first = outputs[0, "serial"]
        pairs = json.loads(first["manifest.json"])["counts"]["kept"]
        differ = [key for key, files in outputs.items() if files != first]
        say(
            "fill",
            f"of {len(outputs)} outputs ({made} clips, {pairs} pairs, {len(first)} files), other bytes",
            len(differ),
        )


def pieces(clips: list[Path], folder: Path, count: int, length: int = 20) -> int:
    """At most `count` clips of so many frames, 160 pixels wide, taken from the given clips in turn."""
    parts = []
    for path in clips:
        frames = small_frames(path, 10_000)
        parts += [frames[at : at + length] for at in range(0, len(frames) - length + 1, length)]
    chosen = random.Random(0).sample(parts, min(count, len(parts)))
    for number, part in enumerate(chosen):
        encode(folder / f"{number:03d}.mp4", part, "libx264" if number % 2 else "mpeg4")
    return len(chosen)


def small_frames(path: Path, most: int, width: int = 160, height: int = 120) -> list[av.VideoFrame]:
    frames = []
    with av.open(str(path)) as container:
        for packet in container.demux(video=0):
            try:
                frames += [frame.reformat(width, height, "yuv420p") for frame in packet.decode()]
            except av.FFmpegError:
                continue
            if len(frames) >= most:
                break
    return frames[:most]


def encode(path: Path, frames: list[av.VideoFrame], codec: str) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = frames[0].width, frames[0].height, "yuv420p"
        for number, frame in enumerate(frames):
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


LONG = """
import re, sys, time
from pathlib import Path
from retrodict.video import ClipRef, MineConfig, process_clip
from retrodict.video.clip_miner import windows
from retrodict.video.decode import open_video
path, segment = Path(sys.argv[1]), sys.argv[2]
config, ref = MineConfig(segment=segment.removeprefix("decode")), ClipRef(path=path, name="long")
process_clip(ClipRef(path=path, name="warm", stop=2.0), config)
begin, pairs = time.process_time(), 0
if segment == "decode":
    with open_video(path) as video:
        pairs = sum(1 for _ in video.decode())
else:
    pairs = sum(len(process_clip(window, config).pairs) for window in windows(ref, config))
peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
print(pairs, time.process_time() - begin, peak // 1024)
"""


def long(clips: list[Path], rounds: int = 3) -> None:
    with tempfile.TemporaryDirectory() as folder:
        once, path = Path(folder, "once.mp4"), Path(folder, "long.mkv")
        frames = [frame for clip in clips for frame in small_frames(clip, 10_000, 320, 240)]
        encode(once, frames, "libx264")
        repeat(once, path, round(13 * 60 * 25 / len(frames) + 0.5), len(frames) / 25)
        ratios: dict[str, list[float]] = {}
        said = {}
        for _ in range(rounds):  # in turn, so that all meet the same neighbours
            decoding = 0.0
            for segment in ("decode", "", "10s", "10s/5s", "shot"):
                command = [sys.executable, "-c", LONG, str(path), segment]
                done = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
                decoding = float(done[1]) if segment == "decode" else decoding
                ratios.setdefault(segment, []).append(float(done[1]) / decoding)
                said[segment] = f"{done[0]} {'frames' if segment == 'decode' else 'pairs'}, peak {done[2]} MiB"
        for segment, values in ratios.items():
            rounded = ", ".join(f"{value:.2f}" for value in values)
            say(
                "long",
                f"{segment or 'whole'}: {said[segment]}; CPU over decoding: {rounded}",
                f"{np.median(values):.2f}",
            )


def say(part: str, what: str, value: object) -> None:
    print(f"{part:10}{what:75} {value!s:>10}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path, help="folder of video files")
    parser.add_argument("parts", nargs="*", default=["kill", "broken", "memory", "fill", "long"], help="all by default")
    options = parser.parse_args()
    clips = [ref.path for ref in folder_clips(options.clips)]
    for part in options.parts:
        if part == "memory":
            memory()
        else:
            {"kill": kill, "broken": broken, "fill": fill, "long": long}[part](clips)


if __name__ == "__main__":
    main()

"""Videos whose content is known, and labelled pairs for loops of a few seconds."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import av
import numpy as np
from PIL import Image

from retrodict.images import encode_png
from retrodict.models.registry import tiny_family
from retrodict.transitions import Transition, write_rows

ACTIONS = ("lift the cup", "put the cup down", "turn the cup")


def frames_of(clip: Path, side: int = 96) -> list[Image.Image]:
    with av.open(str(clip)) as video:
        return [frame.to_image(width=side, height=side) for frame in video.decode(video=0)]


def write_video(path: Path, frames: list[Image.Image], fps: int = 10, keyframes: int = 250) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as video:
        stream = video.add_stream("libx264", rate=fps)
        stream.width, stream.height, stream.pix_fmt = *frames[0].size, "yuv420p"
        stream.gop_size = keyframes
        for frame in frames:
            video.mux(stream.encode(av.VideoFrame.from_image(frame)))
        video.mux(stream.encode())


def moving_square(count: int, side: int = 96, seed: int = 0) -> list[Image.Image]:
    """Frames in which a square moves one way, rests, and moves on."""
    rng = np.random.default_rng(seed)
    ground, images, x = rng.integers(80, 120, (side, side, 3), dtype=np.uint8), [], 4
    for i in range(count):
        frame = ground.copy()
        frame[40:60, x : x + 20] = (200, 40, 40)
        x = (x + (4 if i // 5 % 2 else 0)) % (side - 24)
        images.append(Image.fromarray(frame))
    return images


def counting_video(path: Path, frames: int, fps: int = 10) -> None:
    """A video whose frame n tells n by the grey levels of its halves: sixteens on the left, ones on the right."""
    grey = np.zeros((frames, 64, 64, 3), np.uint8)
    grey[:, :, :32] += 8 + 16 * (np.arange(frames, dtype=np.uint8) // 16)[:, None, None, None]
    grey[:, :, 32:] += 8 + 16 * (np.arange(frames, dtype=np.uint8) % 16)[:, None, None, None]
    write_video(path, [Image.fromarray(frame) for frame in grey], fps, keyframes=25)


def number_on(image: Image.Image) -> int:
    left, right = (float(half.mean()) for half in np.split(np.asarray(image), 2, axis=1))
    return 16 * round((left - 8) / 16) + round((right - 8) / 16)


def write_labelled(folder: Path, frames: list[Image.Image], count: int, name: str = "pair") -> None:
    """So many pairs of neighbouring frames, each of a group of its own."""
    pairs = list(pairwise(encode_png(frame) for frame in frames))[:count]
    rows = [
        Transition(id=f"{name}-{i}", source=source, target=target, action=ACTIONS[i % 3], category=ACTIONS[i % 3])
        for i, (source, target) in enumerate(pairs)
    ]
    write_rows(folder / "rows.parquet", rows)


def write_checkpoint(folder: Path, family: str) -> None:
    """A tiny checkpoint in the layout in which the family is published, without our card."""
    import torch

    torch.manual_seed(0)
    tiny_family(family)(ACTIONS, grid=3, patch=8).save(folder)

"""Frames as a video file in which small things keep their colours, for simulated worlds and environments."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from PIL import Image

from retrodict.files import write_atomic

FPS = 10
_ENCODER = {"crf": "14", "preset": "ultrafast", "g": "50"}


def write_video(path: Path, images: Iterable[Image.Image]) -> None:
    """Write RGB images of one size as an mp4 file (H.264, 10 frames/s), which appears when it is complete."""
    write_atomic(path, lambda temporary: _encode(temporary, images))


def _encode(path: Path, images: Iterable[Image.Image]) -> None:
    frames = iter(images)
    first = next(frames)
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FPS, options=_ENCODER)
        stream.width, stream.height = first.size
        stream.pix_fmt = "yuv444p"  # small things of pure colour suffer from chroma subsampling
        stream.codec_context.thread_count = 1
        for index, pixels in enumerate(_arrays(chain([first], frames))):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _arrays(images: Iterable[Image.Image]) -> Iterator[npt.NDArray[np.uint8]]:
    """Their pixels [H, W, 3]; most images are the one before once more."""
    shown, pixels = None, np.empty(0, np.uint8)
    for image in images:
        if image is not shown:
            shown, pixels = image, np.asarray(image)
        yield pixels

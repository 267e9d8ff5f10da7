"""Decoded frames as the images that a player shows: upright, in their shape, deinterlaced, in the colours meant."""

from __future__ import annotations

import struct
from fractions import Fraction
from itertools import pairwise

import av
import cv2
import numpy as np
from av.buffer import Buffer
from av.video.reformatter import Colorspace, ColorTrc, Interpolation, VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

_REFORMATTER = VideoReformatter()  # shared, as setting one up costs more than a conversion
_UNSAID = 2  # of a frame's colour space
_HD = 1280, 576  # untagged video is BT.709 from this width on, or above this height: what mpv, VLC and browsers take
_ALIKE = 0.02  # shapes that differ by no more are one: sizes are rounded to what codecs take
_ODDEST = 4.0  # pixels more oblong than this are a broken header's

# Of high dynamic range: SMPTE ST 2084, ARIB STD-B67, and ITU-R BT.2408 and BT.2087.
_WHITE, _PEAK = 203.0, 1000.0  # cd/m2
_KNEE = 0.75  # share of white up to which light stays as it is
_TO_709 = np.array([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]])

Bgr = NDArray[np.integer | np.floating]  # height x width x 3, uint8; OpenCV's types say no more


class View:
    """How the frames of one stream are shown."""

    def __init__(self, stream: VideoStream) -> None:
        aspect = float(stream.sample_aspect_ratio or 1)
        self._aspect = aspect if 1 / _ODDEST <= aspect <= _ODDEST else 1.0
        self._first: tuple[int, int] | None = None

    def size(self, frame: av.VideoFrame) -> tuple[int, int]:
        """Width and height in stored pixels that a frame is brought to: where it has the shape of the first that was
        seen, that one's, as a stream may go on in another resolution."""
        width, height = frame.width, frame.height
        first = self._first = self._first or (width, height)
        across, down = width * first[1], height * first[0]
        return first if abs(across - down) <= _ALIKE * down else (width, height)

    def bgr(self, frame: av.VideoFrame) -> Bgr:
        """Height x width x 3 of 8 bits, in OpenCV's channel order."""
        turn = frame.side_data.get("DISPLAYMATRIX")
        image: Bgr
        if frame.interlaced_frame:
            frame = _deinterlaced(frame)
        width, height = self.size(frame)
        width = round(width * self._aspect)
        if frame.color_trc in (ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67):
            light = _REFORMATTER.reformat(frame, width=width, height=height, format="rgb48le").to_ndarray()
            image = _standard_range(np.asarray(light, np.uint16), frame.color_trc == ColorTrc.SMPTE2084)
        else:
            untagged_hd = frame.colorspace == _UNSAID and (frame.width >= _HD[0] or frame.height > _HD[1])
            image = _REFORMATTER.reformat(
                frame,
                width=width,
                height=height,
                format="bgr24",
                src_colorspace=Colorspace.ITU709 if untagged_hd and not frame.format.is_rgb else None,
                interpolation=Interpolation.BICUBIC if (width, height) != (frame.width, frame.height) else None,
            ).to_ndarray()
        return upright(image, struct.unpack("<9i", bytes(turn))) if isinstance(turn, Buffer) else image

    def jpeg(self, frame: av.VideoFrame, quality: int, max_side: int = 0) -> bytes:
        """The frame as a JPEG file's bytes, its longest side at most `max_side` pixels unless that is 0."""
        image = self.bgr(frame)
        height, width = image.shape[:2]
        if 0 < max_side < max(height, width):
            scale = max_side / max(height, width)
            size = max(1, round(width * scale)), max(1, round(height * scale))
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        # Colour at full resolution: at half, the edges of small things bleed, and their image tokens change.
        full_colour = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
        done, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality, *full_colour])
        assert done
        return data.tobytes()


def upright(image: Bgr, matrix: tuple[int, ...]) -> Bgr:
    """The image turned and mirrored as a display matrix asks: x' = a x + c y, y' = b x + d y."""
    a, b, _, c, d, *_ = matrix
    if abs(a) + abs(d) >= abs(b) + abs(c):
        across, down = a, d
    else:
        image, across, down = image.transpose(1, 0, 2), c, b
    return np.ascontiguousarray(image[:: -1 if down < 0 else 1, :: -1 if across < 0 else 1])


def _deinterlaced(frame: av.VideoFrame) -> av.VideoFrame:
    """The frame's first field at full height: the second shows a later moment."""
    graph = av.filter.Graph()
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base or Fraction(1, 1000)
    )
    nodes = source, graph.add("estdif", "mode=frame"), graph.add("buffersink")
    for node, following in pairwise(nodes):
        node.link_to(following)
    graph.configure()
    graph.push(frame)
    graph.push(None)
    made = graph.pull()
    assert isinstance(made, av.VideoFrame)
    return made


def _standard_range(encoded: NDArray[np.uint16], is_pq: bool) -> Bgr:
    """BT.2020 red, green, blue of 16 bits (PQ, else HLG) as sRGB blue, green, red of 8.

    White stays white; what is brighter is compressed into the last quarter below it.
    """
    signal = encoded / np.float64(65535)
    if is_pq:
        power = signal ** (1 / 78.84375)
        light = 10_000 * (np.maximum(power - 0.8359375, 0) / (18.8515625 - 18.6875 * power)) ** (1 / 0.1593017578125)
    else:
        scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - 0.55991073) / 0.17883277) + 0.28466892) / 12)
        luminance = scene @ np.array([0.2627, 0.6780, 0.0593])
        light = _PEAK * luminance[..., None] ** 0.2 * scene
    light /= _WHITE
    brightest = np.maximum(light.max(2, keepdims=True), 1e-6)
    above, most = (brightest - _KNEE) / (1 - _KNEE), (_PEAK / _WHITE - _KNEE) / (1 - _KNEE)
    compressed = _KNEE + (1 - _KNEE) * above * (1 + above / most**2) / (1 + above)
    light *= np.where(brightest > _KNEE, np.minimum(compressed, 1), brightest) / brightest
    linear = np.clip(light @ _TO_709.T, 0, 1)
    shown = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.ascontiguousarray(np.round(255 * shown[..., ::-1]).astype(np.uint8))

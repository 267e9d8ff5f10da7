"""Which frame is decoded, when it is shown, and how it looks: over containers, clocks, matrices, shapes and colours."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from retrodict.data.actions import LabelledClip, transition_of
from retrodict.data.items import UnusableError
from retrodict.transitions import decode_image
from retrodict.video import ClipRef, MineConfig, process_clip
from retrodict.video.decode import open_video
from retrodict.video.shards import record
from retrodict.video.view import _standard_range, upright

_TICK = Fraction(1, 600)


def counting_image(number: int, side: int = 64) -> np.ndarray:
    """An image that tells its number by the grey levels of its halves: sixteens on the left, ones on the right."""
    image = np.full((side, side, 3), 8 + 16 * (number // 16), np.uint8)
    image[:, side // 2 :] = 8 + 16 * (number % 16)
    return image


def number_on(image) -> int:
    left, right = (float(half.mean()) for half in np.split(np.asarray(image), 2, axis=1))
    return 16 * round((left - 8) / 16) + round((right - 8) / 16)


def counting_video(path: Path, ticks: list[int], codec="libx264", b_frames=2) -> Path:
    """A video whose frame n tells n and is shown at `ticks[n]` 600ths of a second, with a key frame every 25."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=30)
        stream.width = stream.height = 64
        stream.gop_size, stream.max_b_frames, stream.bit_rate = 25, b_frames, 8_000_000
        stream.time_base = stream.codec_context.time_base = _TICK if path.suffix != ".avi" else Fraction(1, 30)
        for number, tick in enumerate(ticks):
            frame = av.VideoFrame.from_ndarray(counting_image(number), format="rgb24")
            frame.pts, frame.time_base = round(tick * _TICK / stream.time_base), stream.time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


STEADY = [20 * n for n in range(90)]  # 30 frames/s, 3 s
BURSTS = [20 * n + 400 * (n // 15) for n in range(90)]  # half a second of 30 frames/s, then a pause, over and over


@pytest.mark.parametrize("late", [0, 880, 600 * 3600])  # 600ths of a second at which the container's clock begins
@pytest.mark.parametrize(("suffix", "times"), [("mp4", STEADY), ("ts", STEADY), ("mkv", BURSTS), ("ts", BURSTS)])
def test_segments_are_the_frames_on_screen_whatever_the_container(tmp_path, suffix, times, late):
    path = counting_video(tmp_path / f"v.{suffix}", [late + t for t in times])
    seconds = [t / 600 for t in times]
    for start, stop in [(0.4, 1.3), (1.0, 2.0), (1.51, 2.61), (0, 0.7), (0.02, 2.9)]:
        wanted = [n for n, t in enumerate(seconds) if t < stop - 1 / 60]
        wanted = wanted[max(n for n, t in enumerate(seconds) if t <= start + 1 / 60) :]
        with open_video(path) as video:
            shown = list(video.decode(start, stop))
            images = [number_on(video.view.bgr(item.frame)) for item in shown]
        assert images == [item.index for item in shown] == wanted
        assert [item.seconds for item in shown] == pytest.approx([seconds[n] for n in wanted], abs=1e-3)


_READ = """
import sys
from pathlib import Path
from retrodict.video import ClipRef, MineConfig, process_clip
from retrodict.video.decode import open_video
from test_decode import STEADY, counting_video
for suffix in ("ts", "mp4", "mkv"):
    path = counting_video(Path(sys.argv[1]) / f"{suffix}-{sys.argv[2]}.{suffix}", STEADY)
    with open_video(path) as video:
        print([(item.index, item.seconds, item.pts) for item in video.decode(1.51, 2.61)], video.length)
    print(process_clip(ClipRef(name="v", path=path), MineConfig(min_motion=0)).pairs)
"""


def test_what_is_read_of_a_file_does_not_depend_on_what_memory_held(tmp_path):
    """glibc fills memory that is given back with a byte (`MALLOC_PERTURB_`): what is read from there anyway differs."""
    read = {
        subprocess.run(
            [sys.executable, "-c", _READ, str(tmp_path), fill],
            env={**os.environ, "MALLOC_PERTURB_": fill},
            cwd=Path(__file__).parent,
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for fill in ("0", "85", "165")
    }
    assert len(read) == 1


def test_a_file_without_time_stamps_is_counted_from_its_first_frame(tmp_path):
    path = counting_video(tmp_path / "v.avi", STEADY, codec="mpeg4")
    with open_video(path) as video:
        shown = [(number_on(video.view.bgr(item.frame)), item.index, item.seconds) for item in video.decode(1.0, 2.0)]
    assert shown == [(n, n, pytest.approx(n / 30)) for n in range(30, 60)]


def test_a_video_that_begins_after_its_sound_keeps_the_players_clock(tmp_path):
    path = tmp_path / "v.mkv"
    with av.open(str(path), "w") as container:
        video, sound = container.add_stream("mpeg4", rate=30), container.add_stream("pcm_s16le", rate=8000)
        video.width = video.height = 64
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), format="s16", layout="mono")
        silence.sample_rate = 8000
        container.mux(sound.encode(silence))
        for number in range(30):
            frame = av.VideoFrame.from_ndarray(counting_image(number), format="rgb24")
            frame.pts, frame.time_base = 15 + number, Fraction(1, 30)
            container.mux(video.encode(frame))
        container.mux(video.encode())
    with open_video(path) as video:
        assert [(item.index, round(item.seconds, 2)) for item in video.decode(0.8, 0.9)] == [
            (9, 0.8),
            (10, 0.83),
            (11, 0.87),
        ]


def labelled(path: Path, start: float, stop: float) -> tuple[int, int]:
    row = transition_of(LabelledClip(ClipRef(path=path, name="a", start=start, stop=stop), "click"))
    shown = tuple(number_on(decode_image(image, "image")) for image in (row.source, row.target))
    assert shown == (row.frame_source, row.frame_target)
    return shown


def test_a_segment_that_ends_in_rest_or_past_the_end_keeps_what_is_there(tmp_path):
    path = counting_video(tmp_path / "v.mp4", [20 * n + 3600 * (n >= 30) for n in range(40)])  # rests from 1 to 7 s
    assert labelled(path, 0.2, 5.0) == (6, 29)
    assert labelled(path, 2.0, 7.2) == (29, 35)
    assert labelled(path, 0.5, 600.0) == (15, 39)
    for start, stop, reason in [(2.0, 6.0, "too_short"), (60.0, 70.0, "undecodable"), (1.0, 0.5, "undecodable")]:
        with pytest.raises(UnusableError, match=reason):
            labelled(path, start, stop)


def test_the_length_of_a_clip_counts_its_rest_and_time_stamps_may_be_negative(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (12, 12, 3)).astype(np.uint8)
    path = tmp_path / "v.mkv"
    with av.open(str(path), "w", options={"avoid_negative_ts": "disabled"}) as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 96, "bgr0"
        for number in range(100):
            image = np.kron(np.roll(noise, min(number, 30) // 3, 0), np.ones((8, 8, 1), np.uint8))
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = number - 5, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    result = process_clip(ClipRef(path=path, name="v"), MineConfig(min_gap=5, cuts=False))
    assert result.duration == pytest.approx(10.0, abs=0.01)
    assert all(frame.pts is not None for frame in result.keyframes)


@pytest.mark.parametrize(
    ("matrix", "shown"),  # x' = a x + c y, y' = b x + d y
    [
        ((1, 0, 0, 1), [[1, 2], [3, 4]]),
        ((-1, 0, 0, 1), [[2, 1], [4, 3]]),
        ((1, 0, 0, -1), [[3, 4], [1, 2]]),
        ((-1, 0, 0, -1), [[4, 3], [2, 1]]),
        ((0, 1, -1, 0), [[3, 1], [4, 2]]),
        ((0, -1, 1, 0), [[2, 4], [1, 3]]),
        ((0, 1, 1, 0), [[1, 3], [2, 4]]),
        ((0, -1, -1, 0), [[4, 2], [3, 1]]),
    ],
)
def test_display_matrices_turn_and_mirror(matrix, shown):
    a, b, c, d = matrix
    image = np.array([[1, 2], [3, 4]], np.uint8)[..., None]
    assert upright(image, (a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30))[..., 0].tolist() == shown


def still(
    path: Path, image: np.ndarray, *, pixels="yuv444p", aspect=None, codec="libx264", options=None, **tags
) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10, options=options or {"qp": "2"})
        stream.height, stream.width = image.shape[:2]
        stream.pix_fmt = pixels
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=pixels, **tags)
        container.mux([*stream.encode(frame), *stream.encode()])
    return path


def first_image(path: Path) -> np.ndarray:
    with open_video(path) as video:
        return video.view.bgr(next(video.decode()).frame)[..., ::-1].astype(int)


def test_a_mirrored_matrix_in_a_file_is_followed(tmp_path):
    image = np.zeros((64, 96, 3), np.uint8)
    image[:20, :30] = 255
    data = bytearray(still(tmp_path / "v.mp4", image).read_bytes())
    at = data.find(b"tkhd") + 4 + 4 + 20 + 8 + 8
    data[at : at + 36] = struct.pack(">9i", -1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    (tmp_path / "v.mp4").write_bytes(data)
    shown = first_image(tmp_path / "v.mp4")
    assert shown[5, -5].min() > 200 and shown[5, 5].max() < 50 and shown[-5, -5].max() < 50


def test_oblong_pixels_are_made_square(tmp_path):
    path = still(tmp_path / "v.mp4", np.zeros((64, 80, 3), np.uint8), aspect=Fraction(64, 45))
    assert first_image(path).shape == (64, 114, 3)


@pytest.mark.parametrize(("size", "matrix"), [((720, 1280), "itu709"), ((480, 640), "itu601")])
def test_untagged_colours_are_those_of_the_size(tmp_path, size, matrix):
    green = np.full((*size, 3), (20, 200, 40), np.uint8)
    path = still(tmp_path / "v.mp4", green, dst_colorspace=matrix)
    assert np.abs(first_image(path) - green).max() <= 4


def test_the_stream_that_players_choose_is_mined(tmp_path):
    path = tmp_path / "v.mkv"
    with av.open(str(path), "w") as container:
        preview, film = (container.add_stream("mpeg4", rate=10) for _ in range(2))
        for stream, side in ((preview, 32), (film, 64)):
            stream.width = stream.height = side
        preview.disposition, film.disposition = av.stream.Disposition(0), av.stream.Disposition.default
        for stream in (preview, film):
            for number in range(5):
                image = av.VideoFrame.from_ndarray(counting_image(number, stream.width), format="rgb24")
                container.mux(stream.encode(image))
            container.mux(stream.encode())
    assert first_image(path).shape == (64, 64, 3)


def test_interlaced_frames_are_shown_without_their_comb(tmp_path):
    image = np.zeros((96, 96, 3), np.uint8)
    image[1::2, 20:40], image[::2, 50:70] = 255, 255  # one bar, at two moments; the bottom field comes first
    options = {"qp": "2", "flags": "+ilme+ildct"}
    shown = first_image(still(tmp_path / "v.mp4", image, pixels="yuv420p", options=options))
    assert shown[10:-10, 25:35].min() > 200 and shown[10:-10, 55:65].max() < 50


def test_high_dynamic_range_becomes_standard():
    """PQ of grey light of 0, 50, 203 and 1,000 cd/m2 (SMPTE ST 2084); 203 is white."""
    signal = np.array([0.0, 0.440282, 0.580689, 0.751827])
    grey = np.repeat(np.round(65535 * signal)[None, :, None], 3, axis=2).astype(np.uint16)
    black, dim, white, sun = _standard_range(grey, True)[0, :, 0].tolist()
    assert (black, sun) == (0, 255)
    assert dim == pytest.approx(255 * (1.055 * (50 / 203) ** (1 / 2.4) - 0.055), abs=1.5)
    assert 225 < white < 250


def test_stored_images_are_as_large_as_asked(tmp_path):
    path = still(tmp_path / "v.mp4", np.zeros((64, 96, 3), np.uint8))
    with open_video(path) as video:
        frame = next(video.decode()).frame
        sizes = [decode_image(video.view.jpeg(frame, 95, side), "image").size for side in (0, 48, 500)]
    assert sizes == [(96, 64), (48, 32), (96, 64)]


def sized_video(path: Path, sizes: list[tuple[int, int]]) -> Path:
    """A video of JPEG images, each of its own size, of noise that moves a little every frame; 30 frames/s."""
    noise = np.kron(np.random.default_rng(0).integers(0, 255, (24, 24, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=30)
        (stream.width, stream.height), stream.pix_fmt = sizes[0], "yuvj420p"
        for number, size in enumerate(sizes):
            data = io.BytesIO()
            Image.fromarray(np.roll(noise, 2 * number, 0)).resize(size).save(data, "JPEG", quality=95)
            packet = av.Packet(data.getvalue())
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, number, number, Fraction(1, 30)
            container.mux(packet)
    return path


def test_a_stream_that_goes_on_in_another_resolution_keeps_the_first(tmp_path):
    path = sized_video(tmp_path / "v.mkv", [(192, 96)] * 30 + [(96, 48)] * 30)
    row = transition_of(LabelledClip(ClipRef(path=path, name="v"), "count"))
    assert [image.size for image in (row.source_image, row.target_image)] == [(192, 96)] * 2
    config = MineConfig(min_gap=5)
    result = process_clip(ClipRef(path=path, name="v"), config)
    assert result.resized == (30,) and record(result, 0)["resized"] == [30] and result.pairs
    assert {decode_image(frame.image, "image").size for frame in result.keyframes} == {(192, 96)}
    assert result.cuts == () and any(frame.index >= 30 for frame in result.keyframes)
    assert process_clip(ClipRef(path=sized_video(tmp_path / "w.mkv", [(192, 96)] * 20), name="w"), config).resized == ()


@pytest.mark.parametrize("cuts", [True, False])
def test_no_pair_is_of_images_of_two_shapes(tmp_path, cuts):
    path = sized_video(tmp_path / "v.mkv", [(192, 96)] * 30 + [(96, 192)] * 30)
    with pytest.raises(UnusableError, match="shape_changes"):
        transition_of(LabelledClip(ClipRef(path=path, name="v"), "turn the phone"))
    result = process_clip(ClipRef(path=path, name="v"), MineConfig(min_gap=5, cuts=cuts))
    assert result.resized == (30,) and result.pairs
    for pair in result.pairs:
        first, second = (result.keyframes[i] for i in pair)
        assert (first.index < 30) == (second.index < 30)
        assert decode_image(first.image, "image").size == decode_image(second.image, "image").size


@pytest.mark.parametrize(
    ("suffix", "ticks", "seconds"),
    [
        ("mp4", [20 * n + 6000 * (n >= 30) for n in range(60)], 12.0),  # the clock jumps 10 s on
        ("mp4", [20 * n + 600_000 * (n >= 30) for n in range(60)], 1002.0),
        ("mkv", [20 * n + 6000 * (n >= 30) for n in range(60)], 12.0),
        ("ts", [20 * n + 300 * (n >= 30) for n in range(60)], 2.5),
        ("mp4", STEADY[:45], 1.5),
    ],
)
def test_the_last_frame_lasts_as_long_as_others_whatever_the_clock_did(tmp_path, suffix, ticks, seconds):
    path = counting_video(tmp_path / f"v.{suffix}", ticks)
    result = process_clip(ClipRef(path=path, name="v"), MineConfig(min_gap=5, cuts=False))
    assert result.duration == pytest.approx(seconds, abs=0.01)


@pytest.mark.parametrize("begins", [0, 600 * 3600])  # 600ths of a second at which the clock of the first part begins
def test_recordings_one_after_the_other_in_a_stream_go_on_at_the_usual_pace(tmp_path, begins):
    """Two in a file, each with a clock of its own: 4 s, and of a part of them the frames that are on screen then."""
    first, second = (
        counting_video(tmp_path / f"{late}.ts", [late + tick for tick in STEADY[:60]]) for late in (begins, 0)
    )
    path = tmp_path / "both.ts"
    path.write_bytes(first.read_bytes() + second.read_bytes())
    result = process_clip(ClipRef(path=path, name="v"), MineConfig(min_gap=5, cuts=False))
    assert (result.frames, result.duration) == (120, pytest.approx(4.0, abs=0.01))
    row = transition_of(LabelledClip(ClipRef(path=path, name="v", start=1.0, stop=3.0), "count"))
    assert (number_on(row.source_image), number_on(row.target_image)) == (30, 29)
    assert (row.frame_source, row.frame_target) == (30, 89)

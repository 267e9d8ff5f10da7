"""From one's own images, in memory or in files of any kind, to rows that training reads."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from loopback import JsonHandler, listening
from PIL import Image, ImageFile
from typer.testing import CliRunner

import retrodict
from retrodict import images
from retrodict.cli import app
from retrodict.data import Columns, image_pairs, transitions
from retrodict.evaluation import benchmarks
from retrodict.files import visible
from retrodict.images import encode_png, image_bytes, read_image
from retrodict.models.protocol import Explanation, LogProb
from retrodict.training.data import stored_transitions
from retrodict.transitions import Transition, read_transitions, write_rows
from retrodict.video import MineConfig, process_clip
from retrodict.video.clips import folder_clips

RGB = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
GREY = np.repeat(RGB[..., :1], 3, 2)
RED, GREEN, WHITE = (np.full((6, 8, 3), colour, np.uint8) for colour in ((255, 0, 0), (0, 255, 0), (255, 255, 255)))
OPAQUE = np.dstack([RGB, np.full((6, 8), 255, np.uint8)])


def saved(image: Image.Image, suffix: str = ".png", **options: Any) -> Callable[[Path], Path]:
    def save(folder: Path) -> Path:
        path = folder / f"image{suffix}"
        image.save(path, **options)
        return path

    return save


def palette(index: int) -> Image.Image:
    image = Image.new("P", (8, 6), index)
    image.putpalette([255, 0, 0, 0, 255, 0])
    return image


UPSIDE_DOWN = Image.Exif()
UPSIDE_DOWN[0x0112] = 3

# How an image may come, and the 8-bit RGB that it is.
FILES = {
    "8 bits": (saved(Image.fromarray(RGB)), RGB),
    "grey": (saved(Image.fromarray(RGB[..., 0])), GREY),
    "16 bits": (saved(Image.fromarray(RGB[..., 0].astype(np.uint16) * 257)), GREY),
    "floats": (saved(Image.fromarray((RGB[..., 0] / 255).astype(np.float32)), ".tiff"), GREY),
    "a palette": (saved(palette(1)), GREEN),
    "a palette with a transparent colour": (saved(palette(1), transparency=1), WHITE),
    "transparent": (saved(Image.new("RGBA", (8, 6), (255, 0, 0, 0))), WHITE),
    "grey and transparent": (saved(Image.new("LA", (8, 6), (0, 0))), WHITE),
    "four inks": (saved(Image.new("CMYK", (8, 6), (0, 255, 255, 0)), ".tiff"), RED),
    "held upside down": (saved(Image.fromarray(RGB[::-1, ::-1].copy()), exif=UPSIDE_DOWN), RGB),
    "animated": (
        saved(Image.fromarray(RED), ".gif", save_all=True, append_images=[Image.fromarray(GREEN)]),
        RED,
    ),
}
IN_MEMORY = {
    "PIL": (Image.fromarray(RGB), RGB),
    "PIL, held upside down": (Image.open, RGB),  # opened in the test, as an open file
    "bytes": (encode_png(Image.fromarray(RGB)), RGB),
    "a bytearray": (bytearray(encode_png(Image.fromarray(RGB))), RGB),
    "an array": (RGB, RGB),
    "an array, channels first": (RGB.transpose(2, 0, 1), RGB),
    "an array with alpha": (OPAQUE, RGB),
    "a grey array": (RGB[..., 0], GREY),
    "a grey array with an axis": (RGB[..., :1], GREY),
    "an array of 16 bits": (RGB.astype(np.uint16) * 257, RGB),
    "an array of floats": (RGB / 255, RGB),
    "a tensor": (torch.from_numpy(RGB), RGB),
    "a tensor of floats": ((torch.from_numpy(RGB).permute(2, 0, 1) / 255).requires_grad_(), RGB),
}


class Spy:
    """An inverse model that keeps what it is shown."""

    def explain(self, pairs: Sequence[tuple[Image.Image, Image.Image]]) -> list[Explanation]:
        self.shown = [image for pair in pairs for image in pair]
        return [Explanation("wait", LogProb(-1, 1)) for _ in pairs]


@pytest.mark.parametrize("kind", [*FILES, *IN_MEMORY])
def test_every_way_in_reads_the_same_image(kind: str, tmp_path: Path) -> None:
    image: Any
    if kind in FILES:
        make, expected = FILES[kind]
        image = make(tmp_path)
        (tmp_path / "list.jsonl").write_text(
            json.dumps({"input": image.name, "output": image.name, "instruction": "x"})
        )
        (row,) = transitions(image_pairs(tmp_path / "list.jsonl"), Counter())
        assert np.array_equal(row.source_image, expected), "import"
    else:
        image, expected = IN_MEMORY[kind]
        if image is Image.open:
            image = Image.open(FILES["held upside down"][0](tmp_path))
    assert np.array_equal(read_image(image), expected)
    spy = Spy()
    retrodict.explain(image, image, model=spy)  # type: ignore[arg-type]  # all that is asked of it
    assert all(np.array_equal(shown, expected) for shown in spy.shown), "explain"
    retrodict.write_pairs(tmp_path / "out", [(image, image, "wait")])
    (row,) = read_transitions(tmp_path / "out")
    trained = stored_transitions(tmp_path / "out")[0]
    for side in (row.source_image, row.target_image, trained.source_image):
        assert np.array_equal(side, expected), "write_pairs"


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.full((6, 8, 3), 7.0), "has pixels from 7 to 7: floats go from 0 (black) to 1 (white)"),
        (np.full((6, 8), np.nan), "has pixels from nan to nan"),
        (np.zeros((6, 8, 3), np.int64), "has pixels of int64: give uint8"),
        (np.zeros((2, 6, 8, 3), np.uint8), "must be an array [H, W, 3], [3, H, W] or [H, W], and is [2, 6, 8, 3] of"),
        (np.zeros((3, 8, 3), np.uint8), "is [3, 8, 3] of uint8"),  # either of two things
        (torch.zeros(6, 0, 3), "is [6, 0, 3] of float32"),
        (Image.new("F", (4, 4), 7.0), "has pixels from 7 to 7"),
        (Image.new("I", (4, 4), 70000), "has pixels of 32 bits"),
        ("http://127.0.0.1:9/a.png", "http://127.0.0.1:9/a.png cannot be downloaded"),
        ("file:///nowhere/a.png", "file:///nowhere/a.png cannot be downloaded"),
        (object(), "is a object: give a path"),
    ],
)
def test_what_is_not_clear_is_refused_in_a_line(image: Any, message: str) -> None:
    with pytest.raises(ValueError) as error:
        read_image(image)
    assert message in str(error.value) and len(str(error.value)) < 200


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(rows: int, interlace: int = 0, **changes: int) -> bytes:
    """A black PNG of 8 x 6 pixels that has so many of its rows; `damage` is the position of a byte that is flipped."""
    head = struct.pack(">IIBBBBB", 8, 6, 8, 0, 0, 0, interlace)
    pixels = zlib.compress(bytes(9 * rows if not interlace else rows))
    made = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return made if "damage" not in changes else bytes(byte ^ (i == changes["damage"]) for i, byte in enumerate(made))


WHOLE = png(6)
DAMAGED = {
    "rows": (png(3), "rows of it are missing"),
    "rows of a pass": (png(51, interlace=1), "rows of it are missing"),
    "data": (png(6, damage=WHOLE.index(b"IDAT") + 6), "its IDAT is damaged"),
    "checksum": (png(6, damage=WHOLE.index(b"IEND") - 5), "its IDAT is damaged"),
    "end": (WHOLE[:-4], "the file is cut off"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_png_that_was_damaged_is_refused_by_every_way_in(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where another library told Pillow to show what there is. The passes of an interlaced one: 60 bytes."""
    data, message = DAMAGED[kind]
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    path = tmp_path / "a.png"
    path.write_bytes(data)
    for image in (path, data):
        with pytest.raises(ValueError, match=f"is a broken image: {message}"):
            read_image(image)
    good = Image.fromarray(RGB)
    for call in (
        lambda: retrodict.explain(path, good, model=Spy()),  # type: ignore[arg-type]
        lambda: retrodict.predict(str(path), "go", model="nothing"),
        lambda: retrodict.write_pairs(tmp_path / "out", [(good, path, "go")]),
        lambda: benchmarks.read_folder(tmp_path),
    ):
        (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "action": "go"}')
        with pytest.raises(ValueError, match=re.escape("a.png") + ".*is a broken image"):
            call()
    (tmp_path / "list.jsonl").write_text('{"input": "a.png", "output": "a.png", "instruction": "go"}')
    dropped: Counter[str] = Counter()
    assert not list(transitions(image_pairs(tmp_path / "list.jsonl"), dropped)) and dropped == {"broken_image": 1}
    with pytest.raises(ValueError, match="source of x is a broken image"):
        _ = Transition(id="x", source=data).source_image
    assert np.array_equal(read_image(WHOLE), 0 * RGB) and np.array_equal(read_image(png(60, interlace=1)), 0 * RGB)
    assert ImageFile.LOAD_TRUNCATED_IMAGES


def test_an_image_is_read_by_its_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = FILES["held upside down"][0](tmp_path)
    assert np.array_equal(read_image(file.as_uri()), RGB)

    class Files(SimpleHTTPRequestHandler):
        log_message = JsonHandler.log_message

        def __init__(self, *given: Any) -> None:
            super().__init__(*given, directory=str(tmp_path))

    with listening(Files) as address:
        url = f"{address}/{file.name}"
        assert np.array_equal(read_image(url), RGB)
        assert image_bytes(url) == file.read_bytes()
        result = CliRunner().invoke(app, ["explain", url, url, "--model", "small"])
        assert result.exit_code == 0, result.output
        with pytest.raises(ValueError, match=r"none\.png cannot be downloaded: HTTP Error 404"):
            read_image(f"{address}/none.png")
        monkeypatch.setattr(images, "_BYTES", 10)
        with pytest.raises(ValueError, match="save it, and scale it down first"):
            read_image(url)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "list.jsonl").write_text('{"input": "pipe.png", "output": "pipe.png", "instruction": "go"}')
    with pytest.raises(ValueError, match=r"pipe\.png is a pipe or a device: give a file"):
        read_image(tmp_path / "pipe.png")
    left_out = Counter[str]()
    assert not list(transitions(image_pairs(tmp_path / "list.jsonl"), left_out)) and left_out == {"missing_image": 1}


def test_too_many_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    image = encode_png(Image.fromarray(RGB))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(ValueError, match=r"The image has more than 0 million pixels: scale it down first"):
        read_image(image)


def test_pairs_out_of_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    pairs: list[Any] = [
        (RED, GREEN, "turn green", "episode 1", "colour"),
        {"source": GREEN, "target": RED, "action": " turn red ", "id": "back"},
        (RED, GREEN, "turn green", "episode 2"),  # seen before
        (RED, GREEN, "grow leaves"),
    ]

    def interrupted() -> Any:
        yield from pairs[:3]
        raise KeyboardInterrupt

    monkeypatch.setattr("retrodict.data.convert._ITEMS", 1)
    with pytest.raises(KeyboardInterrupt):
        retrodict.write_pairs(out, interrupted())
    for _ in range(2):  # goes on, and then has nothing left to do
        assert retrodict.write_pairs(str(out), pairs) == {"repeated_id": 1}
        rows = read_transitions(out)
        assert [(row.action, row.group, row.category) for row in rows] == [
            ("turn green", "episode 1", "colour"),
            ("turn red", "", ""),
            ("grow leaves", "", ""),
        ]
        assert rows[1].id == "back" and len({row.cluster for row in rows}) == 3
        assert json.loads((out / "left_out.jsonl").read_text()) == {"id": rows[0].id, "reason": "repeated_id"}
    for number, action in enumerate((0, ["go"], None)):
        with pytest.raises(ValueError, match="Pair 0 has no action"):
            retrodict.write_pairs(tmp_path / f"no action {number}", [(RED, GREEN, action)])
    with pytest.raises(ValueError, match="Pair 0 is a str"):
        retrodict.write_pairs(tmp_path / "no pair", ["abc"])
    retrodict.write_pairs(tmp_path / "zero", [(RED, GREEN, "go", 0), (GREEN, RED, "stay", 0, math.nan)])
    assert [(row.group, row.category) for row in read_transitions(tmp_path / "zero")] == [("0", ""), ("0", "")]
    for other in (pairs[:2], [*pairs, (RED, WHITE, "fade")]):
        with pytest.raises(ValueError, match="holds other pairs than these and is finished"):
            retrodict.write_pairs(out, other)
    assert len(read_transitions(out)) == 3


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ((RED, GREEN), "Pair 1 has no action"),
        ((RED, GREEN, " "), "Pair 1 has no action"),
        ((RED, GREEN, "go \ud800"), "The action of pair 1 holds half a character"),
        ((RED, Image.new("RGB", (0, 5)), "go"), r"The target of pair 1 is a broken image: it has no pixels \(0 x 5\)"),
        ((RED, GREEN, "go " * 1000), "The action of pair 1 is longer than 2,000 characters"),
        ((RED, GREEN, "go", "a", "b", "c"), "Pair 1 is not"),
        ({"before": RED, "after": GREEN, "action": "go"}, "it has before, after, action"),
        ((RED, np.zeros(3), "go"), "The target of pair 1 must be an array"),
    ],
)
def test_a_pair_that_is_none_is_named(pair: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        retrodict.write_pairs(tmp_path / "out", [(RED, GREEN, "go"), pair])
    assert not (tmp_path / "out").exists()


def test_labels_that_are_stored_as_bytes_are_text(tmp_path: Path) -> None:
    image = encode_png(Image.fromarray(RGB))
    table = pa.table({"input": [image], "output": [image], "instruction": ["drück".encode()], "episode": [b"1"]})
    pq.write_table(table, tmp_path / "list.parquet")
    (row,) = transitions(image_pairs(tmp_path / "list.parquet", Columns(group="episode")), Counter())
    assert (row.action, row.group) == ("drück", "1")
    retrodict.write_pairs(tmp_path / "out", [(image, image, "go", b"1")])
    assert read_transitions(tmp_path / "out")[0].group == "1"


def test_links_that_lead_nowhere_are_missing_files(tmp_path: Path) -> None:
    for name in ("a.png", "clip.mp4"):
        (tmp_path / name).symlink_to(tmp_path / "gone")
    (tmp_path / "list.jsonl").write_text('{"input": "a.png", "output": "a.png", "instruction": "go"}')
    dropped: Counter[str] = Counter()
    assert not list(transitions(image_pairs(tmp_path / "list.jsonl"), dropped)) and dropped == {"missing_image": 1}
    (ref,) = folder_clips(tmp_path)
    assert process_clip(ref, MineConfig()).reason == "missing"
    for read in (read_image, image_bytes):
        with pytest.raises(FileNotFoundError, match=r"a\.png"):
            read(tmp_path / "a.png")
    with pytest.raises(FileNotFoundError, match=r"a\.png"):
        retrodict.write_pairs(tmp_path / "out", [(RED, tmp_path / "a.png", "go")])


@pytest.mark.parametrize(
    "action",
    ["\u200b", "\ufeff\u2060", "\u00ad", " \u00a0\u2003\u3000", "\u3164\u115f", "\u2800", "\ufe0f", "\u200f\u0301"],
)
def test_an_action_of_which_nothing_can_be_seen_is_none(action: str, tmp_path: Path) -> None:
    assert visible(action) == "" and "go" in visible(f"{action}go{action}")
    image = encode_png(Image.fromarray(RGB))
    with pytest.raises(ValueError, match="Pair 0 has no action"):
        retrodict.write_pairs(tmp_path / "out", [(image, image, action)])
    table = pa.table({"input": [image], "output": [image], "instruction": [action]})
    pq.write_table(table, tmp_path / "list.parquet")
    dropped: Counter[str] = Counter()
    assert not list(transitions(image_pairs(tmp_path / "list.parquet"), dropped)) and dropped == {"no_action": 1}
    rows = tmp_path / "rows"
    write_rows(rows / "a.parquet", [Transition(id="x", source=image, target=image, action=action)])
    for read in (stored_transitions, benchmarks.read_folder):
        with pytest.raises(ValueError, match="transition x has no action"):
            read(rows)


def test_a_folder_of_images_with_a_list(tmp_path: Path) -> None:
    """A CSV beside its images; whole paths where `--images /` allows them; and a list of what was left out."""
    folder, out = tmp_path / "mine", tmp_path / "out"
    folder.mkdir()
    for name, image in (("a", RED), ("b", GREEN)):
        Image.fromarray(image).save(folder / f"{name}.png")
    (folder / "broken.png").write_bytes((folder / "a.png").read_bytes()[:45])
    rows = [["a.png", "b.png", 'say "go"', "007"], ["a.png", "broken.png", "go", "8"], ["b.png", "a.png", "", "007"]]

    def run(*arguments: object) -> tuple[int, str]:
        columns = [f"--column={name}" for name in ("source=before", "target=after", "action=text", "id=nr")]
        result = CliRunner().invoke(app, ["import", "pairs", *map(str, arguments), *columns])
        return result.exit_code, result.output

    def write(rows: list[list[str]]) -> None:
        with (folder / "list.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([["before", "after", "text", "nr"], *rows])

    write(rows)
    code, said = run(folder, "--out", out)
    assert code == 0 and "1 kept; dropped: 1 broken image, 1 repeated id" in said
    assert f"{out / 'left_out.jsonl'} lists what was left out." in said
    assert [(row.id, row.action) for row in read_transitions(out)] == [("list/007", 'say "go"')]
    left_out = [json.loads(line) for line in (out / "left_out.jsonl").read_text().splitlines()]
    assert left_out == [
        {"id": "list/8", "reason": "broken_image"},
        {"id": "list/007", "reason": "repeated_id"},
    ]
    write([[str(folder / "a.png"), str(folder / "b.png"), "go", "1"]])
    other = tmp_path / "elsewhere.csv"
    (folder / "list.csv").rename(other)
    (folder / "x").mkdir()
    code, said = run(other, "--images", folder / "x", "--out", tmp_path / "whole")
    assert code == 2 and "1 outside_folder" in said and "--images /" in said
    code, said = run(other, "--images", "/", "--out", tmp_path / "whole")
    assert code == 0 and "1 kept" in said
    code, said = run(folder, "--out", tmp_path / "none")
    assert code == 2 and "one .csv, .json or .jsonl file, and has none" in said


def test_rows_that_other_programs_wrote_back(tmp_path: Path) -> None:
    """What they add or widen does no harm; what they change is named with its file."""
    retrodict.write_pairs(tmp_path / "rows", [(RED, GREEN, "go", "episode")])
    (file,) = (tmp_path / "rows").glob("*.parquet")
    table = pq.read_table(file)

    def with_column(name: str, values: pa.Array) -> pa.Table:
        return table.set_column(table.column_names.index(name), name, values)

    wide = with_column("action", pa.array(["go"], pa.large_string())).append_column("__index_level_0__", pa.array([0]))
    pq.write_table(wide, file)
    (row,) = read_transitions(tmp_path / "rows")
    assert (row.action, row.group) == ("go", "episode")
    for name, values, says in (
        ("id", pa.array([7]), "its column id is of int64, and not of string"),
        ("source", pa.array(["a.png"]), "its column source is of string"),
        ("id", pa.array([None], pa.string()), "row 0 is not as a stage writes it: it has no id"),
        ("provenance", pa.array(["["]), "row 0 is not as a stage writes it: Expecting value"),
    ):
        pq.write_table(with_column(name, values), file)
        with pytest.raises(ValueError, match=f"{re.escape(str(file))}.*{says}"):
            read_transitions(tmp_path / "rows")
    pq.write_table(table.drop_columns(["id"]), file)
    with pytest.raises(ValueError, match="it has no column id"):
        read_transitions(tmp_path / "rows")

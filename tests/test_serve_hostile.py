"""Two hundred uploads and bodies that nobody should send: the right status for each, and no memory that stays."""

from __future__ import annotations

import gc
import http.client
import io
import os
import socket
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import pytest
from PIL import Image
from serving import Fields, form, png, running, send

from retrodict.serve.app import create_app
from retrodict.serve.forms import Limits
from retrodict.serve.models import Models

LIMITS = Limits(body=200_000, pixels=40_000, arrival=3.0, answer=120.0, memory=2**25)
EDITS, GOOD = "/v1/images/edits", {"prompt": "push the red ball to the left"}


class Case(NamedTuple):
    name: str
    statuses: tuple[int, ...]
    path: str
    body: bytes
    content_type: str


def case(name: str, statuses: int | tuple[int, ...], fields: Fields, path: str = EDITS) -> Case:
    expected = (statuses,) if isinstance(statuses, int) else statuses
    return Case(name, expected, path, *form(fields))


def encoded(kind: str, side: int = 60, **options: Any) -> bytes:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (side, side, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_of(width: int, height: int, *chunks: bytes, depth: int = 8, kind: int = 2) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + chunk(b"IEND", b"")


def jpeg_of(width: int, height: int) -> bytes:
    data = bytearray(encoded("JPEG"))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def images() -> Iterator[tuple[str, int | tuple[int, ...], bytes]]:
    """Name, statuses, bytes."""
    rng = np.random.default_rng(1)
    for name, data in {
        "empty": b"",
        "text": b"hello",
        "html": b"<html><script>alert(1)</script>",
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><image href="file:///etc/passwd"/></svg>',
        "xml bomb": b'<!DOCTYPE l [<!ENTITY a "aa"><!ENTITY b "&a;&a;">]><l>&b;</l>',
        "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) run\n",
        "pdf": b"%PDF-1.7\n1 0 obj\n",
        "zip": b"PK\x03\x04" + bytes(60),
        "gzip": b"\x1f\x8b\x08" + bytes(60),
        "mp4": b"\x00\x00\x00\x18ftypmp42" + bytes(60),
        "elf": b"\x7fELF" + bytes(60),
        "pickle": b"\x80\x04\x95cos\nsystem\n(S'true'\ntR.",
        "psd": b"8BPS\x00\x01" + bytes(60),
        "ico": b"\x00\x00\x01\x00\x01\x00" + bytes(60),
        "ppm": b"P6 9 9 255\n" + bytes(243),
        "fits": b"SIMPLE  =                    T" + bytes(80),
        "zeros": bytes(5000),
        **{f"noise {i}": rng.bytes(40 + 100 * i) for i in range(24)},
    }.items():
        yield name, 415, data
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"):
        whole = encoded(kind)
        for tenths in (1, 2, 3, 4, 5):
            yield f"{kind} cut at {tenths}/10", (415, 422), whole[: len(whole) * tenths // 10]
        yield f"{kind} with noise inside", (200, 415, 422), whole[:80] + rng.bytes(400) + whole[480:]
        yield f"{kind} head alone", (415, 422), whole[:12]
    yield "PNG without pixels", 422, png_of(20, 20)
    yield "PNG whose pixels are no zlib", 422, png_of(20, 20, chunk(b"IDAT", b"nothing"))
    yield "PNG with too few pixels", (200, 422), png_of(20, 20, chunk(b"IDAT", zlib.compress(bytes(30))))
    yield "PNG of no width", (415, 422), png_of(0, 20, chunk(b"IDAT", zlib.compress(bytes(30))))
    yield "PNG of depth 7", (415, 422), png_of(20, 20, chunk(b"IDAT", zlib.compress(bytes(1220))), depth=7)
    for side in (201, 400, 5000, 20_000, 60_000, 2**31 - 1):
        pixels = chunk(b"IDAT", zlib.compress(bytes(10**6), 9))
        yield f"PNG bomb of {side}", (413, 415, 422) if side > 60_000 else 413, png_of(side, side, pixels)
    for side in (300, 5000, 65_500):
        yield f"JPEG bomb of {side}", 413, jpeg_of(side, side)
    gif = bytearray(encoded("GIF"))
    gif[6:10] = struct.pack("<HH", 65_535, 65_535)
    yield "GIF bomb", 413, bytes(gif)
    bmp = bytearray(encoded("BMP"))
    bmp[18:26] = struct.pack("<ii", 40_000, 40_000)
    yield "BMP bomb", 413, bytes(bmp)
    for name in (b"zTXt", b"iCCP", b"iTXt"):
        text = b"k\x00\x00" + zlib.compress(bytes(40_000_000), 9)
        yield f"PNG with a bomb in {name.decode()}", (200, 415, 422), png_of(9, 9, chunk(name, text))
    yield "PNG with 3,000 chunks", (200, 415, 422), png_of(9, 9, *[chunk(b"tEXt", b"a\x00b")] * 3000)


def forms() -> Iterator[Case]:
    image = png(Image.new("RGB", (24, 24)))
    fields = GOOD | {"image": image}
    wrong: dict[str, list[str]] = {
        "n": ["0", "9", "-1", "1.5", "x", "", "1e3", "9" * 30, "٣", "0x1", "1;2", "None"],
        "size": ["0x0", "99999x99999", "-1x5", "axb", "10000x10000", "1x", "1x1x1", "1024", " ", "1 x 1"],
        "seed": ["-1", "9" * 30, "NaN", "1.0", "'", "true"],
        "candidates": ["0", "65", "1000000000", "-8", "eight"],
        "verifiers": ["none", "foo", "idm,", ",", "", "idm;exact", "../idm", "__class__", "IDM"],
        "response_format": ["url", "b64", "json"],
        "output_format": ["svg", "gif", "exe", "../png"],
        "stream": ["yes", "[]"],
        "partial_images": ["4", "-1", "x"],
        "mask": ["x"],
        "promt": ["x"],
        "__proto__": ["x"],
        "image_url": ["http://127.0.0.1/"],
    }
    for name, values in wrong.items():
        for value in values:
            yield case(f"{name}={value[:9]}", 400, fields | {name: value})
    for name, words in {"empty": "", "blank": " \t\n ", "long": "push " * 500}.items():
        yield case(f"{name} prompt", 422, fields | {"prompt": words})
    yield case("a prompt of 25 kB", 400, fields | {"prompt": "x" * 25_000})
    for name, words in {
        "null": "push\0it",
        "bidi": "push \u202e it",
        "emoji": "🎱" * 50,
        "sql": "'; DROP TABLE x; --",
        "tokens": "<boi> <eos> <|endoftext|>",
        "markup": "<script>alert(1)</script>",
    }.items():
        yield case(f"a prompt with {name}", (200, 422), fields | {"prompt": words})
    yield case("no image", 400, GOOD)
    yield case("no prompt", 400, {"image": image})
    yield case("an image as text", 400, GOOD | {"image": "data:image/png;base64,AAAA"})
    yield case("a path as image", 400, GOOD | {"image": "/etc/passwd"})
    yield case("a prompt as a file", 400, {"image": image, "prompt": ("p.txt", b"push it")})
    yield case("two prompts", 400, {"image": image, "prompt": ["push it", "lift it"]})
    yield case("a mask", 400, fields | {"mask": image})
    yield case("100 fields", 400, fields | {f"x{i}": "x" for i in range(100)})
    yield case("20 files", 400, fields | {f"f{i}": ("a", b"a") for i in range(20)})
    for path, some in (("/v1/explain", {"source": image}), ("/v1/score", {"source": image, "target": image})):
        yield case(f"{path} without the rest", 400, some, path)
        broken = {**some, "target": ("a", b"a")} | ({"action": "push it"} if path == "/v1/score" else {})
        yield case(f"{path} of a broken image", 415, broken, path)
    yield case("too many alternatives", 400, {"source": image, "target": image, "alternatives": "99"}, "/v1/explain")
    yield case("no step", 400, {"image": image}, "/v1/rollout")
    yield case("17 steps", 400, {"image": image, "action": ["push it"] * 17}, "/v1/rollout")
    yield case("a plan of 5 steps", 400, {"source": image, "target": image, "steps": "5"}, "/v1/plan")
    body, kind = form(fields)
    boundary = kind.partition("boundary=")[2]
    for name, status, data, content_type in (
        ("no content type", 415, body, ""),
        ("JSON", 415, b'{"prompt": "x"}', "application/json"),
        ("urlencoded", 415, b"prompt=x", "application/x-www-form-urlencoded"),
        ("octets", 415, body, "application/octet-stream"),
        ("multipart/mixed", 415, body, f"multipart/mixed; boundary={boundary}"),
        ("no boundary", 400, body, "multipart/form-data"),
        ("another boundary", 400, body, "multipart/form-data; boundary=other"),
        ("an endless boundary", 400, body, f"multipart/form-data; boundary={'b' * 5000}"),
        ("nothing", 400, b"", kind),
        ("half a body", 400, body[: len(body) // 2], kind),
        ("a body without its end", (200, 400), body[:-6], kind),
        ("no name", 400, body.replace(b'name="prompt"', b""), kind),
        ("no disposition", 400, body.replace(b"Content-Disposition", b"X-Other"), kind),
        ("noise", 400, np.random.default_rng(2).bytes(3000), kind),
        ("headers without end", 400, f"--{boundary}\r\n".encode() + b"A: b\r\n" * 5000, kind),
        ("10,000 parts", 400, f"--{boundary}\r\n\r\n\r\n".encode() * 4000, kind),
        ("another charset", (200, 400), body, f"{kind}; charset=utf-7"),
        ("too large", 413, body + bytes(LIMITS.body), kind),
        ("four times too large", 413, body + bytes(4 * LIMITS.body), kind),
    ):
        yield Case(name, status if isinstance(status, tuple) else (status,), EDITS, data, content_type)


def all_cases() -> list[Case]:
    broken = [case(name, statuses, GOOD | {"image": ("a.png", data)}) for name, statuses, data in images()]
    return [*broken, *forms()]


@pytest.fixture(scope="module")
def port(tiny_model: Path) -> Iterator[int]:
    with running(create_app(Models(str(tiny_model)), limits=LIMITS)) as number:
        yield number


def test_all_are_refused_with_the_right_status_and_nothing_stays(port: int) -> None:
    cases = all_cases()
    assert len(cases) >= 200
    resident = []
    for _ in range(2):
        for one in cases:
            status, answer, headers = send(port, one.path, one.body, one.content_type)
            assert status in one.statuses, (one.name, status, answer)
            assert status == 200 or answer["error"]["message"].isprintable(), one.name
            assert "Traceback" not in str(answer) and headers["x-content-type-options"] == "nosniff"
        gc.collect()
        resident.append(psutil.Process().memory_info().rss)
    assert resident[1] - resident[0] < 24 * 2**20
    status, _, _ = send(port, EDITS, *form(GOOD | {"image": png(Image.new("RGB", (24, 24)))}))
    assert status == 200


def test_names_of_files_lead_nowhere(port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = png(Image.new("RGB", (24, 24)))[1]
    for name in ("../../../../tmp/x.png", "/etc/passwd", "C:\\x.png", "a\0.png", "x" * 4000, "%2e%2e%2fx", "nul", ""):
        status, answer, _ = send(port, EDITS, *form(GOOD | {"image": (name, data)}))
        assert status in (200, 400) and (status == 200 or "name" in str(answer) or not name), (name, answer)
    assert os.listdir(tmp_path) == []  # noqa: PTH208


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", EDITS, 405),
        ("PUT", EDITS, 405),
        ("DELETE", "/v1/models", 405),
        ("GET", "/v1/nothing", 404),
        ("GET", "//etc/passwd", 404),
        ("GET", "/v1/../../etc/passwd", 404),
        ("GET", "/play/../app.py", 404),
        ("GET", "/play/examples/-1.png", 404),
        ("GET", "/play/examples/99999999999999999999.png", 404),
        ("GET", "/play/examples/..%2f..%2fapp.py", 404),
        ("GET", "/play/scene?place=red%20ball", 400),
        ("GET", "/play/scene?place=red%20ball@9,9", 422),
        ("GET", "/play/scene?place=ball@0,0", 422),
        ("GET", "/play/scene?" + "place=red%20ball@0,0&" * 65, 400),
    ],
)
def test_other_ways_in(port: int, method: str, path: str, status: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, path)
    assert connection.getresponse().status == status
    connection.close()


def test_bodies_that_lie_or_never_end(port: int) -> None:
    head = f"POST {EDITS} HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    endless = b"Transfer-Encoding: chunked\r\n\r\n" + b"10000\r\n" + bytes(65536) + b"\r\n"
    for rest, expected in (
        (b"Content-Length: 99999999999999999999\r\n\r\n", b"413"),
        (b"Content-Length: -5\r\n\r\n", b"400"),
        (endless + (b"10000\r\n" + bytes(65536) + b"\r\n") * 4 + b"0\r\n\r\n", b"413"),
        (b"Content-Length: 500\r\n\r\n--b\r\n", b"408"),
    ):
        with socket.create_connection(("127.0.0.1", port), timeout=60) as wire:
            wire.sendall(head.encode() + rest)
            assert expected in wire.recv(2000).split(b"\r\n")[0]

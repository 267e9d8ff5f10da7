"""An editor behind an endpoint, against one here that fails in every way: nothing is paid twice, nothing guessed."""

from __future__ import annotations

import base64
import email
import json
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from loopback import JsonHandler, listening
from PIL import Image
from typer.testing import CliRunner

from retrodict.chat.edits import EditEndpoint
from retrodict.cli import app
from retrodict.errors import UnansweredError
from retrodict.evaluation.predictions import read_predictions
from retrodict.images import encode_png
from retrodict.loading import load
from retrodict.models.protocol import image_of
from retrodict.sampling import Sampling, SamplingError

SOURCES = [Image.new("RGB", (32, 24), colour) for colour in ("red", "lime", "blue")]
ACTIONS = ["push it", "lift it", "paint it"]


@dataclass
class Server:
    """Answers with an image of its own for every request; each takes the next fault of the script first."""

    faults: list[str] = field(default_factory=list)
    knows_format: bool = True
    url: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list)
    paid: Counter[str] = field(default_factory=Counter)  # by the request's idempotency key
    numbers: dict[str, int] = field(default_factory=dict)  # of each key, in the order in which they came
    lock: threading.Lock = field(default_factory=threading.Lock)


class Handler(JsonHandler, BaseHTTPRequestHandler):
    server_ref: Server

    def do_POST(self) -> None:
        server = self.server_ref
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        form = email.message_from_bytes(f"Content-Type: {self.headers['Content-Type']}\n\n".encode() + raw)
        parts: Any = form.get_payload()
        given = {
            str(part.get_param("name", header="content-disposition")): part.get_payload(decode=True) for part in parts
        }
        key = self.headers["Idempotency-Key"]
        with server.lock:
            server.asked.append({**given, "key": key, "path": self.path})
            fault = server.faults.pop(0) if server.faults else ""
            number = server.numbers.setdefault(key, len(server.numbers))
        if not server.knows_format and "response_format" in given:
            unknown = {"message": "Unknown parameter: 'response_format'", "param": "response_format"}
            return self.send(400, {"error": unknown})
        if fault in ("429", "500"):
            return self.send(int(fault), {"error": {"message": "later"}}, {"retry-after": "0.1"})
        if fault == "401":
            return self.send(401, {"error": {"message": "no such key"}})
        if fault == "refused":
            return self.send(400, {"error": {"message": "not this one", "code": "moderation_blocked"}})
        image = base64.b64encode(encode_png(Image.new("RGB", (48, 32), (number, 7, 7)))).decode()
        data = [{"b64_json": "???" if fault == "broken" else image}]
        body = {"created": 1, "data": data, "usage": {"input_tokens": 10, "output_tokens": 100}}
        if fault == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            return self.connection.close()
        if fault == "cut":
            whole = json.dumps(body).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(whole)))
            self.end_headers()
            self.wfile.write(whole[:40])
            self.close_connection = True
            return None
        if fault == "slow":
            self.connection.recv(1)  # until whoever asked is gone
        with server.lock:
            server.paid[key] += 1
        try:
            return self.send(200, body)
        except (BrokenPipeError, ConnectionResetError):
            return None  # it did not wait


@contextmanager
def serving(**options: Any) -> Iterator[Server]:
    server = Server(**options)
    with listening(type("Bound", (Handler,), {"server_ref": server})) as address:
        server.url = f"{address}/v1"
        yield server


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-never-to-be-written-down")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_every_image_is_asked_for_once_and_nothing_else_is_guessed(tmp_path: Path) -> None:
    with serving(faults=["429", "500"], knows_format=False) as server:
        model = load(f"edits:some/editor,quality=low,price=0.5@{server.url}", "forward")
        assert isinstance(model, EditEndpoint) and model.name == "editor"
        pools = model.sample(SOURCES, ACTIONS, 2, 0)
        greedy = model.sample(SOURCES, ACTIONS, 1, 0, Sampling(temperature=0))
        again = EditEndpoint(f"edits:some/editor,quality=low,price=0.5@{server.url}").sample(SOURCES, ACTIONS, 2, 0)
        assert len(server.paid) == 6 and set(server.paid.values()) == {1}
        assert model.usage == {
            "images": 6, "asked_now": 6, "input_tokens": 60, "output_tokens": 600, "price": 0.5, "cost_now": 3.0
        }  # fmt: skip
        assert {ask["path"] for ask in server.asked} == {"/v1/images/edits"}
        asked = server.asked[-1]
        assert (asked["model"], asked["quality"]) == (b"some/editor", b"low")
        assert asked["image"].startswith(b"\x89PNG")
        other = model.sample(SOURCES[:1], ACTIONS[:1], 1, 1)
        assert len(server.paid) == 7, "another seed, another image"
    seen = [[image_of(c).getpixel((0, 0)) for c in row] for row in pools]
    assert sorted(pixel for row in seen for pixel in row) == [(i, 7, 7) for i in range(6)]
    assert [[image_of(c).getpixel((0, 0)) for c in row] for row in again] == seen
    assert [[image_of(c).getpixel((0, 0)) for c in row] for row in greedy] == [[row[0]] for row in seen]
    assert other[0][0].image.size == (48, 32)
    assert b"sk-never" not in b"".join(file.read_bytes() for file in (tmp_path / "cache").rglob("*") if file.is_file())


@pytest.mark.parametrize("fault", ["cut", "reset", "slow"])
def test_what_was_lost_on_its_way_is_not_asked_for_again_unasked(fault: str) -> None:
    with serving(faults=[fault]) as server:
        model = EditEndpoint(f"edits:m@{server.url}", timeout=4.0, width=1)
        with pytest.raises(UnansweredError, match=r"1 of 3 images did not arrive .*the same command"):
            model.sample(SOURCES, ACTIONS, 1, 0)
        asked = Counter(ask["key"] for ask in server.asked)
        assert set(asked.values()) == {1}
        model.sample(SOURCES, ACTIONS, 1, 0)
        asked = Counter(ask["key"] for ask in server.asked)
        assert sorted(asked.values()) == [1, 1, 2], "only the lost one, and under the same key"


def test_refused_broken_and_down() -> None:
    with serving(faults=["refused"]) as server:
        model = EditEndpoint(f"edits:m@{server.url}", width=1)
        for _ in range(2):
            with pytest.raises(ValueError, match="The endpoint refuses this edit: not this one") as caught:
                model.sample(SOURCES, ACTIONS, 1, 0)
            assert not isinstance(caught.value, UnansweredError)
        assert len(server.asked) == 3, "a no is an answer like any other"
    with serving(faults=["broken"]) as server:
        model = EditEndpoint(f"edits:m@{server.url}", width=1)
        with pytest.raises(ValueError, match="not in base64"):
            model.sample(SOURCES[:1], ACTIONS[:1], 1, 0)
    with serving(faults=["401"] * 9) as server:
        model = EditEndpoint(f"edits:m@{server.url}", width=1)
        with pytest.raises(UnansweredError, match="check the key"):
            model.sample(SOURCES, ACTIONS, 1, 0)
        assert len(server.asked) == 1, "all would fare alike"
    with serving(faults=["500"] * 99) as server:
        model = EditEndpoint(f"edits:m@{server.url}", attempts=1, width=1)
        with pytest.raises(UnansweredError, match="12 of 12 images did not arrive"):
            model.sample(SOURCES, ACTIONS, 4, 0)
        assert len(server.asked) == 8, "it is given up"
    with pytest.raises(SamplingError, match="leave out the sampling options"):
        model.sample(SOURCES, ACTIONS, 1, 0, Sampling(guidance=2.0))
    wrong = {"edits:": "names no model", "edits:m,qualty=low": "is no option", "edits:m@ftp://x": "address"}
    for name, says in wrong.items():
        with pytest.raises(ValueError, match=says):
            EditEndpoint(name)
    with pytest.raises(ValueError, match="an editor behind an endpoint: it only predicts"):
        load("edits:m", "inverse")


def test_a_bench_resumes_and_pays_nothing_twice(tmp_path: Path, tiny_model: Path) -> None:
    def bench(url: str) -> Any:
        command = ["bench", "--bench", "tabletop", "--model", f"edits:m,price=0.25@{url}", "--inverse", str(tiny_model)]
        return CliRunner().invoke(
            app, [*command, "--verifier", "idm", "-n", "2", "--items", "4", "--out", str(tmp_path / "run"), "--quiet"]
        )

    with serving(faults=["", "refused", "cut", "429", ""]) as server:
        first = bench(server.url)
        assert first.exit_code == 2 and "did not arrive" in first.stderr, first.output
        second = bench(server.url)
        assert second.exit_code == 0, second.output
        assert set(server.paid.values()) == {1}
        assert len(server.paid) == 6, "two of each item, the first of which is the greedy one; none of the refused one"
        asked = len(server.asked)
        assert bench(server.url).exit_code == 0 and len(server.asked) == asked
    items = read_predictions(tmp_path / "run" / "predictions" / "m.parquet")
    reasons = [item.greedy.reason for item in items if item.greedy.reason]
    assert reasons == ["The endpoint refuses this edit: not this one"], "its item has no score, and a reason"
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["usage"]["price"] == 0.25

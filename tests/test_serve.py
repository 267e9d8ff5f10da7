"""`retrodict serve`: the official SDK, clients at once, limits, keys, and the proxy in front of an editor."""

from __future__ import annotations

import asyncio
import base64
import http.client
import io
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import openai
import pytest
import typer
import yaml
from loopback import JsonHandler, free_port, listening
from PIL import Image
from serving import TabletopEditor, form, image_in, png, post, running, send
from study_browser import wait_for

import retrodict
from retrodict.cli import app
from retrodict.images import encode_png
from retrodict.serve.app import create_app, read_keys
from retrodict.serve.engine import Engine, FullError, Work
from retrodict.serve.forms import Limits
from retrodict.serve.models import Models
from retrodict.web.safety import HEADERS
from retrodict.worlds import get_world

ROOT = Path(__file__).parents[1]
SHAPES = ("ball", "box", "cone")
ACTION = "push the red ball to the left"
LIMITS = Limits(body=200_000, pixels=40_000, arrival=60.0, answer=120.0, memory=2**25, queue=128)


@pytest.fixture(scope="module")
def models(tiny_model: Path) -> Models:
    return Models(str(tiny_model))


@pytest.fixture(scope="module")
def port(models: Models) -> Iterator[int]:
    with running(create_app(models, limits=LIMITS)) as number:
        yield number


def noise(seed: int, side: int = 24) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (side, side, 3), dtype=np.uint8))


def sdk(port: int, key: str = "none") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=key, max_retries=0)


# --- what OpenAI's SDK asks -------------------------------------------------------------------------------------


def test_the_sdk_gets_the_best_images_of_predict_in_order(port: int, tiny_model: Path) -> None:
    source = noise(0)
    prediction = retrodict.predict(source, ACTION, n=8, seed=5, model=tiny_model)
    best = sorted(range(8), key=lambda k: (-prediction.scores[k], k))
    assert len(set(prediction.scores)) > 2 and best[0] == prediction.chosen
    with sdk(port) as client:
        assert [model.id for model in client.models.list()] == [str(tiny_model)]
        for n in range(1, 9):
            given: Any = [("a.png", encode_png(source))] if n % 2 else ("a.png", encode_png(source))
            answer = client.images.edit(image=given, prompt=ACTION, n=n, model="any", extra_body={"seed": 5})
            told = (answer.model_extra or {})["retrodict"]
            assert [entry["candidate"] for entry in told["images"]] == best[:n]
            for entry, data, k in zip(told["images"], answer.data or (), best, strict=False):
                assert entry["scores"]["idm_fdm"] == pytest.approx(prediction.scores[k], abs=1e-4)
                assert image_in(data.b64_json or "").tobytes() == prediction.candidates[k].image.tobytes()
            assert (told["seed"], told["candidates"], told["verifier"]) == (5, 8, "idm_fdm")
        small = client.images.edit(
            image=("a.png", encode_png(source)),
            prompt=ACTION,
            size="64x48",
            output_format="jpeg",  # type: ignore[call-overload]
        )
        assert image_in(small.data[0].b64_json).size == (64, 48)


def test_a_stream_shows_the_best_so_far_and_ends_as_without_one(port: int) -> None:
    with sdk(port) as client:
        given: Any = {"image": ("a.png", encode_png(noise(0))), "prompt": ACTION, "n": 2, "extra_body": {"seed": 5}}
        plain = client.images.edit(**given)
        events: list[Any] = list(client.images.edit(**given, stream=True, partial_images=3))
        shapeless = {"image": ("a.png", b"none"), "prompt": ACTION}
        with pytest.raises(openai.APIStatusError, match="no image of a kind"):
            client.images.edit(**shapeless, stream=True)
    partial, last = events[:3], events[3:]
    assert [event.type for event in partial] == ["image_edit.partial_image"] * 3
    assert [event.partial_image_index for event in partial] == [0, 1, 2]
    assert [event.retrodict["candidates"] for event in partial] == [1, 2, 4]
    assert [event.type for event in last] == ["image_edit.completed"] * 2
    assert [event.b64_json for event in last] == [data.b64_json for data in plain.data or ()]


def test_other_endpoints_say_what_the_functions_say(port: int, tiny_model: Path) -> None:
    pair = {"source": png(noise(1)), "target": png(noise(2))}
    status, explained = post(port, "/v1/explain", {**pair, "alternatives": "3"})
    expected = retrodict.explain(noise(1), noise(2), model=tiny_model)
    assert status == 200 and explained["action"] == expected.action
    assert explained["logprob"] == pytest.approx(expected.logprob.sum, abs=1e-4)
    likelihoods = [entry["logprob"] for entry in explained["alternatives"]]
    assert likelihoods == sorted(likelihoods, reverse=True)
    status, scored = post(port, "/v1/score", {**pair, "action": ACTION})
    assert scored["logprob"] == pytest.approx(
        retrodict.score(noise(1), noise(2), ACTION, model=tiny_model).sum, abs=1e-4
    )
    status, rolled = post(port, "/v1/rollout", {"image": png(noise(1)), "action": [ACTION, "remove the blue box"]})
    steps = retrodict.rollout(noise(1), [ACTION, "remove the blue box"], model=tiny_model)
    shown = [image_in(step["b64_json"]).tobytes() for step in rolled["steps"]]
    assert shown == [step.image.tobytes() for step in steps]
    status, seen = post(port, "/v1/recognition", pair)
    assert np.shape(seen["grid"]) == (3, 3) and np.mean(seen["grid"]) == pytest.approx(1, abs=1e-3)
    same = post(port, "/v1/recognition", {"source": pair["source"], "target": pair["source"]})[1]
    assert np.max(same["grid"]) == 0
    status, planned = post(port, "/v1/plan", {"source": pair["source"], "target": pair["source"], "steps": "1"})
    assert (status, planned["reached"], planned["steps"]) == (200, True, [])


# --- many at once ----------------------------------------------------------------------------------------------


def test_64_clients_at_once_each_get_their_own_answer(port: int, tiny_model: Path) -> None:
    sources = [noise(seed) for seed in range(64)]
    actions = [f"turn the red {shape} into a {other}" for shape in SHAPES for other in SHAPES] * 8
    expected = retrodict.predict_batch(sources, actions[:64], model=tiny_model)

    def ask(i: int) -> bytes:
        status, answer = post(port, "/v1/images/edits", {"image": png(sources[i]), "prompt": actions[i]})
        assert status == 200, answer
        return image_in(answer["data"][0]["b64_json"]).tobytes()

    with ThreadPoolExecutor(64) as pool:
        assert list(pool.map(ask, range(64))) == [prediction.image.tobytes() for prediction in expected]


class Slow:
    """Work that waits for a go, and remembers its batches."""

    def __init__(self) -> None:
        self.begun, self.go, self.batches = threading.Event(), threading.Event(), list[list[str]]()

    def do(self, items: list[str]) -> list[str]:
        self.begun.set()
        self.go.wait(60)
        self.batches.append(items)
        if any(item.startswith("bad") for item in items):
            raise ValueError("bad")
        return [item.upper() for item in items]


def test_clients_take_turns_and_whoever_left_is_left_out() -> None:
    async def run() -> tuple[list[Any], list[list[str]]]:
        slow, engine = Slow(), Engine(6)
        work = Work(slow.do, (), 4)
        first = asyncio.ensure_future(engine.run(work, "first", "x"))
        await asyncio.to_thread(slow.begun.wait, 60)  # its batch runs now: the others wait
        greedy = [asyncio.ensure_future(engine.run(work, f"a{i}", "a")) for i in range(6)]
        await asyncio.sleep(0)
        with pytest.raises(FullError):
            await engine.run(work, "a6", "a")
        late = [
            asyncio.ensure_future(engine.run(work, name, name)) for name in ("b", "bad", "c")
        ]  # make the last leave
        await asyncio.sleep(0)
        late[2].cancel()
        await asyncio.wait(late[2:])
        slow.go.set()
        answers = await asyncio.gather(first, *greedy, *late, return_exceptions=True)
        await asyncio.to_thread(engine.close)
        return list(answers), slow.batches

    answers, batches = asyncio.run(run())
    assert answers[:4] == ["FIRST", "A0", "A1", "A2"] and answers[7] == "B"
    assert [type(answer) for answer in answers[4:7]] == [FullError] * 3 and type(answers[8]) is ValueError
    assert isinstance(answers[9], asyncio.CancelledError)
    assert batches[1] == ["a0", "b", "bad", "a1"]  # in turn; it failed, so each was run alone
    assert batches[2:6] == [["a0"], ["b"], ["bad"], ["a1"]] and batches[6] == ["a2"]


def test_a_full_queue_says_when_to_come_again(models: Models) -> None:
    with running(create_app(models, limits=Limits(queue=1))) as port, ThreadPoolExecutor(24) as pool:
        body, kind = form({"image": png(noise(0)), "prompt": ACTION, "candidates": "64"})
        answers = list(pool.map(lambda _: send(port, "/v1/images/edits", body, kind), range(24)))
    statuses = {status for status, _, _ in answers}
    assert statuses == {200, 429}
    assert all(int(headers["retry-after"]) >= 1 for status, _, headers in answers if status == 429)


def test_what_a_client_leaves_behind_is_not_computed(models: Models) -> None:
    app = create_app(models)
    engine = app.state.service.engine
    blocker = Slow()
    with running(app) as port:
        blocking = threading.Thread(target=lambda: asyncio.run(engine.run(Work(blocker.do), "x", "x")))
        blocking.start()
        body, kind = form({"image": png(noise(0)), "prompt": ACTION})
        left = socket.create_connection(("127.0.0.1", port))
        head = (
            f"POST /v1/images/edits HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}"
        )
        left.sendall(f"{head}\r\n\r\n".encode() + body)
        until(lambda: engine.waiting == 1)
        left.close()
        until(lambda: engine.waiting == 0)
        blocker.go.set()
        blocking.join()
        told = get(port, "/metrics")[1].decode()
    assert 'retrodict_requests_total{route="/v1/images/edits",status="499"} 1' in told
    assert "retrodict_candidates_total 0" in told and "retrodict_held_bytes 0" in told


def get(port: int, path: str, host: str = "localhost") -> tuple[int, bytes, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    try:
        connection.request("GET", path, headers={"Host": host})
        answer = connection.getresponse()
        return answer.status, answer.read(), dict(answer.getheaders())
    finally:
        connection.close()


def until(condition: Any) -> None:
    for _ in range(6000):  # at least a minute
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it never came to be")


# --- keys, hosts, headers --------------------------------------------------------------------------------------


def test_keys_hosts_and_headers(models: Models, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("# ours\n\nsk-one\nsk-two\n")
    fields = {"image": png(noise(0)), "prompt": ACTION}
    with running(create_app(models, keys=read_keys(tmp_path / "keys"))) as port:
        for key, status in (("", 401), ("Bearer sk-on", 401), ("Basic sk-one", 401), ("Bearer sk-two", 200)):
            assert post(port, "/v1/images/edits", fields, Authorization=key)[0] == status
        assert (
            post(port, "/v1/images/edits", fields, Authorization="Bearer sk-two", Origin="https://evil.org")[0] == 403
        )
        for path, host, status in (
            ("/healthz", "localhost", 200),
            ("/healthz", "evil.org", 400),
            ("/metrics", "", 401),
        ):
            answer = get(port, path, host or "127.0.0.1")
            assert answer[0] == status
            assert {name.lower(): value for name, value in HEADERS.items()}.items() <= answer[2].items()
        with pytest.raises(openai.AuthenticationError), sdk(port, "sk-no") as client:
            client.models.list()
    (tmp_path / "none").write_text("# nothing\n")
    with pytest.raises(ValueError, match="holds no keys"):
        read_keys(tmp_path / "none")


# --- in front of another editor --------------------------------------------------------------------------------


def test_the_proxy_gives_what_predict_gives(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    world = get_world("tabletop")
    rows = world.sample(4, 0, namespace="serve-test")
    with listening(TabletopEditor) as address:
        name = f"edits:editor@{address}/v1"
        with pytest.raises(ValueError, match="--inverse"):
            Models(name)
        expected = [retrodict.predict(r.source, r.action, verifier="idm", model=name, inverse="small") for r in rows]
        (kept,) = tmp_path.rglob("*.sqlite")
        kept.unlink()
        with running(create_app(Models(name, "small"))) as port, ThreadPoolExecutor(4) as pool, sdk(port) as client:

            def ask(row: Any) -> Any:
                return client.images.edit(image=("s.png", row.source), prompt=row.action, n=1)

            answers = list(pool.map(ask, rows))
        assert not list(tmp_path.rglob("*.sqlite"))  # nothing was kept
    for answer, prediction in zip(answers, expected, strict=True):
        assert image_in(answer.data[0].b64_json).tobytes() == prediction.image.tobytes()


def test_faults_of_the_editor_are_errors_and_never_images() -> None:
    class Broken(JsonHandler, BaseHTTPRequestHandler):
        answer: tuple[int, Any] = (200, {})

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send(*self.answer)

    fields = {"image": png(noise(0)), "prompt": ACTION}
    faults = [
        (401, {"error": {"message": "no such key"}}, 502),
        (400, {"error": {"message": "not this one", "code": "moderation_blocked"}}, 422),
        (200, {"data": [{"b64_json": "???"}]}, 422),
        (200, {"data": []}, 502),
        (200, {"data": [{"b64_json": "aGVsbG8="}]}, 422),
    ]
    with listening(Broken) as address, running(create_app(Models(f"edits:e@{address}/v1", "small"))) as port:
        for status, body, expected in faults:
            Broken.answer = status, body
            told, answer = post(port, "/v1/images/edits", fields)
            assert told == expected and "error" in answer, (body, told, answer)


def test_an_editor_shows_what_has_come_and_is_let_go_when_nobody_waits() -> None:
    class Slowly(JsonHandler, BaseHTTPRequestHandler):
        """Answers one image, and keeps whoever asks for the others waiting."""

        first, left = True, 0
        lock = threading.Lock()

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            with self.lock:
                first, Slowly.first = Slowly.first, False
            if first:
                data = png(noise(3))[1]
                self.send(200, {"data": [{"b64_json": base64.b64encode(data).decode()}]})
            elif not self.connection.recv(1):  # until the other side is gone
                with self.lock:
                    Slowly.left += 1

    with listening(Slowly) as address, running(create_app(Models(f"edits:e@{address}/v1", "small"))) as port:
        with sdk(port) as client:
            given: Any = {"image": ("a.png", encode_png(noise(0))), "prompt": ACTION}
            with client.images.edit(**given, stream=True, partial_images=1) as stream:
                event: Any = next(iter(stream))
        assert event.type == "image_edit.partial_image"
        assert image_in(event.b64_json).tobytes() == noise(3).tobytes()
        until(lambda: Slowly.left == 7)


# --- the end ---------------------------------------------------------------------------------------------------


def test_term_answers_what_was_begun(tiny_model: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "retrodict", "serve", "--model", str(tiny_model), "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    wait_for(port, process)
    body, kind = form({"image": png(noise(0, 96)), "prompt": ACTION, "candidates": "64", "n": "8"})
    with ThreadPoolExecutor(12) as pool:
        answers = [pool.submit(send, port, "/v1/images/edits", body, kind) for _ in range(12)]

        def all_are_in() -> bool:
            done = sum(answer.done() for answer in answers)
            lines = get(port, "/metrics")[1].decode().splitlines()
            held = next(int(line.split()[1]) for line in lines if line.startswith("retrodict_held_bytes "))
            return held >= (len(answers) - done) * len(body)

        until(all_are_in)
        process.send_signal(signal.SIGTERM)
        statuses = [answer.result()[0] for answer in answers]
    assert statuses == [200] * 12
    assert process.wait(120) in (0, -signal.SIGTERM)
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", port), timeout=1)


# --- what the documents tell people to type --------------------------------------------------------------------


def test_the_examples_of_the_docs_work(port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "serve.md").read_text(encoding="utf-8").replace("127.0.0.1:8000", f"127.0.0.1:{port}")
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE)
    (code,) = (text for language, text in blocks if language == "python")
    exec(compile(code, "serve.md", "exec"), {"open": open_and_close})
    assert Path("next.png").read_bytes().startswith(b"\x89PNG")
    (curls,) = (text for language, text in blocks if language == "sh")
    answers = []
    for line in curls.splitlines():
        path, fields = curled(shlex.split(line))
        status, answer = post(port, path, fields)
        assert status == 200, (line, answer)
        answers.append(answer)
    assert [len(answers[0]["data"]), len(answers[3]["steps"])] == [3, 2]
    (compose,) = (yaml.safe_load(text) for language, text in blocks if language == "yaml")
    commands = [
        line.partition(" #")[0] for _, text in blocks for line in text.splitlines() if line.startswith("retrodict ")
    ]
    commands.append(compose["services"]["retrodict"]["command"])
    commands.append(" ".join(json.loads((ROOT / "Dockerfile").read_text().rpartition("CMD ")[2])))
    assert len(commands) >= 5
    for command in commands:
        _, verb, *arguments = shlex.split(command)
        typer.main.get_command(app).commands[verb].make_context(verb, arguments)  # type: ignore[attr-defined]


def test_the_dockerfile_copies_what_there_is_and_is_let_through() -> None:
    """No image is built here: paths, extras and the check of health are looked at."""
    text = re.sub(r"\\\n\s*", " ", (ROOT / "Dockerfile").read_text())
    lines = [line.split(" ", 1) for line in text.splitlines() if line and not line.startswith("#")]
    words = ("FROM", "RUN", "WORKDIR", "COPY", "USER", "ENV", "EXPOSE", "HEALTHCHECK", "CMD")
    assert lines[0][0] == "FROM" and {verb for verb, _ in lines} == {*words}
    assert [verb for verb, _ in lines].index("USER") < len(lines) - 1  # what serves is not root
    ignored, *let_through = (ROOT / ".dockerignore").read_text().split()
    for names in (rest.split()[:-1] for verb, rest in lines if verb == "COPY"):
        for name in names:
            assert (ROOT / name).exists() and ignored == "*" and f"!{name}" in let_through
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (asked,) = re.findall(r"'\.\[([\w,]+)\]'", text)
    assert {*asked.split(",")} <= extras.keys()
    (check,) = re.findall(r'HEALTHCHECK .*CMD python -c "(.*)"', text)
    compile(check, "HEALTHCHECK", "exec")


def open_and_close(path: str, mode: str) -> Any:
    """As the example writes it: a file that nobody closes, which would be a warning here."""
    return io.BytesIO(Path(path).read_bytes()) if mode == "rb" else Written(path)


class Written(io.BytesIO):
    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = Path(path)

    def write(self, data: Any) -> int:
        return self.path.write_bytes(data)


def curled(words: list[str]) -> tuple[str, dict[str, Any]]:
    """Path and fields of a command of curl."""
    fields: dict[str, Any] = {}
    for flag, value in zip(words[1:-1:2], words[2:-1:2], strict=True):
        assert flag == "-F"
        name, _, text = value.partition("=")
        if text.startswith("@"):
            fields[name] = (text[1:], Path(text[1:]).read_bytes())
        else:
            fields[name] = [*fields.get(name, []), text]
    return urlsplit(words[-1]).path, fields


def test_play_opens_the_browser_once_it_listens(tiny_model: Path, tmp_path: Path) -> None:
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\ncurl -s -o {tmp_path}/page.html "$1"\n')
    browser.chmod(0o755)
    command = [sys.executable, "-m", "retrodict", "play", "--model", str(tiny_model)]
    environment = os.environ | {"BROWSER": str(browser)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            until((tmp_path / "page.html").is_file)
            until(lambda: "</html>" in (tmp_path / "page.html").read_text(encoding="utf-8"))
        finally:
            process.send_signal(signal.SIGINT)
        assert process.stdout is not None and "Playground: http://127.0.0.1:" in process.stdout.read()

"""Judges behind an endpoint, against a real server on loopback that misbehaves in every way that servers do."""

from __future__ import annotations

import hashlib
import json
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from loopback import JsonHandler, listening
from PIL import Image
from typer.testing import CliRunner

from retrodict.bootstrap.annotate import annotate
from retrodict.chat.cache import open_cache
from retrodict.chat.client import usage
from retrodict.chat.cost import Budget, Prices
from retrodict.chat.endpoint import Endpoint, RefusedError
from retrodict.chat.inverse import ChatInverse
from retrodict.chat.parsing import Reason
from retrodict.chat.request import Settings
from retrodict.cli import app
from retrodict.evaluation.bench import score_images, write_predictions
from retrodict.evaluation.judge.chat import ChatJudge
from retrodict.evaluation.judge.protocol import Question, Verdict
from retrodict.evaluation.pool import exact_scorer
from retrodict.files import write_json
from retrodict.images import encode_png
from retrodict.loading import load
from retrodict.prompts.chat import load_chat_prompt
from retrodict.report import write_report
from retrodict.transitions import read_transitions, write_rows
from retrodict.worlds import get_world, tabletop

SCORER = exact_scorer(get_world("tabletop"))

KEY = "sk-never-to-be-written-down"
GOOD = '{"score": [8, 9], "reasoning": "fine"}'
PROMPT = load_chat_prompt("paper_fig10_v1")


@dataclass
class Server:
    """Answers by the instruction: each attempt takes the next of its `script`, the last one for ever."""

    script: dict[str, list[Any]] = field(default_factory=dict)
    slow: float = 0.0
    needs: dict[str, str] = field(default_factory=dict)  # parts of a request that are refused with 400
    url: str = ""
    asked: list[tuple[str, float]] = field(default_factory=list)  # instruction and time of every request
    answered: Counter[str] = field(default_factory=Counter)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    under_way: int = 0
    most_under_way: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, instruction: str) -> Any:
        with self.lock:
            steps = self.script.get(instruction) or self.script.get("*") or [GOOD]
            return steps.pop(0) if len(steps) > 1 else steps[0]

    @property
    def counts(self) -> Counter[str]:
        return Counter(instruction for instruction, _ in self.asked)


def completion(text: Any, **choice: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": text, **choice.pop("message", {})}
    return {
        "id": "x",
        "object": "chat.completion",
        "model": "fake-1",
        "choices": [{"index": 0, "finish_reason": "stop", "message": message, **choice}],
        "usage": {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100},
    }


def images(body: dict[str, Any]) -> list[str]:
    return [p["image_url"]["url"] for p in body["messages"][-1]["content"] if p["type"] == "image_url"]


class Handler(JsonHandler, BaseHTTPRequestHandler):
    server_ref: Server

    def do_POST(self) -> None:
        server = self.server_ref
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = "".join(p.get("text", "") for p in body["messages"][-1]["content"])
        instruction = text.rpartition("instruction: ")[2].strip()
        with server.lock:
            server.asked.append((instruction, time.monotonic()))
            server.bodies.append(body)
            server.under_way += 1
            server.most_under_way = max(server.most_under_way, server.under_way)
        try:
            time.sleep(server.slow)
            self.answer(body, server, instruction)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the client was killed
        finally:
            with server.lock:
                server.under_way -= 1

    def answer(self, body: dict[str, Any], server: Server, instruction: str) -> None:
        for part, message in server.needs.items():
            if part in body:
                return self.send(400, {"error": {"message": message, "type": "invalid_request_error", "param": part}})
        step = server.take(instruction)
        if isinstance(step, tuple):
            return self.send(*step)
        if step == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()
            return None
        if step == "half a body":
            raw = json.dumps(completion(GOOD)).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw[: len(raw) // 2])
            self.close_connection = True
            return None
        if step == "sees":  # a judge that knows whether anything changed
            step = GOOD if len(set(images(body))) == 2 else '{"score": [0, 10], "reasoning": "nothing changed"}'
        if step == "compares":  # likes what differs from the source
            source, first, second = images(body)
            choice = "tie" if (first == source) == (second == source) else "second" if first == source else "first"
            step = json.dumps({"choice": choice, "reasoning": ""})
        if step == "hang":
            self.connection.recv(1)  # until whoever asked is gone
        server.answered[instruction] += 1
        return self.send(200, step if isinstance(step, dict) else completion(step))


@contextmanager
def serving(**options: Any) -> Iterator[Server]:
    server = Server(**options)
    with listening(type("Bound", (Handler,), {"server_ref": server})) as address:
        server.url = f"{address}/v1"
        yield server


def image(shade: int) -> bytes:
    return encode_png(Image.new("RGB", (32, 24), (shade, 0, 0)))


def ask(
    server: Server,
    cache: Path,
    *actions: str,
    budget: Budget | None = None,
    width: int = 4,
    again: tuple[Reason, ...] = (),
    **settings: Any,
) -> tuple[dict[str, Verdict], ChatJudge]:
    asked = Settings(model="fake", served=server.url, **settings)
    questions = [Question(action, image(10), action, image(20)) for action in actions]
    with open_cache(cache) as answers:

        def source() -> Endpoint:
            return Endpoint(asked, timeout=5.0, attempts=4, slowest=0.05)

        judge = ChatJudge(PROMPT, asked, answers, source=source, width=width, budget=budget, again=again)
        return dict(zip(actions, judge.score(questions), strict=True)), judge


ERROR = {"message": f"overloaded {KEY}", "type": "server_error"}
MISBEHAVIOUR: dict[str, tuple[list[Any], tuple[float, float] | str, int]] = {
    # instruction: what the server does, what must come out (scores or reason), requests it may take
    "good": ([GOOD], (8, 9), 1),
    "prose": (['Sure! Here it is:\n```json\n{"score": [3, 10], "reasoning": "[0, 0]"}\n``` Done.'], (3, 10), 1),
    "busy": ([(429, {"error": ERROR}, {"Retry-After": "0.3"}), GOOD], (8, 9), 2),
    "busy for years": ([(429, {"error": ERROR}, {"Retry-After": "1e9"})], "transport", 1),
    "broken": ([(500, {"error": ERROR}), (503, "no json"), GOOD], (8, 9), 3),
    "reset": (["reset", GOOD], (8, 9), 2),
    "half": (["half a body", GOOD], (8, 9), 2),
    "hangs": (["hang", GOOD], (8, 9), 2),
    "down": ([(500, {"error": ERROR})], "transport", 4),
    "truncated": ([completion('{"score": [8, ', finish_reason="length")], "parse", 1),
    "one score": (['{"score": [7], "reasoning": "x"}'], "parse", 1),
    "three scores": (['{"score": [7, 8, 9], "reasoning": "x"}'], "parse", 1),
    "two objects": (['{"score": [7, 8]} or {"score": [1, 2]}'], "parse", 1),
    "words": (['{"score": ["high", "low"]}'], "parse", 1),
    "echo": ([f'{{"score": [8, 9], "reasoning": "{KEY}"}}'], (8, 9), 1),
    "silent": ([completion(None)], "parse", 1),
    "too high": (['{"score": [11, 5], "reasoning": "x"}'], "range", 1),
    "negative": (['{"score": [5, -1], "reasoning": "x"}'], "range", 1),
    "sorry": (["I'm sorry, but I can't help with rating this image."], "refused", 1),
    "refusal": ([completion(None, message={"refusal": "I will not."})], "refused", 1),
    "filtered answer": ([completion("", finish_reason="content_filter")], "filtered", 1),
    "provider failed": ([completion("", error={"code": 502, "message": "upstream"}), GOOD], (8, 9), 2),
    "provider broke off": ([completion('{"score": [1, 1]}', finish_reason="network_error"), GOOD], (8, 9), 2),
    "no such answer": (['{"score": [1' + "[" * 100_000], "parse", 1),
    "half a character": (['{"score": [8, 9], "reasoning": "\ud83d"}'], (8, 9), 1),
    "endless count": ([completion(GOOD) | {"usage": {"prompt_tokens": 10**400, "completion_tokens": 1}}], (8, 9), 1),
    "no json": ([(200, "[" * 100_000), GOOD], (8, 9), 2),
    "tokens of a list": ([completion(GOOD) | {"usage": [1, 2]}, GOOD], (8, 9), 1),
    "thinks": (['Let me see {"score": [1, 2]}...</think>{"score": [8, 9]}'], (8, 9), 1),
    "thinks twice": (['<think>{a}</think> or {"score": [1, 2]} <thinking>{b}</thinking>{"score": [8, 9]}'], (8, 9), 1),
    "thinks on": (['<think>{"score": [1, 2]} and then'], "parse", 1),
    "unsafe answer": ([completion("", finish_reason="content_filter: SAFETY")], "filtered", 1),
    "flagged question": (
        [(403, {"error": {"code": 403, "message": "input was flagged", "metadata": {"reasons": ["violence"]}}})],
        "filtered",
        1,
    ),
    "wrapped filter": (
        [
            (
                400,
                {
                    "error": {
                        "message": "litellm.BadRequestError",
                        "code": "400",
                        "provider_specific_fields": {"innererror": {"code": "ResponsibleAIPolicyViolation"}},
                    }
                },
            )
        ],
        "filtered",
        1,
    ),
    "blocked question": ([{"choices": [], "promptFeedback": {"blockReason": "SAFETY"}}], "filtered", 1),
    "unwelcome": ([(403, {"error": {"message": "blocked by a rule"}})], "transport", 1),
    "too large": ([(413, {"error": {"message": "too many images"}})], "transport", 1),
    "filtered question": ([(400, {"error": {"code": "content_filter", "message": f"no, {KEY}"}})], "filtered", 1),
}


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETRODICT_JUDGE_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def test_nothing_is_guessed_lost_or_paid_twice(tmp_path: Path) -> None:
    cache = tmp_path / "answers.sqlite"
    with serving(script={name: list(steps) for name, (steps, _, _) in MISBEHAVIOUR.items()}) as server:
        found, judge = ask(server, cache, *MISBEHAVIOUR)
        for name, (_, expected, requests) in MISBEHAVIOUR.items():
            verdict = found[name]
            if isinstance(expected, str):
                assert (verdict.reason, verdict.score == verdict.score) == (expected, False), name
            else:
                assert (verdict.es, verdict.me, verdict.score) == (*expected, min(expected)), name
            assert server.counts[name] == requests, name
        assert server.most_under_way <= 4
        first, second = (when for name, when in server.asked if name == "busy")
        assert second - first >= 0.3
        assert judge.tally.counts["sent"] == len(server.asked)
        assert judge.tally.counts["http 429"] == 2
        assert judge.tally.counts["timeout"] == 1

        # Again: only what never got an answer is asked, and gets one.
        server.asked.clear()
        lost = {name for name, (_, expected, _) in MISBEHAVIOUR.items() if expected == "transport"}
        for name in lost:
            server.script[name] = [GOOD]
        again, _ = ask(server, cache, *MISBEHAVIOUR)
        assert dict(server.counts) == dict.fromkeys(lost, 1)
        assert all(again[name].score == 8 for name in lost)
        assert {n: v.reason for n, v in again.items() if n not in lost} == {
            n: v.reason for n, v in found.items() if n not in lost
        }
    ask(Server(url=server.url), cache, *MISBEHAVIOUR)  # and now nobody listens: all is there
    for file in tmp_path.iterdir():
        assert KEY.encode() not in file.read_bytes()
    assert KEY not in str(found)


def test_a_server_that_knows_no_schema_is_asked_without_one(tmp_path: Path) -> None:
    needs = {"response_format": "unknown field", "max_tokens": "use max_completion_tokens in place of max_tokens"}
    with serving(needs=needs) as server:
        found, judge = ask(server, tmp_path / "a.sqlite", "one", "two", "three", width=1)
        assert [v.score for v in found.values()] == [8, 8, 8]
        # The first question finds out in three requests what this server knows; the others need one each.
        assert server.counts == {"one": 3, "two": 1, "three": 1}
        assert "max_completion_tokens" in server.bodies[-1]
        how = [judge.requests([Question("one", image(10), "one", image(20))])[0].key]
        with open_cache(tmp_path / "a.sqlite") as cache:
            answer = cache.get(how[0])
        assert answer is not None
        assert answer.how["schema"] is False
    with serving(needs={"seed": "no seed here", "temperature": "only the default temperature"}) as server:
        found, judge = ask(server, tmp_path / "b.sqlite", "one", "two", width=1)
        assert [v.score for v in found.values()] == [8, 8]
        assert server.counts == {"one": 3, "two": 1}
        assert "response_format" in server.bodies[-1], "only what the server named is left out"
        with open_cache(tmp_path / "b.sqlite") as cache:
            told = usage(judge.used, judge.tally.fresh, cache, None)
        assert told["without"] == {"seed": 2, "temperature": 2}
    with serving(needs={"model": "no such thing"}) as server:  # what we cannot leave out is said, and not kept
        found, _ = ask(server, tmp_path / "c.sqlite", "one")
        assert (found["one"].reason, found["one"].detail) == ("transport", "HTTP 400: no such thing")


def test_what_a_server_says_no_to_keeps_nothing_else_waiting(tmp_path: Path) -> None:
    bad, good = [f"bad {i}" for i in range(40)], [f"good {i}" for i in range(4)]
    wrong = (400, {"error": {"message": "this image has people"}})
    with serving(script={name: [wrong] for name in bad}) as server:
        found, _ = ask(server, tmp_path / "a.sqlite", *bad, *good, schema="off")
        assert [found[name].score for name in good] == [8] * 4
        assert {found[name].detail for name in bad} == {"HTTP 400: this image has people"}
    # Silence is something else; and then what failed is asked last.
    down = (503, {"error": {"message": "no worker"}})
    with serving(script={name: [down] for name in bad}) as server:
        found, _ = ask(server, tmp_path / "b.sqlite", *bad[:20], *good, width=1)
        assert {found[name].reason for name in good} == {"unsent"}
        assert "the endpoint does not answer" in found[good[0]].detail
        found, _ = ask(server, tmp_path / "b.sqlite", *bad[:20], *good, width=1)
        assert [found[name].score for name in good] == [8] * 4


def test_what_was_no_answer_is_asked_again_on_request(tmp_path: Path) -> None:
    script = {"poem": ["a poem", GOOD], "sorry": ["I'm sorry, but I can't help with that.", GOOD], "good": [GOOD]}
    with serving(script=script) as server:
        first, _ = ask(server, tmp_path / "a.sqlite", *script)
        assert [v.reason for v in first.values()] == ["parse", "refused", ""]
        again, _ = ask(server, tmp_path / "a.sqlite", *script, again=("parse",))
        assert [v.reason for v in again.values()] == ["", "refused", ""]
        assert server.counts == {"poem": 2, "sorry": 1, "good": 1}


def test_nobody_asks_openai_without_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RETRODICT_JUDGE_KEY")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(RefusedError, match="set it in RETRODICT_JUDGE_KEY"):
        Endpoint(Settings("gpt-4o"))


def test_the_key_is_everything_that_matters(tmp_path: Path) -> None:
    with serving() as server:
        cache = tmp_path / "a.sqlite"
        ask(server, cache, "one")
        changes: list[dict[str, Any]] = [
            {"temperature": 0.5},
            {"seed": 1},
            {"detail": "low"},
            {"max_tokens": 99},
            {"max_side": 16},
            {"schema": "off"},
            {"repeats": 2},  # the first of the two is known
        ]
        for change in changes:
            ask(server, cache, "one", **change)
        assert len(server.asked) == 1 + len(changes)
        ask(server, cache, "two")
        for change in changes:
            ask(server, cache, "one", **change)
        assert len(server.asked) == 2 + len(changes)


def test_a_budget_is_never_exceeded_and_the_rest_is_counted(tmp_path: Path) -> None:
    prices = Prices(prompt=1.0, completion=10.0)  # an answer of the server costs 0.002, and at most 0.005
    actions = [f"do {i}" for i in range(12)]
    script: dict[str, list[Any]] = {"do 0": ["half a body"]}  # never arrives, and may be charged each time
    with serving(script=script) as server:
        budget = Budget(0.025, prices)
        found, _ = ask(server, tmp_path / "a.sqlite", *actions, budget=budget)
        sent = len(server.asked)
        assert 0.002 * sent <= budget.limit
        assert budget.spent <= budget.limit
        counts = Counter(v.reason for v in found.values())
        assert counts["unsent"] > 0
        assert counts[""] + counts["unsent"] + counts["transport"] == len(actions)
        assert {v.detail for v in found.values() if v.reason == "unsent"} == {"the budget of --max-cost is used up"}
        script["do 0"][:] = [GOOD]
        more, _ = ask(server, tmp_path / "a.sqlite", *actions, budget=Budget(1.0, prices))
        assert {v.score for v in more.values()} == {8}
        assert all(count == 1 for name, count in server.counts.items() if name != "do 0")


def test_a_dead_endpoint_is_given_up_and_a_refusing_one_is_not_pressed(run: Path, tmp_path: Path) -> None:
    actions = [f"do {i}" for i in range(40)]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        dead = Server(url=f"http://127.0.0.1:{free.getsockname()[1]}/v1")
    found, _ = ask(dead, tmp_path / "a.sqlite", *actions)
    counts = Counter(v.reason for v in found.values())
    assert set(counts) == {"transport", "unsent"}
    assert counts["transport"] < 25
    code, out = judge_here(run, dead, tmp_path / "c.sqlite", "--attempts", "1")
    assert (code, "first for this reason: connection: " in out) == (2, True), out
    wrong = {"error": {"message": f"Incorrect API key provided: {KEY}.", "code": "invalid_api_key"}}
    with serving(script={"*": [(401, wrong)]}) as server:
        with pytest.raises(ValueError, match=r"check the key") as caught:
            ask(server, tmp_path / "b.sqlite", *actions)
        assert KEY not in str(caught.value)
        assert len(server.asked) <= 4


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run whose system is right on every other item, and copies on the rest; each test judges its own."""
    out = tmp_path / "run"
    test = [example.transition("test") for example in tabletop.sample(24, 0, namespace="test")]
    frames = [t.target_image if i % 2 else t.source_image for i, t in enumerate(test)]
    write_rows(out / "test" / "test.parquet", test)
    write_predictions(out / "predictions" / "half.parquet", score_images(frames, test, SCORER))
    write_json(out / "results.json", {"kind": "bench", "bench": "tabletop"})
    return out


def arguments(run: Path, server: Server, cache: Path, *more: str) -> list[str]:
    common = ["judge", str(run), "--model", "fake", "--base-url", server.url, "--cache", str(cache)]
    return [*common, "--width", "4", "--card-items", "6", *more]


def judge_here(*given: Any) -> tuple[int, str]:
    result = CliRunner().invoke(app, arguments(*given))
    return result.exit_code, result.output


@pytest.mark.slow
def test_killed_in_the_middle_the_same_command_asks_only_what_is_missing(run: Path, tmp_path: Path) -> None:
    cache = tmp_path / "answers.sqlite"
    with serving(script={"*": ["sees"]}, slow=0.05) as server:
        command = [sys.executable, "-m", "retrodict", *arguments(run, server, cache)]
        killed = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while len(server.asked) < 30:
            assert killed.poll() is None, killed.communicate()
            time.sleep(0.005)
        killed.send_signal(signal.SIGKILL)
        spoken = "".join(killed.communicate())
        time.sleep(0.2)  # the server sees the end of what was under way
        first = [hashlib.sha256(json.dumps(body).encode()).hexdigest() for body in server.bodies]
        with open_cache(cache) as answers:
            kept = len(answers)
        assert 30 - 4 <= kept <= len(first) <= kept + 4

        server.bodies.clear()
        server.asked.clear()
        code, out = judge_here(run, server, cache)
        assert code == 0, out
        second = [hashlib.sha256(json.dumps(body).encode()).hexdigest() for body in server.bodies]
        with open_cache(cache) as answers:
            assert len(second) == len(set(second)) == len(answers) - kept
        assert len(set(first) & set(second)) == len(first) - kept  # those alone whose answers never came

        measured = json.loads((run / "judge" / "fake-paper_fig10_v1.json").read_text())
        assert measured["rows"]["half"]["score"] == 4  # half of the items 8, half of them 0
        assert (measured["rows"]["copy"]["score"], measured["rows"]["copy"]["n"]) == (0, 24)
        assert measured["comparisons"]["half - copy"]["difference"] == 4
        assert measured["card"]["trusted"]
        assert measured["usage"]["answers"] == len(set(first) | set(second))
        assert measured["usage"]["from_cache"] == kept
        lines = [json.loads(line) for line in (run / "judge" / "fake-paper_fig10_v1.jsonl").read_text().splitlines()]
        assert len(lines) == 48
        assert {line["score"] for line in lines} == {0, 8}
        assert "half: 4.00 of 10, 24 of 24 scored" in out
    everything = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert KEY.encode() not in everything
    assert KEY not in out + spoken


def test_a_judge_that_does_not_see_is_refused_unless_forced(run: Path, tmp_path: Path) -> None:
    with serving() as server:  # says 8 and 9 whatever it is shown
        code, out = judge_here(run, server, tmp_path / "a.sqlite", "--name", "blind")
        assert code == 2
        assert "retrodict: The judge blind is not trusted: it does not tell them apart" in out
        card = json.loads((run / "judge" / "blind.card.json").read_text())
        assert (card["trusted"], card["differences"]["copy"]["difference"]) == (False, 0)
        assert set(card["rows"]) == {"ground_truth", "copy", "inverse", "random", "counterfactual"}
        assert not (run / "judge" / "blind.json").exists()
        asked = len(server.asked)
        assert judge_here(run, server, tmp_path / "a.sqlite", "--name", "blind", "--force")[0] == 0
        assert json.loads((run / "judge" / "blind.json").read_text())["forced"] is True
        assert asked + 24 + 12 >= len(server.asked)  # the card is not asked again


def test_an_empty_instruction_stops_a_run_before_anything_is_sent(run: Path, tmp_path: Path) -> None:
    test = [replace(t, action=" " if i == 7 else t.action) for i, t in enumerate(read_transitions(run / "test"))]
    write_rows(tmp_path / "run" / "test" / "test.parquet", test)
    write_json(tmp_path / "run" / "results.json", {"kind": "bench"})
    with serving() as server:
        code, out = judge_here(tmp_path / "run", server, tmp_path / "a.sqlite", "--force")
        assert (code, server.asked) == (2, [])
        assert f"Item {test[7].id} has no instruction" in out


def test_interrupted_by_the_user_it_says_how_to_go_on(run: Path, tmp_path: Path) -> None:
    with serving(slow=0.05) as server:
        # A background shell would have it ignored.
        code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        code += "from retrodict.cli import main; main()"
        command = [sys.executable, "-c", code, *arguments(run, server, tmp_path / "a.sqlite")]
        stopped = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while len(server.asked) < 10:
            assert stopped.poll() is None, stopped.communicate()
            time.sleep(0.005)
        stopped.send_signal(signal.SIGINT)
        assert stopped.communicate(timeout=60)[1].strip() == "retrodict: stopped; the same command continues"
        assert stopped.returncode == 130
        with open_cache(tmp_path / "a.sqlite") as cache:
            assert len(cache) >= 10 - 4


def test_a_chat_model_annotates_frame_pairs(tmp_path: Path) -> None:
    rows = [example.transition() for example in tabletop.sample(4, 1, namespace="video")]
    answers = ['{"action": "push the  ball"}', '{"action": ""}', "I cannot say.", (500, {"error": ERROR})]
    with serving(script={"*": list(answers)}) as server:
        model = ChatInverse(f"chat:fake@{server.url}", tmp_path / "a.sqlite", attempts=1)
        with pytest.raises(ValueError, match="1 of 4 pairs got no answer"):
            annotate(model, rows)
        server.script["*"] = ['{"action": "paint the cup red"}']
        actions = [t.action for t in annotate(model, rows, "chat")]
        assert Counter(actions) == {"push the ball": 1, "": 2, "paint the cup red": 1}
        assert sum(len(images(body)) == 2 for body in server.bodies) == 5  # only the lost one again
    assert isinstance(load(f"chat:fake@{server.url}", role="inverse"), ChatInverse)
    with pytest.raises(ValueError, match="only explains"):
        load("chat:fake", role="forward")


def test_pairs_are_asked_in_both_orders(run: Path, tmp_path: Path) -> None:
    pairwise = ("--prompt", "pairwise_v1")
    with serving(script={"*": ["compares"]}) as server:
        out = judge_here(run, server, tmp_path / "a.sqlite", *pairwise)[1]
        assert "copy beats half in 25%, orders agree in 100%, 24 of 24 scored" in out
    found = json.loads((run / "judge" / "fake-pairwise_v1.json").read_text())
    pair = found["pairs"]["copy - half"]
    assert (pair["share"], pair["same_picture"], pair["first"]) == (
        0.25,
        12,
        0.5,
    )  # the same image is not asked about
    for a in found["wins"]:
        for b in found["wins"]:
            assert found["wins"][a][b] + found["wins"][b][a] == 1
    with serving(script={"*": ['{"choice": "first", "reasoning": ""}']}) as server:  # whatever it is shown
        out = judge_here(run, server, tmp_path / "b.sqlite", *pairwise, "--name", "biased", "--force")[1]
        assert "copy beats half in 50%, orders agree in 0%" in out
    assert write_report(run).is_file()
    card = json.loads((run / "judge" / "biased.card.json").read_text())
    assert (card["trusted"], card["rows"]["ground_truth - copy"]["first"]) == (False, 1)

"""The human study as its raters meet it: over HTTP, and with a server that dies under them."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import http.client
import json
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn
from loopback import free_port
from starlette.applications import Starlette
from starlette.testclient import TestClient
from study_browser import wait_for
from uvicorn.server import ServerState

from retrodict.study.build import Texts, build
from retrodict.study.plan import DATABASE, Crowd, Design
from retrodict.study.server.app import create_app
from retrodict.study.server.safety import HEADERS
from retrodict.study.store import Store
from retrodict.web import safety
from retrodict.web.address import check_address
from retrodict.web.connections import limited

NAMES = ("quokka", "wombat", "numbat", "bilby")
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def built(studied_runs: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("served") / "s"
    build(
        studied_runs, out, design=Design(per_subset=2, raters=3, repeat_share=0.2), texts=Texts("Blocks <i>& more</i>")
    )
    return out


@pytest.fixture
def study(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "s"))


@pytest.fixture
def client(study: Path) -> Iterator[TestClient]:
    with TestClient(create_app(study), base_url="http://localhost", follow_redirects=False) as made:
        yield made


def tokens(study: Path) -> list[str]:
    with Store(study / DATABASE) as store:
        return [row["token"] for row in store.rows("SELECT token FROM rater ORDER BY id")]


def admin_token(study: Path) -> str:
    with Store(study / DATABASE) as store:
        return store.setting("admin")


def begin(client: TestClient, token: str) -> dict[str, Any]:
    for step in ("consent", "trained"):
        assert client.post(f"/r/{token}/{step}").status_code == 303
    found = client.get(f"/r/{token}/task").json()
    assert isinstance(found, dict)
    return found


def click(state: dict[str, Any], **changes: Any) -> dict[str, Any]:
    sent = {"position": state["position"], "revision": state["revision"] + 1, "best": 0, "worst": 1}
    return sent | {"cant_tell": False, "done": True, "seconds": 2.5} | changes


# --- over HTTP ------------------------------------------------------------------------------------------


def test_nothing_that_is_sent_tells_a_system(client: TestClient, study: Path) -> None:
    token = tokens(study)[0]
    answers = [client.get(f"/r/{token}")]
    answers += [client.post(f"/r/{token}/consent"), client.get(f"/r/{token}")]
    state = begin(client, token)
    seen = []
    while not state.get("finished"):
        answers += [client.get(f"/r/{token}"), client.get(f"/r/{token}/task")]
        seen.append(state)
        answers.append(client.post(f"/r/{token}/judge", json=click(state)))
        state = answers[-1].json()
    answers.append(client.get(f"/r/{token}"))
    pictures = sorted({address for one in seen for address in (one["source"], *one["candidates"], *one["later"])})
    answers += [client.get(address) for address in pictures]
    answers += [client.get(f"/static/{name}") for name in ("study.css", "task.js", "view.js", "training.js")]
    for answer in answers:
        assert answer.status_code in (200, 303)
        said = f"{answer.url} {answer.headers}".encode() + answer.content
        assert not any(name.encode() in said.lower() for name in NAMES)
        assert all(answer.headers[name] == value for name, value in HEADERS.items())
        assert {"etag", "last-modified", "server"}.isdisjoint(answer.headers) or "/static/" in str(answer.url)
    headers = [set(client.get(address).headers.items()) for address in pictures]
    same = set.intersection(*headers)
    assert all({name for name, _ in one - same} <= {"content-length"} for one in headers)  # the image itself
    kinds = [set(one) for one in seen]
    assert all(kind == kinds[0] for kind in kinds)  # repeats and checks look like all the others


def test_pages_escape_what_they_show(client: TestClient, study: Path) -> None:
    token = tokens(study)[0]
    assert "Blocks &lt;i&gt;&amp; more&lt;/i&gt;" in client.get(f"/r/{token}").text
    begin(client, token)
    page = client.get(f"/r/{token}").text
    assert "<b>block" not in page
    assert "\\u003cb>block" in page


def test_a_rater_cannot_do_what_the_page_would_not(client: TestClient, study: Path) -> None:
    token = tokens(study)[0]
    assert client.get(f"/r/{token}/task").status_code == 403  # no consent yet
    state = begin(client, token)
    send = f"/r/{token}/judge"
    for wrong in ({"best": 1}, {"best": 4}, {"worst": None}, {"seconds": -1}, {"revision": 0}, {"best": "0"}, {"x": 1}):
        assert client.post(send, json=click(state, **wrong)).status_code == 400, wrong
    assert client.post(send, content=b"[]").status_code == 400
    assert client.post(send, content=b"\xff" * 100).status_code == 400
    assert client.post(send, content=b" " * 5000).status_code == 413
    assert client.post(send, json=click(state), headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert client.post(send, json=click(state, position=3)).status_code == 409
    assert client.post(send, json=click(state, revision=7)).status_code == 409
    with Store(study / DATABASE) as store:
        assert not store.rows("SELECT * FROM event")
    assert client.post(send, json=click(state, done=False, cant_tell=True, best=None, worst=None)).json() == {
        "saved": 1
    }


@pytest.mark.parametrize(
    "path",
    [
        "/pictures/..%2fkey.json",
        "/pictures/../key.json.png",
        "/pictures/%2e%2e/%2e%2e/key.png",
        "/pictures/" + "0" * 32 + ".png",
        "/static/../../plan.py",
        "/static/..%2f..%2fplan.py",
        "/key.json",
        "/r/wrong",
        "/r/wrong/task",
        "/admin/live",
        "/admin/export.csv",
    ],
)
def test_nothing_else_is_served(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 404


def test_other_host_names_are_refused(client: TestClient) -> None:
    assert client.get("/", headers={"Host": "evil.example"}).status_code == 400


def test_guessing_links_and_flooding_are_slowed_down(
    client: TestClient, study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(safety, "time", SimpleNamespace(monotonic=lambda: 0.0))  # all within a moment
    codes = [client.get(f"/r/guess{i}").status_code for i in range(30)]
    assert codes[:20] == [404] * 20
    assert set(codes[20:]) == {429}
    assert client.get(f"/r/{tokens(study)[0]}").status_code == 200  # others behind the same address go on
    codes = [client.get(f"/r/{tokens(study)[1]}").status_code for _ in range(120)]
    assert codes == [200] * 60 + [429] * 60


def test_the_admin_page_needs_its_token_and_works(client: TestClient, study: Path) -> None:
    token = tokens(study)[0]
    state = begin(client, token)
    client.post(f"/r/{token}/judge", json=click(state))
    assert token not in client.get("/admin").text
    assert client.post("/admin/enter", data={"token": "wrong"}).status_code == 401
    assert client.post("/admin/change", data={"do": "pause"}).status_code == 404
    answer = client.post("/admin/enter", data={"token": admin_token(study)})
    cookie = answer.headers["set-cookie"].lower()
    assert answer.status_code == 303
    assert "httponly" in cookie and "samesite=strict" in cookie
    page = client.get("/admin").text
    assert token in page and "1 of 9" in page
    assert not any(name in page for name in NAMES)
    client.post("/admin/change", data={"do": "pause"})
    assert "paused" in client.get(f"/r/{token}").text
    assert client.post(f"/r/{token}/judge", json=click(state)).status_code == 403
    client.post("/admin/change", data={"do": "resume"})
    client.post("/admin/change", data={"do": "close", "rater": "1"})
    assert "closed" in client.get(f"/r/{token}").text
    client.post("/admin/change", data={"do": "open", "rater": "1"})
    client.post("/admin/change", data={"do": "add"})
    assert len(tokens(study)) == 4
    (row,) = client.get("/admin/export.jsonl").text.splitlines()
    record = json.loads(row)
    assert (record["rater"], record["position"], record["best"]) == (1, 0, record["order"][0])
    assert client.get("/admin/export.csv").text.splitlines()[0].split(",") == list(record)


@pytest.mark.parametrize("path", ["/r/{}", "/admin"])
def test_a_slash_at_the_end_is_no_redirect(client: TestClient, study: Path, path: str) -> None:
    assert client.get(path.format(tokens(study)[0]) + "/").status_code == 200


def test_a_study_under_a_path_keeps_to_it(study: Path) -> None:
    """Whether the proxy takes the path off or not."""
    base = "https://example.org/lab/one"
    token = tokens(study)[0]
    with TestClient(create_app(study, hosts=("*",), base=base + "/"), base_url=base, follow_redirects=False) as client:
        for before in ("", "/lab/one"):
            page = client.get(f"https://example.org{before}/r/{token}").text
            addresses = re.findall(r'(?:href|src|action)="(/[^"]+)"', page)
            assert len(addresses) >= 3 and all(address.startswith("/lab/one/") for address in addresses)
        assert client.post(f"https://example.org/r/{token}/consent").headers["location"] == f"/lab/one/r/{token}"
        client.post(f"https://example.org/r/{token}/trained")
        state = client.get(f"https://example.org/r/{token}/task").json()
        assert client.get(f"https://example.org{state['source']}").headers["content-type"] == "image/png"
        answer = client.post("https://example.org/admin/enter", data={"token": admin_token(study)})
        assert "path=/lab/one/admin; samesite=strict; secure" in answer.headers["set-cookie"].lower()


@pytest.mark.parametrize(
    "base", ["example.org", "ftp://x", "https://", "https://exa mple.org", "https://x:99999", "javascript:alert(1)",
             "https://user:pw@x", "https://x/?a=1", "https://x/a b"],
)  # fmt: skip
def test_what_is_no_address_is_refused(base: str) -> None:
    with pytest.raises(ValueError, match="is no address"):
        check_address(base)
    check_address("https://x.example.org:8443/lab/one")


def test_two_studies_on_one_host_have_their_own_logins(study: Path, studied_runs: list[str], tmp_path: Path) -> None:
    build(studied_runs, tmp_path / "other", design=Design(per_subset=1, raters=1))
    cookies: dict[str, str] = {}
    for folder in (study, tmp_path / "other"):
        with TestClient(create_app(folder), base_url="http://localhost", follow_redirects=False) as client:
            answer = client.post("/admin/enter", data={"token": admin_token(folder)})
            assert (
                admin_token(folder) not in answer.headers["set-cookie"]
            )  # other programs on this host get cookies, too
            cookies |= dict(answer.cookies)
    assert len(cookies) == 2
    with TestClient(create_app(study), base_url="http://localhost", follow_redirects=False) as client:
        client.cookies.update(cookies)
        assert "Raters" in client.get("/admin").text
        client.post("/admin/change", data={"do": "leave"})
        assert client.get("/admin/live").status_code == 404
        old = admin_token(study)
        assert client.get("/admin/export.jsonl", headers={"Cookie": f"study_admin={old}"}).status_code == 200
        client.cookies.clear()
        client.post("/admin/enter", data={"token": old})
        page = client.post("/admin/change", data={"do": "token"}).text
        assert admin_token(study) in page and admin_token(study) != old
        assert client.get("/admin/live").status_code == 404  # everybody is logged out
        assert client.post("/admin/enter", data={"token": old}).status_code == 401


def test_strange_forms_and_other_origins_are_refused(client: TestClient) -> None:
    fields = "&".join(f"a{i}=1" for i in range(11))
    for path in ("/admin/enter", "/admin/change"):
        assert client.post(path, content=fields.encode()).status_code == 400
    for origin, code in (("http://localhost", 401), ("http://evil.example", 403), ("null", 403)):
        assert client.post("/admin/enter", data={"token": "x"}, headers={"Origin": origin}).status_code == code


# --- a crowd --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def crowd(studied_runs: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("crowd") / "s"
    sizes = Design(per_subset=2, raters=0, items_per_rater=3, raters_per_item=1, repeat_share=0)
    back = "https://app.example.org/done?cc={code}&who={PROLIFIC_PID}&x={nothing}"
    build(studied_runs, out, design=sizes, crowd=Crowd(return_url=back, failed_checks=0))
    return out


RIGHT = {"chosen": "1-3,2-0"}  # as the examples say


def pass_by(client: TestClient, query: str, fail: bool = False) -> str:
    """Come by the common link and answer everything, perhaps failing the checks; the link's path."""
    link = str(client.post(f"/enter?{query}").headers["location"])
    assert client.post(f"{link}/trained", data=RIGHT).headers["location"] == link
    plan = client.app.state.plan  # type: ignore[attr-defined]
    decoys = {check.decoy: check.kind for check in plan.checks}
    state = client.get(f"{link}/task").json()
    while not state.get("finished"):
        kinds = [decoys.get(address.split("/")[-1].removesuffix(".png"), "") for address in state["candidates"]]
        at = next((i for i, kind in enumerate(kinds) if kind), 0)
        worst = at if (kinds[at] == "noise") != fail else (at + 1) % 4
        state = client.post(f"{link}/judge", json=click(state, worst=worst, best=(worst + 1) % 4)).json()
    return link


def test_a_crowd_gets_codes_and_every_item_its_judgement(crowd: Path, tmp_path: Path) -> None:
    study = Path(shutil.copytree(crowd, tmp_path / "s"))
    with TestClient(create_app(study), base_url="http://localhost", follow_redirects=False) as client:
        page = client.get("/enter?PROLIFIC_PID=p1&SESSION_ID=<b>").text
        assert "/enter?PROLIFIC_PID=p1&amp;SESSION_ID=%3Cb%3E" in page
        assert not tokens(study)  # looking makes no rater
        assert "preview" in client.get("/enter?assignmentId=ASSIGNMENT_ID_NOT_AVAILABLE&workerId=w").text
        first = pass_by(client, "PROLIFIC_PID=p1&SESSION_ID=<b>")
        with Store(study / DATABASE) as store:
            (row,) = store.rows("SELECT code, parameters FROM rater")
        assert json.loads(row["parameters"]) == {"PROLIFIC_PID": "p1", "SESSION_ID": "<b>"}
        page = client.get(first).text
        assert f'href="https://app.example.org/done?cc={row["code"]}&amp;who=p1&amp;x="' in page
        assert client.post("/enter?PROLIFIC_PID=p1").headers["location"] == first  # the same person again
        failed = pass_by(client, "PROLIFIC_PID=p2", fail=True)
        assert "Some answers were not what the study needs" in client.get(failed).text
        assert client.post(f"{failed}/judge", json={}).status_code == 403
        pass_by(client, "PROLIFIC_PID=p3")  # gets the items of the one before
        assert "all the answers it needs" in client.post("/enter?PROLIFIC_PID=p4").text
        client.post("/admin/enter", data={"token": admin_token(study)})
        rows = list(csv.DictReader(client.get("/admin/raters.csv").text.splitlines()))
        assert [(one["query_PROLIFIC_PID"], one["finished"], bool(one["code"])) for one in rows] == [
            ("p1", "1", True), ("p2", "0", False), ("p3", "1", True)
        ]  # fmt: skip
        assert client.get("/admin/export.jsonl").text.count("p1") == 0  # judgements say nothing of the platform
        levels = re.findall(r"(\d+) with (\d+) judgement", client.get("/admin").text)
        assert sum(int(items) for items, _ in levels) == 6 and all(int(given) >= 1 for _, given in levels)


def test_the_examples_are_a_gate_for_a_crowd(crowd: Path, tmp_path: Path) -> None:
    study = Path(shutil.copytree(crowd, tmp_path / "s"))
    with TestClient(create_app(study), base_url="http://localhost", follow_redirects=False) as client:
        link = client.post("/enter?workerId=w1").headers["location"]
        assert "lessons" in client.get(link).text
        for attempt in range(3):
            assert client.get(f"{link}/task").status_code == 403
            answer = client.post(f"{link}/trained", data={"chosen": f"0-1,{attempt}-3"})
            assert answer.headers["location"] == f"{link}?training=wrong"
        assert "Some answers were not" in client.get(link).text
        other = client.post("/enter?workerId=w2").headers["location"]
        client.post(f"{other}/trained", data={"chosen": "0-1,0-1"})
        client.post(f"{other}/trained", data=RIGHT)
        assert client.get(f"{other}/task").status_code == 200


# --- over sockets ---------------------------------------------------------------------------------------


@contextmanager
def listening(study: Path, files: int = 0) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A server of its own, possibly with few open files allowed; its process and port."""
    port = free_port()
    serve = [sys.executable, "-m", "retrodict", "study", "serve", str(study), "--port", str(port)]
    command = ["bash", "-c", f'ulimit -n {files}; exec "$@"', "bash", *serve] if files else serve
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        wait_for(port, process)
        yield process, port
    finally:
        process.terminate()
        process.communicate(timeout=60)


def peak_mib(process: subprocess.Popen[str]) -> float:
    (line,) = (one for one in Path(f"/proc/{process.pid}/status").read_text().splitlines() if one.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the memory of a process from /proc")
def test_large_bodies_of_every_kind_are_refused_with_flat_memory(study: Path) -> None:
    kinds = [
        "POST /admin/enter HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\nTransfer-Encoding: chunked",
        "POST /admin/enter HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked",
        "POST /admin/enter HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000000",
        "GET /admin HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked",
        "GET /admin HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000000",
    ]
    part = b"%x\r\n" % 1_000_000 + b"x" * 1_000_000 + b"\r\n"
    with listening(study) as (process, port):
        before = peak_mib(process)
        for kind in kinds:
            with socket.create_connection(("127.0.0.1", port), 60) as connection:
                connection.sendall(f"{kind}\r\n\r\n".encode())
                assert connection.recv(40).startswith(b"HTTP/1.1 413"), kind
                with contextlib.suppress(OSError):
                    for _ in range(100):  # 100 MB, or until the server hangs up
                        connection.sendall(part)
        assert peak_mib(process) - before < 20


@pytest.mark.slow
def test_half_open_connections_keep_nobody_out(study: Path) -> None:
    """More of them than the server may have open, on a quiet log; the oldest go first."""
    token = tokens(study)[0]
    with listening(study, files=128) as (process, port), contextlib.ExitStack() as held:
        for i in range(140):
            connection = held.enter_context(socket.create_connection(("127.0.0.1", port), 60))
            half = (
                b"GET / HTTP/1.1\r\nHost: loc"
                if i % 2
                else b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nt"
            )
            with contextlib.suppress(OSError):
                connection.sendall(half)
            time.sleep(0.01)  # its queue is short with so few files, and a connection that finds it full waits a second
        reader = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        reader.request("GET", f"/r/{token}")
        assert reader.getresponse().status == 200
        reader.close()
        process.terminate()
        assert process.communicate(timeout=60)[1] == ""


class Wire(asyncio.Transport):
    """A connection that ends when the loop comes to it, as a socket's does."""

    ended = False

    def is_closing(self) -> bool:
        return self.ended

    def abort(self) -> None:
        self.ended = True


def test_as_many_connections_end_as_come_too_many_in_one_turn() -> None:
    async def alive(count: int) -> list[int]:
        config = uvicorn.Config(Starlette())
        config.load()
        state, wires, protocol = ServerState(), [Wire() for _ in range(count)], limited(3, 15.0)
        for wire in wires:
            protocol(config, state, {}).connection_made(wire)
        return [i for i, wire in enumerate(wires) if not wire.ended]

    assert asyncio.run(alive(8)) == [5, 6, 7]


# --- a server that dies -------------------------------------------------------------------------------------
@pytest.mark.slow
def test_no_acknowledged_click_is_lost_when_the_server_is_killed() -> None:
    """The short form of the benchmark, which fails by itself when a click is lost or doubled."""
    command = [sys.executable, str(ROOT / "benchmarks" / "study_load.py")]
    command += ["--raters", "4", "--items", "8", "--kills", "2", "--think", "0.1"]
    result = subprocess.run(command, check=False, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stdout + result.stderr
    found = json.loads(result.stdout)
    assert (found["kills"], found["clicks"], found["lost"], found["doubled"]) == (2, 4 * 11 * 3, 0, 0)

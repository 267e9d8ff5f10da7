"""The human study as its raters meet it: over HTTP, and with a server that dies under them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from retrodict.study.build import Texts, build
from retrodict.study.plan import DATABASE, Design
from retrodict.study.server.app import create_app
from retrodict.study.server.safety import HEADERS
from retrodict.study.store import Store

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


def test_guessing_links_and_flooding_are_slowed_down(client: TestClient, study: Path) -> None:
    codes = [client.get(f"/r/guess{i}").status_code for i in range(30)]
    assert codes[:20] == [404] * 20
    assert set(codes[20:]) == {429}
    assert client.get(f"/r/{tokens(study)[0]}").status_code == 200  # others behind the same address go on
    codes = [client.get(f"/r/{tokens(study)[1]}").status_code for _ in range(120)]
    assert codes.count(429) > 20


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


# --- a server that dies -------------------------------------------------------------------------------------


def test_no_acknowledged_click_is_lost_when_the_server_is_killed() -> None:
    """The short form of the benchmark, which fails by itself when a click is lost or doubled."""
    command = [sys.executable, str(ROOT / "benchmarks" / "study_load.py")]
    command += ["--raters", "4", "--items", "8", "--kills", "2", "--think", "0.1"]
    result = subprocess.run(command, check=False, capture_output=True, text=True, timeout=180)
    assert result.returncode == 0, result.stdout + result.stderr
    found = json.loads(result.stdout)
    assert (found["kills"], found["clicks"], found["lost"], found["doubled"]) == (2, 4 * 11 * 3, 0, 0)

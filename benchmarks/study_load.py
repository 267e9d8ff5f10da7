"""Simulated raters on a real server that is killed with SIGKILL while they click.

    python benchmarks/study_load.py --raters 20 --kills 20
    python benchmarks/study_load.py --items 2000 --filled 20 --raters 10 --tasks 30 --kills 0 --admins 2
    python benchmarks/study_load.py --raters 5 --tasks 30 --kills 0 --half-open 1000

Every rater sends each click until it is acknowledged, over one connection, as the page does. At the end every
acknowledged click must be in the database exactly once, and nothing else may be there; the script fails otherwise.
`--filled` raters have judged everything beforehand, `--admins` pages are open as the admin's page is, and `--half-open`
connections send half a request and wait. Prints one JSON object: clicks, kills, resent clicks, requests per second, and
the round trip of a click (from sending it to reading the answer, of those that were answered at once) in milliseconds.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from retrodict.study.build import Design, build
from retrodict.study.plan import DATABASE, read_plan
from retrodict.study.store import Store

Click = tuple[int, int, int, str | None, str | None, bool]  # rater, position, revision, best, worst, done


def make_study(folder: Path, items: int, raters: int, items_per_rater: int = 0) -> Path:
    """Four folders of random images, and a benchmark of `items` items to go with them."""
    rng = np.random.default_rng(0)
    bench = folder / "bench"
    (bench / "images").mkdir(parents=True)
    systems = [folder / f"system{s}" for s in range(4)]
    records = []
    for system in systems:
        system.mkdir()
    for i in range(items):
        for path in [bench / "images" / f"{i}.png", *(system / f"{i}.png" for system in systems)]:
            Image.fromarray(rng.integers(0, 255, (96, 128, 3), dtype=np.uint8)).save(path)
        record = {"id": str(i), "subset": "kubric", "source": f"images/{i}.png", "instruction": f"move block {i}"}
        records.append({**record, "target": None})
    (bench / "manifest.json").write_text(json.dumps(records))
    design = Design(per_subset=items, raters=raters, items_per_rater=items_per_rater)
    began = time.monotonic()
    build([str(system) for system in systems], folder / "study", data=bench, design=design)
    print(f"built in {time.monotonic() - began:.1f} s", file=sys.stderr)
    return folder / "study"


class Server:
    """`retrodict study serve` as a process of its own, killed and started again."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.command = [sys.executable, "-m", "retrodict", "study", "serve", str(folder), "--port", str(self.port)]
        self.process = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL)
        until = time.monotonic() + 60
        while time.monotonic() < until:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return process
            except OSError:
                assert process.poll() is None, "the server ended"
                time.sleep(0.02)
        raise TimeoutError("The server did not start within a minute.")

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.process = self.start()


class SimulatedRater(threading.Thread):
    def __init__(self, number: int, token: str, port: int, think: float, tasks: int) -> None:
        super().__init__(daemon=True)
        self.tasks = tasks
        self.number, self.token, self.port, self.think = number, token, port, think
        self.rng = random.Random(number)
        self.connection: http.client.HTTPConnection | None = None
        self.acknowledged: list[Click] = []
        self.seconds: list[float] = []
        self.resent = 0
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            for step in ("consent", "trained"):
                self.ask("POST", step, b"")
            state = self.ask("GET", "task", None)
            while not state.get("finished") and self.tasks:
                state, self.tasks = self.judge(state), self.tasks - 1
        except BaseException as error:
            self.failure = error

    def judge(self, state: dict[str, Any]) -> dict[str, Any]:
        """Best, worst, next: three clicks, each acknowledged before the next one, as nobody clicks faster."""
        best, worst = self.rng.sample(range(len(state["candidates"])), 2)
        names = [address.split("/")[-1].removesuffix(".png") for address in state["candidates"]]
        for worst_now, done in ((None, False), (worst, False), (worst, True)):
            time.sleep(self.rng.uniform(0.5, 1.5) * self.think)
            revision = state["revision"] + 1
            click = {"position": state["position"], "revision": revision, "best": best, "worst": worst_now}
            body = json.dumps(click | {"cant_tell": False, "done": done, "seconds": 1.0}).encode()
            began, resent = time.perf_counter(), self.resent
            answer = self.ask("POST", "judge", body)
            if resent == self.resent:
                self.seconds.append(time.perf_counter() - began)
            assert answer["saved"] == revision, answer
            named = None if worst_now is None else names[worst_now]
            self.acknowledged.append((self.number, state["position"], revision, names[best], named, done))
            state = answer if done else state | {"revision": revision}
        return state

    def ask(self, method: str, path: str, body: bytes | None) -> dict[str, Any]:
        """Until there is an answer; a click that was sent again is counted."""
        while True:
            try:
                if self.connection is None:
                    self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
                headers = {"Content-Type": "application/json"}
                self.connection.request(method, f"/r/{self.token}/{path}", body, headers)
                response = self.connection.getresponse()
                data = response.read()
                if response.status == 303:
                    return {}
                if response.status == 200:
                    answer = json.loads(data)
                    assert isinstance(answer, dict)
                    return answer
                assert response.status in (429, 503), (response.status, data)
            except (OSError, http.client.HTTPException):
                self.connection = None
            self.resent += 1
            time.sleep(0.05)


def check(folder: Path, acknowledged: list[Click], filled: int) -> dict[str, int]:
    """Compare what was acknowledged with what is stored, click by click, of raters who were not filled in."""
    with closing(sqlite3.connect(folder / DATABASE)) as db:
        (intact,) = db.execute("PRAGMA integrity_check").fetchone()
        stored = [
            (*row[:5], bool(row[5]))
            for row in db.execute(
                "SELECT rater, position, revision, best, worst, done FROM event JOIN trial ON trial.id = event.trial "
                "WHERE rater > ?",
                (filled,),
            )
        ]
        (open_trials,) = db.execute(
            "SELECT count(*) FROM trial LEFT JOIN judgement ON trial.id = judgement.trial WHERE coalesce(done, 0) = 0"
        ).fetchone()
    return {
        "lost": len(set(acknowledged) - set(stored)),
        "doubled": len(stored) - len(set(stored)),
        "never_acknowledged": len(set(stored) - set(acknowledged)),
        "open_trials": open_trials,
        "damaged": int(intact != "ok"),
    }


def fill(store: Store, raters: int) -> None:
    """All judgements of the first raters, as if they had clicked once for each."""
    rng = random.Random(0)
    with store.transaction() as db:
        for row in db.execute("SELECT id, pictures FROM trial WHERE rater <= ?", (raters,)).fetchall():
            best, worst = rng.sample(json.loads(row["pictures"]), 2)
            values = (row["id"], 1, time.time() - 3600 * rng.random(), best, worst, 0, 1, rng.uniform(3, 30))
            for table in ("event", "judgement"):
                db.execute(f"INSERT INTO {table} VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)


def watch(port: int, secret: tuple[str, str], seconds: list[float], ended: threading.Event) -> None:
    """What an open admin page does."""
    while not ended.wait(5):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        began = time.perf_counter()
        connection.request("GET", "/admin/live", headers={"Cookie": f"{secret[0]}={secret[1]}"})
        response = connection.getresponse()
        response.read()
        assert response.status == 200, response.status
        seconds.append(time.perf_counter() - began)


def half_open(port: int, count: int) -> list[socket.socket]:
    connections = []
    for i in range(count):
        connection = socket.create_connection(("127.0.0.1", port), timeout=30)
        body = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4000\r\n\r\nx"
        connection.sendall(body if i % 2 else b"GET / HTTP/1.1\r\nHost: loc")
        connections.append(connection)
    return connections


def measure(folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    kills, seed = given.kills, given.seed
    with Store(folder / DATABASE) as store:
        fill(store, given.filled)
        login = (f"study_{read_plan(folder).id}", store.log_in())
        rows = store.rows("SELECT id, token FROM rater WHERE id > ? ORDER BY id", given.filled)
        tokens = [(row["id"], row["token"]) for row in rows]
    server, rng, done, ended = Server(folder), random.Random(seed), 0, threading.Event()
    pages: list[float] = []
    waiting = half_open(server.port, given.half_open)
    try:
        raters = [SimulatedRater(number, token, server.port, given.think, given.tasks) for number, token in tokens]
        for _ in range(given.admins):
            threading.Thread(target=watch, args=(server.port, login, pages, ended), daemon=True).start()
        began = time.monotonic()
        for rater in raters:
            rater.start()
        while done < kills and any(rater.is_alive() for rater in raters):
            time.sleep(rng.uniform(0.2, 1.0))
            if any(rater.is_alive() for rater in raters):
                server.kill()
                done += 1
        for rater in raters:
            rater.join()
        took = time.monotonic() - began
    finally:
        ended.set()
        for connection in waiting:
            connection.close()
        server.process.kill()
        server.process.wait()
    failures = [repr(rater.failure) for rater in raters if rater.failure is not None]
    clicks = [click for rater in raters for click in rater.acknowledged]
    seconds = np.array([s for rater in raters for s in rater.seconds])
    p50, p95, p99 = np.percentile(seconds, [50, 95, 99])
    return {
        "raters": len(raters),
        "kills": done,
        "clicks": len(clicks),
        "resent": sum(rater.resent for rater in raters),
        "seconds": round(took, 1),
        "requests_per_second": round(len(clicks) / took, 1),
        "round_trip_ms": {"p50": round(1000 * p50, 1), "p95": round(1000 * p95, 1), "p99": round(1000 * p99, 1)},
        "n_round_trips": len(seconds),
        "admin_page_s": {"n": len(pages), "max": round(max(pages, default=0), 2)},
        **check(folder, clicks, given.filled),
        "failures": failures,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--raters", type=int, default=20)
    parser.add_argument("--items", type=int, default=100)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--think", type=float, default=0.06, help="mean seconds between two clicks of a rater")
    parser.add_argument("--tasks", type=int, default=-1, help="tasks of each rater; by default all")
    parser.add_argument("--items-per-rater", type=int, default=0)
    parser.add_argument("--filled", type=int, default=0)
    parser.add_argument("--admins", type=int, default=0)
    parser.add_argument("--half-open", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        study = make_study(Path(folder), given.items, given.filled + given.raters, given.items_per_rater)
        results = measure(study, given)
    print(json.dumps(results, indent=1))
    wrong = ("lost", "doubled", "never_acknowledged", "damaged", *(("open_trials",) if given.tasks < 0 else ()))
    return int(bool(results["failures"]) or any(results[name] for name in wrong) or results["kills"] < given.kills)


if __name__ == "__main__":
    sys.exit(main())

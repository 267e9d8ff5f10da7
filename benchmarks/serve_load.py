"""`retrodict serve` under load: throughput against one request at a time, a soak, and the proxy against `predict`.

    python benchmarks/serve_load.py                          # 64 clients at once and one at a time, in turn
    python benchmarks/serve_load.py --pairs 0 --soak 600     # ten minutes of everything; does memory grow?
    python benchmarks/serve_load.py --pairs 0 --proxy 300    # in front of an editor of known quality

Every answer is compared with what `predict_batch` gives for the same image and action: a mixed-up one fails the script.
Prints one JSON object. Requests are sent without an SDK, each over a connection of its own.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from loopback import listening
from serving import TabletopEditor, form, image_in, png, post
from study_browser import free_port, wait_for

import retrodict
from retrodict.transitions import Transition
from retrodict.worlds import get_world

WORLD = get_world("tabletop")
KINDS = ("edit", "edit", "explain", "score", "rollout", "recognition", "broken", "left")


class Server:
    """`retrodict serve` as a process of its own."""

    def __init__(self, *options: str, **environment: str) -> None:
        self.port = free_port()
        command = [sys.executable, "-m", "retrodict", "serve", "--port", str(self.port), *options]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=os.environ | environment)
        wait_for(self.port, self.process)

    def post(self, path: str, fields: Any) -> Any:
        """The answer. Raises `RuntimeError` for any status but 200."""
        status, answer = post(self.port, path, fields)
        if status != 200:
            raise RuntimeError(f"{status}: {answer}")
        return answer

    def edit(self, row: Transition) -> Image.Image:
        answer = self.post("/v1/images/edits", {"image": png(row.source_image), "prompt": row.action})
        return image_in(answer["data"][0]["b64_json"])

    def resident(self) -> float:
        """MiB."""
        return float(psutil.Process(self.process.pid).memory_info().rss / 2**20)

    def cpu(self) -> float:
        """Seconds."""
        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system)


@contextmanager
def serving(*options: str, **environment: str) -> Iterator[Server]:
    server = Server(*options, **environment)
    try:
        yield server
    finally:
        server.process.terminate()
        server.process.wait()


def throughput(server: Server, rows: list[Transition], expected: list[bytes], pairs: int, clients: int) -> Any:
    """The same requests one at a time and from many clients at once, in turn, so that both meet the same machine."""
    for row in rows[:4]:
        server.edit(row)
    alone: list[tuple[float, float]] = []
    at_once: list[tuple[float, float]] = []
    seconds: list[float] = []

    def timed(i: int) -> bytes:
        began = time.monotonic()
        image = server.edit(rows[i]).tobytes()
        seconds.append(time.monotonic() - began)
        return image

    few = range(len(rows) // 4)  # one at a time takes longer
    for _ in range(pairs):
        began, cpu = time.monotonic(), server.cpu()
        assert [server.edit(rows[i]).tobytes() for i in few] == [expected[i] for i in few], "mixed up"
        alone.append(((time.monotonic() - began) / len(few), (server.cpu() - cpu) / len(few)))
        with ThreadPoolExecutor(clients) as pool:
            began, cpu = time.monotonic(), server.cpu()
            images = list(pool.map(timed, range(len(rows))))
            at_once.append(((time.monotonic() - began) / len(rows), (server.cpu() - cpu) / len(rows)))
        assert images == expected, "mixed up"
    ratios = [one[0] / many[0] for one, many in zip(alone, at_once, strict=True)]
    return {
        "clients": clients,
        "requests": len(rows) * pairs,
        "mixed_up": 0,
        "one_at_a_time_per_second": 1 / statistics.median(s for s, _ in alone),
        "at_once_per_second": 1 / statistics.median(s for s, _ in at_once),
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "cpu_seconds_per_request": [statistics.median(c for _, c in alone), statistics.median(c for _, c in at_once)],
        "p50_seconds": statistics.median(seconds),
        "p95_seconds": statistics.quantiles(seconds, n=20)[-1],
    }


def soak(server: Server, rows: list[Transition], expected: list[bytes], seconds: float) -> Any:
    """Every endpoint at once for a while, and clients that leave; memory is looked at all the time."""
    end, counts, resident = time.monotonic() + seconds, Counter[str](), list[float]()

    def client(seed: int) -> None:
        rng = random.Random(seed)
        while time.monotonic() < end:
            i, kind = rng.randrange(len(rows)), rng.choice(KINDS)
            ask(kind, i, rng)
            counts[kind] += 1

    def ask(kind: str, i: int, rng: random.Random) -> None:
        row = rows[i]
        pair = {"source": png(row.source_image), "target": png(row.target_image)}
        if kind == "edit":
            assert server.edit(row).tobytes() == expected[i], "mixed up"
        elif kind in ("explain", "recognition"):
            server.post(f"/v1/{kind}", pair)
        elif kind == "score":
            server.post("/v1/score", pair | {"action": row.action})
        elif kind == "rollout":
            server.post("/v1/rollout", {"image": pair["source"], "action": [row.action] * 2})
        elif kind == "broken":
            cut = {"image": ("a", pair["source"][1][:300]), "prompt": row.action}
            assert post(server.port, "/v1/images/edits", cut)[0] == 422
        else:
            body, content_type = form({"image": pair["source"], "prompt": row.action})
            wire = http.client.HTTPConnection("127.0.0.1", server.port)
            wire.request("POST", "/v1/images/edits", body, {"Content-Type": content_type})
            time.sleep(rng.random() / 10)
            wire.close()

    with ThreadPoolExecutor(16) as pool:
        clients = [pool.submit(client, seed) for seed in range(16)]
        while time.monotonic() < end:
            time.sleep(seconds / 100)
            resident.append(server.resident())
        for one in clients:
            one.result()
    tenth = max(1, len(resident) // 10)
    tenths = [statistics.median(resident[i : i + tenth]) for i in range(0, 10 * tenth, tenth)]
    return {
        "seconds": seconds,
        "requests": dict(counts),
        "resident_mib_by_tenths": tenths,
        "growth_mib": {"from the third tenth": tenths[9] - tenths[2], "in the second half": tenths[9] - tenths[5]},
    }


def proxy(items: int) -> Any:
    """The best of 8 through the server, image by image against `predict`, and both by the exact state."""
    rows = WORLD.sample(items, 7, namespace="serve-test")
    with listening(TabletopEditor) as address, tempfile.TemporaryDirectory() as cache:
        os.environ |= {"XDG_CACHE_HOME": cache, "OPENAI_API_KEY": "none"}
        name = f"edits:editor@{address}/v1"
        model, inverse = retrodict.load(name, "forward"), retrodict.load("small", "inverse")
        predicted = [
            retrodict.predict(row.source_image, row.action, n=8, verifier="idm", model=model, inverse=inverse)
            for row in rows
        ]
        with serving("--model", name, "--inverse", "small") as server, ThreadPoolExecutor(8) as pool:
            began = time.monotonic()
            images = list(pool.map(server.edit, rows))
            took = time.monotonic() - began
    through = [WORLD.score(image, row).score for image, row in zip(images, rows, strict=True)]
    direct = [WORLD.score(p.image, row).score for p, row in zip(predicted, rows, strict=True)]
    one = [WORLD.score(p.candidates[0].image, row).score for p, row in zip(predicted, rows, strict=True)]
    means = {"editor alone": one, "predict -n 8": direct, "proxy, n=1": through}
    return {
        "items": items,
        "same_image": sum(i.tobytes() == p.image.tobytes() for i, p in zip(images, predicted, strict=True)),
        "same_score": sum(a == b for a, b in zip(through, direct, strict=True)),
        "score": {name: statistics.mean(values) for name, values in means.items()},
        "seconds_per_request": took / items,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=3, help="measurements of throughput")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--requests", type=int, default=128, help="of one measurement, all different")
    parser.add_argument("--threads", type=int, default=2, help="of the server's torch")
    parser.add_argument("--soak", type=float, default=0, help="seconds")
    parser.add_argument("--proxy", type=int, default=0, help="items")
    given = parser.parse_args()
    told: dict[str, Any] = {}
    if given.pairs or given.soak:
        rows = WORLD.sample(given.requests, 5, namespace="serve-test")
        predictions = retrodict.predict_batch([r.source_image for r in rows], [r.action for r in rows])
        expected = [prediction.image.tobytes() for prediction in predictions]
        with serving(OMP_NUM_THREADS=str(given.threads)) as server:
            if given.pairs:
                told["throughput"] = throughput(server, rows, expected, given.pairs, given.clients)
            if given.soak:
                told["soak"] = soak(server, rows, expected, given.soak)
    if given.proxy:
        told["proxy"] = proxy(given.proxy)
    print(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()

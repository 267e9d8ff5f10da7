"""Somebody whom a platform sends, without a browser: from the common link to the completion code."""

from __future__ import annotations

import http.client
import json
import random
import re
import socket
import ssl
from urllib.parse import urlsplit

from retrodict.study.plan import Plan


def connect(base: str, port: int) -> http.client.HTTPConnection:
    """To `port` of this machine as if it were the host of `base`; certificates are not checked."""
    site = urlsplit(base)
    if site.scheme != "https":
        return http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    connection = http.client.HTTPSConnection(
        str(site.hostname), port, timeout=120, context=ssl._create_unverified_context()
    )
    connection._create_connection = lambda address, *rest: socket.create_connection(("127.0.0.1", port), *rest)  # type: ignore[attr-defined]
    return connection


def come(base: str, port: int, query: str, plan: Plan, address: str = "") -> str:
    """Enter, pass the examples, answer all (the checks rightly), and read the code; "" where the study is full."""
    site, rng, connection = urlsplit(base), random.Random(query), connect(base, port)
    headers = {"Host": site.netloc, "Origin": f"{site.scheme}://{site.netloc}"}
    if address:
        headers["X-Forwarded-For"] = address

    def ask(method: str, path: str, body: str | None = None) -> tuple[int, str, str]:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.getheader("location", ""), answer.read().decode("utf-8", "replace")

    assert ask("GET", f"{site.path}/enter?{query}")[0] == 200
    status, link, _ = ask("POST", f"{site.path}/enter?{query}", "")
    if status == 200:
        connection.close()
        return ""
    assert (status, link.startswith(f"{site.path}/r/")) == (303, True), (status, link)
    right = ",".join(f"{example.best}-{example.worst}" for example in plan.examples)
    assert ask("POST", f"{link}/trained", f"chosen={right}")[1] == link
    decoys = {check.decoy: check.kind for check in plan.checks}
    state = json.loads(ask("GET", f"{link}/task")[2])
    while not state.get("finished"):
        names = [one.split("/")[-1].removesuffix(".png") for one in state["candidates"]]
        best, worst = rng.sample(range(len(names)), 2)
        for i, name in enumerate(names):
            if name in decoys:
                best, worst = (i, (i + 1) % len(names)) if decoys[name] == "truth" else ((i + 1) % len(names), i)
        click = {"position": state["position"], "revision": state["revision"] + 1, "best": best, "worst": worst}
        status, _, text = ask(
            "POST", f"{link}/judge", json.dumps(click | {"cant_tell": False, "done": True, "seconds": 5})
        )
        assert status == 200, (status, text)
        state = json.loads(text)
    code = re.search(r'class="code"[^>]*>([^<]+)<', ask("GET", link)[2])
    connection.close()
    assert code is not None
    return code.group(1)

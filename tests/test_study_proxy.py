"""The human study behind the proxies of docs/study.md: a crowd comes through the real nginx and the real Caddy."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from loopback import free_port
from study_browser import served
from study_crowd import come, connect

from retrodict.study.build import build
from retrodict.study.plan import DATABASE, Crowd, Design
from retrodict.study.store import Store

CROWD = int(os.environ.get("STUDY_CROWD", "4"))  # an even number of people
DOCS = Path(__file__).parents[1] / "docs" / "study.md"


def block(kind: str) -> str:
    """The page's own example of a configuration."""
    (text,) = re.findall(rf"```{kind}\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    return str(text)


def certificate(folder: Path) -> tuple[Path, Path]:
    files = folder / "c.crt", folder / "c.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=example.org",
         "-keyout", files[1], "-out", files[0]],
        check=True, capture_output=True,
    )  # fmt: skip
    return files


def nginx(folder: Path, port: int, behind: int) -> list[str]:
    crt, key = certificate(folder)
    server = block("nginx").replace("443", f"127.0.0.1:{port}").replace("127.0.0.1:8765", f"127.0.0.1:{behind}")
    server = server.replace("/etc/ssl/example.org.crt", str(crt)).replace("/etc/ssl/example.org.key", str(key))
    paths = "".join(f"{n}_temp_path {folder}/{n};\n" for n in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    file = folder / "nginx.conf"
    file.write_text(
        f"daemon off;\nerror_log {folder}/error.log;\npid {folder}/pid;\nevents {{}}\n"
        f"http {{\naccess_log off;\n{paths}{server}}}\n"
    )
    return [shutil.which("nginx") or "/usr/sbin/nginx", "-c", str(file)]


def caddy(folder: Path, port: int, behind: int) -> list[str]:
    crt, key = certificate(folder)
    site = block("caddyfile").replace("127.0.0.1:8765", f"127.0.0.1:{behind}")
    site = site.replace("example.org {", f"https://example.org:{port} {{\n    bind 127.0.0.1\n    tls {crt} {key}", 1)
    file = folder / "Caddyfile"
    file.write_text("{\n    admin off\n    auto_https off\n}\n" + site)
    return [shutil.which("caddy") or "/usr/bin/caddy", "run", "--adapter", "caddyfile", "--config", str(file)]


PROXIES = {"nginx": nginx, "caddy": caddy}


@contextmanager
def proxied(kind: str, folder: Path, behind: int) -> Iterator[int]:
    port = free_port()
    command = PROXIES[kind](folder, port, behind)
    if not Path(command[0]).is_file():
        pytest.skip(f"no {kind} on this machine (Debian package {kind})")
    environment = {"HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    with (folder / "proxy.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        try:
            for _ in range(300):
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                    break
                except OSError:
                    assert process.poll() is None, (folder / "proxy.log").read_text()
                    time.sleep(0.1)
            yield port
        finally:
            process.terminate()
            process.wait()


@pytest.mark.parametrize("kind", PROXIES)
def test_a_crowd_comes_through_a_proxy_with_tls_and_a_path(kind: str, studied_runs: list[str], tmp_path: Path) -> None:
    """At once, from different addresses: everybody gets a code, every item its judgements, and then it is full."""
    design = Design(per_subset=2, raters=0, items_per_rater=3, raters_per_item=CROWD // 2, repeat_share=0)
    plan = build(studied_runs, tmp_path / "s", design=design, crowd=Crowd())
    behind = free_port()
    with proxied(kind, tmp_path, behind) as port:
        host = f"example.org:{port}"
        base = f"https://{host}/study"

        def one(number: int) -> str:
            return come(base, port, f"PROLIFIC_PID=p{number}", plan, f"10.0.0.{number}")

        with served(tmp_path / "s", "--public-url", base, port=behind), ThreadPoolExecutor(8) as many:
            codes = list(many.map(one, range(CROWD)))
            assert all(re.fullmatch(r"[0-9A-F]{8}", code) for code in codes) and len(set(codes)) == CROWD
            assert one(CROWD) == ""
            with closing(connect(base, port)) as connection:
                connection.request("GET", "/study/admin/", headers={"Host": host})
                answer = connection.getresponse()
                assert answer.status == 200  # no redirect, not even to https
                assert b'action="/study/admin/enter"' in answer.read()
    with Store(tmp_path / "s" / DATABASE) as store:
        rows = store.rows(
            "SELECT count(*) AS n FROM judgement JOIN trial ON trial.id = trial WHERE done AND kind = 'item' "
            "GROUP BY key"
        )
        assert [row["n"] for row in rows] == [CROWD // 2] * 6
        who = {json.loads(row["parameters"])["PROLIFIC_PID"] for row in store.rows("SELECT parameters FROM rater")}
        assert who == {f"p{number}" for number in range(CROWD)}

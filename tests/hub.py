"""A model hub on loopback: the part of its protocol that a download and a push use."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from loopback import listening

COMMIT = "1" * 40


@contextmanager
def hub_with(
    repository: str, files: MutableMapping[str, bytes], kind: str = "model"
) -> Iterator[tuple[str, list[str]]]:
    """A hub with one repository of a kind: its address, and the files that were fetched so far. What is pushed lands in
    `files`, and what was asked of a new repository in `files["(created)"]`."""
    fetched: list[str] = []
    prefix = "" if kind == "model" else f"{kind}s/"

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def do_POST(self) -> None:
            sent = self.rfile.read(int(self.headers["Content-Length"]))
            path = self.path.split("?")[0]
            if path == "/api/repos/create":
                files["(created)"] = sent
                self.send(json.dumps({"url": f"http://{self.headers['Host']}/{prefix}{repository}"}).encode(), True)
            elif path == "/api/validate-yaml":
                self.send(b"{}", True)
            elif path == f"/api/{kind}s/{repository}/preupload/main":
                asked = [file["path"] for file in json.loads(sent)["files"]]
                modes = [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in asked]
                self.send(json.dumps({"files": modes}).encode(), True)
            elif path == f"/api/{kind}s/{repository}/commit/main":
                for line in map(json.loads, sent.splitlines()):
                    if line["key"] == "file":
                        files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                page = f"http://{self.headers['Host']}/{prefix}{repository}/commit/{COMMIT}"
                self.send(json.dumps({"commitUrl": page, "commitOid": COMMIT}).encode(), True)
            else:
                self.send_error(404)

        def answer(self, *, body: bool) -> None:
            path = self.path.split("?")[0]
            name = path.removeprefix(f"/{prefix}{repository}/resolve/").partition("/")[2]
            if path.startswith(f"/api/{kind}s/{repository}/revision/"):
                siblings = [{"rfilename": file} for file in files]
                self.send(json.dumps({"id": repository, "sha": COMMIT, "siblings": siblings}).encode(), body)
            elif path.startswith(f"/api/{kind}s/{repository}/tree/"):
                tree = [{"type": "file", "path": f, "size": len(c), "oid": "0" * 40} for f, c in files.items()]
                self.send(json.dumps(tree).encode(), body)
            elif path.startswith(f"/{prefix}{repository}/resolve/") and name in files:
                if body:
                    fetched.append(name)
                self.send(files[name], body, hashlib.sha256(files[name]).hexdigest())
            else:
                self.send_response(404)
                self.send_header("X-Error-Code", "RepoNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()

        def send(self, content: bytes, body: bool, etag: str = "") -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            if etag:
                self.send_header("ETag", f'"{etag}"')
                self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if body:
                self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with listening(Handler) as address:
        yield address, fetched


def online(endpoint: str, folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """`retrodict`, as it is run by people in `folder`, with a hub at `endpoint` and a cache that is theirs."""
    known = {
        "HF_ENDPOINT": endpoint,
        "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(folder / "cache"),
    }
    return subprocess.run(
        [sys.executable, "-m", "retrodict", *command],
        cwd=folder,
        env=os.environ | known,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )

"""What the tests of `retrodict serve` share: a server in this process, requests, and an editor of known quality."""

from __future__ import annotations

import base64
import email
import hashlib
import http.client
import io
import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any
from uuid import uuid4

import uvicorn
from loopback import JsonHandler, free_port
from PIL import Image
from starlette.applications import Starlette

from retrodict.images import encode_png
from retrodict.web.connections import limited
from retrodict.worlds import get_world

File = tuple[str, bytes]  # its name, its bytes
Fields = Mapping[str, str | File | list[str]]


@contextmanager
def running(app: Starlette) -> Iterator[int]:
    """The port of an application on loopback, with the protocol that `listen` uses."""
    port = free_port()
    config = uvicorn.Config(
        app, port=port, log_level="error", access_log=False, http=limited(1000, 30.0), ws="none", lifespan="on"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield port
    finally:
        server.should_exit = True
        thread.join()


def form(fields: Fields) -> tuple[bytes, str]:
    """A multipart body and its content type."""
    boundary = uuid4().hex
    parts: list[bytes] = []
    for name, given in fields.items():
        for value in given if isinstance(given, list) else [given]:
            head = f'Content-Disposition: form-data; name="{name}"'
            if isinstance(value, tuple):
                head += f'; filename="{value[0]}"\r\nContent-Type: application/octet-stream'
            data = value[1] if isinstance(value, tuple) else value.encode()
            parts.append(f"--{boundary}\r\n{head}\r\n\r\n".encode() + data + b"\r\n")
    return b"".join(parts) + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


def send(
    port: int, path: str, body: bytes, content_type: str = "", headers: Mapping[str, str] | None = None
) -> tuple[int, Any, Mapping[str, str]]:
    """Status, JSON and headers of one POST."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    given = dict(headers or {}) | ({"Content-Type": content_type} if content_type else {})
    try:
        connection.request("POST", path, body, given)
        response = connection.getresponse()
        return response.status, json.loads(response.read()), dict(response.getheaders())
    finally:
        connection.close()


def post(port: int, path: str, fields: Fields, **headers: str) -> tuple[int, Any]:
    body, content_type = form(fields)
    status, answer, _ = send(port, path, body, content_type, {k.replace("_", "-"): v for k, v in headers.items()})
    return status, answer


def png(image: Image.Image) -> File:
    return "image.png", encode_png(image)


def image_in(text: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB")


class TabletopEditor(JsonHandler, BaseHTTPRequestHandler):
    """An editor that does what is asked in `quality` of its images, and returns the others unchanged.

    Which, the request's idempotency key decides, so that the same request gives the same image.
    """

    quality = 0.4
    delay = 0.0  # seconds

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        message = email.message_from_bytes(f"Content-Type: {self.headers['Content-Type']}\n\n".encode() + raw)
        parts: Any = message.get_payload()
        given = {str(p.get_param("name", header="content-disposition")): p.get_payload(decode=True) for p in parts}
        chance = hashlib.sha256(self.headers["Idempotency-Key"].encode()).digest()[0] / 256
        image = Image.open(io.BytesIO(given["image"])).convert("RGB")
        time.sleep(self.delay)
        played = get_world("tabletop").play(image, [given["prompt"].decode()]) if chance < self.quality else None
        data = base64.b64encode(encode_png(played[0] if played else image)).decode()
        self.send(200, {"created": 1, "data": [{"b64_json": data}]})

"""OpenAI batch files: questions out as JSON lines, answers in, at the price and pace of a batch.

The custom id of a line is the key of its answer, so that an answer finds its question whatever the order, and a file
that is read twice changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from retrodict.chat.cache import AnswerCache
from retrodict.chat.parsing import read_body
from retrodict.chat.request import Request
from retrodict.files import JsonMapping, JsonObject, write_atomic

MOST_LINES, MOST_BYTES = 50_000, 190_000_000  # of one file; providers stop at 50,000 and 200 MB
_URL = "/v1/chat/completions"


@dataclass(frozen=True)
class Taken:
    """What was read from a file of answers."""

    answered: int
    already: int  # known before
    lost: dict[str, str]  # keys that got no answer, and why
    unknown: int  # not of this run, or of other settings


def write_batch(path: Path, requests: Sequence[Request]) -> list[Path]:
    """Write one line per request to `path`, and to `<name>.2.jsonl` and so on where that would grow too large."""
    lines, paths = _lines(requests), list[Path]()
    waiting = next(lines, None)
    while waiting is not None:
        number = len(paths) + 1
        target = path if number == 1 else path.with_name(f"{path.stem}.{number}{path.suffix}")
        kept: list[str | None] = [waiting]

        def write(temporary: Path, kept: list[str | None] = kept) -> None:
            with temporary.open("w", encoding="utf-8") as file:
                count = size = 0
                while kept[0] is not None:
                    if count and (count >= MOST_LINES or size + len(kept[0]) > MOST_BYTES):
                        return
                    file.write(kept[0])
                    count, size = count + 1, size + len(kept[0])
                    kept[0] = next(lines, None)

        write_atomic(target, write)
        paths.append(target)
        waiting = kept[0]
    return paths


def _lines(requests: Sequence[Request]) -> Iterator[str]:
    for request in requests:
        body = request.body(schema=request.settings.schema == "auto")
        line = {"custom_id": request.key, "method": "POST", "url": _URL, "body": body}
        yield json.dumps(line, ensure_ascii=True) + "\n"


def read_batch(path: Path, requests: Sequence[Request], cache: AnswerCache) -> Taken:
    """Keep the answers of a file. Raises `ValueError`, before anything is kept, when it is not such a file."""
    records = list(_records(path))
    asked = {request.key: request for request in requests}
    answered = already = unknown = 0
    lost: dict[str, str] = {}
    for record in records:
        request = asked.get(record["custom_id"])
        if request is None:
            unknown += 1
        elif cache.get(request.key) is not None:
            already += 1
        else:
            body = _body(record)
            reply = read_body(body)
            if reply.reason == "transport":
                lost[request.key] = reply.detail
            else:
                cache.put(request.key, request.identity, body, {"by": "batch", "schema": _has_schema(request)})
                answered += 1
    if records and unknown == len(records):
        raise ValueError(
            f"{path} answers no question of this run with these settings: "
            "give the same --model, --base-url, --prompt and other settings as for --batch-out."
        )
    return Taken(answered, already, lost, unknown)


def _records(path: Path) -> Iterator[JsonObject]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                record = None
            if not isinstance(record, dict) or not isinstance(record.get("custom_id"), str):
                raise ValueError(f"{path}, line {number}, is no line of a batch's output: download the file again.")
            yield record


def _body(record: JsonMapping) -> JsonMapping:
    response = record.get("response")
    if isinstance(response, dict) and isinstance(response.get("body"), dict):
        body: JsonMapping = response["body"]
        return body
    return {"error": record.get("error") or {"message": "the batch gave no answer"}}


def _has_schema(request: Request) -> bool:
    return request.settings.schema == "auto"

"""Raw judgements as rows, as CSV and as JSON lines: with images' names only, until the report adds the systems."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from retrodict.files import JsonMapping, JsonObject
from retrodict.study.plan import Plan
from retrodict.study.store import Store

Record = JsonObject


def records(store: Store, plan: Plan) -> list[Record]:
    """Every finished judgement, by rater and position.

    `{"rater", "position", "kind", "item", "subset", "action", "order", "best", "worst", "cant_tell", "seconds",
    "clicks", "at"}`: `order` lists the images as they were shown, `best` and `worst` are two of them or None,
    `seconds` is how long the page was in view, `clicks` how many steps it took, `at` the time (UTC).
    """
    shown = {one.key: one for one in (*plan.items, *plan.checks)}
    rows = store.rows(
        "SELECT trial.*, judgement.* FROM judgement JOIN trial ON trial.id = judgement.trial WHERE done = 1 "
        "ORDER BY rater, position"
    )
    return [
        {
            "rater": row["rater"],
            "position": row["position"],
            "kind": row["kind"],
            "item": row["key"],
            "subset": shown[row["key"]].subset,
            "action": shown[row["key"]].action,
            "order": json.loads(row["pictures"]),
            "best": row["best"],
            "worst": row["worst"],
            "cant_tell": bool(row["cant_tell"]),
            "seconds": round(row["seconds"], 3),
            "clicks": row["revision"],
            "at": datetime.fromtimestamp(row["at"], UTC).isoformat(timespec="milliseconds"),
        }
        for row in rows
    ]


def to_jsonl(rows: Sequence[JsonMapping]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)


def to_csv(rows: Sequence[JsonMapping]) -> str:
    """Lists are joined with spaces. Text that a spreadsheet would run as a formula gets an apostrophe in front."""
    buffer = io.StringIO()
    if rows:
        writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    return buffer.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return " ".join(value)
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return f"'{value}"
    return int(value) if isinstance(value, bool) else value

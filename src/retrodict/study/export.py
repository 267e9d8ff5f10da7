"""Raw judgements as rows, as CSV and as JSON lines: with images' names only, until the report adds the systems."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from retrodict.files import JsonMapping, JsonObject
from retrodict.study.plan import Plan
from retrodict.study.store import Store

Record = JsonObject


def records(store: Store, plan: Plan) -> list[Record]:
    """Every finished judgement, by rater and position.

    Returns:
        `{"rater", "position", "kind", "item", "subset", "action", "question", "order", "best", "worst", "cant_tell",
        "ratings", "comment", "seconds", "clicks", "at"}`: `order` lists the images as they were shown, `best` and
        `worst` are two of them or None, `ratings` has one value for each or is None, `seconds` is how long the images
        were in view, `clicks` how many steps it took, `at` the time (UTC).

    Raises:
        ValueError: a judgement is about images that its item does not have: the database is damaged.
    """
    shown = {one.key: one for one in (*plan.items, *plan.checks)}
    questions = plan.design.questions or ("",)
    rows = store.rows(
        "SELECT trial.*, judgement.*, detail.ratings, coalesce(comment, '') AS comment FROM judgement "
        "JOIN trial ON trial.id = judgement.trial "
        "LEFT JOIN detail ON detail.trial = judgement.trial AND detail.revision = judgement.revision "
        "WHERE done = 1 ORDER BY rater, position"
    )
    made = []
    for row in rows:
        item, order = shown.get(row["key"]), json.loads(row["pictures"])
        if item is None or not {*order} <= {*item.candidates} or not {row["best"], row["worst"]} <= {*order, None}:
            raise ValueError(
                f"{store.path} is damaged: rater {row['rater']}'s judgement {row['position'] + 1} names images that "
                "this study does not have. Bring the database back from a backup."
            )
        made.append(
            {
                "rater": row["rater"],
                "position": row["position"],
                "kind": row["kind"],
                "item": row["key"],
                "subset": item.subset,
                "action": item.action,
                "question": questions[row["question"]],
                "order": order,
                "best": row["best"],
                "worst": row["worst"],
                "cant_tell": bool(row["cant_tell"]),
                "ratings": None if row["ratings"] is None else json.loads(row["ratings"]),
                "comment": row["comment"],
                "seconds": round(row["seconds"], 3),
                "clicks": row["revision"],
                "at": datetime.fromtimestamp(row["at"], UTC).isoformat(timespec="milliseconds"),
            }
        )
    return made


def read_export(path: Path) -> list[Record]:
    """The judgements of a blind export as JSON lines; raises `ValueError` when it is none."""
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        if any({"rater", "kind", "item", "order", "question", "ratings"} - {*row} for row in rows):
            raise ValueError("a judgement lacks a field")
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is no export of judgements as JSON lines ({error}).") from None
    return rows


def to_jsonl(rows: Sequence[JsonMapping]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)


def to_csv(rows: Sequence[JsonMapping]) -> str:
    """Lists are JSON. Text that a spreadsheet would run as a formula gets an apostrophe in front."""
    buffer = io.StringIO()
    if rows:
        writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    return buffer.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return f"'{value}"
    return int(value) if isinstance(value, bool) else value

"""`retrodict judge`: a judge looks at the predictions of a run, after it has shown that it can be trusted."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from retrodict.chat.cache import IN_MEMORY
from retrodict.chat.client import Chat, usage
from retrodict.evaluation.judge.card import make_card
from retrodict.evaluation.judge.pairwise import PairJudge, make_pair_card, tournament
from retrodict.evaluation.judge.plan import FOLDER, Plan, default_name, judged_items, open_judge
from retrodict.evaluation.judge.predictions import COPY, Row, read_rows, with_scores
from retrodict.evaluation.judge.protocol import TOP, Judge, Verdict
from retrodict.evaluation.judge.results import compare
from retrodict.evaluation.judge.results import estimate as estimate_row
from retrodict.evaluation.judge.shared import ask_in_parts
from retrodict.evaluation.predictions import GREEDY
from retrodict.files import JsonMapping, JsonObject, as_written, write_json, write_lines
from retrodict.progress import Progress, QuietProgress
from retrodict.shards import ALL, Where
from retrodict.stats import adjust
from retrodict.transitions import Transition


def judge_run(run: Path, plan: Plan, progress: Progress | None = None, where: Where = ALL) -> JsonObject:
    """Judge the predictions of a run folder and return what `judge/<name>.json` holds; nothing while other processes
    are still at their shares of the questions.

    First the card: a judge that fails it raises `ValueError`, unless `plan.force`; so does a name under which another
    judge, or this one with other settings, has judged the run. Writes `judge/<name>.card.json`,
    `judge/<name>.json` and, one line per row and item, `judge/<name>.jsonl`.
    """
    began = time.monotonic()
    run = Path(run)
    items = judged_items(run, plan)
    rows = read_rows(run, items, plan.frames)
    name = plan.name or default_name(plan)
    progress = progress or QuietProgress()
    if where != ALL:
        with open_judge(run, items, replace(plan, cache=IN_MEMORY)) as judge:
            _refuse_another(judge, run / FOLDER / f"{name}.json")  # before anything is asked
        progress.stage("answers", f"{len(items)} items, {len(rows)} rows, by {name}")
        if not ask_in_parts(run, plan, where, progress):
            progress.done("this share; others are at theirs")
            return {}
        progress.done("all are there")
    with open_judge(run, items, plan) as judge:
        _refuse_another(judge, run / FOLDER / f"{name}.json")
        card = _card(judge, run, name, items, plan, progress)
        progress.stage("judge", f"{len(items)} items, {len(rows)} rows, by {name}")
        if isinstance(judge, PairJudge):
            measured, lines = tournament(judge, rows, items, progress)
        else:
            measured, lines = _scored(judge, run, rows, items, plan, progress)
        progress.done(f"{sum(not line['reason'] for line in lines)} of {len(lines)} scored")
        metadata = {
            "kind": "pairwise" if isinstance(judge, PairJudge) else "judge",
            "name": name,
            "judge": dict(judge.metadata),
        }
        measured = {**metadata, **measured, "card": card, "forced": not card["trusted"], "usage": _usage(judge, plan)}
    return _finish(run, name, measured, lines, began)


def _refuse_another(judge: Judge | PairJudge, file: Path) -> None:
    if not file.is_file():
        return
    with as_written(file.parent.parent):
        was = dict(json.loads(file.read_text(encoding="utf-8")).get("judge") or {})
    now = json.loads(json.dumps(dict(judge.metadata)))
    for key in {**was, **now}:
        if was.get(key) != now.get(key):
            raise ValueError(
                f"{file} is of a judge with {key} {was.get(key)} and not {now.get(key)}: choose another --name, or "
                "delete that file."
            )


def _scored(
    judge: Judge, run: Path, rows: Sequence[Row], items: Sequence[Transition], plan: Plan, progress: Progress
) -> tuple[JsonObject, list[JsonObject]]:
    """The numbers of a judge of single predictions, and one record per row and item."""
    verdicts = _judge(judge, rows, progress)
    measured = {
        "scale": [0, TOP],
        "frames": plan.frames,
        "rows": {row.name: estimate_row(verdicts[row.name], items) for row in rows if ".pool" not in row.name},
        "comparisons": comparisons(rows, verdicts, items),
        **({"systems": _curves(run, rows, verdicts, items)} if plan.frames == "all" else {}),
    }
    lines = [
        _line(row.name, row.candidates[i], item, verdicts[row.name][i]) for row in rows for i, item in enumerate(items)
    ]
    return measured, lines


def _card(
    judge: Judge | PairJudge, run: Path, name: str, items: Sequence[Transition], plan: Plan, progress: Progress
) -> JsonObject:
    progress.stage("card", "can this judge tell the truth from a copy?")
    if isinstance(judge, PairJudge):
        card = make_pair_card(judge, items, plan.card_items, progress)
    else:
        card = make_card(judge, items, plan.card_items, progress)
    if isinstance(judge, Chat) and not judge.used and (plan.online or not plan.force):
        raise ValueError(f"The judge {name} gave no answers{_first_failure(judge)}; the same command asks again.")
    write_json(run / FOLDER / f"{name}.card.json", {"judge": dict(judge.metadata), **card})
    progress.done("trusted" if card["trusted"] else "not trusted")
    if not card["trusted"] and not plan.force:
        lost = {row: entry["unscored"] for row, entry in card["rows"].items() if entry["unscored"]}
        raise ValueError(
            f"The judge {name} is not trusted: {card['why']}"
            + (f"; unscored: {lost}" if lost else "")
            + _first_failure(judge)
            + f". Its card is in {run / FOLDER / name}.card.json; --force judges all the same."
        )
    return card


def _first_failure(judge: Judge | PairJudge) -> str:
    """Why there was no answer, where that is so: mostly the same for all questions."""
    details = [detail for _, detail in judge.tally.failed.values() if detail] if isinstance(judge, Chat) else []
    return f", first for this reason: {details[0]}" if details else ""


def _judge(judge: Judge, rows: Sequence[Row], progress: Progress) -> dict[str, list[Verdict]]:
    """All rows in one go, so that an image that stands in several of them is asked about once."""
    verdicts = iter(judge.score([q for row in rows for q in row.questions], progress))
    return {row.name: [next(verdicts) for _ in row.questions] for row in rows}


def comparisons(
    rows: Sequence[Row], verdicts: Mapping[str, Sequence[Verdict]], items: Sequence[Transition]
) -> JsonObject:
    """Every row against Copy, and a system's chosen frames against its greedy ones: two families for Holm's p."""
    against_copy = [(row.name, COPY) for row in rows if row.name != COPY and ".pool" not in row.name]
    against_greedy = [(r.name, r.system) for r in rows if r.name.startswith(f"{r.system}.k")]
    compared: JsonObject = {}
    for family in (against_copy, against_greedy):
        entries = {f"{a} - {b}": compare(verdicts[a], verdicts[b], items, (a, b)) for a, b in family}
        adjust(entries.values())
        compared |= entries
    return compared


def _curves(
    run: Path, rows: Sequence[Row], verdicts: Mapping[str, Sequence[Verdict]], items: Sequence[Transition]
) -> JsonObject:
    """Best-of-k by the judge's scores, per system, in the form of `systems` in `results.json`."""
    from retrodict.evaluation.summary import summarise

    curves = {}
    for system in dict.fromkeys(row.system for row in rows if row.system != COPY):
        scores: dict[int, Sequence[Verdict]] = {GREEDY: verdicts[system]}
        scores |= {i: verdicts[f"{system}.pool{i}"] for i in range(len(rows)) if f"{system}.pool{i}" in verdicts}
        judged = with_scores(system, run, items, scores)
        curves[system] = summarise(judged, sorted({v for r in judged for f in r.pool for v in f.verifiers}))
    return curves


def _usage(judge: Judge | PairJudge, plan: Plan) -> JsonObject | None:
    if not isinstance(judge, Chat):
        return None
    counted = usage(judge.used, judge.tally.fresh, judge.cache, plan.prices)
    return {**counted, "calls": dict(sorted(judge.tally.counts.items()))}


def _finish(run: Path, name: str, measured: JsonObject, lines: Sequence[JsonMapping], began: float) -> JsonObject:
    from retrodict.versions import provenance

    measured |= provenance(time.monotonic() - began)
    write_lines(run / FOLDER / f"{name}.jsonl", lines)
    write_json(run / FOLDER / f"{name}.json", measured)
    return measured


def _line(row: str, candidate: int | None, item: Transition, verdict: Verdict) -> JsonObject:
    def number(value: float) -> float | None:
        return None if math.isnan(value) else value

    return {
        "row": row,
        "candidate": candidate,
        "id": item.id,
        "class": item.category,
        "group": item.cluster,
        "action": item.action,
        "es": number(verdict.es),
        "me": number(verdict.me),
        "score": number(verdict.score),
        "reason": verdict.reason,
        "detail": verdict.detail,
        "replies": list(verdict.replies),
        "answers": list(verdict.answers),
    }

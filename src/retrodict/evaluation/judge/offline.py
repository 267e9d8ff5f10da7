"""What judging a run would send, and what can be done about it without sending: estimate it, or batch files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import combinations
from pathlib import Path

from retrodict.chat.batch import Taken, read_batch, write_batch
from retrodict.chat.client import missing
from retrodict.chat.cost import estimate
from retrodict.chat.request import Request
from retrodict.evaluation.judge.card import card_questions
from retrodict.evaluation.judge.chat import ChatJudge
from retrodict.evaluation.judge.kinds import JUDGES
from retrodict.evaluation.judge.pairwise import PairJudge, pairs_of, truth_pairs
from retrodict.evaluation.judge.plan import Plan, judged_items, open_judge
from retrodict.evaluation.judge.predictions import read_rows
from retrodict.files import JsonObject
from retrodict.transitions import Transition


def dry_run(run: Path, plan: Plan) -> JsonObject:
    """What judging a run would send and cost, at most. Nothing is sent and nothing but the cache file is made."""
    items = judged_items(run, plan)
    with open_judge(run, items, replace(plan, online=False)) as judge:
        if not isinstance(judge, ChatJudge | PairJudge):
            return {"requests": 0, "cost_at_most": 0.0, "note": "this judge sends nothing"}
        requests = all_requests(judge, run, items, plan)
        asked = missing(requests, judge.cache, judge.is_wanted_again)
        return {"answered": len({r.key for r in requests}) - len(asked), **estimate(asked, plan.prices)}


def all_requests(judge: ChatJudge | PairJudge, run: Path, items: Sequence[Transition], plan: Plan) -> list[Request]:
    """What the card and the rows ask, with repetitions of the same question."""
    if isinstance(judge, PairJudge):
        pairs = (pair for a, b in combinations(read_rows(run, items), 2) for pair in pairs_of(a, b))
        return judge.requests([*truth_pairs(items, plan.card_items), *pairs])
    card = (q for row in card_questions(items, plan.card_items).values() for q in row if q is not None)
    rows = (q for row in read_rows(run, items, plan.frames) for q in row.questions)
    return judge.requests([*card, *rows])


def batch_out(run: Path, plan: Plan, path: Path) -> list[Path]:
    """Write what is not answered yet as OpenAI batch files."""
    items = judged_items(run, plan)
    with _asked_in_words(run, items, plan) as judge:
        return write_batch(path, missing(all_requests(judge, run, items, plan), judge.cache, judge.is_wanted_again))


def batch_in(run: Path, plan: Plan, path: Path) -> Taken:
    """Keep the answers of a batch's output file; `judge_run` then scores them."""
    items = judged_items(run, plan)
    with _asked_in_words(run, items, plan) as judge:
        return read_batch(path, all_requests(judge, run, items, plan), judge.cache)


@contextmanager
def _asked_in_words(run: Path, items: Sequence[Transition], plan: Plan) -> Iterator[ChatJudge | PairJudge]:
    if not JUDGES[plan.kind].takes_batches:
        raise ValueError("Batch files are for judges behind an endpoint.")
    with open_judge(run, items, replace(plan, online=False)) as judge:
        assert isinstance(judge, ChatJudge | PairJudge)
        yield judge

"""The questions to a judge, shared by processes: each part's answers are a cache of their own until all are there."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Set
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from retrodict.chat.cache import IN_MEMORY, CacheInUseError, open_cache
from retrodict.chat.client import Tally
from retrodict.chat.request import Request
from retrodict.evaluation.judge.chat import ChatJudge
from retrodict.evaluation.judge.offline import all_requests
from retrodict.evaluation.judge.pairwise import PairJudge
from retrodict.evaluation.judge.plan import Plan, cache_of, default_name, judged_items, open_judge
from retrodict.progress import Progress
from retrodict.shards import Shard, Where, run_shards

PART = 64  # questions


def ask_in_parts(run: Path, plan: Plan, where: Where, progress: Progress) -> bool:
    """Have a share of the questions answered.

    Returns:
        Whether all answers are in the judge's cache now; else others are at their shares, or at the end.

    Raises:
        ValueError: this judge asks nothing, or its cost is to be limited, which no process can do for all.
    """
    if plan.max_cost is not None:
        raise ValueError("--max-cost is what one process may spend: leave it out where several share the questions.")
    shards = _parts(run, plan)
    if run_shards(shards, where, progress, partial(_parts, run, plan)):
        return False
    with suppress(CacheInUseError), open_cache(cache_of(run, plan)) as cache:
        for file in sorted(_folder(run, plan).glob("*.sqlite")):
            cache.take(file)
            file.unlink()
        return True
    return False


def _folder(run: Path, plan: Plan) -> Path:
    """Of the files of this judge's parts: another judge may share the cache at the same time."""
    file = cache_of(run, plan)
    return file.with_name(f"{file.name}.{plan.name or default_name(plan)}.parts")


def _parts(run: Path, plan: Plan) -> list[Shard]:
    """Each question once, in parts that are the same in every process."""
    items = judged_items(run, plan)
    with open_judge(run, items, replace(plan, cache=IN_MEMORY)) as judge:
        if not isinstance(judge, ChatJudge | PairJudge):
            raise ValueError(f"The judge {plan.kind} asks nothing: there is nothing to share.")
    unique = list({r.key: r for r in all_requests(judge, run, items, plan)}.values())
    parts = [unique[at : at + PART] for at in range(0, len(unique), PART)]
    main = cache_of(run, plan)
    known: set[str] = set()
    if main.is_file():
        with open_cache(main) as cache:
            known = {request.key for request in unique if cache.get(request.key) is not None}
    return [_part(judge, part, _folder(run, plan), known) for part in parts]


def _part(judge: ChatJudge | PairJudge, requests: list[Request], folder: Path, known: Set[str]) -> Shard:
    """The judge keeps its model from part to part; only the cache is another."""
    digest = hashlib.sha256("".join(request.key for request in requests).encode()).hexdigest()[:16]
    file, answered = folder / f"{digest}.sqlite", known >= {request.key for request in requests}

    def make(tell: Callable[[int], None]) -> None:
        begun = file.with_suffix(".begun")  # answers of a process that died are in it
        with open_cache(begun) as cache:
            replace(judge, cache=cache, tally=Tally()).fetch(requests)
        begun.rename(file)

    return Shard(lambda: answered or file.is_file(), make, len(requests))

"""Which annotated transitions the forward model learns from: stratified top-K (arXiv 2506.06006, Algorithm 1)."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from retrodict.files import write_json
from retrodict.run_folder import RECORD, check, place
from retrodict.transitions import Transition, read_transitions, write_manifest, write_rows


def select(transitions: Sequence[Transition], top_k: int) -> list[Transition]:
    """Go round the classes in turn, taking each one's most likely remaining label, until `top_k` are taken.

    Classes go round in alphabetical order, and equal likelihoods are ordered by id, so that the result depends on the
    set of transitions alone. Those without a likelihood are never taken. Fewer than `top_k` come back when there are
    no more.
    """
    if top_k < 1:
        raise ValueError(f"top_k must be at least 1, not {top_k}.")
    queues: dict[str, list[Transition]] = defaultdict(list)
    scored = [t for t in transitions if not math.isnan(t.logprob)]  # before sorting, which NaN makes arbitrary
    for transition in sorted(scored, key=lambda t: (-t.logprob, t.id)):
        queues[transition.category].append(transition)
    chosen: list[Transition] = []
    turn = 0
    while len(chosen) < top_k:
        round_ = [queue[turn] for _, queue in sorted(queues.items()) if turn < len(queue)]
        if not round_:
            break
        chosen += round_[: top_k - len(chosen)]
        turn += 1
    return chosen


def select_dir(transitions: Path, *, top_k: int, out: Path) -> None:
    """Select among a directory of annotated transitions. Raises `ValueError` when none has a likelihood."""
    record = check(out, "select", {"transitions": place(transitions, out), "top_k": top_k}, apart=[transitions])
    rows = read_transitions(transitions)
    chosen = select(rows, top_k)
    if not chosen:
        raise ValueError(f"No transition in {transitions} has a likelihood: run `retrodict annotate` first.")
    write_json(out / RECORD, record)
    write_rows(out / "transitions-00000.parquet", chosen)
    unscored = sum(math.isnan(row.logprob) for row in rows)
    dropped = Counter({"no likelihood": unscored, "below the top": len(rows) - unscored - len(chosen)})
    write_manifest(out, kind="transitions", config={"top_k": top_k}, kept=len(chosen), dropped=+dropped)

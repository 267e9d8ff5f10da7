"""Stratified top-K, by hand."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from pathlib import Path

import pytest

from retrodict.bootstrap.select import COLLECTION, FORWARD, select, select_dir
from retrodict.transitions import Transition, read_transitions, write_rows

ROWS = [
    Transition(id=name, category=category, action="do it", logprob=logprob)
    for name, category, logprob in [
        ("b1", "b", -1.0),
        ("b2", "b", -9.0),
        ("a1", "a", -5.0),
        ("a2", "a", -2.0),
        ("a3", "a", -5.0),
        ("c1", "c", -7.0),
        ("c2", "c", math.nan),
    ]
]


@pytest.mark.parametrize(
    ("top_k", "expected"),
    [
        (1, ["a2"]),
        (4, ["a2", "b1", "c1", "a1"]),  # one of each class, then the second best of a; of equals, the first by id
        (5, ["a2", "b1", "c1", "a1", "b2"]),  # c has no second one with a likelihood
        (99, ["a2", "b1", "c1", "a1", "b2", "a3"]),
    ],
)
def test_by_hand(top_k: int, expected: list[str]) -> None:
    assert [row.id for row in select(ROWS, top_k)] == expected


def test_the_order_of_rows_does_not_matter() -> None:
    shuffled = list(ROWS)
    for seed in range(5):
        random.Random(seed).shuffle(shuffled)
        assert select(shuffled, 4) == select(ROWS, 4)


def test_directories(tmp_path: Path) -> None:
    write_rows(tmp_path / "in" / "rows.parquet", ROWS)
    select_dir(tmp_path / "in", top_k=2, out=tmp_path / "out")
    assert [row.id for row in read_transitions(tmp_path / "out")] == ["a2", "b1"]
    counts = (tmp_path / "out" / "manifest.json").read_text()
    assert '"kept": 2' in counts
    assert '"below the top": 4' in counts
    assert '"no likelihood": 1' in counts
    write_rows(tmp_path / "none" / "rows.parquet", ROWS[-1:])
    with pytest.raises(ValueError, match="has a likelihood"):
        select_dir(tmp_path / "none", top_k=2, out=tmp_path / "out2")
    with pytest.raises(ValueError, match="at least 1"):
        select(ROWS, 0)


def test_so_many_of_each_collection(tmp_path: Path) -> None:
    rows = [replace(row, provenance={COLLECTION: "ucf" if row.category == "b" else "k700"}) for row in ROWS]
    write_rows(tmp_path / "in" / "rows.parquet", rows)
    select_dir(tmp_path / "in", top_k=2, out=tmp_path / "out", per_collection=True)
    assert [row.id for row in read_transitions(tmp_path / "out")] == ["a2", "c1", "b1", "b2"]


# id, action, log p(action | frames), log p(target | source, action): "push" twice as often as "put"
CHECKED = [
    Transition(id=name, category="v", action=action, logprob=inverse, provenance={FORWARD: forward})
    for name, action, inverse, forward in [
        ("p1", "push it", -1.0, -20.0),
        ("p2", "push it", -2.0, -1.0),
        ("p3", "push that", -3.0, -2.0),
        ("p4", "Push it", -4.0, -9.0),
        ("u1", "put it", -5.0, -90.0),
        ("u2", "put it", -6.0, -40.0),
    ]
]


@pytest.mark.parametrize(
    ("strategy", "top_k", "expected"),
    [
        ("likeliest", 3, ["p1", "p2", "p3"]),
        # sums with half the second: -11, -2.5, -4, -8.5 | -50, -26; turns at 1/8, 3/8, 5/8, 7/8 | 1/4, 3/4 of a kind
        ("checked", 3, ["p2", "u2", "p3"]),
        ("checked", 6, ["p2", "u2", "p3", "p4", "u1", "p1"]),
        # the surer halves are p1, p2 and u1: the least expected target first
        ("informative", 3, ["p1", "u1", "p2"]),
        ("all", 1, ["p1", "p2", "p3", "p4", "u1", "u2"]),
    ],
)
def test_strategies_by_hand(strategy: str, top_k: int, expected: list[str]) -> None:
    assert [row.id for row in select(CHECKED, top_k, strategy=strategy)] == expected


def test_a_strategy_that_needs_a_check_says_so(tmp_path: Path) -> None:
    write_rows(tmp_path / "in" / "rows.parquet", ROWS)
    with pytest.raises(ValueError, match="No forward model has checked"):
        select_dir(tmp_path / "in", top_k=2, out=tmp_path / "out", strategy="checked")
    with pytest.raises(ValueError, match='No strategy "best": use one of likeliest'):
        select(ROWS, 2, strategy="best")
    write_rows(tmp_path / "checked" / "rows.parquet", CHECKED)
    select_dir(tmp_path / "checked", top_k=2, out=tmp_path / "chosen", strategy="checked")
    assert [row.id for row in read_transitions(tmp_path / "chosen")] == ["p2", "u2"]

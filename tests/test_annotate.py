"""Annotating and selecting folders: what is new or changed is labelled, nothing twice, and nothing is mixed up."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from retrodict.bootstrap import annotate as module
from retrodict.bootstrap.annotate import UNCHECKED, annotate_dir, check
from retrodict.bootstrap.select import FORWARD, select_dir
from retrodict.images import encode_png
from retrodict.models.protocol import Explanation, Frame, LogProb, Pair
from retrodict.shards import Share
from retrodict.transitions import FramePair, Transition, read_rows, read_transitions, write_rows


class Reader:
    """Says the grey level of the target; black gives it no words."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def explain(self, pairs: Sequence[Pair]) -> list[Explanation]:
        levels = [target.getpixel((0, 0))[0] for _, target in pairs]  # type: ignore[index, union-attr]
        self.seen += levels
        return [Explanation(f"grey {n}" if n else "", LogProb(-float(n), 2), "p") for n in levels]


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> Reader:
    reader = Reader()
    monkeypatch.setattr(module, "load", lambda name, role: reader)
    return reader


def pairs(folder: Path, name: str, levels: Sequence[int | None]) -> None:
    """A file of pairs; None is one without images."""
    rows = [
        FramePair(
            id=f"{name}-{i}",
            source=None if level is None else encode_png(Image.new("RGB", (2, 2))),
            target=None if level is None else encode_png(Image.new("RGB", (2, 2), (level,) * 3)),
        )
        for i, level in enumerate(levels)
    ]
    write_rows(folder / f"{name}.parquet", rows, FramePair)


def counts(out: Path) -> Any:
    return json.loads((out / "manifest.json").read_text())["counts"]


def test_only_what_is_new_or_changed_is_labelled(reader: Reader, tmp_path: Path) -> None:
    given, out = tmp_path / "pairs", tmp_path / "out"
    pairs(given, "b", [1, 0, None, 2])
    annotate_dir(given, model="m", out=out)
    assert (reader.seen, counts(out)) == ([1, 0, 2], {"kept": 2, "dropped": {"no action": 1, "no image": 1}})
    pairs(given, "a", [3])  # sorts before what is labelled
    annotate_dir(given, model="m", out=out)
    assert reader.seen == [1, 0, 2, 3]
    assert [(row.id, row.action) for row in read_transitions(out)] == [
        ("a-0", "grey 3"),
        ("b-0", "grey 1"),
        ("b-3", "grey 2"),
    ]
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.parquet")}
    (given / "b.parquet").touch()  # another time, and the same bytes
    annotate_dir(given, model="m", out=out)
    assert reader.seen == [1, 0, 2, 3]
    assert {path: path.stat().st_mtime_ns for path in out.glob("*.parquet")} == before
    pairs(given, "b", [4, 0, None, 2])
    annotate_dir(given, model="m", out=out)
    assert [row.action for row in read_transitions(out)] == ["grey 3", "grey 4", "grey 2"]
    (given / "a.parquet").unlink()
    annotate_dir(given, model="m", out=out)
    assert [row.id for row in read_rows(out)] == ["b-0", "b-3"]
    assert counts(out) == {"kept": 2, "dropped": {"no action": 1, "no image": 1}}
    with pytest.raises(ValueError, match="holds a run with model m and not other"):
        annotate_dir(given, model="other", out=out)
    pairs(tmp_path / "bare", "a", [None])
    with pytest.raises(ValueError, match="No frame pair has images"):
        annotate_dir(tmp_path / "bare", model="m", out=tmp_path / "bare-out")


def test_the_same_name_with_other_weights_is_another_model(reader: Reader, tmp_path: Path) -> None:
    pairs(tmp_path / "pairs", "a", [1])
    (tmp_path / "idm").mkdir()
    (tmp_path / "idm" / "model.safetensors").write_bytes(b"1")
    annotate_dir(tmp_path / "pairs", model=tmp_path / "idm", out=tmp_path / "out")
    (tmp_path / "idm" / "model.safetensors").write_bytes(b"2")
    with pytest.raises(ValueError, match=r"model as it was before .*idm changed"):
        annotate_dir(tmp_path / "pairs", model=tmp_path / "idm", out=tmp_path / "out")


@pytest.mark.parametrize("world", [1, 2, 3])
def test_processes_share_the_files_and_give_what_one_gives(reader: Reader, tmp_path: Path, world: int) -> None:
    for number in range(5):
        pairs(tmp_path / "pairs", f"f{number}", [10 * number + 1, 10 * number + 2])
    for rank in reversed(range(world)):
        made = annotate_dir(tmp_path / "pairs", model="m", out=tmp_path / "out", where=Share(rank, world))
        assert made == (tmp_path / "out" / "manifest.json").is_file() == (rank == 0)
    assert sorted(reader.seen) == sorted(10 * n + i for n in range(5) for i in (1, 2))  # each once
    assert [row.action for row in read_transitions(tmp_path / "out")] == [
        f"grey {10 * n + i}" for n in range(5) for i in (1, 2)
    ]


def test_selected_rows_come_in_order_with_their_images(
    reader: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retrodict.bootstrap.select._PART", 2)  # so that the rows go through several parts
    pairs(tmp_path / "pairs", "a", [9, 3, 7])
    pairs(tmp_path / "pairs", "b", [5, 1])
    annotate_dir(tmp_path / "pairs", model="m", out=tmp_path / "all")
    select_dir(tmp_path / "all", top_k=4, out=tmp_path / "top")
    rows = read_transitions(tmp_path / "top")
    assert [row.action for row in rows] == ["grey 1", "grey 3", "grey 5", "grey 7"]
    assert [row.target_image.getpixel((0, 0))[0] for row in rows] == [1, 3, 5, 7]  # type: ignore[index]
    assert sorted(path.name for path in (tmp_path / "top").iterdir()) == [
        "manifest.json",
        "run.json",
        "transitions-00000.parquet",
    ]
    before = (tmp_path / "top" / "transitions-00000.parquet").stat().st_mtime_ns
    select_dir(tmp_path / "all", top_k=4, out=tmp_path / "top")
    assert (tmp_path / "top" / "transitions-00000.parquet").stat().st_mtime_ns == before
    pairs(tmp_path / "pairs", "c", [2])
    annotate_dir(tmp_path / "pairs", model="m", out=tmp_path / "all")
    select_dir(tmp_path / "all", top_k=4, out=tmp_path / "top")
    assert [row.action for row in read_transitions(tmp_path / "top")] == ["grey 1", "grey 2", "grey 3", "grey 5"]
    with pytest.raises(ValueError, match="holds a run with top_k 4 and not 3"):
        select_dir(tmp_path / "all", top_k=3, out=tmp_path / "top")
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "a.parquet").write_bytes((tmp_path / "all" / "a.parquet").read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"cut/a\.parquet is not a readable Parquet file"):
        select_dir(tmp_path / "cut", top_k=3, out=tmp_path / "top3")


class Proposer(Reader):
    """Proposes "turn" and "paint" for every pair."""

    def propose(self, pairs: Sequence[Pair], n: int, seed: int, temperature: float) -> list[list[Explanation]]:
        labels = (("turn", -1.0), ("paint", -2.0), ("turn", -1.0))
        return [[Explanation(action, LogProb(total, 3), "p") for action, total in labels] for _ in pairs]


class Expecter:
    """Expects a target after "paint" the more the darker it is, and after any other action not at all."""

    def score_targets(
        self, sources: Sequence[Frame], actions: Sequence[str], targets: Sequence[Frame]
    ) -> list[LogProb]:
        levels = [target.getpixel((0, 0))[0] for target in targets]  # type: ignore[index, union-attr]
        return [
            LogProb(-float(level) if action == "paint" else -9.0, 4)
            for level, action in zip(levels, actions, strict=True)
        ]


def test_a_forward_model_chooses_among_the_labels_of_each_pair() -> None:
    grey = [encode_png(Image.new("RGB", (2, 2), (level,) * 3)) for level in (2, 8)]
    rows = [
        Transition(id=str(i), source=grey[0], target=target, action="push", logprob=-0.5, tokens=2)
        for i, target in enumerate(grey)
    ]
    # push -.5 - 4.5 = -5, turn -1 - 4.5 = -5.5, paint -2 - level / 2: -3 and -6
    checked = check(Proposer(), Expecter(), rows)  # type: ignore[arg-type]
    assert [(row.action, row.logprob, row.tokens, row.provenance[FORWARD]) for row in checked] == [
        ("paint", -2.0, 3, -2.0),
        ("push", -0.5, 2, -9.0),
    ]
    assert [row.provenance.get(UNCHECKED) for row in checked] == ["push", None], "what was replaced is kept"
    alone = check(Reader(), Expecter(), rows)  # type: ignore[arg-type]
    assert [row.action for row in alone] == ["push", "push"], "a model that proposes nothing keeps its labels"

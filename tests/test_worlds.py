"""What every world must answer; and a world in one new file and a registry line, through every measuring command."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import toy_world
from PIL import Image

from retrodict import loading
from retrodict.evaluation import probe_run
from retrodict.evaluation.judge.plan import Plan
from retrodict.evaluation.judge.run import judge_run
from retrodict.models.protocol import Candidate, Frame, LogProb, Pair, image_of
from retrodict.report import runs
from retrodict.transitions import FramePair, Transition, read_rows
from retrodict.video import MineConfig, mine
from retrodict.worlds import WORLDS, get_world, world_of
from retrodict.worlds.base import STILL, World


@pytest.fixture(autouse=True)
def dots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(WORLDS, "dots", "toy_world")


@pytest.fixture(params=["tabletop", "babyai", "dots"])
def world(request: pytest.FixtureRequest, dots: None) -> World:
    return get_world(request.param)


def fields(rows: Sequence[Transition]) -> list[tuple[object, ...]]:
    """To compare rows by. From Python 3.13 on, two with the same NaN for a likelihood are not equal."""
    return [tuple(getattr(row, field.name) for field in dataclasses.fields(row)) for row in rows]


def test_what_is_impossible_changes_nothing(world: World) -> None:
    rows = world.sample_still(12, 3, namespace="mine", split="train")
    assert len({row.id for row in rows}) == 12
    assert fields(rows) == fields(world.sample_still(12, 3, namespace="mine", split="train"))
    for row in rows:
        assert row.category == STILL and row.source == row.target
        assert world.score(row.source_image, row).score == 1
        assert world.action_between(row.source_image, row.target_image) is None
        assert world.play(row.source_image, [row.action]) is None
    changed = world.sample(1, 4, namespace="mine")[0].target_image
    assert world.score(changed, rows[0]).score < 1


def test_a_world_judges_its_own_rows(world: World) -> None:
    rows = world.sample(12, 3, namespace="mine", split="test")
    assert fields(rows) == fields(world.sample(12, 3, namespace="mine", split="test"))
    assert fields(rows) != fields(world.sample(12, 4, namespace="mine", split="test"))
    assert {row.category for row in rows} <= set(world.suites)
    assert world_of(rows) is world and all(row.split == "test" for row in rows)
    false = plays = 0
    for row in rows:
        source, target = row.source_image, row.target_image
        assert world.score(target, row).score == 1 and world.score(source, row).score == 0
        assert world.is_copy(source, row) and not world.is_copy(target, row)
        said = world.action_between(source, target)
        assert said is not None and world.same_action(said, row.action) and world.names_action(said, row)
        assert all(world.explains(text, source, target, row) for text in world.wordings(row.action))
        others = world.alternatives(row) + world.counterfactuals(row)
        assert not any(world.explains(text, source, target) for text in others)
        false += len(others)
        scores = [world.score_action(image, source, row.action, row) for image in (target, source)]
        assert [score and score.score for score in scores] == [1, 0]
        assert set(row.action.split()) <= {word for text in world.vocabulary() for word in text.split()}
        played = world.play(source, [row.action])
        if played is not None:  # what the image does not show, such as a thing that is carried, may be needed
            assert world.score(played[0], row).score == 1
            assert any(world.same_action(text, row.action) for text in world.possible(source))
            assert world.play(played[0], ["sing a song"]) is None
        plays += played is not None
    assert false > len(rows) and plays >= len(rows) - 2
    with pytest.raises(ValueError, match="other"):
        world.score(rows[0].target_image, Transition(id="other"))
    assert not world.wordings("sing a song") and not world.explains("sing a song", source, target)


def test_a_world_knows_what_happens_in_its_videos(world: World, tmp_path: Path) -> None:
    folder, truth = tmp_path / "videos", tmp_path / "truth"
    paths = world.write_videos(folder, 4, 0, actions=3, truth=truth)
    before = {path: path.stat().st_mtime_ns for path in paths}
    assert world.write_videos(folder, 4, 0, actions=3, truth=truth) == paths
    assert {path: path.stat().st_mtime_ns for path in paths} == before
    mine(folder, tmp_path / "pairs", MineConfig(frames_per_clip=4, min_gap="0.3s"), workers=1)
    pairs = read_rows(tmp_path / "pairs")
    said = [world.true_action(pair, truth) for pair in pairs]
    known = [(pair, text) for pair, text in zip(pairs, said, strict=True) if text is not None]
    assert len(known) >= 3
    assert all(world.explains(text, pair.source_image, pair.target_image) for pair, text in known)


class Knows:
    """Samples the source, then what the action leads to; finds what happened the likeliest."""

    def sample(
        self, sources: Sequence[Frame], actions: Sequence[str], n: int, seed: int, sampling: Any = None
    ) -> list[list[Candidate]]:
        return [list(self._frames(image_of(s), a, n)) for s, a in zip(sources, actions, strict=True)]

    def _frames(self, source: Image.Image, action: str, n: int) -> Iterator[Candidate]:
        outcome = toy_world.apply(toy_world.parse(source), action)
        assert outcome is not None
        for i in range(n):
            yield Candidate(toy_world.render(outcome) if i % 2 else source)

    def score_targets(
        self, sources: Sequence[Frame], actions: Sequence[str], targets: Sequence[Frame]
    ) -> list[LogProb]:
        return self.score(list(zip(sources, targets, strict=True)), actions)

    def score(self, pairs: Sequence[Pair], actions: Sequence[str]) -> list[LogProb]:
        explains = toy_world.WORLD.explains
        rows = zip(pairs, actions, strict=True)
        return [LogProb(-float(not explains(a, image_of(s), image_of(t))), 1) for (s, t), a in rows]


def test_a_new_world_is_benched_probed_and_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "load", lambda name, role: Knows())
    monkeypatch.setattr(probe_run, "load", lambda name, role: Knows())
    run = tmp_path / "bench"
    found = runs.bench("dots", out=run, model="knows", n=4, verifier="exact", items=20)
    system = found["systems"]["knows"]
    assert (system["greedy"]["score"], system["greedy"]["copy_rate"], system["greedy"]["n"]) == (0, 1, 20)
    assert (system["k1"]["random"]["score"], system["k4"]["selector"], system["k4"]["score"]) == (0.5, "exact", 1)
    assert (found["ground_truth"]["score"], found["systems"]["copy"]["greedy"]["score"]) == (1, 0)
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "Paint" in page and "tabletop" not in page
    assert judge_run(run, Plan(kind="exact", card_items=10))["judge"]["model"] == "dots state"

    probed = runs.probe("dots", out=tmp_path / "probe", model="knows", items=20)
    for direction in ("inverse", "forward"):
        shares = {name: entry["share"] for name, entry in probed["probe"][direction].items()}
        assert [shares[n] for n in ("action", "observation", "copy", "inverse", "counterfactual")] == [1] * 5
    assert "Move" in (tmp_path / "probe" / "report.html").read_text(encoding="utf-8")
    assert (
        json.loads((tmp_path / "probe" / "results.json").read_text())["n"]["with_counterfactual"] == 10
    )  # of 3 colours 2 are there


def test_rows_of_two_worlds_have_no_world() -> None:
    rows: list[FramePair] = [get_world(name).sample(1, 0, namespace="x")[0] for name in ("tabletop", "dots")]
    assert world_of(rows) is None and world_of([]) is None
    with pytest.raises(ValueError, match="use one of tabletop, babyai, dots"):
        get_world("chess")

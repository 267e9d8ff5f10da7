"""The preference probe, with models whose preferences are known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from retrodict.evaluation import probe_run
from retrodict.evaluation.probe import (
    NEGATIVES,
    ask,
    inverse_score,
    preferences,
    probe_forward,
    probe_inverse,
)
from retrodict.models.protocol import Candidate, Frame, LogProb, Pair, image_of
from retrodict.transitions import Transition
from retrodict.worlds import get_world, tabletop

explains = get_world("tabletop").explains


@pytest.fixture(scope="module")
def transitions() -> list[Transition]:
    return [example.transition() for example in tabletop.sample(40, 3)]


class Knows:
    """Gives 0 to what really happens and -1 a word to the rest."""

    def score(self, pairs: Sequence[Pair], actions: Sequence[str]) -> list[LogProb]:
        rows = zip(pairs, actions, strict=True)
        return [self._logprob(image_of(s), a, image_of(t)) for (s, t), a in rows]

    def score_targets(
        self, sources: Sequence[Frame], actions: Sequence[str], targets: Sequence[Frame]
    ) -> list[LogProb]:
        rows = zip(sources, actions, targets, strict=True)
        return [self._logprob(image_of(s), a, image_of(t)) for s, a, t in rows]

    def _logprob(self, source: Any, action: str, target: Any) -> LogProb:
        words = len(action.split())
        return LogProb(0.0 if explains(action, source, target) else -float(words), words)

    def explain(self, pairs: Sequence[Pair]) -> list[Any]:
        raise NotImplementedError

    def sample(self, *_: Any, **__: Any) -> list[list[Candidate]]:
        raise NotImplementedError


class Blind(Knows):
    """Looks at no image, and likes short sentences."""

    def _logprob(self, source: Any, action: str, target: Any) -> LogProb:
        words = len(action.split())
        return LogProb(-float(words), words)


def test_a_model_that_knows_prefers_what_happened(transitions: list[Transition]) -> None:
    for found in (
        probe_inverse(Knows(), transitions, explains=explains),
        probe_forward(Knows(), transitions, explains=explains),
    ):
        assert {name: found[name]["share"] for name in NEGATIVES} == dict.fromkeys(NEGATIVES, 1.0)
        assert found["copy"]["n"] == 40
        swaps = sum("swap" in t.action or "exchange" in t.action for t in transitions)
        assert swaps > 0
        assert found["inverse"]["n"] == 40 - swaps  # a swap is its own inverse, and so no negative
        assert found["copy"]["per_token"]["share"] == 1
        assert found["copy"]["ci95"][1] == pytest.approx(1)
        assert found["action_blind"]["share"] < 0.6  # without the outcome it knows nothing


def test_the_blind_control_shows_what_is_not_read_off_the_outcome(transitions: list[Transition]) -> None:
    found = probe_inverse(Blind(), transitions, explains=explains)
    assert found["action"]["share"] == found["action_blind"]["share"] > 0
    assert found["action_gain"]["share"] == 0
    assert found["action"]["per_token"]["share"] == 0  # all words cost the same: ties are no preference
    assert found["copy"]["share"] == found["inverse"]["share"] == 0


def test_the_same_action_in_other_words_is_no_negative() -> None:
    (one,) = (e.transition() for e in tabletop.sample(1, 0, suites=("everyday",)))
    action = tabletop.parse_action(one.action)
    assert action is not None
    reworded = next(text for text in tabletop.templates(action) if text != one.action)
    rows = [one, replace(one, id="reworded", group="reworded", action=reworded)]
    assert probe_inverse(Knows(), rows)["action"]["n"] == 2
    found = probe_inverse(Knows(), rows, explains=explains)["action"]
    assert (found["n"], found["n_unscored"]) == (0, 2)
    assert math.isnan(found["share"])


def test_negatives_depend_on_the_seed_alone(transitions: list[Transition]) -> None:
    first = probe_inverse(Blind(), transitions, seed=1)
    assert first == probe_inverse(Blind(), transitions, seed=1)
    assert first["action"] != probe_inverse(Blind(), transitions, seed=2)["action"]


def test_counterfactual_actions_are_false_and_about_the_same_thing(transitions: list[Transition]) -> None:
    others = [probe_run.counterfactual(t, get_world("tabletop"), 0) for t in transitions]
    pairs = [(t, other) for t, other in zip(transitions, others, strict=True) if other is not None]
    assert len(pairs) >= 20
    for t, other in pairs:
        one, two = tabletop.parse_action(t.action), tabletop.parse_action(other)
        assert one is not None
        assert two is not None
        assert (one.kind, one.thing) == (two.kind, two.thing)
        assert one != two
    found = preferences(ask(inverse_score(Knows()), transitions, explains=explains, counterfactuals=others))
    assert found["counterfactual"]["share"] == 1
    assert found["counterfactual"]["n"] + found["counterfactual"]["n_unscored"] == 40
    assert found["counterfactual_blind"]["share"] < 0.6
    blind = preferences(ask(inverse_score(Blind()), transitions, counterfactuals=others))
    assert blind["counterfactual"]["per_token"]["share"] == 0


class Picky(Knows):
    """Does not know the word "red", and like a model that only reads images it predicts nothing."""

    def score(self, pairs: Sequence[Pair], actions: Sequence[str]) -> list[LogProb]:
        if any("red" in action for action in actions):
            raise ValueError("This model does not know 'red'.")
        return super().score(pairs, actions)


def test_a_run_keeps_what_cannot_be_scored_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str, role: str) -> Any:
        if role == "forward":
            raise ValueError("picky only reads images")
        return Picky()

    monkeypatch.setattr(probe_run, "load", load)
    found = probe_run.run_probe("tabletop", out=tmp_path, model="picky", items=30, seed=1)
    assert list(found["probe"]) == ["inverse"]  # the direction that it has
    lost = sum("red" in e.transition().action for e in tabletop.sample(30, 1, namespace="bench"))
    assert 0 < lost < 30
    copy = found["probe"]["inverse"]["copy"]
    assert (copy["share"], copy["n"], copy["n_unscored"]) == (1, 30 - lost, lost)
    assert found["unscored"]["This model does not know ..."] >= lost
    assert sum(part["inverse"]["copy"]["n"] for part in found["subsets"].values()) == 30 - lost
    assert len((tmp_path / "items" / "probe.jsonl").read_text().splitlines()) == 30
    with pytest.raises(ValueError, match="only reads images"):
        probe_run.run_probe("tabletop", out=tmp_path / "other", model="picky", items=3, directions=["forward"])


def test_the_small_model_is_probed_in_both_directions(tmp_path: Path) -> None:
    found = probe_run.run_probe("tabletop", out=tmp_path, model="small", items=8, seed=1)
    assert list(found["probe"]) == ["inverse", "forward"]
    assert found["n"]["with_target"] == 8
    assert -1 <= found["correlation"]["inverse"]["action"]["spearman"] <= 1

"""Choosing among candidates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from retrodict.dynamics.adaptive import adaptive_values, calibrate, predict_adaptively, sampled_until
from retrodict.dynamics.best_of_n import Prediction, SecondProposer, choose, predict
from retrodict.dynamics.confidence import fit, reliability
from retrodict.dynamics.rollout import rollout
from retrodict.dynamics.unified import UnifiedModel
from retrodict.dynamics.verify import (
    Contrast,
    CopyGate,
    InverseAndForwardLikelihood,
    InverseLikelihood,
    Pool,
    Random,
    ScoredBy,
    scores_of_all,
)
from retrodict.models.protocol import Candidate, Explanation, Frame, LogProb, Pair, image_of
from retrodict.models.small.family import SmallFamily
from retrodict.sampling import Sampling

NAN = math.nan
SOURCE = Image.new("RGB", (4, 4))


class Shades:
    """A model of images of one shade: it samples brighter and brighter ones, and likes what its scores say."""

    def __init__(self, scores: dict[int, float]) -> None:
        self.scores = scores

    def sample(
        self,
        sources: Sequence[Frame],
        actions: Sequence[str],
        n: int,
        seed: int,
        sampling: Sampling = Sampling(),
    ) -> list[list[Candidate]]:
        shades = range(n) if sampling.temperature else [0] * n
        pool = [Candidate(Image.new("RGB", (4, 4), (i, i, i)), logprob=LogProb(-10.0 * i, 1)) for i in shades]
        return [pool for _ in sources]

    def explain(self, pairs: Sequence[Pair]) -> list[Explanation]:
        raise AssertionError("a verifier only scores")

    def score(self, pairs: Sequence[Pair], actions: Sequence[str]) -> list[LogProb]:
        shades = [t.image.getpixel((0, 0))[0] for _, t in pairs if isinstance(t, Candidate)]  # type: ignore[index]
        return [LogProb(self.scores[shade], 1) for shade in shades]

    def score_targets(
        self, sources: Sequence[Frame], actions: Sequence[str], targets: Sequence[Frame]
    ) -> list[LogProb]:
        return [LogProb(-100.0 * i, 1) for i, _ in enumerate(targets)]


def test_choose() -> None:
    assert choose([NAN, -3.0, -1.0, -1.0]) == 2  # the first of equals
    assert choose([NAN, -math.inf]) == 1
    with pytest.raises(ValueError, match="No candidate could be scored"):
        choose([NAN, NAN])


def test_verifiers_and_predictions() -> None:
    model = Shades({0: -5.0, 1: -3.0, 2: -2.0})
    (pool,) = model.sample([SOURCE], ["go"], 3, 0)
    # Only the likelihood says 2; its own improbability (-20, which counts twice) brings the mixture back to 0.
    assert InverseLikelihood(model).scores([Pool(SOURCE, "go", pool)]) == [[-5.0, -3.0, -2.0]]
    assert InverseAndForwardLikelihood(model).scores([Pool(SOURCE, "go", pool)]) == [[-5.0, -23.0, -42.0]]
    # Images of other programs bring no likelihood: a forward model says it.
    assert InverseAndForwardLikelihood(model, model).scores([Pool(SOURCE, "go", pool)]) == [[-5.0, -203.0, -402.0]]
    found = predict(model, InverseLikelihood(model), SOURCE, "go", n=3, seed=0)
    assert (found.chosen, found.scores, found.verifier) == (2, (-5.0, -3.0, -2.0), "idm")
    assert found.image is found.candidates[2].image
    greedy = predict(model, None, SOURCE, "go", n=3, seed=0)
    assert (len(greedy.candidates), greedy.chosen, greedy.verifier) == (1, 0, "none")
    assert math.isnan(greedy.scores[0])
    by_shade = ScoredBy("bright", lambda source, action, image: float(image.getpixel((0, 0))[0]))  # type: ignore[index]
    assert by_shade.scores([Pool(SOURCE, "go", pool), Pool(SOURCE, "go", pool[:1])]) == [[0.0, 1.0, 2.0], [0.0]]


class Reader(Shades):
    """An inverse model of two actions: shade i is read as "go" with scores[i], as "stay" with -1, and explained so."""

    def explain(self, pairs: Sequence[Pair]) -> list[Explanation]:
        found = self.score(pairs, ["go"] * len(pairs))
        return [Explanation("go" if logprob.sum > -1 else "stay", logprob) for logprob in found]

    def score(self, pairs: Sequence[Pair], actions: Sequence[str]) -> list[LogProb]:
        go = super().score(pairs, actions)
        return [LogProb(g.sum if a == "go" else -1.0, 2) for g, a in zip(go, actions, strict=True)]


def test_contrast_and_per_token_likelihood() -> None:
    model = Reader({0: -0.5, 1: -3.0})
    (pool,) = model.sample([SOURCE], ["go"], 2, 0)
    assert InverseLikelihood(model, per_token=True).scores([Pool(SOURCE, "go", pool)]) == [[-0.25, -1.5]]
    # The pool is read as "go" and "stay", so that each candidate's share is go / (go + stay).
    expected = [-0.5 - math.log(math.exp(-0.5) + math.exp(-1)), -3.0 - math.log(math.exp(-3) + math.exp(-1))]
    assert Contrast(model).scores([Pool(SOURCE, "go", pool)])[0] == pytest.approx(expected)
    assert Contrast(model, ["go"]).scores([Pool(SOURCE, "go", pool)]) == [[0.0, 0.0]]  # nothing to weigh against


def test_a_model_that_several_verifiers_ask_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Shades({0: -5.0, 1: -3.0})
    pools = [Pool(SOURCE, "go", pool) for pool in model.sample([SOURCE, SOURCE], ["go", "go"], 2, 0)]
    verifiers = [InverseLikelihood(model), InverseAndForwardLikelihood(model), Random(0)]
    alone = {v.name: v.scores(pools) for v in verifiers[:2]}
    calls: list[int] = []
    score = model.score
    monkeypatch.setattr(model, "score", lambda pairs, actions: calls.append(len(pairs)) or score(pairs, actions))
    found = scores_of_all(verifiers, pools)
    assert calls == [4]
    assert {name: found[name] for name in alone} == alone
    assert [len(row) for row in found["random"]] == [2, 2]


def test_waves_stop_when_the_score_is_high_enough() -> None:
    model = Shades({0: -5.0, 1: -3.0})  # each wave samples shades 0 and 1 anew
    verifier = InverseLikelihood(model)
    for stop_at, count in ((-3.0, 2), (-1.0, 5)):
        found = predict_adaptively(model, verifier, SOURCE, "go", n=5, seed=0, stop_at=stop_at)
        assert (len(found.candidates), found.chosen) == (count, 1)
    scores = np.array([[-5.0, NAN, -1.0, -9.0], [-2.0, -9.0, -9.0, 0.0]])
    values = np.array([[0.0, 0.0, 1.0, 0.0], [0.5, 0.0, 0.0, 1.0]])
    assert sampled_until(scores, -2.0).tolist() == [4, 2]
    assert adaptive_values(scores, values, -2.0).tolist() == [1.0, 0.5]
    assert adaptive_values(scores, values, math.inf).tolist() == [1.0, 1.0]
    assert calibrate(scores, values, loss=0.0) > -2.0  # stopping there would take the second item's 0.5
    assert calibrate(scores, values, loss=0.25) <= -2.0
    with pytest.raises(ValueError, match="no threshold"):
        calibrate(scores * NAN, values)


def test_copies_are_rejected_and_steps_hand_on_what_was_sampled(family: SmallFamily) -> None:
    model = UnifiedModel(family)
    source = model.family.decode(np.arange(9)[None] % 12)[0]
    (pool,) = model.sample([source], ["remove the red ball"], 3, 0)
    copy = Candidate(family.decode(model.codes([source]))[0])
    gate = CopyGate(ScoredBy("all alike", lambda *_: 1.0), model)
    assert gate.scores([Pool(source, "remove the red ball", [*pool, copy])])[0][-1] == -math.inf
    assert gate.scores([Pool(source, "remove the red ball", [*pool, copy])])[0][0] == 1.0
    actions = ["remove the red ball", "push the blue box to the left"]
    steps = rollout(model, None, source, actions, n=1, seed=0)
    carried = model.sample([steps[0].candidate], actions[1:], 1, 0, Sampling(0))[0][0]
    assert (carried.codes_L == steps[1].candidate.codes_L).all()
    again = rollout(model, None, source, actions, n=1, seed=0, reencode=True)
    seen = model.sample([again[0].image], actions[1:], 1, 0, Sampling(0))[0][0]
    assert (seen.codes_L == again[1].candidate.codes_L).all()
    encoded = family.encode([steps[0].image]).codes_NL[0]
    assert steps[0].drift == pytest.approx((encoded != steps[0].candidate.codes_L).mean())
    assert math.isnan(rollout(Shades({}), None, source, actions, n=1, seed=0)[0].drift)


def test_a_second_model_gives_the_last_candidate() -> None:
    first, second = Shades({0: -5.0, 1: -3.0}), Shades({0: -1.0})
    (pool,) = SecondProposer(first, second).sample([SOURCE], ["go"], 3, 0)
    assert [image_of(candidate).getpixel((0, 0))[0] for candidate in pool] == [0, 1, 0]  # type: ignore[index]
    assert [candidate.logprob.sum for candidate in pool] == [0.0, -10.0, -0.0], "the first model says how likely"
    greedy = SecondProposer(first, second).sample([SOURCE], ["go"], 2, 0, Sampling(temperature=0.0))
    assert len(greedy[0]) == 2


def test_confidence_by_hand() -> None:
    # Two scores, right in 3 of 4 and in 1 of 4: with one pseudo-count on each side the targets are 5/6 and 1/6.
    scores, right = [1.0] * 4 + [-1.0] * 4, [1, 1, 1, 0, 0, 0, 0, 1]
    curve = fit([*scores, NAN], [*right, 1])
    high = (3 * 5 + 1) / 24  # mean target of the four at 1
    assert curve.n == 8 and curve.intercept == pytest.approx(0, abs=1e-4)
    assert curve.probability(1.0) == pytest.approx(high, abs=1e-4)
    assert curve.score(high) == pytest.approx(1.0, abs=1e-3) and math.isnan(curve.probability(NAN))
    with pytest.raises(ValueError, match="between 0 and 1"):
        curve.score(1.0)
    with pytest.raises(ValueError, match="No validation pair"):
        fit([NAN], [1])
    # Two bins of two: .2 on average and none right, .85 on average and one of two right.
    told = reliability([0.9, 0.1, 0.8, 0.3, NAN], [1, 0, 0, 0, 1], bins=2)
    assert (told["n"], told["n_unscored"]) == (4, 1)
    assert told["ece"] == pytest.approx((0.2 + 0.35) / 2)
    assert told["brier"] == pytest.approx((0.1**2 + 0.1**2 + 0.8**2 + 0.3**2) / 4)
    assert [(row["confidence"], row["right"]) for row in told["bins"]] == [(0.2, 0.0), (pytest.approx(0.85), 0.5)]
    assert 0 < told["ece_chance"] < 0.5


def test_a_prediction_that_is_probably_wrong_does_not_fit() -> None:
    prediction = Prediction((Candidate(SOURCE),), (0.0,), 0, "idm")
    assert prediction.fits and "probability" not in repr(prediction), "nobody knows"
    assert not replace(prediction, confidence=0.2).fits and replace(prediction, confidence=0.8).fits

"""GRPO: its terms by hand, what it does to a tiny model, and that an interrupted run of it goes on."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from retrodict.bootstrap import expert
from retrodict.bootstrap.context import Context
from retrodict.bootstrap.plan import models_of
from retrodict.bootstrap.recipe import BootstrapRecipe
from retrodict.dynamics.unified import UnifiedModel
from retrodict.files import JsonObject, read_lines
from retrodict.images import encode_png
from retrodict.loading import save_model
from retrodict.models.protocol import Candidate, Explanation, LogProb, Pair
from retrodict.models.small.family import SmallFamily
from retrodict.models.tiny import tiny_liquid
from retrodict.models.token_family import TokenFamily
from retrodict.progress import QuietProgress
from retrodict.training import grpo
from retrodict.training.config import LOG, GrpoConfig
from retrodict.training.grpo import advantages, divergence, optimize, policy_loss
from retrodict.transitions import Transition, write_rows

ACTIONS = ("push the red ball to the left", "paint the blue cone green", "push the blue cone to the left")


def images(count: int, side: int) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 255, (side, side, 3), dtype=np.uint8)) for _ in range(count)]


def test_advantages_are_standard_deviations_within_a_group() -> None:
    rewards_PN = np.array([[-1.0, -3.0, -1.0, -3.0], [0.0, 0.0, 0.0, -4.0], [-2.0, -2.0, -2.05, -2.0]])
    expected_PN = [[1, -1, 1, -1], [3**-0.5, 3**-0.5, 3**-0.5, -(3**0.5)], [0, 0, 0, 0]]
    np.testing.assert_allclose(advantages(rewards_PN), expected_PN, atol=1e-12)


def test_the_loss_by_hand() -> None:
    logprob_RL = torch.tensor([[-1.0, -2.0], [-3.0, -1.0]], requires_grad=True)
    advantage_R, share_R = torch.tensor([1.0, -1.0]), torch.tensor([0.5, 0.25])
    loss = policy_loss(logprob_RL, advantage_R, share_R, torch.tensor([[0.0, 0.2], [0.4, 0.0]]), kl=0.5)
    # (1 + 2.1) / 2 of the first sample, which counts .5, and (-2.8 - 1) / 2 of the second
    assert loss.item() == pytest.approx(0.5 * 1.55 + 0.25 * -1.9)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(logprob_RL.grad, torch.tensor([[-0.25, -0.25], [0.125, 0.125]]))


def test_the_divergence_is_that_of_the_distributions_on_average() -> None:
    model, reference = torch.tensor([0.5, 0.5]), torch.tensor([0.25, 0.75])
    by_sample = divergence(model.log()[None], reference.log()[None])
    assert by_sample.min() > 0
    assert (model * by_sample).sum().item() == pytest.approx((model * (model / reference).log()).sum().item())
    assert divergence(model, model).abs().max() == 0


class LikesOneToken:
    """An inverse model to which any action is the likelier the more image tokens of a frame are a certain one."""

    def explain(self, pairs: Sequence[Pair]) -> list[Explanation]:
        raise NotImplementedError

    def score(self, pairs: Sequence[Pair], actions: Sequence[str]) -> list[LogProb]:
        return [LogProb(float((frame.codes_L == 3).sum()), 1) for _, frame in pairs if isinstance(frame, Candidate)]


def go(family: TokenFamily, side: int, steps: int, log: Path, **settings: float) -> list[JsonObject]:
    """Take steps on the same prompts again and again; the log's lines."""
    prompts = list(zip(images(3, side), ACTIONS, strict=True)) * steps
    config = GrpoConfig.model_validate({"prompts_per_step": len(ACTIONS), "learning_rate": 0.02, **settings})
    policy, reference = UnifiedModel(family), UnifiedModel(copy.deepcopy(family))
    options: Any = {"n": 6, "temperature": 1.0, "seed": 0, "at_once": 10, "log": log, "progress": QuietProgress()}
    optimize(policy, reference, LikesOneToken(), prompts, config, **options)
    return read_lines(log)


def test_the_reward_rises_and_the_penalty_holds_the_model_back(
    make_family: Callable[[], SmallFamily], tmp_path: Path
) -> None:
    free = go(make_family(), 24, 6, tmp_path / "free.jsonl", kl=0)
    held = go(make_family(), 24, 6, tmp_path / "held.jsonl", kl=30)
    assert [line["step"] for line in free] == [1, 2, 3, 4, 5, 6]
    assert free[0]["kl"] == 0 == held[0]["kl"] and free[0]["reward"] == held[0]["reward"]
    assert free[0]["reward"] < 2 and free[-1]["reward"] > 8, "of 9 tokens"
    assert held[-1]["reward"] < free[-1]["reward"] / 2


def test_a_large_family_takes_a_step(tmp_path: Path) -> None:
    torch.manual_seed(0)
    family = tiny_liquid(ACTIONS, grid=4, patch=8)
    before = {name: value.clone() for name, value in family.module.state_dict().items()}
    (line,) = go(family, 32, 1, tmp_path / LOG)
    assert line["told_apart"] > 0
    after = family.module.state_dict()
    assert any(not torch.equal(after[name], value) for name, value in before.items())
    assert all(bool(value.isfinite().all()) for value in after.values())


def test_it_costs_no_more_than_all_of_its_samples() -> None:
    settings = {"world": {"name": "tabletop"}, "expert": {"grpo": {}, "prompts": 10}, "bench": {"n": 4}}
    models = models_of(BootstrapRecipe.model_validate({**settings, "forward": {"per_device_batch_size": 16}}))
    assert models["fdm_expert, iteration 1"].training.steps == 3, "40 sequences, 16 a step"


def test_iterations_go_on_where_they_were_cut_off(
    make_family: Callable[[], SmallFamily], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expert, "hacks", lambda before, after: False)
    monkeypatch.setattr(grpo, "SPREAD", 1e-6)  # random weights find all frames about as likely
    save_model(make_family(), "inverse", tmp_path / "idm")
    save_model(make_family(), "forward", tmp_path / "fdm")
    for name, count in (("val", 3), ("selected", 6)):
        frames = [encode_png(image) for image in images(count + 1, 24)]
        rows = [
            Transition(id=f"{name}{i}", clip="one", action=ACTIONS[i % 3], source=frames[i], target=frames[i + 1])
            for i in range(count)
        ]
        write_rows(tmp_path / name / "rows.parquet", rows)
    settings = {"iterations": 2, "prompts": 6, "grpo": {"prompts_per_step": 3, "learning_rate": 0.01}}
    recipe = {"data": {"labelled": "labelled", "videos": ["videos"]}, "expert": settings, "bench": {"n": 4}}
    context = Context(tmp_path, BootstrapRecipe.model_validate(recipe))
    weights = [tmp_path / "fdm", *(tmp_path / "expert" / number / "fdm" for number in "12")]

    expert.run(context, QuietProgress())
    first, *learned = ((folder / "model.safetensors").read_bytes() for folder in weights)
    assert len({first, *learned}) == 3, "each iteration has changed the model"
    watched = read_lines(tmp_path / "expert" / "2" / "fdm" / LOG)
    assert [line["step"] for line in watched] == [1, 2]

    (weights[2] / "retrodict.json").unlink()  # as a kill leaves it: a folder without its card is no model
    (tmp_path / "expert" / "2" / expert.MONITOR).unlink()
    kept = (weights[1] / "model.safetensors").stat().st_mtime_ns
    expert.run(context, QuietProgress())
    assert [(folder / "model.safetensors").read_bytes() for folder in weights[1:]] == learned
    assert (weights[1] / "model.safetensors").stat().st_mtime_ns == kept

"""The one training path: its loss, its gradients, and that an interrupted run ends where a whole one does."""

from __future__ import annotations

import copy
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import TrainerCallback

from retrodict.dynamics.batches import Example, collate, example, supervised_logits, token_nll
from retrodict.dynamics.sequences import build
from retrodict.models.small.family import SmallFamily
from retrodict.prompts import Direction
from retrodict.training import trainer as trainer_module
from retrodict.training.checkpoints import unflatten
from retrodict.training.config import TrainConfig, Weighting
from retrodict.training.optimizer import MuonAdamW
from retrodict.training.trainer import train
from retrodict.training.weighting import loss_weights

MakeFamily = Callable[[], SmallFamily]
ACTIONS = ("remove the red ball", "put the red cone on top of the green box", "push the blue box to the left")


def some_examples(family: SmallFamily, direction: Direction, count: int = 8) -> list[Example]:
    rng = np.random.default_rng(0)
    found = []
    for i in range(count):
        source, target = rng.integers(0, 12, (2, 9))
        sequence = build(family, direction, source_L=source, target_L=target, action=ACTIONS[i % 3])
        assert sequence.segments.completion is not None
        start, stop = sequence.segments.completion
        found.append(example(family, sequence, rng.random(stop - start).astype(np.float32)))
    return found


@pytest.mark.parametrize("direction", ["forward", "inverse"])
def test_the_loss_is_that_of_a_plain_loop(family: SmallFamily, direction: Direction) -> None:
    examples = some_examples(family, direction)
    total, weights = 0.0, 0.0
    for one in examples:
        inputs = {name: torch.from_numpy(value[None]) for name, value in one.features.items()}
        head = family.image_logits if direction == "forward" else family.text_logits
        with torch.no_grad():
            hidden = family.hidden(torch.from_numpy(one.ids_T[None]), **inputs)[0]
            logprobs = head(hidden).log_softmax(-1)
        for position, label, weight in zip(one.positions_S, one.labels_S, one.weights_S, strict=True):
            total -= float(weight * logprobs[position, label])
            weights += float(weight)
    batch = collate(examples, family.pad)
    with torch.no_grad():
        nll_BS = token_nll(supervised_logits(family, direction, batch), batch["labels"])
    loss = (nll_BS * batch["weights"]).sum() / batch["weights"].sum()
    assert float(loss) == pytest.approx(total / weights, rel=1e-5)


class Gradients(TrainerCallback):
    """Keeps the loss and the gradients of the first step."""

    found: list[torch.Tensor]

    def __init__(self, module: torch.nn.Module) -> None:
        self.module = module

    def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        self.found = [p.grad.clone() for p in self.module.parameters() if p.grad is not None]


def first_gradients(
    family: SmallFamily, batch: int, accumulate: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> list[torch.Tensor]:
    seen = Gradients(family.module)
    made = trainer_module.DynamicsTrainer.__init__

    def watched(self: Any, *args: Any, **kwargs: Any) -> None:
        made(self, *args, **kwargs)
        self.add_callback(seen)

    with monkeypatch.context() as patch:
        patch.setattr(trainer_module.DynamicsTrainer, "__init__", watched)
        config = TrainConfig(steps=1, per_device_batch_size=batch, gradient_accumulation_steps=accumulate, bf16=False)
        train(family, "inverse", some_examples(family, "inverse"), config, folder)
    return seen.found


def test_accumulated_batches_have_the_gradients_of_one_batch(
    make_family: MakeFamily, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = first_gradients(make_family(), 8, 1, tmp_path / "whole", monkeypatch)
    parts = first_gradients(make_family(), 2, 4, tmp_path / "parts", monkeypatch)
    assert len(whole) == len(parts) > 10
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)
    assert max(float(g.abs().max()) for g in whole) > 1e-3


class KilledError(Exception):
    """Stands for whatever ends a run at a bad moment."""


def test_an_interrupted_run_ends_where_a_whole_one_does(make_family: MakeFamily, tmp_path: Path) -> None:
    config = TrainConfig(steps=14, per_device_batch_size=4, save_steps=4, warmup_steps=2, bf16=False)
    whole = make_family()
    train(whole, "forward", some_examples(whole, "forward"), config, tmp_path / "whole")

    def stop(step: int, total: int, loss: float) -> None:
        raise KilledError

    halfway = make_family()
    with pytest.raises(KilledError):
        train(halfway, "forward", some_examples(halfway, "forward"), config, tmp_path / "parts", stop)
    assert [p.name for p in (tmp_path / "parts").iterdir()] == ["checkpoint-8"]
    (tmp_path / "parts" / "checkpoint-12").mkdir()  # as a kill leaves one that was being written
    (tmp_path / "parts" / "checkpoint-12" / "trainer_state.json").write_text('{"global_st')
    resumed = make_family()
    train(resumed, "forward", some_examples(resumed, "forward"), config, tmp_path / "parts")
    for (name, one), (_, other) in zip(whole.module.named_parameters(), resumed.module.named_parameters(), strict=True):
        torch.testing.assert_close(one, other, msg=name)
    untrained = make_family().module
    assert any(not torch.equal(a, b) for a, b in zip(whole.module.parameters(), untrained.parameters(), strict=True))


def test_the_state_of_the_optimizer_survives(make_family: MakeFamily) -> None:
    family, twin = make_family(), make_family()
    first, second = (MuonAdamW(f.module, lr=1e-2, weight_decay=0.1) for f in (family, twin))

    def step(model: SmallFamily, optimizer: MuonAdamW) -> None:
        batch = collate(some_examples(model, "inverse"), model.pad)
        optimizer.zero_grad()
        token_nll(supervised_logits(model, "inverse", batch), batch["labels"]).mean().backward()
        optimizer.step()

    step(family, first)
    twin.module.load_state_dict(family.module.state_dict())
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    before = [p.clone() for p in family.module.parameters()]
    step(family, first)
    step(twin, second)
    for a, b in zip(family.module.parameters(), twin.module.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    moved = [not torch.equal(a, b) for a, b in zip(before, family.module.parameters(), strict=True)]
    assert sum(moved) > len(moved) / 2
    sizes = [p.numel() for group in first.param_groups for p in group["params"]]
    assert sum(sizes) == sum(p.numel() for p in family.module.parameters())


def test_loss_weights() -> None:
    distance = np.array([[0, 0, 0, 4], [0, 0, 0, 0], [1, 2, 3, 2]], dtype=np.float32)
    assert loss_weights(distance, Weighting()).tolist() == [[1, 1, 1, 1]] * 3
    recognition = loss_weights(distance, Weighting(method="recognition"))
    assert recognition.tolist() == [[0, 0, 0, 4], [1, 1, 1, 1], [0.5, 1, 1.5, 1]]
    softened = loss_weights(distance, Weighting(method="softened", clip=3))
    assert softened[0] == pytest.approx(np.array([1, 1, 1, 4]) / 1.75)
    for kind in ("none", "recognition", "softened"):
        raw = np.random.default_rng(0).gamma(0.2, 5.0, (50, 36)).astype(np.float32)
        assert loss_weights(raw, Weighting(method=kind)).mean(1) == pytest.approx(1, abs=1e-5)  # type: ignore[arg-type]


def test_examples_say_what_they_take_in_memory(family: SmallFamily) -> None:
    """By it they are built before training or when they are asked for: 100,000 small ones took 570 MiB."""
    some_examples(family, "forward")
    tracemalloc.start()
    examples = some_examples(family, "forward", 400)
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 0.7 < sum(one.bytes for one in examples) / taken < 1.4


def test_nothing_to_train_on(family: SmallFamily, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no examples to train the inverse model on"):
        train(family, "inverse", [], TrainConfig(steps=1), tmp_path)


def test_weights_that_are_parts_of_one_buffer_can_be_saved(make_family: MakeFamily, tmp_path: Path) -> None:
    family = make_family()
    sizes = [parameter.numel() for parameter in family.module.parameters()]
    buffer = torch.cat([parameter.detach().flatten() for parameter in family.module.parameters()])
    for parameter, values in zip(family.module.parameters(), buffer.split(sizes), strict=True):
        parameter.data = values.view_as(parameter)  # as DeepSpeed has them
    unflatten(family.module)
    family.save(tmp_path / "saved")
    held = {parameter.untyped_storage().nbytes() for parameter in family.module.parameters()}
    assert buffer.untyped_storage().nbytes() not in held

"""Does a model use what it is told? The meter's numbers by hand, what it warns of, and the log of a training run."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from retrodict.dynamics.batches import Example, collate, example, supervised_logits, token_nll
from retrodict.dynamics.sequences import build
from retrodict.files import read_lines
from retrodict.models.small.family import SmallFamily
from retrodict.prompts import Direction
from retrodict.training.action_meter import ActionMeter, _others, describe, warning
from retrodict.training.config import TrainConfig
from retrodict.training.trainer import train
from retrodict.transitions import Transition
from retrodict.worlds import tabletop


def some_pairs(count: int) -> list[Transition]:
    return [e.transition() for e in tabletop.sample(count, 0)]


def some_examples(family: SmallFamily, pairs: Sequence[Transition]) -> list[Example]:
    source = family.encode([t.source_image for t in pairs]).codes_NL
    target = family.encode([t.target_image for t in pairs]).codes_NL
    rows = zip(source, target, pairs, strict=True)
    return [
        example(family, build(family, "forward", source_L=s, target_L=t, action=pair.action)) for s, t, pair in rows
    ]


def nll(family: SmallFamily, direction: Direction, **parts: Any) -> Any:
    """The loss of each token of a completion, from the batch of one example that training would get."""
    batch = collate([example(family, build(family, direction, **parts))], family.pad)
    with torch.no_grad():
        return token_nll(supervised_logits(family, direction, batch), batch["labels"])[0].numpy()


@pytest.mark.parametrize("direction", ["forward", "inverse"])
def test_the_meter_by_hand(family: SmallFamily, direction: Direction) -> None:
    known = {t.id: family.encode([t.source_image, t.target_image]).codes_NL for t in some_pairs(12)}
    pairs = [t for t in some_pairs(12) if (known[t.id][0] != known[t.id][1]).any()][:3]  # few codes tell little apart
    actions, codes = {t.id: t.action for t in pairs}, {t.id: known[t.id] for t in pairs}
    assert len(set(actions.values())) == 3
    meter = ActionMeter(family, direction, pairs)
    entry = meter.measure()
    ids = [t.id for t in meter._pairs]
    right, shuffled, none = [], [], []
    for name, other in zip(ids, [*ids[1:], ids[0]], strict=True):
        s, t = codes[name]
        if direction == "forward":
            changed = s != t
            right.append(nll(family, direction, source_L=s, target_L=t, action=actions[name])[changed].mean())
            shuffled.append(nll(family, direction, source_L=s, target_L=t, action=actions[other])[changed].mean())
            none.append(nll(family, direction, source_L=s, target_L=t)[changed].mean())
        else:
            right.append(nll(family, direction, source_L=s, target_L=t, action=actions[name]).mean())
            s, t = codes[other]
            shuffled.append(nll(family, direction, source_L=s, target_L=t, action=actions[name]).mean())
    assert entry["right"]["loss"] == pytest.approx(np.mean(right), rel=1e-4)
    assert entry["shuffled"]["loss"] == pytest.approx(np.mean(shuffled), rel=1e-4)
    assert meter.losses()["right"] == pytest.approx(entry["right"]["loss"])
    assert entry["pairs"] == 3
    assert "too few" in describe(entry)
    if direction == "forward":
        assert entry["none"]["loss"] == pytest.approx(np.mean(none), rel=1e-4)
        assert {entry[key]["n"] for key in ("copy_rate", "exact", "changed_right")} == {3}
    else:
        assert "none" not in entry


def found(low: float, difference: float, *, copies: float = 0.1, groups: int = 20) -> dict[str, Any]:
    return {
        "direction": "forward",
        "pairs": 64,
        "right": {"loss": 1.0},
        "shuffled": {"loss": 1.0 + difference},
        "difference": {"difference": difference, "ci95": [low, 2 * difference], "n": 64, "groups": groups},
        "copy_rate": {"share": copies},
        "exact": {"share": 0.5},
    }


def test_what_it_warns_of() -> None:
    assert warning(found(0.5, 1.0)) == ""
    assert "does not use the action" in warning(found(-0.1, 1.0))
    assert "does not use the action" in warning(found(0.01, 0.05))  # shown, and next to nothing
    assert warning(found(0.5, 1.0, copies=0.7)) == "mostly copies: 70% of its greedy frames repeat their source"
    assert "; it mostly copies" in warning(found(-0.1, 0.0, copies=1.0))
    assert warning(found(-0.1, 0.0, copies=1.0, groups=5)) == ""  # nothing can be shown with so few
    inverse = {**found(-0.1, 1.0), "direction": "inverse"}
    assert "does not use the frame pair" in warning(inverse)
    assert describe({**inverse, "warning": warning(inverse)}).startswith("Warning: it does not use the frame pair")


def test_pairs_of_one_action_tell_nothing(family: SmallFamily) -> None:
    assert _others(["a b", "A  b", "c"]) == [2, 2, 0]
    pairs = [pair for pair in some_pairs(4) for _ in range(1)]
    same = [Transition(id=t.id, source=t.source, target=t.target, action=pairs[0].action) for t in pairs]
    assert not ActionMeter(family, "forward", same).can_tell
    for held_out in (same, []):
        entry = ActionMeter(family, "forward", held_out).measure()
        assert (entry["difference"]["n"], entry["warning"]) == (0, "")
        assert "nothing was held out" in describe(entry)


class KilledError(Exception):
    """Stands for whatever ends a run at a bad moment."""


def test_a_log_survives_without_doubled_steps(make_family: Callable[[], SmallFamily], tmp_path: Path) -> None:
    config = TrainConfig(steps=24, per_device_batch_size=4, save_steps=8, eval_steps=12, warmup_steps=2, bf16=False)
    log, pairs = tmp_path / "log.jsonl", some_pairs(9)

    def stop(step: int, total: int, loss: float) -> None:
        if step == 20:
            raise KilledError

    def run(log: Path, report: Any = None, *, measured: bool = True) -> SmallFamily:
        family = make_family()
        measure = ActionMeter(family, "forward", pairs[:3]).losses if measured else None
        train(
            family,
            "forward",
            some_examples(family, pairs),
            config,
            log.with_suffix(""),
            report,
            log=log,
            measure=measure,
        )
        return family

    with pytest.raises(KilledError):
        run(log, stop)
    assert [line["step"] for line in read_lines(log)] == [10, 12, 20]
    with log.open("a") as file:
        file.write('{"step": 2')  # as a kill leaves it
    resumed = run(log)
    lines = read_lines(log)
    assert [line["step"] for line in lines] == [10, 12, 20, 24]
    assert [line["sequences"] for line in lines] == [40, 48, 80, 96]
    assert [line["seconds"] for line in lines] == sorted(line["seconds"] for line in lines)
    assert all(math.isfinite(line["loss"]) and line["learning_rate"] >= 0 for line in lines)
    assert [line["step"] for line in lines if {"eval_loss", "eval_right", "eval_shuffled"} <= line.keys()] == [12]
    plain = run(tmp_path / "plain.jsonl", measured=False)
    assert "eval_loss" not in read_lines(tmp_path / "plain.jsonl")[1]
    for one, other in zip(resumed.module.parameters(), plain.module.parameters(), strict=True):
        torch.testing.assert_close(one, other)  # measuring takes nothing from the random streams of training


def test_a_tracker_that_is_not_installed_is_named(family: SmallFamily, tmp_path: Path) -> None:
    with pytest.raises(ImportError, match="pip install trackio"):
        train(
            family,
            "forward",
            some_examples(family, some_pairs(1)),
            TrainConfig(steps=1, report_to=("trackio",)),
            tmp_path,
        )

"""Train one model on transitions and write it to a folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, overload

import torch
from torch import Tensor

from retrodict.dynamics.batches import Example, example
from retrodict.dynamics.sequences import build
from retrodict.loading import is_model, save_model
from retrodict.models.token_family import TokenFamily, Trainable
from retrodict.placement import place
from retrodict.prompts import Direction
from retrodict.training.action_meter import FEWER, ActionMeter
from retrodict.training.config import LOG, LoraConfig, TrainConfig, Weighting
from retrodict.training.data import Stored
from retrodict.training.distributed import is_main
from retrodict.training.lora import add_adapter, freeze_embeddings
from retrodict.training.tokens import Tokens, tokenize
from retrodict.training.trainer import Trained, train
from retrodict.training.weighting import loss_weights
from retrodict.transitions import Transition

EVEN = Weighting()
READY = 2**26  # bytes of examples that are built before training, once for all epochs


def train_model(
    new_family: Callable[[], TokenFamily],
    direction: Direction,
    transitions: Sequence[Transition],
    config: TrainConfig,
    out: Path,
    *,
    seed: int = 0,
    weighting: Weighting = EVEN,
    lora: LoraConfig | None = None,
    base: str = "",
    cache: Path | None = None,
    report: Callable[[int, int, float], None] | None = None,
    held_out: Sequence[Transition] = (),
    **metadata: Any,
) -> None:
    """Train `new_family()` in one direction and save it to `out`; a folder that holds a model already is left alone.

    `out/log.jsonl` keeps how it went, with losses on some of the `held_out` transitions every few hundred steps.

    `new_family` is called after torch has been seeded with `seed`, so that initial weights depend on it alone.
    `weighting` applies to the forward direction. With `lora`, an adapter of `base` (the folder or hub id that the
    family came from) is trained and saved instead of the whole model. `metadata` goes onto the model's card.
    """
    if is_model(out):
        return
    torch.manual_seed(seed)
    family = new_family()
    place(family.module)  # images are tokenized there, too
    tokens = tokenize(family, transitions, cache)
    rows = transitions.rows if isinstance(transitions, Stored) else transitions
    examples: Sequence[Example] = Examples(family, direction, [row.action for row in rows], tokens, weighting)
    if len(examples) * examples[0].bytes <= READY:
        examples = list(examples)
    meter = ActionMeter(family, direction, held_out, cache, FEWER) if is_main() and not config.fsdp else None
    fit(
        family,
        direction,
        examples,
        config,
        out,
        seed=seed,
        lora=lora,
        base=base,
        report=report,
        meter=meter,
        even_steps=round(weighting.start * config.total_steps(len(examples))),
        **metadata,
        weighting=weighting.model_dump(),
    )


def fit(
    family: Trainable,
    direction: Direction,
    examples: Sequence[Trained],
    config: TrainConfig,
    out: Path,
    *,
    seed: int,
    lora: LoraConfig | None,
    base: str,
    report: Callable[[int, int, float], None] | None,
    meter: ActionMeter | None,
    even_steps: int = 0,
    collator: Callable[[Sequence[Any]], dict[str, Tensor]] | None = None,
    **metadata: object,
) -> None:
    """Train a model, or its adapter, on examples and save it; arguments as of `train_model` and `trainer.train`."""
    if lora is None:
        family.module.float()  # weights that are trained are in full precision, whatever they are stored in
    freeze_embeddings(family)
    adapter = None if lora is None else add_adapter(family, lora, base)
    scratch = out / "training"
    measure = meter.losses if meter is not None and meter.can_tell else None
    out.mkdir(parents=True, exist_ok=True)
    train(
        family,
        direction,
        examples,
        config,
        scratch,
        report,
        even_steps,
        seed=seed,
        log=out / LOG,
        measure=measure,
        collator=collator,
    )
    if lora is not None:
        metadata |= {"base": base, "lora": lora.model_dump()}
    metadata |= {
        "transitions": len(examples),
        "seed": seed,
        "training": config.model_dump(mode="json") | {"steps": config.total_steps(len(examples))},
    }
    if is_main():
        save_model(family, direction, out, adapter=adapter, **metadata)
        shutil.rmtree(scratch, ignore_errors=True)


class Examples(Sequence[Example]):
    """Sequences of tokenized pairs, each built when it is asked for.

    A hundred thousand of two thousand tokens would take 8 GB.

    Raises:
        ValueError: An action cannot be expressed in the family's vocabulary.
    """

    def __init__(
        self, family: TokenFamily, direction: Direction, actions: Sequence[str], tokens: Tokens, weighting: Weighting
    ) -> None:
        assert len(actions) == len(tokens)
        for action in set(actions):
            family.text_ids(action)
        self._family, self._direction = family, direction
        self._actions, self._tokens, self._weighting = actions, tokens, weighting

    def __len__(self) -> int:
        return len(self._actions)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        i = range(len(self))[index]
        source_L, target_L = self._tokens.pair(i)
        sequence = build(self._family, self._direction, source_L=source_L, target_L=target_L, action=self._actions[i])
        if self._direction == "inverse":
            return example(self._family, sequence)
        return example(self._family, sequence, loss_weights(self._tokens.distances(i)[None], self._weighting)[0])

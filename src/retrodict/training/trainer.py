"""The one training path: a weighted next-token batch through one `transformers.Trainer` subclass.

Direction, weighting and family are data and arguments, not copies of a loop.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_utils import get_last_checkpoint

from retrodict.models.protocol import Direction, TokenFamily
from retrodict.models.quiet import no_bars
from retrodict.training.batches import IGNORED, Example, collate, supervised_logits, token_nll
from retrodict.training.optimizer import MuonAdamW


@dataclass(frozen=True)
class TrainConfig:
    steps: int
    batch: int = 32
    lr: float = 5e-3
    warmup: int = 30
    weight_decay: float = 0.01
    schedule: str = "cosine"
    accumulate: int = 1
    checkpoint_every: int = 200
    bf16: bool = True
    seed: int = 0


class _Examples(Dataset[Example]):
    def __init__(self, examples: Sequence[Example]) -> None:
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Example:
        return self.examples[index]


class DynamicsTrainer(Trainer):
    """`Trainer` whose loss is the weighted mean of token losses over the whole accumulated batch."""

    # The denominator covers the accumulated batch, so the Trainer must not divide again (else gradients would shrink
    # with the number of accumulation steps).
    loss_is_scaled_for_ga = True

    def __init__(self, family: TokenFamily, direction: Direction, even_steps: int = 0, **kwargs: Any) -> None:
        super().__init__(model=family.module, **kwargs)
        self._family = family
        self._direction = direction
        self._even_steps = even_steps

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor | int | None]:
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        if self.state.global_step < self._even_steps:
            batches = [{**batch, "weights": batch["labels"].ne(IGNORED).float()} for batch in batches]
        total = sum((batch["weights"].sum() for batch in batches), torch.zeros(())).to(device)
        if self.args.world_size > 1:
            total = self.accelerator.gather(total).sum() / self.args.world_size
        return batches, total

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        nll_BS = token_nll(supervised_logits(self._family, self._direction, inputs), inputs["labels"])
        denominator = inputs["weights"].sum() if num_items_in_batch is None else num_items_in_batch
        loss = (nll_BS * inputs["weights"]).sum() / denominator
        return (loss, {}) if return_outputs else loss

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            self.optimizer = MuonAdamW(self._family.module, self.args.learning_rate, self.args.weight_decay)
        return self.optimizer


class _Report(TrainerCallback):
    def __init__(self, report: Callable[[int, int, float], None]) -> None:
        self._report = report

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if logs and "loss" in logs:
            self._report(state.global_step, state.max_steps, float(logs["loss"]))


def train(
    family: TokenFamily,
    direction: Direction,
    examples: Sequence[Example],
    config: TrainConfig,
    scratch: Path,
    report: Callable[[int, int, float], None] | None = None,
    even_steps: int = 0,
) -> None:
    """Train `family.module` in place. Checkpoints go to `scratch`; the same call continues from the newest one.

    In the first `even_steps` steps all tokens count alike. Raises `ValueError` when there is nothing to train on.
    """
    if not examples:
        raise ValueError(f"There are no examples to train the {direction} model on.")
    arguments = TrainingArguments(
        output_dir=str(scratch),
        max_steps=config.steps,
        per_device_train_batch_size=config.batch,
        gradient_accumulation_steps=config.accumulate,
        learning_rate=config.lr,
        weight_decay=config.weight_decay,
        lr_scheduler_type=config.schedule,
        warmup_steps=config.warmup,
        bf16=config.bf16,
        seed=config.seed,
        data_seed=config.seed,
        use_cpu=not torch.cuda.is_available(),
        remove_unused_columns=False,
        report_to="none",
        disable_tqdm=True,
        logging_steps=10,
        save_steps=config.checkpoint_every,
        save_total_limit=1,
        dataloader_pin_memory=False,
        dataloader_drop_last=len(examples) >= config.batch,
        max_grad_norm=1.0,
    )
    trainer = DynamicsTrainer(
        family,
        direction,
        even_steps,
        args=arguments,
        train_dataset=_Examples(examples),
        data_collator=partial(collate, pad=family.pad),
    )
    trainer.pop_callback(PrinterCallback)
    if report is not None:
        trainer.add_callback(_Report(report))
    with no_bars():
        trainer.train(resume_from_checkpoint=_newest_checkpoint(scratch))
    family.module.eval()


def _newest_checkpoint(scratch: Path) -> str | None:
    """The newest whole checkpoint. The trainer's state is written last: one without it is what a kill left behind."""
    for folder in scratch.glob("checkpoint-*"):
        try:
            json.loads((folder / TRAINER_STATE_NAME).read_text())
        except (OSError, ValueError):
            shutil.rmtree(folder)
    return get_last_checkpoint(str(scratch)) if scratch.is_dir() else None

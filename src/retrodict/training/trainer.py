"""The one training path: a weighted next-token batch through one `transformers.Trainer` subclass.

Direction, weighting and family are data and arguments, not copies of a loop.
"""

from __future__ import annotations

import importlib.util
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, Sampler
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations.integration_utils import TensorBoardCallback
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_utils import get_last_checkpoint

from retrodict.dynamics.batches import IGNORED, collate
from retrodict.files import JsonMapping, JsonObject, read_lines, write_lines
from retrodict.models.checkpoint import no_bars
from retrodict.models.token_family import Trainable
from retrodict.placement import chosen_device
from retrodict.precision import matmul_precision
from retrodict.prompts import Direction
from retrodict.training import checkpoints
from retrodict.training.config import TrainConfig
from retrodict.training.distributed import process_count
from retrodict.training.objective import Objective
from retrodict.training.optimizer import MuonAdamW

SCHEDULES = {"constant": "constant_with_warmup"}  # of transformers; its own "constant" has no warm-up


FILLER = -1  # the index of an example that counts for nothing


class Trained(Protocol):
    """What is learnt from; the collator knows what it is."""

    def silent(self) -> Trained:
        """The same, of no weight."""
        ...


class _Examples(Dataset[Trained]):
    def __init__(self, examples: Sequence[Trained]) -> None:
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Trained:
        if index != FILLER:
            return self.examples[index]
        return self.examples[0].silent()


class EvenBatches(BatchSampler):
    """The batches of an epoch, which `ranks` take in turn: each step has the same sequences whatever their number.

    Where the batches do not go round, fillers do: a rank without a batch would leave the others waiting, and left to
    itself accelerate drops sequences or repeats them.
    """

    def __init__(self, sampler: Sampler[int], batch_size: int, drop_last: bool, ranks: int) -> None:
        super().__init__(sampler, batch_size, drop_last)
        self._ranks = ranks

    def __len__(self) -> int:
        return super().__len__() + self._missing

    def __iter__(self) -> Iterator[list[int]]:
        yield from super().__iter__()
        for _ in range(self._missing):
            yield [FILLER] * self.batch_size  # accelerate would fill up a smaller batch

    @property
    def _missing(self) -> int:
        return -super().__len__() % self._ranks


Measure = Callable[[], JsonMapping]


class DynamicsTrainer(Trainer):
    """`Trainer` whose loss is the weighted mean of token losses over the whole accumulated batch of all processes.

    Every `config.eval_steps` steps but at the end, what `measure` returns is logged with the loss.
    """

    # The denominator covers the accumulated batch, so the Trainer must not divide again (else gradients would shrink
    # with the number of accumulation steps).
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        family: Trainable,
        direction: Direction,
        config: TrainConfig,
        even_steps: int = 0,
        measure: Measure | None = None,
        **kwargs: Any,
    ) -> None:
        self._objective = Objective(family, direction)
        super().__init__(model=self._objective, **kwargs)
        self._config = config
        self._even_steps = even_steps
        self._measure = measure

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        step = self.state.global_step
        due = step % self._config.eval_steps == 0 and step < self.state.max_steps and "loss" in logs
        if due and self._measure is not None and self.is_world_process_zero():
            with self.accelerator.autocast():
                logs |= {f"eval_{name}": value for name, value in self._measure().items()}
        super().log(logs, start_time)

    def get_train_dataloader(self) -> DataLoader[Trained]:
        examples: Any = self.train_dataset
        batches = EvenBatches(
            RandomSampler(examples), self.args.train_batch_size, self.args.dataloader_drop_last, self.args.world_size
        )
        loader: DataLoader[Trained] = self.accelerator.prepare(
            DataLoader(examples, batch_sampler=batches, collate_fn=self.data_collator)
        )
        return loader

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor | int | None]:
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        if self.state.global_step < self._even_steps:
            batches = [{**batch, "weights": batch["labels"].ne(IGNORED).float()} for batch in batches]
        total = sum((batch["weights"].sum().to(device) for batch in batches), torch.zeros((), device=device))
        if self.args.world_size > 1:  # gradients are averaged over the processes
            total = self.accelerator.gather(total).sum() / self.args.world_size
        return batches, total

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        denominator = inputs["weights"].sum() if num_items_in_batch is None else num_items_in_batch
        loss = model(denominator=denominator, **inputs)
        return (loss, {}) if return_outputs else loss

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is None and self._config.optimizer == "muon":
            self.optimizer = MuonAdamW(self._objective.model, self.args.learning_rate, self.args.weight_decay)
        return super().create_optimizer(model)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Only what is trained: of a model with adapters, these and not the billions of weights they sit on."""
        if self.is_deepspeed_enabled:  # DeepSpeed writes the weights with the optimizer's state
            return
        folder = Path(output_dir or str(self.args.output_dir))
        checkpoints.save_trained(self._objective, folder, write=self.args.should_save)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self.is_fsdp_enabled:
            checkpoints.save_sharded_optimizer(self, output_dir)
        else:
            super()._save_optimizer_and_scheduler(output_dir)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        checkpoints.load_trained(self._objective, Path(resume_from_checkpoint))


class _Log(TrainerCallback):
    """Appends a line to `log.jsonl` for every logged step, and tells `report`. A run that resumes drops the lines after
    the checkpoint that it resumes from, whose steps are done again."""

    def __init__(
        self, file: Path | None, sequences: int, eval_steps: int, report: Callable[[int, int, float], None] | None
    ) -> None:
        self._file, self._sequences, self._eval_steps, self._report = file, sequences, eval_steps, report
        self._began = time.monotonic()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        self._began = time.monotonic()
        if self._file is not None and state.is_world_process_zero:
            kept = [line for line in read_lines(self._file) if line["step"] <= state.global_step]
            write_lines(self._file, kept)
            self._began -= kept[-1]["seconds"] if kept else 0

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        if state.global_step == state.max_steps or state.global_step % self._eval_steps == 0:
            control.should_log = True

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: JsonMapping | None = None,
        **kwargs: object,
    ) -> None:
        if not logs or "loss" not in logs or not state.is_world_process_zero:
            return
        if self._file is not None:
            line = {
                "step": state.global_step,
                "loss": logs["loss"],
                "learning_rate": logs["learning_rate"],
                "sequences": round((state.epoch or 0) * self._sequences),
                "seconds": round(time.monotonic() - self._began, 2),
                **{name: value for name, value in logs.items() if name.startswith("eval_") and math.isfinite(value)},
            }
            with self._file.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(line) + "\n")
        if self._report is not None:
            self._report(state.global_step, state.max_steps, float(logs["loss"]))


def train(
    family: Trainable,
    direction: Direction,
    examples: Sequence[Trained],
    config: TrainConfig,
    scratch: Path,
    report: Callable[[int, int, float], None] | None = None,
    even_steps: int = 0,
    *,
    seed: int = 0,
    log: Path | None = None,
    measure: Measure | None = None,
    collator: Callable[[Sequence[Any]], dict[str, Tensor]] | None = None,
) -> None:
    """Train `family.module` in place. Checkpoints go to `scratch`; the same call continues from the newest one.

    In the first `even_steps` steps all tokens count alike. `log` is a file that gets a line for every logged step:
    `{"step", "loss", "learning_rate", "sequences", "seconds"}`, and every `config.eval_steps` steps what `measure`
    returns, its names after `eval_` (where weights are sharded, no
    process could measure alone: there it is not asked). `collator` makes batches of `examples` that are no `Example`.
    Run by `torchrun` or `accelerate launch`, processes share each step's batch; with `config.fsdp`, the module is whole
    again afterwards on the first process alone. Raises `ValueError` when there is nothing to train on, or when the
    processes cannot share a batch.
    """
    if not examples:
        raise ValueError(f"There are no examples to train the {direction} model on.")
    arguments = training_arguments(family, config, scratch, len(examples), seed)
    if config.gradient_checkpointing:
        module: Any = family.module
        module.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    trainer = DynamicsTrainer(
        family,
        direction,
        config,
        even_steps,
        None if config.fsdp or config.deepspeed else measure,
        args=arguments,
        train_dataset=_Examples(examples),
        data_collator=collator or partial(collate, pad=family.pad),
    )
    trainer.pop_callback(PrinterCallback)
    sequences = len(examples)
    if arguments.dataloader_drop_last:
        sequences -= sequences % config.per_device_batch_size
    trainer.add_callback(_Log(log, sequences, config.eval_steps, report))
    if "tensorboard" in config.report_to:
        board = next(c for c in trainer.callback_handler.callbacks if isinstance(c, TensorBoardCallback))
        board.logging_dir = str(scratch.parent / "tensorboard")  # its own choice is deleted with the checkpoints
    with no_bars():
        trainer.train(resume_from_checkpoint=newest_checkpoint(scratch))
    if trainer.is_fsdp_enabled:
        checkpoints.gather(family.module, keep=arguments.should_save)
    if trainer.is_deepspeed_enabled:
        checkpoints.unflatten(family.module)
    trainer.accelerator.wait_for_everyone()
    family.module.eval()


def training_arguments(
    family: Trainable, config: TrainConfig, scratch: Path, examples: int, seed: int = 0
) -> TrainingArguments:
    """What a configuration is to `transformers`. Raises `ValueError` for what cannot be done together."""
    processes = process_count()
    if config.gradient_accumulation_steps % processes:
        raise ValueError(
            f"{processes} ranks cannot share {config.gradient_accumulation_steps} forward passes a step: set "
            f"gradient_accumulation_steps to a multiple of {processes}, and per_device_batch_size to fit."
        )
    if config.optimizer == "muon" and (config.fsdp or config.deepspeed):
        raise ValueError("Muon needs whole matrices: use optimizer: adamw with sharded weights.")
    if config.deepspeed is not None:
        _check_deepspeed(config.deepspeed)
    for tracker in config.report_to:
        if importlib.util.find_spec(tracker) is None:
            raise ImportError(f"report_to names {tracker}, which is not installed: pip install {tracker}")
    return TrainingArguments(
        output_dir=str(scratch),
        max_steps=config.total_steps(examples),
        per_device_train_batch_size=config.per_device_batch_size,
        gradient_accumulation_steps=config.gradient_accumulation_steps // processes,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        lr_scheduler_type=SCHEDULES.get(config.lr_scheduler, config.lr_scheduler),
        warmup_steps=config.warmup_steps,
        bf16=matmul_precision()[0] is torch.bfloat16 if config.bf16 is None else config.bf16,
        seed=seed,
        data_seed=seed,
        use_cpu=chosen_device().type == "cpu",
        remove_unused_columns=False,
        report_to=list(config.report_to) or "none",
        project="retrodict",
        run_name=scratch.parent.name,
        disable_tqdm=True,
        logging_steps=10,
        save_steps=config.save_steps,
        save_total_limit=1,
        dataloader_pin_memory=False,
        dataloader_drop_last=examples >= config.per_device_batch_size,
        max_grad_norm=1.0,
        ddp_find_unused_parameters=False,
        deepspeed=None if config.deepspeed is None else str(config.deepspeed),
        **_sharding(family, config),
    )


def _check_deepspeed(file: Path) -> None:
    """Check a configuration before the run. Raises `ValueError`, or `ImportError` without DeepSpeed."""
    try:
        settings = json.loads(file.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{file} is not JSON: {error}.") from None
    if not isinstance(settings, dict) or settings.get("zero_optimization", {}).get("stage") not in (1, 2):
        raise ValueError(f"{file} must set zero_optimization.stage to 1 or 2; to spread weights, use fsdp.")
    if "optimizer" in settings or "scheduler" in settings:
        raise ValueError(f"{file} names an optimizer or a scheduler: the recipe does that.")
    if importlib.util.find_spec("deepspeed") is None:
        raise ImportError("deepspeed needs DeepSpeed: pip install deepspeed")


def _sharding(family: Trainable, config: TrainConfig) -> JsonObject:
    """FSDP2 by the layers that the family names: what the library would guess from the class does not exist for all."""
    if not config.fsdp or process_count() == 1:
        return {}
    layers = list(family.train_spec.layer_classes)
    if not layers:
        raise ValueError(f"The family {family.name} is too small to be spread over processes: leave fsdp out.")
    return {
        "fsdp": True,
        "fsdp_config": {"version": 2, "transformer_layer_cls_to_wrap": layers, "reshard_after_forward": True},
    }


def newest_checkpoint(scratch: Path) -> str | None:
    """The newest whole checkpoint. The trainer's state is written last: one without it is what a kill left behind."""
    for folder in scratch.glob("checkpoint-*"):
        try:
            json.loads((folder / TRAINER_STATE_NAME).read_text())
        except (OSError, ValueError, RecursionError):
            shutil.rmtree(folder, ignore_errors=True)  # or another process has done so
    return get_last_checkpoint(str(scratch)) if scratch.is_dir() else None

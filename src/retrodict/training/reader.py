"""Training of vision-language models that only read images, by the loop that trains all others.

What is adapted is its language model alone, under the names that PEFT and vLLM know (`--lora-modules`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast, overload

import numpy as np
import torch
from torch import Tensor

from retrodict.dynamics.batches import IGNORED
from retrodict.loading import is_model
from retrodict.models.checkpoint import no_bars
from retrodict.models.hub import model_folder
from retrodict.models.protocol import LogProb, Pair
from retrodict.models.registry import card_of
from retrodict.models.token_family import TrainSpec, take
from retrodict.models.vlm import Captioner, extended
from retrodict.prompts import VLM_PROMPT, Direction
from retrodict.stats import Values
from retrodict.training.action_meter import FEWER, PAIRS, ActionMeter
from retrodict.training.config import LoraConfig, TrainConfig
from retrodict.training.distributed import is_main
from retrodict.training.run import fit
from retrodict.transitions import Transition

FAMILY = "vlm"
_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class Reader:
    """`Trainable` over a captioner. Questions, answers and images are prepared as when it is asked and scored."""

    name = FAMILY
    prompts: Mapping[Direction, str] = {"inverse": VLM_PROMPT}

    def __init__(self, captioner: Captioner) -> None:
        self.captioner = captioner
        self.module = captioner.vlm.model
        self.pad: int = captioner.vlm.tokenizer.pad_token_id
        decoder = self.module.get_decoder()
        self._decoder = next(name for name, part in self.module.named_modules() if part is decoder)
        self.train_spec = TrainSpec(
            lora_targets=rf"{re.escape(self._decoder)}\..*\.({'|'.join(_LINEAR)})",
            layer_classes=(type(decoder.layers[0]).__name__,),
            freeze_embeddings=True,
        )

    @property
    def family(self) -> Reader:
        """Itself: what knows how actions are written."""
        return self

    def text_ids(self, action: str) -> list[int]:
        """Ids of an action and of the end of the turn. Raises `ValueError` when it is empty."""
        return self.captioner.answer(action)

    def score(self, pairs: Sequence[Pair], actions: Sequence[str]) -> list[LogProb]:
        """log p(action | source, target); see `InverseModel.score`."""
        return self.captioner.score(pairs, actions)

    def freeze_images(self) -> None:
        """Leave everything but the language model as it is."""
        for name, parameter in self.module.named_parameters():
            parameter.requires_grad_(name.startswith((f"{self._decoder}.", "lm_head.")))

    def batch(self, pairs: Sequence[Pair], actions: Sequence[str], weights: Sequence[float]) -> dict[str, Tensor]:
        """What `training.objective` takes: `input_ids`, what else the model reads, `positions`, `labels`, `weights`.

        Args:
            pairs: Source and target frames.
            actions: One for each pair.
            weights: Of each pair's tokens in the loss.
        """
        inputs = self.captioner.ask(pairs)
        answers = [self.text_ids(action) for action in actions]
        asked, count = inputs["input_ids"].shape[1], max(map(len, answers))
        labels_BS = np.full((len(answers), count), IGNORED, dtype=np.int64)
        for row_S, answer, weight in zip(labels_BS, answers, weights, strict=True):
            if weight:
                row_S[: len(answer)] = answer
        weights_BS = (labels_BS != IGNORED) * np.asarray(weights, dtype=np.float32)[:, None]
        positions_BS = np.broadcast_to(np.arange(asked - 1, asked - 1 + count), labels_BS.shape).copy()
        extra = {"positions": positions_BS, "labels": labels_BS, "weights": weights_BS}
        return {**extended(inputs, answers, self.pad), **{name: torch.from_numpy(v) for name, v in extra.items()}}

    def collate(self, examples: Sequence[Labelled]) -> dict[str, Tensor]:
        """A batch of examples."""
        pairs = [(example.row.source_image, example.row.target_image) for example in examples]
        return self.batch(pairs, [example.row.action for example in examples], [example.weight for example in examples])

    def hidden(self, ids_BT: Tensor, *, at_BS: Tensor | None = None, **features: Any) -> Tensor:
        """Hidden states [B, S, D] at `at_BS`; `features` are the model's other inputs, images among them."""
        read = self.module.base_model(input_ids=ids_BT, use_cache=False, **features)
        return take(read.last_hidden_state, at_BS)

    def text_logits(self, hidden: Tensor) -> Tensor:
        """[..., D] -> [..., V]."""
        logits: Tensor = self.module.get_output_embeddings()(hidden)
        return logits

    def image_logits(self, hidden: Tensor) -> Tensor:
        """Raises `ValueError`: it writes no images."""
        raise ValueError("A vision-language model that only reads images has no forward direction.")

    def save(self, directory: Path) -> None:
        """Write the folder of a checkpoint, as the library and vLLM read it."""
        with no_bars():
            self.module.save_pretrained(directory)
        self.captioner.vlm.processor.save_pretrained(directory)


@dataclass(frozen=True, eq=False)
class Labelled:
    """A transition to learn from, and what its tokens count in the loss."""

    row: Transition
    weight: float = 1.0

    def silent(self) -> Labelled:
        """The same, of no weight."""
        return replace(self, weight=0.0)


class _Rows(Sequence[Labelled]):
    """Transitions whose images are read when they are asked for."""

    def __init__(self, transitions: Sequence[Transition]) -> None:
        self._transitions = transitions

    def __len__(self) -> int:
        return len(self._transitions)

    @overload
    def __getitem__(self, index: int) -> Labelled: ...
    @overload
    def __getitem__(self, index: slice) -> list[Labelled]: ...
    def __getitem__(self, index: int | slice) -> Labelled | list[Labelled]:
        if isinstance(index, slice):
            return [Labelled(row) for row in self._transitions[index]]
        return Labelled(self._transitions[index])


class ReaderMeter(ActionMeter):
    """The action meter of a model that reads images as they are."""

    def __init__(self, reader: Reader, transitions: Sequence[Transition], pairs: int = PAIRS) -> None:
        super().__init__(cast(Any, reader), "inverse", transitions, pairs=pairs)
        self._reader = reader

    def _see(self, pairs: Sequence[Transition], cache: Path | None) -> Sequence[tuple[Any, Any]]:
        return [(pair.source_image, pair.target_image) for pair in pairs]

    def _score(self, sources: Sequence[Any], targets: Sequence[Any], actions: Sequence[str | None]) -> list[Values]:
        asked = [action or "" for action in actions]
        logprobs = self._reader.score(list(zip(sources, targets, strict=True)), asked)
        return [np.array([-logprob.mean]) for logprob in logprobs]  # the mean over tokens is all that is told


def train_reader(
    init: str,
    transitions: Sequence[Transition],
    config: TrainConfig,
    out: Path,
    *,
    seed: int,
    lora: LoraConfig | None,
    report: Callable[[int, int, float], None] | None = None,
    held_out: Sequence[Transition] = (),
) -> None:
    """Train a vision-language model to name actions and save it to `out`; a model that is there is left alone.

    Args:
        init: The model to start from: a folder as the library writes it, or a hub id.
        transitions: What to learn from, with images.
        config: How.
        out: The folder to write; with `lora`, an adapter as PEFT and vLLM load it.
        seed: Seed of everything random.
        lora: The adapter; None trains the language model itself, and leaves the part that reads images as it is.
        report: Is told step, steps and loss.
        held_out: Transitions to measure on meanwhile.

    Raises:
        ValueError: `init` is an adapter, or no such model; there is nothing to train on.
    """
    if is_model(out):
        return
    folder = model_folder(init)
    if "base" in card_of(folder):
        raise ValueError(f"{init} is an adapter: a new one starts from a whole model, so give its base.")
    if lora is not None and lora.four_bit:
        raise ValueError("A vision-language model is not kept in 4 bits here: leave lora.four_bit out.")
    torch.manual_seed(seed)
    reader = Reader(Captioner.load(folder))
    if lora is None:
        reader.freeze_images()
    fit(
        reader,
        "inverse",
        _Rows(transitions),
        config,
        out,
        seed=seed,
        lora=lora,
        base=str(Path(init).resolve()) if Path(init).is_dir() else init,
        report=report,
        meter=ReaderMeter(reader, held_out, FEWER) if is_main() and not config.fsdp else None,
        collator=reader.collate,
        prompt=VLM_PROMPT,
    )

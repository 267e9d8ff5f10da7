"""What a recipe will cost, estimated without loading weights: steps, tokens, memory and GPU hours, and what is missing.

Operations (Kaplan et al. 2020, section 2.1): a forward pass takes 2 per weight and token, and so does each of: the
gradient of the activations, the gradient of the weights (of frozen ones there is none), and the second forward pass of
recomputation (Narayanan et al. 2021, section 5.2). An adapter with recomputation: 6. Attention adds `2 T^2 A` a layer
over a causal sequence of T tokens and heads of A dimensions in all, and twice that for its gradient. The head counts at
supervised positions. All of this is arithmetic, not measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from retrodict.models.registry import Size, get_family, size_of
from retrodict.prompts import PROMPTS, Slot
from retrodict.training.config import Source, TrainRecipe
from retrodict.training.distributed import process_count
from retrodict.training.objective import LOGITS
from retrodict.training.prerequisites import missing_data, missing_weights
from retrodict.transitions import open_parquet

TEXT = 48  # tokens of a prompt and an action, about
SUPERVISED_TEXT = 20  # of an action and its end, about
SUSTAINED = 400e12  # operations a second: 40 % of an H100's peak in bfloat16
CPU_SUSTAINED = 60e9  # of one core, as measured with models of the size that `small` has
GB = 1e9
FOUR_BITS = 0.516  # bytes of a weight: half a one, and the quantised scales (arXiv 2305.14314, section 3)


@dataclass(frozen=True)
class Estimate:
    """`transitions` counts all, `fit` those that are trained on, `assumed` those that are only expected."""

    transitions: int
    fit: int
    assumed: int
    steps: int
    sequences: int  # a step
    length: int  # tokens of a sequence
    weights: int
    trained: int
    operations: float
    memory: float  # bytes on each GPU
    host: float  # bytes of the host's memory, while every rank there loads the whole model before it moves it
    missing: tuple[str, ...]

    @property
    def tokens(self) -> int:
        return self.steps * self.sequences * self.length

    @property
    def gpu_hours(self) -> float:
        return self.operations / SUSTAINED / 3600

    @property
    def is_large(self) -> bool:
        """Whether it is work for GPUs."""
        return self.weights > 1e8

    def time(self) -> str:
        if self.is_large:
            hours = f"{self.gpu_hours:,.0f}" if self.gpu_hours > 10 else f"{self.gpu_hours:.2f}"
            return f"GPU hours    about {hours} on H100s, at {SUSTAINED / 1e12:.0f} TFLOP/s"
        minutes = self.operations / CPU_SUSTAINED / 60
        return f"CPU minutes  about {minutes:,.0f} on one core, at {CPU_SUSTAINED / 1e9:.0f} GFLOP/s"

    def _loading(self) -> str:
        if not self.is_large:
            return ""
        count = process_count()
        return f"; {_bytes(self.host)} of the host's while {f'{count} ranks load it' if count > 1 else 'it is loaded'}"

    def lines(self) -> list[str]:
        assumed = f", {self.assumed:,} of which are only expected" if self.assumed else ""
        return [
            f"transitions  {self.transitions:,}{assumed}; {self.fit:,} to train on",
            f"steps        {self.steps:,} of {self.sequences:,} sequences",
            f"tokens       {_many(self.tokens)}, {self.length:,} a sequence",
            f"weights      {_many(self.weights)}, of which {self.trained / 1e6:,.1f} million are trained",
            f"memory       about {_bytes(self.memory)} on each {'GPU' if self.is_large else 'rank'}{self._loading()}",
            self.time(),
            *(f"missing      {line}" for line in self.missing),
        ]


def estimate(recipe: TrainRecipe) -> Estimate:
    """What `recipe` will cost. Raises `ValueError` for a family whose size is not known."""
    counts = [_count(source) for source in recipe.data.train]
    total = sum(count for count, _ in counts)
    fit = total if recipe.data.val is not None else round(total * (1 - recipe.data.val_share))
    size = size_of_recipe(recipe)
    config, steps = recipe.training, recipe.training.total_steps(fit)
    length = 1 + _images(recipe) * (size.image_tokens + size.delimiters) + TEXT
    sequences = config.batch
    trained = size.weights if recipe.lora is None else size.adapter_weights(recipe.lora.rank)
    supervised = size.image_tokens if recipe.direction == "forward" else SUPERVISED_TEXT
    width = size.codebook if recipe.direction == "forward" else size.text_vocabulary
    each = (2 + config.gradient_checkpointing + (recipe.lora is None)) * 2 * size.layer_weights * length
    each += (3 + config.gradient_checkpointing) * 2 * length**2 * size.attention * size.layers
    each += (2 + (recipe.lora is None)) * 2 * width * size.hidden * supervised
    return Estimate(
        transitions=total,
        fit=fit,
        assumed=sum(count for count, is_there in counts if not is_there),
        steps=steps,
        sequences=sequences,
        length=length,
        weights=size.weights + size.vision,
        trained=trained,
        operations=float(each * sequences * steps),
        memory=_memory(recipe, size, length, trained, min(config.per_device_batch_size * supervised * width, LOGITS)),
        host=float(process_count() * (2 * (size.weights + size.vision) + 4 * size.image_tokenizer)),
        missing=(*missing_weights(recipe), *missing_data(recipe)),
    )


def explanation_operations(recipe: TrainRecipe) -> float:
    """Of one pair that an inverse model labels: a forward pass over the images and about as much text."""
    size = size_of_recipe(recipe)
    length = 1 + _images(recipe) * (size.image_tokens + size.delimiters) + TEXT
    return float(2 * size.layer_weights * length + 2 * length**2 * size.attention * size.layers)


def _many(count: int) -> str:
    return f"{count / 1e9:,.2f} billion" if count >= 1e8 else f"{count / 1e6:.1f} million"


def _bytes(count: float) -> str:
    return f"{count / GB:.0f} GB" if count >= GB else f"{count / 1e6:.0f} MB"


def _memory(recipe: TrainRecipe, size: Size, length: int, trained: int, logits: int) -> float:
    """Bytes on each GPU: weights in bfloat16, or in float32 where they are trained; gradients and Adam's two moments in
    float32; activations in bfloat16, of every layer or of one; logits, their probabilities and gradients."""
    shards = process_count() if recipe.training.fsdp else 1
    frozen = size.vision + (size.weights if recipe.lora is not None else 0)
    saved = (2 - FOUR_BITS) * size.layer_weights if recipe.lora is not None and recipe.lora.four_bit else 0
    static = (2 * frozen - saved + 16 * trained) / shards + 4 * size.image_tokenizer
    inside = length * (10 * size.hidden + 4 * size.intermediate) * 2  # of one layer
    between = length * size.hidden * 2
    kept = (
        size.layers * between + inside if recipe.training.gradient_checkpointing else size.layers * (between + inside)
    )
    return static + recipe.training.per_device_batch_size * kept + 10 * logits


def _images(recipe: TrainRecipe) -> int:
    """Images in a sequence: Janus is shown the source of a prediction twice, once as it reads and once as it writes."""
    parts = PROMPTS[get_family(recipe.family).load_class().prompts[recipe.direction]].parts
    return sum(part in (Slot.SOURCE, Slot.TARGET) for part in parts)


def _count(source: Source) -> tuple[int, bool]:
    """Rows that a source gives, and whether they are there."""
    files: Sequence[Path] = sorted(source.path.glob("*.parquet"))
    if not files:
        return min(source.expected or 0, source.rows or source.expected or 0), False
    rows = sum(open_parquet(file).metadata.num_rows for file in files)
    return min(rows, source.rows or rows), True


def size_of_recipe(recipe: TrainRecipe) -> Size:
    """The size of the model that a recipe trains."""
    if not get_family(recipe.family).from_scratch:
        return size_of(recipe.family, recipe.init or "")
    model, tokenizer = recipe.model, recipe.tokenizer
    words = 512  # about; with the bytes that spell others
    (height, width), patch = tokenizer.image_size or (96, 96), tokenizer.patch or 16  # where the data decide: about
    return Size(
        layers=model.layers,
        hidden=model.hidden,
        intermediate=3 * model.hidden,
        attention=model.hidden,
        key_value=model.hidden,
        vocabulary=words + tokenizer.codes,
        tied=True,
        image_tokens=(height // patch) * (width // patch),
        codebook=tokenizer.codes,
        image_tokenizer=0,
    )

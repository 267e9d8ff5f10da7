"""Time and memory of a LoRA training step at the sizes of Chameleon-7B and Janus-Pro-1B, random weights in bfloat16.

    python benchmarks/gpu/train_step.py --out build/train_step                    # some minutes on one GPU as estimated
    python benchmarks/gpu/train_step.py --out build/janus --family janus          # the same of Janus-Pro-1B
    python benchmarks/gpu/train_step.py --out build/tiny --tiny                   # on a CPU: only that it runs

Weights do not change how long a step takes, so random ones do. Janus's encoders of images are narrow here: its language
model is all that is trained. Each setting is one line of `results.jsonl` and is
written when it is measured; the same command goes on with those that are missing. A setting that does not fit into
memory says so. Compare with what `--dry-run` says of recipes/paper/chameleon.yaml and recipes/real/janus-1b.yaml.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from retrodict.dynamics.batches import collate, example
from retrodict.dynamics.sequences import build
from retrodict.models.registry import tiny_family
from retrodict.models.tiny import tiny_chameleon, tiny_janus
from retrodict.models.token_family import TokenFamily
from retrodict.models.vqgan import VQGAN, VQGANConfig
from retrodict.prompts import Direction
from retrodict.training.checkpoints import trained
from retrodict.training.config import LoraConfig
from retrodict.training.lora import add_adapter
from retrodict.training.objective import Objective

SIZES: dict[str, dict[str, int]] = {
    "chameleon": {
        "hidden_size": 4096, "intermediate_size": 11_008, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 32,
    },
    "janus": {
        "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 24, "num_attention_heads": 16,
        "num_key_value_heads": 16, "max_position_embeddings": 4096,
    },
}  # fmt: skip
VOCABULARY = {"chameleon": 65_536, "janus": 102_400}
ACTION = "put the red cup on the plate beside the window"


@dataclass(frozen=True)
class Setting:
    direction: Direction
    batch: int
    recompute: bool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--family", default="chameleon", choices=list(SIZES))
    parser.add_argument("--tiny", action="store_true", help="two small layers, on the CPU")
    parser.add_argument("--steps", type=int, default=5, help="measured steps of each setting, after two others")
    parser.add_argument("--minutes", type=float, default=8, help="no further setting is begun after these")
    arguments = parser.parse_args()
    if not arguments.tiny and not torch.cuda.is_available():
        parser.error("there is no GPU here: --tiny runs on a CPU")
    results = arguments.out / "results.jsonl"
    arguments.out.mkdir(parents=True, exist_ok=True)
    lines = results.read_text().splitlines() if results.is_file() else []
    done = [json.loads(line)["setting"] for line in lines]
    waiting = [setting for setting in settings(tiny=arguments.tiny) if asdict(setting) not in done]
    if not waiting:
        return
    began = time.monotonic()
    family = random_family(arguments.family, tiny=arguments.tiny)
    for setting in waiting:
        if time.monotonic() - began > 60 * arguments.minutes:
            print(f"{len(waiting)} settings are left: run the same command again.")
            break
        record = {"setting": asdict(setting), **measure(family, setting, arguments.steps), **machine()}
        with results.open("a") as handle:
            handle.write(json.dumps(record) + "\n")
        print(json.dumps(record))


def settings(*, tiny: bool) -> Iterator[Setting]:
    directions: tuple[Direction, ...] = ("forward", "inverse")
    for direction, batch, recompute in product(directions, (1, 2) if tiny else (1, 4, 8, 16), (True, False)):
        yield Setting(direction, batch, recompute)


def random_family(name: str = "chameleon", *, tiny: bool) -> TokenFamily:
    """A model with an adapter; the image tokenizer is there for its sizes alone, no image is read."""
    torch.manual_seed(0)
    family = tiny_family(name)([ACTION]) if tiny else published_size(torch.device("cuda"), name)
    add_adapter(family, LoraConfig(), base="random")
    return family


def published_size(device: torch.device, name: str = "chameleon") -> TokenFamily:
    """The layers of a published model, and its tables of ids."""
    images = VQGAN(VQGANConfig())
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with device:
            family: TokenFamily = (
                tiny_chameleon(images=images, **SIZES[name])
                if name == "chameleon"
                else tiny_janus([ACTION], grid=24, patch=16, **SIZES[name])
            )
            family.module.resize_token_embeddings(VOCABULARY[name], mean_resizing=False)
    finally:
        torch.set_default_dtype(before)
    return family


def measure(family: TokenFamily, setting: Setting, steps: int) -> dict[str, Any]:
    """Median and all times of a step in seconds, tokens a second, peak memory in bytes; or why there are none."""
    device = next(family.module.parameters()).device
    module: Any = family.module
    module.train()
    if setting.recompute:
        module.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    else:
        module.activation_checkpointing_disable()
    objective = Objective(family, setting.direction)
    optimizer = torch.optim.AdamW(trained(objective).values(), lr=1e-5)
    batch = {name: tensor.to(device) for name, tensor in collate(sequences(family, setting), family.pad).items()}
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    try:
        for _ in range(steps + 2):
            began = time.perf_counter()
            with torch.autocast(device.type, torch.bfloat16):
                loss = objective(denominator=batch["weights"].sum(), **batch)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if on_gpu:
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - began)
    except torch.OutOfMemoryError:
        optimizer.zero_grad()
        return {"error": "out of memory"}
    middle = statistics.median(seconds[2:])
    return {
        "seconds": middle,
        "all_seconds": seconds[2:],
        "tokens_a_second": batch["input_ids"].numel() / middle,
        "length": batch["input_ids"].shape[1],
        "loss": float(loss.detach()),
        "peak_bytes": torch.cuda.max_memory_allocated() if on_gpu else None,
    }


def sequences(family: TokenFamily, setting: Setting) -> list[Any]:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, family.spec.codebook, (setting.batch, 2, family.spec.tokens))
    return [
        example(family, build(family, setting.direction, source_L=source, target_L=target, action=ACTION))
        for source, target in codes
    ]


def machine() -> dict[str, str]:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    return {"device": device, "torch": torch.__version__}


if __name__ == "__main__":
    main()

"""What only real weights can show. Without them, the measurements alone run, on tiny models.

    RETRODICT_WEIGHTS=FOLDER python -m pytest tests/test_real_weights.py -s

FOLDER holds any of `chameleon`, `liquid`, `emu3`, `janus`: model folders that `retrodict convert` wrote, or published
ones in the layout of transformers. Seven billion parameters want some 20 GB of memory, or a GPU, which is used where
there is one. The first run of a family records its greedy tokens in `FOLDER/first_tokens.json`; later runs compare.

`FOLDER/report.md` gets a table to paste into a report: where the model was, what memory it took, how long a LoRA step,
one sample and the verified best of 8 took, and the loop on ten pairs, those of AURORA-Bench where it is found (in the
folder of RETRODICT_SHARED_DATA, or `../shared/data` beside the repository).
"""

from __future__ import annotations

import gc
import json
import math
import os
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from retrodict import api
from retrodict.bootstrap.loop import run_bootstrap
from retrodict.bootstrap.recipe import BootstrapRecipe
from retrodict.data.aurora import read_aurora
from retrodict.dynamics.sequences import build
from retrodict.evaluation.benchmarks import read_results
from retrodict.loading import load, load_family
from retrodict.models.registry import card_of, get_family, load_named
from retrodict.models.token_family import TokenFamily
from retrodict.placement import place
from retrodict.progress import QuietProgress
from retrodict.recipes import load_recipe
from retrodict.training.config import LoraConfig, TrainConfig
from retrodict.training.run import train_model
from retrodict.transitions import Transition, write_rows
from retrodict.versions import versions
from retrodict.worlds import tabletop

FAMILIES = ("chameleon", "liquid", "emu3", "janus")
IMAGES = sorted((Path(__file__).parents[1] / "examples").glob("*.png"))
# Ids of the first code, the opening and the closing; bos, eos and pad; codes and tokens of an image.
CONSTANTS: dict[str, dict[str, Any]] = {
    "chameleon": {"first": 4, "opening": (8197,), "closing": (8196,), "special": (0, 2, 1), "size": (8192, 1024)},
    "liquid": {"first": 256_000, "special": (2, 1, 0), "size": (8192, 1024)},
    "emu3": {"size": (32_768, 64 * 64)},
    "janus": {"size": (16_384, 24 * 24)},
}


def _weights() -> Path:
    folder = os.environ.get("RETRODICT_WEIGHTS")
    if not folder:
        pytest.skip("RETRODICT_WEIGHTS names no folder of real weights")
    return Path(folder)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> TokenFamily:
    folder = _weights() / str(request.param)
    if not folder.is_dir():
        pytest.skip(f"there is no {folder}")
    found = load_family(folder)
    place(found.module)
    return found


def test_constants(family: TokenFamily) -> None:
    expected, spec = CONSTANTS[family.name], family.spec
    found = {
        "first": spec.first_id,
        "opening": spec.opening,
        "closing": spec.closing,
        "special": (family.bos, family.eos, family.pad),
        "size": (spec.codebook, spec.tokens),
    }
    assert {name: found[name] for name in expected} == expected


def test_configuration(family: TokenFamily) -> None:
    module: Any = family.module
    if family.name == "liquid":
        assert module.config.hidden_act == "gelu_pytorch_tanh"
        assert module.config.tie_word_embeddings
        assert module.get_input_embeddings().weight is module.get_output_embeddings().weight
    if family.name == "chameleon":
        assert not module.config.tie_word_embeddings
        assert module.config.rope_parameters["rope_theta"] == 10_000


def test_images_survive_the_tokenizer(family: TokenFamily) -> None:
    """Peak signal-to-noise ratio of a round trip; a wrong order of codes or channels gives some 8 dB."""
    images = [Image.open(file).convert("RGB") for file in IMAGES]
    assert images
    side = family.spec.size
    for image, again in zip(images, family.decode(family.encode(images).codes_NL), strict=True):
        before = np.asarray(image.resize((side, side), Image.Resampling.LANCZOS), dtype=np.float64)
        error = np.mean((before - np.asarray(again.resize((side, side)))) ** 2)
        assert 10 * math.log10(255**2 / error) > 18


def test_words_survive(family: TokenFamily) -> None:
    text = "push the red ball to the left, then close 2 drawers"
    assert family.text(family.text_ids(text)) == text


@torch.inference_mode()
def test_first_tokens(family: TokenFamily) -> None:
    """16 greedy codes after a forward prompt, by running the whole sequence for each, and the logits' shape."""
    device = next(family.module.parameters()).device
    codes_NL = family.encode([Image.open(file).convert("RGB") for file in IMAGES[:1]]).codes_NL
    found: list[int] = []
    positions = np.flatnonzero(family.spec.schedule < 0)
    for position in positions[:16]:
        target_L = np.zeros(family.spec.tokens, dtype=np.int64)
        target_L[: len(found)] = found
        sequence = build(family, "forward", source_L=codes_NL[0], target_L=target_L, action="lift the ball")
        assert sequence.segments.completion is not None
        stop = sequence.segments.completion[0] + int(position)
        inputs = {k: torch.from_numpy(v[None, :stop]).to(device) for k, v in family.features(sequence).items()}
        ids_1T = torch.from_numpy(sequence.ids_T[None, :stop]).to(device)
        logits_K = family.image_logits(family.hidden(ids_1T, **inputs)[0, -1]).float()
        assert torch.isfinite(logits_K).all()
        assert logits_K.std() > 0.1, "logits of a model that has learnt nothing"
        found.append(int(logits_K.argmax()))
    file = _weights() / "first_tokens.json"
    recorded = json.loads(file.read_text()) if file.is_file() else {}
    if family.name not in recorded:
        file.write_text(json.dumps({**recorded, family.name: found}, indent=1) + "\n")
        pytest.skip(f"recorded the first tokens in {file}; the next run compares with them")
    assert found == recorded[family.name]


def pairs() -> list[Transition]:
    """Ten pairs of AURORA-Bench, two of a subset, or of the simulated world."""
    given = os.environ.get("RETRODICT_SHARED_DATA")
    folder = (Path(given) if given else Path(__file__).parents[2] / "shared" / "data") / "aurora_bench_small"
    if not folder.is_dir():
        return [example.transition() for example in tabletop.sample(10, 0)]
    rows = [row for row in read_aurora(folder) if row.target is not None]
    subsets = dict.fromkeys(row.category for row in rows)
    return [row for subset in subsets for row in [r for r in rows if r.category == subset][:2]]


def measurements(folder: Path, scratch: Path, rows: list[Transition]) -> dict[str, str]:
    """What a table says of one model, line by line."""
    table: dict[str, str] = {}

    def timed(name: str, run: Any) -> Any:
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        began = time.monotonic()
        result = run()
        table[name] = f"{time.monotonic() - began:.1f} s"
        if torch.cuda.is_available():
            table[name] += f", {torch.cuda.max_memory_allocated() / 1e9:.1f} GB of GPU memory"
        return result

    model: Any = timed("load", lambda: load(folder, "forward"))
    weight = next(model.family.module.parameters())
    table["weights"] = (
        f"{sum(p.numel() for p in model.family.module.parameters()):,} on {weight.device}, {weight.dtype}"
    )
    image, action = rows[0].source_image, rows[0].action
    for name in ("one sample, the first time", "one sample"):
        timed(name, lambda: api.predict(image, action, n=1, verifier="random", model=folder))
    best = timed("best of 8 by the inverse model", lambda: api.predict(image, action, verifier="idm", model=folder))
    assert len(best.candidates) == 8
    assert all(math.isfinite(score) for score in best.scores)
    del model, weight, best
    gc.collect()
    step = TrainConfig(steps=1, per_device_batch_size=1, optimizer="adamw", gradient_checkpointing=True)
    adapter = scratch / "adapter"
    train = partial(train_model, lambda: load_family(folder), "inverse", rows, step, adapter)
    timed("load, tokenize and one LoRA step", lambda: train(lora=LoraConfig(), base=str(folder)))
    gc.collect()
    write_rows(scratch / "pairs" / "rows.parquet", rows)
    lines = [
        f"{{family: {card_of(folder)['family']}, init: {folder}, lora: {{}},",
        "data: {labelled: pairs, test_share: 0.2},",
        "inverse: &step {steps: 1, per_device_batch_size: 1, optimizer: adamw, gradient_checkpointing: true},",
        "forward: *step, bench: {items: 1, n: 2}}",
    ]
    (scratch / "loop.yaml").write_text("\n".join(lines))
    loop = load_recipe(scratch / "loop.yaml", BootstrapRecipe)
    timed("the loop on ten pairs", lambda: run_bootstrap(loop, scratch / "loop", QuietProgress()))
    table["memory of the host"] = f"{read_results(scratch / 'loop')['peak_memory_mb'] / 1000:.1f} GB"
    return table


def as_table(name: str, table: dict[str, str]) -> str:
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    head = f"{name}, {gpu}, " + ", ".join(f"{package} {version}" for package, version in versions().items())
    return "\n".join([head, "", "| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in table.items()), ""])


@pytest.mark.slow
def test_the_measurements_run_on_a_tiny_model(tmp_path: Path) -> None:
    torch.manual_seed(0)
    rows = [example.transition() for example in tabletop.sample(10, 0)]
    load_named(get_family("janus").tiny)([row.action for row in rows], grid=3).save(tmp_path / "janus")
    text = as_table("janus", measurements(tmp_path / "janus", tmp_path, rows))
    assert text.count("| ") > 16
    for line in ("load", "best of 8 by the inverse model", "one LoRA step", "the loop on ten pairs"):
        assert line in text


@pytest.mark.parametrize("name", FAMILIES)
def test_a_table_for_a_report(name: str, tmp_path: Path) -> None:
    folder = _weights() / name
    if not folder.is_dir():
        pytest.skip(f"there is no {folder}")
    text = as_table(name, measurements(folder, tmp_path, pairs()))
    print(f"\n{text}")  # noqa: T201 -- it is what the run is for
    report = _weights() / "report.md"
    report.write_text((report.read_text() + "\n" if report.is_file() else "") + text)

"""Vision-language models that only read images, trained by the loop of all others, against the library's own loss."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import torch
from family_checks import ACTIONS, noise_images
from safetensors import safe_open
from tiny_vlms import idefics3, llava, qwen2_5_vl, smolvlm
from transformers import AutoModelForImageTextToText

from retrodict.images import encode_png
from retrodict.loading import load
from retrodict.models.checkpoint import quiet_peft
from retrodict.models.vlm import Captioner, VisionLanguageModel
from retrodict.progress import QuietProgress
from retrodict.training.config import LoraConfig, TrainConfig, TrainRecipe
from retrodict.training.objective import Objective
from retrodict.training.reader import Labelled, Reader
from retrodict.training.recipe import train_recipe
from retrodict.transitions import Transition, write_manifest, write_rows

IMAGES = list(zip(noise_images(6, 16, 0), noise_images(6, 24, 1), strict=True))
ROWS = [
    Transition(
        id=str(i),
        group=str(i),
        source=encode_png(source),
        target=encode_png(target),
        action=ACTIONS[i % 3],
    )
    for i, (source, target) in enumerate(IMAGES)
]


@pytest.mark.parametrize("make", [idefics3, smolvlm, llava, qwen2_5_vl])
def test_the_loss_is_that_of_the_library(make: Callable[[Path], Path], tmp_path: Path) -> None:
    reader = Reader(Captioner.load(make(tmp_path)))
    silent = Labelled(ROWS[3]).silent()
    batch = reader.collate([*map(Labelled, ROWS[:3]), silent])
    loss = Objective(reader, "inverse")(denominator=batch["weights"].sum(), **batch)
    inputs = {name: value for name, value in batch.items() if name not in ("positions", "labels", "weights")}
    labels = torch.full_like(batch["input_ids"], -100)
    labels.scatter_(1, batch["positions"] + 1, batch["labels"])
    with torch.no_grad():
        theirs = reader.module(**inputs, labels=labels).loss
    assert loss.item() == pytest.approx(theirs.item(), abs=1e-5)
    loss.backward()
    logprobs = reader.score(IMAGES[:3], ACTIONS)
    assert loss.item() == pytest.approx(-sum(p.sum for p in logprobs) / sum(p.count for p in logprobs), abs=1e-4)


def test_an_adapter_is_trained_that_peft_and_vllm_load(tmp_path: Path) -> None:
    base, out = qwen2_5_vl(tmp_path / "base"), tmp_path / "idm"
    write_rows(tmp_path / "rows" / "rows.parquet", ROWS)
    write_manifest(tmp_path / "rows", kind="transitions", config={}, kept=len(ROWS), dropped={})
    recipe = TrainRecipe(
        direction="inverse",
        family="vlm",
        init=str(base),
        lora=LoraConfig(rank=4, alpha=8, dropout=0.0),
        data={"train": [tmp_path / "rows"], "val": tmp_path / "rows"},
        training=TrainConfig(steps=12, per_device_batch_size=4, learning_rate=2e-2, warmup_steps=1, optimizer="adamw"),
    )
    before = load(base, "inverse").score(IMAGES, [row.action for row in ROWS])
    train_recipe(recipe, tmp_path / "idm", QuietProgress())
    results = json.loads((out / "results.json").read_text())
    ours = load(tmp_path, "inverse")  # a run's folder holds it as `idm`
    after = ours.score(IMAGES, [row.action for row in ROWS])
    assert sum(p.sum for p in after) > sum(p.sum for p in before)
    assert results["val"]["nll"]["mean"] == pytest.approx(-sum(p.sum for p in after) / len(after), abs=1e-3)
    assert results["action_meter"]["inverse"]["pairs"] == len(ROWS)

    with quiet_peft():
        plain = peft.PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(base), out)
    captioner = Captioner(VisionLanguageModel(Captioner.load(base).vlm.processor, plain))
    theirs = captioner.score(IMAGES, [row.action for row in ROWS])
    assert [p.sum for p in theirs] == pytest.approx([p.sum for p in after], abs=1e-4)

    # vLLM takes q, k, v, o, gate, up and down of the language model, under these names, and nothing else.
    with safe_open(out / "adapter_model.safetensors", framework="pt") as tensors:
        names = list(tensors.keys())
    layer = r"base_model\.model\.model\.language_model\.layers\.[01]\.(self_attn\.[qkvo]|mlp\.(gate|up|down))_proj"
    assert len(names) == 2 * 2 * 7
    assert all(re.fullmatch(rf"{layer}\.lora_[AB]\.weight", name) for name in names)
    config = json.loads((out / "adapter_config.json").read_text())
    assert (config["bias"], config["modules_to_save"], config["use_dora"]) == ("none", None, False)
    assert re.search(r"\((.*?)\)\$?$", config["target_modules"]), "by which vLLM reads a regular expression"


def test_what_only_reads_has_no_forward_direction(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="only reads images: it has no forward direction"):
        TrainRecipe(direction="forward", family="vlm", init="some/model", data={"train": [tmp_path]})

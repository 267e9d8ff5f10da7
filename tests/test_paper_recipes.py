"""The paper's recipes: what they say, will cost and lack, and getting that from a hub (here, from a local one).

The costs are arithmetic; the numbers below were worked out by hand from published sizes.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub import hub_with, online
from typer.testing import CliRunner

from retrodict.bootstrap.plan import models_of
from retrodict.bootstrap.recipe import BootstrapRecipe
from retrodict.models.registry import MODEL_FILES, Part, size_of
from retrodict.recipes import load_recipe
from retrodict.training.config import TrainRecipe
from retrodict.training.estimate import estimate
from retrodict.transitions import write_rows
from retrodict.worlds import tabletop

RECIPES = Path(__file__).parents[1] / "recipes" / "paper"
FILES = {
    "config.json": b"{}",
    "model.safetensors": os.urandom(300_000),
    "pytorch_model.bin": b"never wanted",
    "consolidated.00.pth": b"not wanted beside safetensors",
}
NAMES = [f"{family}-{kind}" for family in ("chameleon", "liquid") for kind in ("idm", "ft", "fdm")]


def loop(family: str, *overrides: str) -> BootstrapRecipe:
    return load_recipe(RECIPES / f"{family}.yaml", BootstrapRecipe, overrides)


def recipe(name: str, *overrides: str) -> TrainRecipe:
    """One model of a paper's loop."""
    family, kind = name.split("-")
    return models_of(loop(family, *overrides))[kind]


@pytest.mark.parametrize("name", NAMES)
def test_the_settings_are_the_papers(name: str) -> None:
    found = recipe(name)
    family, kind = name.split("-")
    training, lora = found.training, found.lora
    assert (found.family, found.direction) == (family, "inverse" if kind == "idm" else "forward")
    assert lora is not None
    assert (lora.rank, lora.alpha, lora.dropout) == (16, 32, 0.05)
    assert (
        training.epochs,
        training.per_device_batch_size * training.gradient_accumulation_steps,
        training.learning_rate,
        training.warmup_steps,
    ) == ((10, 64, 2e-4, 500) if kind == "idm" else (40, 96, 5e-4, 400))
    assert (training.lr_scheduler, training.optimizer) == ("cosine", "adamw")
    assert found.weighting.method == ("recognition" if kind == "fdm" else "none")
    taken = {source.path.name: source.rows or source.expected for source in found.data.train}
    assert taken["kubric"] == 10_000
    assert taken.get("epic-kitchens") == (15_000 if kind == "idm" else None)
    assert taken.get("selected") == (3 * 7000 if kind == "fdm" else None)
    mine = loop(family).mine
    assert (mine.frames_per_clip, mine.min_gap, mine.selection, mine.motion) == (6, 20, "paper", "reference")


def test_published_sizes() -> None:
    chameleon, liquid = size_of("chameleon"), size_of("liquid")
    # 32 x (4 x 4096^2 + 3 x 4096 x 11008), and two tables of 65536 x 4096
    assert chameleon.layer_weights == 6_476_005_376
    assert chameleon.weights == 6_476_005_376 + 2 * 268_435_456
    # 28 x (4 x 3072 x 4096 + 3 x 3072 x 24576), and one table of 264192 x 3072
    assert liquid.layer_weights == 7_751_073_792
    assert liquid.weights == 7_751_073_792 + 811_597_824
    # rank 16: 32 x 16 x (4 x 8192 + 3 x 15104) and 28 x 16 x (4 x 7168 + 3 x 27648)
    assert chameleon.adapter_weights(16) == 39_976_960
    assert liquid.adapter_weights(16) == 50_003_968


@pytest.mark.parametrize(
    ("family", "layers", "rest", "images"),
    [
        # 32 x (2 x 4096^2 + 2 x 4096 x 1024 + 3 x 4096 x 14336), and two tables of 184622 x 4096
        ("emu3", 6_979_321_856, 2 * 184_622 * 4096, 2 * (64 * 64 + 73)),
        # 30 x (4 x 4096^2 + 3 x 4096 x 11008), two tables of 102400 x 4096, and the parts for images alone; a
        # prediction's source is in the sequence twice
        ("janus", 6_071_255_040, 2 * 102_400 * 4096 + 425_524_224, 3 * 578),
    ],
)
def test_the_cost_of_families_that_the_paper_does_not_have(
    family: str, layers: int, rest: int, images: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    found = estimate(recipe("liquid-ft", f"family={family}"))
    assert size_of(family).layer_weights == layers
    assert found.weights == layers + rest
    assert found.length == 1 + images + 48
    assert size_of("janus", "deepseek-community/Janus-Pro-1B").weights == pytest.approx(1.65e9, rel=2e-3)


def test_the_cost_of_an_inverse_model() -> None:
    found = estimate(recipe("chameleon-idm"))
    assert found.transitions == found.assumed == 10_000 + 11_373 + 8_807 + 119_000 + 15_000
    assert found.fit == 162_538  # without a hundredth
    assert found.steps == 25_397  # 10 x 162538 / 64
    assert found.length == 1 + 2 * 1026 + 48
    assert found.tokens == 25_397 * 64 * 2101
    # A sequence: three passes over the layers, four times their attention, and the head at 20 positions.
    layers = 3 * 2 * 6_476_005_376 * 2101
    attention = 4 * 2 * 2101**2 * 4096 * 32
    head = 2 * 2 * (65_536 - 8192) * 4096 * 20
    assert found.operations == pytest.approx((layers + attention + head) * 64 * 25_397)
    assert found.gpu_hours == pytest.approx(97.4, abs=0.1)  # the paper says about 100
    # Weights in bfloat16, 16 bytes for each of the adapter's, the VQGAN in float32: 14.03 + 0.64 + 0.27 GB. Then 8
    # sequences: what lies between 32 layers, and the inside of one; and 8 x 20 rows of logits.
    static = 2 * 7_012_876_288 + 16 * 39_976_960 + 4 * 68_718_467
    kept = 8 * 2101 * (32 * 4096 + 10 * 4096 + 4 * 11008) * 2
    assert found.memory == pytest.approx(static + kept + 10 * 160 * (65_536 - 8192))


def test_the_first_real_model_fits_a_card_of_24_gb(monkeypatch: pytest.MonkeyPatch) -> None:
    costs = {
        name: estimate(model)
        for name, model in models_of(load_recipe(RECIPES.parent / "real" / "janus-1b.yaml", BootstrapRecipe)).items()
    }
    assert [round(cost.memory / 1e9) for cost in costs.values()] == [6, 8, 8]
    assert sum(cost.gpu_hours for cost in costs.values()) == pytest.approx(2.73, abs=0.05)
    assert costs["idm"].host == pytest.approx(2 * 2.0e9 + 4 * 71_883_403, rel=0.01), "bfloat16, the VQ in float32"
    assert costs["idm"].lines()[4] == "memory       about 6 GB on each GPU; 4 GB of the host's while it is loaded"
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert estimate(recipe("liquid-ft")).host > 4 * 17e9


def test_the_inverse_model_to_serve_costs_what_its_recipe_says() -> None:
    cost = estimate(load_recipe(RECIPES.parent / "real" / "qwen-vl-idm.yaml", TrainRecipe))
    assert cost.length == 1 + 2 * (256 + 2) + 48
    assert cost.gpu_hours == pytest.approx(0.53, abs=0.02)
    assert cost.weights == pytest.approx(4.44e9, rel=0.01)


def test_recomputation_full_training_and_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    adapter, kept = (estimate(recipe("liquid-ft", f"forward.gradient_checkpointing={on}")) for on in ("true", "false"))
    assert kept.operations < adapter.operations < 1.5 * kept.operations
    assert kept.memory > 3 * adapter.memory
    whole = estimate(recipe("liquid-ft", "lora=null"))
    assert whole.trained == whole.weights
    assert whole.operations / adapter.operations == pytest.approx(4 / 3, rel=0.03)
    monkeypatch.setenv("WORLD_SIZE", "4")
    sharded = estimate(recipe("liquid-ft", "lora=null", "forward.fsdp=true"))
    assert whole.memory - sharded.memory == pytest.approx(16 * whole.weights * 3 / 4)


def test_sizes_from_a_folder_and_rows_that_are_there(tmp_path: Path) -> None:
    config = {
        "model_type": "chameleon",
        "num_hidden_layers": 2,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 100,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert size_of("chameleon", tmp_path).layer_weights == 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64)
    write_rows(tmp_path / "rows" / "a.parquet", [e.transition() for e in tabletop.sample(20, 0)])
    source = f"data.labelled=[{{path: {tmp_path / 'rows'}, rows: 12}}]"
    found = estimate(recipe("chameleon-ft", f"init={tmp_path}", source, "data.test_share=0.25"))
    assert (found.transitions, found.fit, found.assumed, found.missing) == (12, 9, 0, ())


def call(*arguments: str) -> tuple[int, list[str], list[str]]:
    from retrodict.cli import app

    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.stdout.splitlines(), result.stderr.splitlines()


def test_a_dry_run_says_what_it_takes_and_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, said, _ = call("bootstrap", str(RECIPES / "chameleon.yaml"), "--dry-run")
    assert code == 0
    stages = [line for line in said if not line.startswith("  ")]
    expected = ["models and data", "mine", "idm", "annotate", "ft", "fdm", "bench"]
    assert stages == [*expected, "training in all: about 856 GPU hours"]
    fdm = said[said.index("fdm") :]
    assert fdm[2] == "  steps        70,199 of 96 sequences"
    assert fdm[6].startswith("  GPU hours    about 404 on H100s")
    missing = [line for line in said if line.startswith("  missing")]
    assert len(missing) == 1 + 5 + 3
    assert f"retrodict download chameleon --out {RECIPES / 'models' / 'chameleon'}" in missing[0]
    assert list(tmp_path.iterdir()) == []
    for family in ("emu3", "janus"):
        code, said, _ = call("bootstrap", str(RECIPES / "liquid.yaml"), "--dry-run", "--set", f"family={family}")
        assert (code, said[-1].startswith("training in all: about ")) == (0, True)
    code, _, errors = call("bootstrap", str(RECIPES / "chameleon.yaml"))
    assert (code, len(errors)) == (2, 1)
    assert "Say where to write the run: --out DIR" in errors[0]
    code, _, errors = call("bootstrap", str(RECIPES / "liquid.yaml"), "--dry-run", "--set", "family=emu4")
    assert (code, errors) == (2, ["retrodict: --set family: there is no model family 'emu4': did you mean 'emu3'?"])


def test_offline_a_line_says_what_is_missing_and_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, said, errors = call("download", "liquid", "--out", "here")
    assert (code, said) == (2, [])
    assert len(errors) == 2
    assert all(line.startswith("retrodict: missing: Junfeng5/Liquid_") for line in errors)
    assert "get it from https://huggingface.co/spaces/Junfeng5/Liquid_demo and put chameleon/vqgan.ckpt" in errors[1]
    shutil.copy(RECIPES / "liquid.yaml", "liquid.yaml")
    code, _, errors = call("download", "liquid.yaml")
    assert (code, len(errors)) == (2, 2 + 5 + 3)
    assert "get it from https://huggingface.co/Junfeng5/Liquid_V1_7B and put" in errors[0]
    assert f"into {tmp_path / 'models' / 'liquid'}" in errors[0]
    assert "EPIC_100_train.csv" in errors[-4]
    assert "UCF-101" in errors[-1]
    code, _, errors = call("download", "nothing")
    assert (code, len(errors)) == (2, 1)


STEP = Path(__file__).parents[1] / "benchmarks" / "gpu" / "train_step.py"


@pytest.mark.slow
def test_the_step_benchmark_runs_goes_on_and_has_the_published_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.syspath_prepend(str(STEP.parent))
    import train_step

    monkeypatch.setattr(sys, "argv", [str(STEP), "--tiny", "--out", str(tmp_path), "--steps", "1"])
    train_step.main()
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert len(lines) == 8
    assert all(line["seconds"] > 0 for line in lines)
    assert len({(line["loss"], line["setting"]["recompute"]) for line in lines}) == 8
    (tmp_path / "results.jsonl").write_text(json.dumps(lines[0]) + "\n")
    train_step.main()
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 8
    whole = train_step.published_size(torch.device("meta")).module
    sizes, published = train_step.SIZES["janus"], size_of("janus", "deepseek-community/Janus-Pro-1B")
    assert (sizes["num_hidden_layers"], sizes["hidden_size"]) == (published.layers, published.hidden)
    assert (sizes["intermediate_size"], train_step.VOCABULARY["janus"]) == (
        published.intermediate,
        published.vocabulary,
    )
    wider = train_step.tiny_janus([train_step.ACTION], grid=3, hidden_size=64)
    train_step.add_adapter(wider, train_step.LoraConfig(), base="random")
    assert train_step.measure(wider, train_step.Setting("forward", 1, True), 1)["seconds"] > 0
    norms = 32 * (2 * 4096 + 2 * 2 * 4096) + 4096  # of each layer, of its queries and keys, and the last one
    assert sum(p.numel() for p in whole.parameters()) == size_of("chameleon").weights + norms


@pytest.fixture
def hub() -> Iterator[tuple[str, list[str]]]:
    with hub_with("some/model", FILES) as address_and_fetched:
        yield address_and_fetched


@pytest.mark.slow
def test_a_hub_gives_what_is_wanted_once(hub: tuple[str, list[str]], tmp_path: Path) -> None:
    address, fetched = hub
    done = online(address, tmp_path, "download", "some/model", "--out", "model")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "model: some/model\n"
    held = {file.name: file.read_bytes() for file in (tmp_path / "model").iterdir() if file.is_file()}
    assert json.loads(held.pop("run.json"))["command"] == "download"
    assert held == {name: FILES[name] for name in ("config.json", "model.safetensors")}
    (tmp_path / "model" / "config.json").unlink()
    fetched.clear()
    assert online(address, tmp_path, "download", "some/model", "--out", "model").returncode == 0
    assert fetched == ["config.json"]
    none = online(address, tmp_path, "download", "no/such", "--out", "other")
    assert none.returncode == 2
    assert none.stderr.count("\n") == 1
    assert "missing: no/such: could not be fetched (404" in none.stderr


PUBLISHED = {  # what repositories hold that a model needs; and what it does not
    "GAIR/Anole-7b-v0.1": (
        "models/7b/consolidated.pth models/7b/params.json models/7b/consolidate_params.json "
        "tokenizer/text_tokenizer.json tokenizer/vqgan.ckpt tokenizer/vqgan.yaml",
        "models/7b/checklist.chk",
    ),
    "a vision-language model": (
        "config.json model-00001-of-00002.safetensors model.safetensors.index.json chat_template.jinja tokenizer.json "
        "tokenizer_config.json merges.txt vocab.json tokenizer.model",
        "pytorch_model.bin",
    ),
    "an editor": (
        "model_index.json unet/config.json unet/diffusion_pytorch_model.safetensors tokenizer/merges.txt",
        "unet/diffusion_pytorch_model.bin",
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_one_list_of_files_has_what_each_kind_of_repository_needs(name: str) -> None:
    from fnmatch import fnmatch

    needed, others = (files.split() for files in PUBLISHED[name])
    taken = [file for file in (*needed, *others) if any(fnmatch(file, pattern) for pattern in MODEL_FILES)]
    assert taken == needed


def test_what_loading_needs_and_is_not_there_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from retrodict.models import hub

    def lacks() -> str:
        return hub._lacks(Part("some/model"), tmp_path)

    (tmp_path / "config.json").write_text("{}")
    assert "no weights" in lacks()
    (tmp_path / "model-00001-of-00002.safetensors").write_bytes(b"x")
    weights = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))
    assert lacks() == "model.safetensors.index.json names model-00002-of-00002.safetensors, which is not there"
    (tmp_path / "model-00002-of-00002.safetensors").write_bytes(b"x")
    (tmp_path / "tokenizer_config.json").write_text("{}")
    assert "without a tokenizer" in lacks()
    (tmp_path / "tokenizer.model").write_bytes(b"x")
    assert lacks() == ""
    assert Part.named("spaces/Junfeng5/Liquid_demo").page == "https://huggingface.co/spaces/Junfeng5/Liquid_demo"


def test_a_hub_that_never_answers_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    from retrodict.models import hub

    monkeypatch.setattr(hub, "TIMEOUT", 1)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        (missing,) = hub.download((Part("some/model"),), tmp_path / "model")
    assert missing.startswith("some/model: could not be fetched (") and "timed out" in missing
    assert "\n" not in missing

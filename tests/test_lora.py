"""Adapters: what is trained, what is saved, and that it reloads; and what training the large families needs to fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from transformers import GemmaForCausalLM
from typer.testing import CliRunner

from retrodict.dynamics.batches import Example, collate, example
from retrodict.dynamics.sequences import build
from retrodict.dynamics.unified import UnifiedModel
from retrodict.loading import load, load_family
from retrodict.models.checkpoint import quiet_peft
from retrodict.models.registry import tiny_family
from retrodict.models.tiny import tiny_liquid
from retrodict.models.token_family import TokenFamily
from retrodict.prompts import Direction
from retrodict.training import objective as objective_module
from retrodict.training import run as run_module
from retrodict.training import tokens as tokens_module
from retrodict.training.checkpoints import trained
from retrodict.training.config import LoraConfig, Source, TrainConfig
from retrodict.training.data import source_rows, stored_transitions
from retrodict.training.lora import add_adapter, freeze_embeddings
from retrodict.training.objective import Objective
from retrodict.training.tokens import tokenize
from retrodict.transitions import Transition, read_transitions, write_rows
from retrodict.worlds import tabletop

ACTIONS = ("remove the red ball", "put the red cone on top of the green box", "push the blue box to the left")


def family_of(name: str) -> TokenFamily:
    torch.manual_seed(0)
    made: TokenFamily = tiny_family(name)(ACTIONS)
    return made


def examples(family: TokenFamily, direction: Direction) -> list[Example]:
    codes = np.random.default_rng(0).integers(0, family.spec.codebook, (len(ACTIONS), 2, family.spec.tokens))
    pairs = zip(codes, ACTIONS, strict=True)
    return [example(family, build(family, direction, source_L=s, target_L=t, action=a)) for (s, t), a in pairs]


def gradients(family: TokenFamily, direction: Direction) -> tuple[float, dict[str, torch.Tensor]]:
    family.module.zero_grad()
    loss = Objective(family, direction)(denominator=10.0, **collate(examples(family, direction), family.pad))
    loss.backward()
    return float(loss.detach()), {n: p.grad.clone() for n, p in family.module.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", ["chameleon", "liquid"])
def test_only_the_adapter_is_trained_and_only_layers_are_adapted(name: str) -> None:
    family = family_of(name)
    add_adapter(family, LoraConfig(rank=4), base="tiny")
    parameters = trained(family.module)
    # Two layers of width 32 and 64: four square matrices and three of 32 x 64, rank 4 on either side.
    assert sum(p.numel() for p in parameters.values()) == 2 * (4 * 4 * (32 + 32) + 3 * 4 * (32 + 64))
    assert all(".layers." in n and ".lora_" in n and p.dtype == torch.float32 for n, p in parameters.items())
    _, found = gradients(family, "forward")
    assert found.keys() == parameters.keys()


@pytest.mark.parametrize("name", ["chameleon", "liquid"])
def test_whole_training_leaves_embeddings_and_head_alone(name: str) -> None:
    family = family_of(name)
    freeze_embeddings(family)
    frozen = {n for n, p in family.module.named_parameters() if not p.requires_grad}
    assert frozen == {"model.embed_tokens.weight"} | ({"lm_head.weight"} if name == "chameleon" else set())


@pytest.mark.parametrize("direction", ["forward", "inverse"])
def test_logits_in_parts_and_layers_twice_change_no_gradient(
    direction: Direction, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = family_of("liquid")
    loss, whole = gradients(family, direction)
    monkeypatch.setattr(objective_module, "LOGITS", 5 * 400)  # some five rows at a time
    family.module.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})  # type: ignore[operator]
    family.module.train()
    in_parts, parts = gradients(family, direction)
    assert in_parts == pytest.approx(loss, rel=1e-6)
    assert parts.keys() == whole.keys()
    for key, gradient in whole.items():
        torch.testing.assert_close(parts[key], gradient, rtol=1e-4, atol=1e-7, msg=key)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Transitions, a tiny base of each family, and a recipe."""
    made = tmp_path_factory.mktemp("lora")
    rows = [e.transition() for e in tabletop.sample(24, 0)]
    write_rows(made / "one" / "a.parquet", rows[:10])
    write_rows(made / "one" / "b.parquet", rows[10:16])
    write_rows(made / "two" / "c.parquet", rows[16:])
    for name in ("chameleon", "liquid"):
        family_of(name).save(made / name)
    (made / "recipe.yaml").write_text(
        "direction: forward\n"
        "lora: {rank: 4, alpha: 400}\n"
        "data: {train: [{path: one, rows: 8, seed: 3}, two], val_share: 0.2, cache: tokens}\n"
        "training: {epochs: 4, per_device_batch_size: 2, gradient_accumulation_steps: 2,\n"
        "  learning_rate: 0.01, warmup_steps: 1, optimizer: adamw, gradient_checkpointing: true}\n"
        "weighting: {method: recognition}\n"
    )
    return made


def test_a_recipe_trains_an_adapter_that_reloads_here_and_with_peft(folder: Path) -> None:
    from retrodict.cli import app

    out, base = folder / "forward", folder / "liquid"
    changes = ["--set=family=liquid", f"--set=init={base}"]
    done = CliRunner().invoke(app, ["train", str(folder / "recipe.yaml"), "--out", str(out), "--quiet", *changes])
    assert done.exit_code == 0, done.output
    card = json.loads((out / "retrodict.json").read_text())
    assert (card["family"], card["direction"], card["base"]) == ("liquid", "forward", str(base))
    assert card["lora"] == {"rank": 4, "alpha": 400, "dropout": 0.05, "four_bit": False}
    assert card["training"]["steps"] == round(4 * card["transitions"] / 4)
    held = {file.name for file in out.iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "README.md"} <= held
    assert "model.safetensors" not in held
    results = json.loads((out / "results.json").read_text())
    assert results["transitions"]["train"] + results["transitions"]["val"] == 16
    assert results["val"]["nll_per_token"]["n"] == results["transitions"]["val"] > 0

    model = load(out, role="forward")
    assert isinstance(model, UnifiedModel)
    untrained = load_family(base)
    sequence = torch.from_numpy(examples(untrained, "forward")[0].ids_T[None])
    with torch.no_grad():
        plain, ours = (f.hidden(sequence) for f in (untrained, model.family))
        with quiet_peft():
            theirs = peft.PeftModel.from_pretrained(untrained.module, out).eval()
        unmerged = untrained.hidden(sequence)
    assert isinstance(theirs, peft.PeftModel)
    torch.testing.assert_close(ours, unmerged, rtol=1e-4, atol=2e-4)  # sums in another order
    assert float((ours - plain).abs().max()) > 1e-2
    with pytest.raises(ValueError, match="is trained in the forward direction, but here the inverse one is needed"):
        load(out, role="inverse")
    with quiet_peft():  # plain transformers and PEFT, without us
        others = peft.PeftModel.from_pretrained(GemmaForCausalLM.from_pretrained(base), out).eval()
    with torch.no_grad():
        torch.testing.assert_close(others(sequence).logits, theirs(sequence).logits)


def test_an_adapter_is_no_base_and_fits_only_its_own(folder: Path, tmp_path: Path) -> None:
    from retrodict.cli import app

    adapter = tmp_path / "adapter"
    adapter.mkdir()
    family = family_of("liquid")
    from retrodict.loading import save_model

    save_model(family, "forward", adapter, adapter=add_adapter(family, LoraConfig(rank=2), "tiny"), base=str(folder))
    changes = ["--set=family=liquid", f"--set=init={adapter}"]
    done = CliRunner().invoke(
        app, ["train", str(folder / "recipe.yaml"), "--out", str(tmp_path / "x"), "--quiet", *changes]
    )
    assert done.exit_code == 2
    assert "is an adapter: a new one starts from a whole model, so give its base." in done.stderr
    from retrodict.models.checkpoint import load_adapter

    deeper = tiny_liquid(ACTIONS, num_hidden_layers=3)
    with pytest.raises(ValueError, match="does not fit its base"):
        load_adapter(deeper.module, adapter)


def test_token_files_are_shared_small_and_keyed(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens_module, "CHUNK", 8)
    rows = read_transitions(folder / "one")
    family = family_of("chameleon")
    fresh, first = tokenize(family, rows), tokenize(family, rows, tmp_path)
    assert len(list(tmp_path.glob("tokens-*.npy"))) == 2
    monkeypatch.setattr(family, "encode", None)  # nothing is tokenized twice, also not what another mix begins with
    for again in (first, tokenize(family, rows, tmp_path), tokenize(family, [*rows[:8]], tmp_path)):
        for i in range(len(again)):
            assert all((a == b).all() for a, b in zip(again.pair(i), fresh.pair(i), strict=True))
            assert (again.distances(i) == fresh.distances(i)).all()
    whole, part = sorted((np.load(file) for file in tmp_path.glob("*.npy")), key=len, reverse=True)
    assert (len(whole), len(part)) == (8, len(rows) - 8)
    assert whole["source"].dtype == np.uint16
    assert whole["distance"].dtype == np.float32  # 16 tokens an image: not what fills the disk
    other = family_of("chameleon")
    other.tokenizer = "another"
    tokenize(other, rows, tmp_path)
    assert len(list(tmp_path.glob("tokens-*.npy"))) == 4
    monkeypatch.setattr(tokens_module, "MANY", 16)
    half = tokenize(other, rows)
    for i in range(len(rows)):
        relative = fresh.distances(i) / fresh.distances(i).mean()
        assert half.distances(i) == pytest.approx(relative, rel=1e-3, abs=1e-6)


def test_sources_are_sampled_by_seed_and_read_their_images_late(folder: Path) -> None:
    everything, stored = read_transitions(folder / "one"), stored_transitions(folder / "one")
    assert all(row.source is None for row in stored.rows)
    expected = [what(row) for row in everything]
    assert [what(row) for row in stored] == expected
    assert [what(row) for row in stored[3:12:4]] == expected[3:12:4]
    assert what(stored[-1]) == expected[-1]
    sampled = [source_rows(Source(path=folder / "one", rows=5, seed=seed)) for seed in (0, 0, 1)]
    ids = [[row.id for row in source.rows] for source in sampled]
    assert len(set(ids[0])) == 5
    assert ids[0] == ids[1] != ids[2]
    assert [what(row) for row in sampled[0]] == [what(row) for row in everything if row.id in ids[0]]


def what(row: Transition) -> tuple[object, ...]:
    return row.id, row.action, row.group, row.source, row.target


def test_four_bits_need_their_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from retrodict.models import checkpoint

    monkeypatch.setattr(checkpoint, "find_spec", lambda name: None)
    family_of("liquid").save(tmp_path)
    with pytest.raises(ImportError, match=r"pip install 'retrodict\[4bit\]'"):
        load(tmp_path, "forward", dtype="4bit")
    with pytest.raises(ValueError, match="which is not kept in 4 bits"):
        load("small", "forward", dtype="4bit")


@pytest.mark.filterwarnings("ignore")  # bitsandbytes' own
def test_an_adapter_of_weights_in_four_bits(tmp_path: Path) -> None:
    """The layers are quantised and nothing else; the adapter learns beside them, and loads onto the same weights."""
    pytest.importorskip("bitsandbytes", reason="the extra 4bit is not installed")
    from retrodict.training.recipe import started_from

    rows = [example.transition() for example in tabletop.sample(4, 0)]
    tiny_liquid([row.action for row in rows], grid=3, hidden_size=64, intermediate_size=128).save(tmp_path / "base")
    model: Any = load(tmp_path / "base", "forward", dtype="4bit")
    kinds = {name: type(part).__name__ for name, part in model.family.module.named_modules()}
    quantised = {name for name, kind in kinds.items() if kind == "Linear4bit"}
    assert len(quantised) == 2 * 7 and kinds["lm_head"] == "Linear"
    (pool,) = model.sample([rows[0].source_image], [rows[0].action], 2, seed=0)
    assert len(pool) == 2
    lora = LoraConfig(rank=2, four_bit=True)
    config = TrainConfig(steps=2, per_device_batch_size=2, optimizer="adamw", warmup_steps=0, learning_rate=1e-2)
    start = started_from(tmp_path / "base", "liquid", "inverse", lora)
    run_module.train_model(start, "inverse", rows, config, tmp_path / "idm", lora=lora, base=str(tmp_path / "base"))
    trained: Any = load(tmp_path / "idm", "inverse")
    assert any(type(part).__name__ == "Linear4bit" for part in trained.family.module.modules())
    pair = (rows[0].source_image, rows[0].target_image)
    before = load(tmp_path / "base", "inverse", dtype="4bit").score([pair], [rows[0].action])[0].sum
    assert trained.score([pair], [rows[0].action])[0].sum != pytest.approx(before, abs=1e-4), "it learned"

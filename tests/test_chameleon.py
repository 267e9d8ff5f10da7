"""Chameleon against the authors' code (goldens of `goldens/make_chameleon.py`, or live); its layouts and sequences."""

from __future__ import annotations

import json
import os
import runpy
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from retrodict.dynamics.sequences import build
from retrodict.dynamics.unified import UnifiedModel
from retrodict.loading import load
from retrodict.models.chameleon.convert import convert
from retrodict.models.chameleon.family import ChameleonFamily
from retrodict.models.chameleon.layout import Vocabulary, code_name
from retrodict.models.tiny import tiny_chameleon

GOLDENS = Path(__file__).parent / "goldens"
MAKE = SimpleNamespace(**runpy.run_path(str(GOLDENS / "make_chameleon.py")))
CHECKPOINTS = MAKE.CHECKPOINTS


@pytest.fixture(scope="module", params=["stored", "live"])
def golden(request: pytest.FixtureRequest) -> dict[str, Any]:
    if request.param == "stored":
        return dict(np.load(GOLDENS / "chameleon.npz"))
    if MAKE.VARIABLE not in os.environ:
        pytest.skip(f"{MAKE.VARIABLE} names no clone of github.com/facebookresearch/chameleon")
    found: dict[str, Any] = MAKE.everything(Path(os.environ[MAKE.VARIABLE]))
    return found


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A download in the authors' format."""
    root = tmp_path_factory.mktemp("original")
    CHECKPOINTS.write_chameleon(root, False, MAKE.vqgan_state("plain"))
    return root


@pytest.fixture(scope="module")
def converted(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("converted") / "model"
    convert(original, out)
    return out


def _family(tmp_path: Path, swin_norm: bool) -> ChameleonFamily:
    CHECKPOINTS.write_chameleon(tmp_path / "original", swin_norm, MAKE.vqgan_state("plain"))
    convert(tmp_path / "original", tmp_path / "model")
    return ChameleonFamily.load(tmp_path / "model")


@torch.inference_mode()
def _logits(family: ChameleonFamily, ids: list[int]) -> Any:
    """Of all tokens, in the order of their ids: image rows put back among the text's."""
    hidden = family.hidden(torch.tensor([ids]))[0]
    found = family.text_logits(hidden)
    first = family.spec.first_id
    found[:, first : first + family.spec.codebook] = family.image_logits(hidden)
    return found.numpy()


@pytest.mark.parametrize("swin_norm", [False, True])
def test_equals_the_authors(golden: dict[str, Any], swin_norm: bool, tmp_path: Path) -> None:
    family = _family(tmp_path, swin_norm)
    prompts = CHECKPOINTS.prompts(len(family.words))
    expected = golden[f"swin{swin_norm:d}.logits"]
    assert expected.std() > 1, "logits near 0 would prove little"
    np.testing.assert_allclose(_logits(family, prompts["short"]), expected, atol=1e-5)

    # Guidance: a forward sequence whose text stands before its source, as the golden's.
    start = prompts["forward"].index(family.spec.opening[0]) + 1
    blank_L = np.zeros(1024, dtype=np.int64)
    sequence = build(family, "forward", source_L=np.zeros(1024, dtype=np.int64), action="x", target_L=blank_L)
    sequence = sequence.with_prefix(prompts["forward"], (start, start + 1024))
    branches = family.guidance(sequence, 3.0)
    assert sum(b.weight for b in branches) == pytest.approx(1)
    first = family.spec.first_id
    for step, wanted in enumerate(golden[f"swin{swin_norm:d}.guided"]):
        mixed = 0.0  # the weights' sizes add up to 5, and so may the branches' errors
        for weight, branch in branches:
            stop = branch.segments.completion[0] if branch.segments.completion else 0
            ids = [*branch.ids_T[:stop].tolist(), *prompts["forced"][:step]]
            mixed = mixed + weight * _logits(family, ids)[-1]
        np.testing.assert_allclose(mixed, wanted, atol=5e-5, err_msg=f"step {step}")
        assert mixed[first : first + family.spec.codebook].std() > 1


def test_ids_are_the_authors(golden: dict[str, Any], converted: Path) -> None:
    family = ChameleonFamily.load(converted)
    (boi,), (eoi,) = family.spec.opening, family.spec.closing
    assert [family.bos, family.pad, family.eos, boi, eoi] == golden["vocabulary"].tolist()
    assert (golden["first_codes"] - family.spec.first_id).tolist() == list(range(family.spec.codebook))


def test_wrong_order_of_rows_is_noticed(converted: Path, golden: dict[str, Any]) -> None:
    """The negative of the parity above: were rows not reordered, logits would be far off."""
    family = ChameleonFamily.load(converted)
    for layer in family.module.model.layers:
        weight = layer.self_attn.q_proj.weight
        half = weight.view(CHECKPOINTS.HEADS, 2, -1, weight.shape[1]).transpose(1, 2)
        weight.data = half.reshape(weight.shape)
    short = CHECKPOINTS.prompts(len(family.words))["short"]
    assert np.abs(_logits(family, short) - golden["swin0.logits"]).max() > 0.1


def test_shards_and_fused_projections_convert_to_the_same(original: Path, converted: Path, tmp_path: Path) -> None:
    folder = original / "models" / "7b"
    state = torch.load(folder / "consolidated.pth", weights_only=True)
    down = ("attention.wo.weight", "feed_forward.w2.weight", "tok_embeddings.weight")
    parts: list[dict[str, torch.Tensor]] = []
    for rank in range(2):
        shard = {}
        for name, value in state.items():
            whole = value.ndim == 1
            shard[name] = value if whole else value.chunk(2, 1 if name.endswith(down) else 0)[rank].clone()
        for i in range(CHECKPOINTS.LAYERS):
            inner = [f"layers.{i}.attention.w{x}.weight" for x in "qkv"]
            shard[f"layers.{i}.attention.wqkv.weight"] = torch.cat([shard.pop(name) for name in inner])
            inner = [f"layers.{i}.feed_forward.w{x}.weight" for x in "13"]
            shard[f"layers.{i}.feed_forward.w13.weight"] = torch.cat([shard.pop(name) for name in inner])
        parts.append(shard)
    root = tmp_path / "sharded"
    target = root / "models" / "30b"
    target.mkdir(parents=True)
    (root / "tokenizer").symlink_to(original / "tokenizer")
    (target / "params.json").write_text((folder / "params.json").read_text())
    (target / "consolidate_params.json").write_text('{"model_parallel_size": 2}')
    torch.save(parts[0], target / "consolidated.00.pth")
    with pytest.raises(ValueError, match="1 of 2 shards"):
        convert(root, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    torch.save(parts[1], target / "consolidated.01.pth", _use_new_zipfile_serialization=False)
    convert(root, tmp_path / "out")
    one, other = (load_file(f / "model.safetensors") for f in (converted, tmp_path / "out"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_layout_of_anoles_fork_converts_to_the_same(converted: Path, tmp_path: Path) -> None:
    fork = tmp_path / "fork"
    fork.mkdir()
    for file in converted.iterdir():
        (fork / file.name).write_bytes(file.read_bytes())
    state, heads = load_file(converted / "model.safetensors"), CHECKPOINTS.HEADS
    for name, value in state.items():
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            state[name] = value.view(heads, 2, -1, value.shape[1]).transpose(1, 2).reshape(value.shape).contiguous()
        elif "_norm." in name and "self_attn" in name:
            state[name] = value[0].view(2, -1).t().reshape(-1).contiguous()
    save_file(state, fork / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"Anole's own fork .* retrodict convert"):
        ChameleonFamily.load(fork)
    convert(fork, tmp_path / "out")
    one, other = (load_file(f / "model.safetensors") for f in (converted, tmp_path / "out"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_norms_of_a_shard_become_its_heads_and_the_layout_is_said(converted: Path, tmp_path: Path) -> None:
    """Lumina-mGPT keeps one norm for all heads of a shard, and the authors' tokenizers beside its weights."""
    state, heads = load_file(converted / "model.safetensors"), CHECKPOINTS.HEADS
    even = {
        name: value[:1].expand_as(value).contiguous() if "_norm." in name and "self_attn" in name else value
        for name, value in state.items()
    }
    whole, mgpt, out = tmp_path / "whole", tmp_path / "mgpt", tmp_path / "out"
    for folder, tensors in (
        (whole, even),
        (mgpt, {n: v[:1].clone() if "_norm." in n and "self_attn" in n else v for n, v in even.items()}),
    ):
        shutil.copytree(converted, folder)
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (mgpt / "original_tokenizers").mkdir()
    (mgpt / "tokenizer.json").rename(mgpt / "original_tokenizers" / "text_tokenizer.json")
    with pytest.raises(ValueError, match=r"shape \(1, 12\) .* Lumina-mGPT does\)\. Convert it"):
        ChameleonFamily.load(mgpt)
    convert(mgpt, out)
    one, other = ChameleonFamily.load(whole), ChameleonFamily.load(out)
    ids = CHECKPOINTS.prompts(len(one.words))["short"]
    assert heads > 1 and np.array_equal(_logits(one, ids), _logits(other, ids))
    missing = {name: value for name, value in state.items() if "down_proj" not in name}
    save_file(missing, whole / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="down_proj"):
        ChameleonFamily.load(whole)


def test_an_image_tokenizer_that_was_rounded_is_told(
    converted: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ChameleonFamily.load(converted)
    assert not caplog.text
    shutil.copytree(converted, tmp_path / "half")
    state = load_file(converted / "model.safetensors")
    rounded = {name: value.bfloat16() if "vqmodel." in name else value for name, value in state.items()}
    save_file(rounded, tmp_path / "half" / "model.safetensors", {"format": "pt"})
    ChameleonFamily.load(tmp_path / "half")
    assert "is stored in bfloat16: its image tokens differ" in caplog.text


def test_the_library_loads_what_we_write(converted: Path) -> None:
    """Its class must give the same logits (of text: it masks image tokens), and the same codes."""
    family = ChameleonFamily.load(converted)
    transformers.logging.set_verbosity_error()
    library = transformers.AutoModelForImageTextToText.from_pretrained(converted).eval()
    ids = CHECKPOINTS.prompts(len(family.words))["short"]
    with torch.inference_mode():
        theirs = library(input_ids=torch.tensor([ids])).logits[0].numpy()
    ours, first = _logits(family, ids), family.spec.first_id
    assert (theirs[:, first : first + family.spec.codebook] == np.finfo(np.float32).min).all()
    codes = np.s_[first : first + family.spec.codebook]
    np.testing.assert_allclose(np.delete(ours, codes, 1), np.delete(theirs, codes, 1), atol=1e-5)
    assert type(library).__name__ == json.loads((converted / "config.json").read_text())["architectures"][0]


def test_codes_out_of_order_are_refused() -> None:
    names = ["<s>", "<pad>", "</s>", "<racm3:break>", "<eoss>", *(code_name(code) for code in (0, 1, 3, 2))]
    with pytest.raises(ValueError, match="not in order"):
        Vocabulary.read({name: i for i, name in enumerate(names)})
    found = Vocabulary.read({name: i for i, name in enumerate(names[:7])})
    assert (found.first_code, found.codes, found.boi) == (5, 2, 3)
    assert code_name(53) == "IMGIMGFDZ"


def test_sequences(converted: Path) -> None:
    family = ChameleonFamily.load(converted)
    source_L, target_L = np.arange(1024) % 48, np.arange(1024) % 7
    boi, eoi, sep = family.spec.opening[0], family.spec.closing[0], family.words.vocabulary["<reserved08706>"]
    edit = family.template_ids("Modify the provided image based on the given instruction:")
    action = family.text_ids(" lift it")
    forward = build(family, "forward", source_L=source_L, target_L=target_L, action="lift it")
    source, target = [boi, *(source_L + 4).tolist(), eoi], [boi, *(target_L + 4).tolist(), eoi]
    assert forward.ids_T.tolist() == [0, *edit, *action, *source, sep, *target]
    inverse = build(family, "inverse", source_L=source_L, target_L=target_L, action="lift it")
    ids = inverse.ids_T.tolist()
    assert ids[-9:] == [sep, *family.text_ids("lift it"), family.eos]
    assert ids.count(boi) == 2
    full, images, nothing = family.guidance(forward, 3.0)
    assert full == (3.0, forward)
    assert images.sequence.ids_T.tolist() == [0, *source, *target]
    assert images.sequence.segments == ((2, 1026), (1028, 2052), (1028, 2052))
    assert nothing.sequence.ids_T.tolist() == [0, *target]
    assert [round(b.weight, 6) for b in (full, images, nothing)] == [3.0, -1.8, -0.2]
    assert family.guidance(forward, None) == [(1.0, forward)]


def test_no_text_becomes_a_control_token(converted: Path) -> None:
    family = ChameleonFamily.load(converted)
    text = "move </s> to <racm3:break> and IMGIMGAZ <image>"
    ids = family.text_ids(text)
    assert min(ids) > family.words.vocabulary["<image>"]
    assert family.text(ids) == text
    assert family.text([family.bos, *family.text_ids("lift it"), family.eos]) == "lift it"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_saved_and_loaded_again(dtype: torch.dtype, tmp_path: Path) -> None:
    torch.manual_seed(0)
    family = tiny_chameleon()
    for parameter in family.module.parameters():
        parameter.data = parameter.data.to(dtype)
    family.save(tmp_path)
    model = load(tmp_path, role="inverse")
    assert isinstance(model, UnifiedModel)
    assert model.family.name == "chameleon"
    assert model.family.tokenizer == family.tokenizer
    images = list(CHECKPOINTS.sample_images().values())
    pair = (images[0], images[1])
    assert model.score([pair], ["lift it"]) == UnifiedModel(family).score([pair], ["lift it"])
    assert {p.dtype for p in model.family.module.parameters()} == {dtype}


def test_a_tokenizer_of_another_model_is_refused() -> None:
    torch.manual_seed(0)
    family = tiny_chameleon()
    other = tiny_chameleon()
    other.images.config = type(other.images.config)(**{**vars(other.images.config), "n_embed": 25})
    with pytest.raises(ValueError, match="25 codes, but the vocabulary names 24"):
        ChameleonFamily(family.module, other.images, family.words)


def test_released_size(tmp_path: Path) -> None:
    """Without weights, on the meta device: the published number of parameters, and of LoRA's at rank 16."""
    import peft

    from retrodict.models.chameleon.layout import ChameleonForConditionalGeneration
    from retrodict.models.checkpoint import quiet_peft

    config = transformers.ChameleonConfig(vocabulary_map={"<image>": 8711})
    with torch.device("meta"):
        module = ChameleonForConditionalGeneration(config)
    assert sum(p.numel() for p in module.parameters()) == 7_013_666_816  # the library keeps one norm per head
    spec = ChameleonFamily.train_spec
    lora = peft.LoraConfig(r=16, lora_alpha=32, target_modules=spec.lora_targets)
    with torch.device("meta"), quiet_peft():
        adapted: Any = peft.get_peft_model(module, lora, low_cpu_mem_usage=True)
    assert sum(p.numel() for p in adapted.parameters() if p.requires_grad) == 39_976_960

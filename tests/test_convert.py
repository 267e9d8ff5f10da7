"""`retrodict convert`: published folders to models that every command takes, all or nothing."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from retrodict.cli import app
from retrodict.loading import CARD, load
from retrodict.models.tiny import tiny_chameleon, tiny_liquid
from retrodict.models.vqgan_files import OWN

GOLDENS = Path(__file__).parent / "goldens"
MAKE = SimpleNamespace(**runpy.run_path(str(GOLDENS / "make_chameleon.py")))


def _run(*words: str | Path) -> tuple[int, str]:
    found = CliRunner().invoke(app, ["convert", *map(str, words)])
    return found.exit_code, found.output


def test_a_download_becomes_a_model_for_both_roles(tmp_path: Path) -> None:
    MAKE.CHECKPOINTS.write_chameleon(tmp_path / "Anole", False, MAKE.vqgan_state("plain"))
    code, output = _run("chameleon", tmp_path / "Anole", "--out", tmp_path / "anole")
    assert (code, output.strip()) == (0, f"{tmp_path / 'anole'}: a chameleon model that nobody has trained yet")
    assert json.loads((tmp_path / "anole" / CARD).read_text())["source"] == "Anole"
    for role in ("inverse", "forward"):
        assert load(tmp_path / "anole", role=role).family.name == "chameleon"
    before = (tmp_path / "anole" / "model.safetensors").stat().st_mtime_ns
    assert _run("chameleon", tmp_path / "Anole", "--out", tmp_path / "anole")[0] == 0
    assert (tmp_path / "anole" / "model.safetensors").stat().st_mtime_ns == before, "done already"


def test_a_decoder_from_elsewhere(tmp_path: Path) -> None:
    """facebook/chameleon-7b has the encoder only; the authors' vqgan.ckpt has both."""
    torch.manual_seed(0)
    family = tiny_chameleon(grid=4, patch=8)
    source = tmp_path / "encoder-only"
    family.save(source)
    state = load_file(source / "model.safetensors")
    kept = {k: v for k, v in state.items() if ".decoder." not in k}
    save_file(kept, source / "model.safetensors", {"format": "pt"})
    code, output = _run("chameleon", source, "--out", tmp_path / "out")
    assert (code, "without its decoder" in output, "--image-tokenizer" in output) == (2, True, True)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.partial").exists()
    config = family.images.config
    params = {k: v for k, v in vars(config).items() if k not in ("size", "n_embed", "embed_dim")}
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    torch.save({"state_dict": family.images.state_dict()}, folder / "vqgan.ckpt")
    text = {"params": {"n_embed": config.n_embed, "embed_dim": config.embed_dim, "ddconfig": params}}
    (folder / "vqgan.yaml").write_text(json.dumps({"model": text}, default=list))
    assert _run("chameleon", source, "--out", tmp_path / "out", "--image-tokenizer", folder)[0] == 0
    assert load(tmp_path / "out", role="forward").family.tokenizer == family.tokenizer


def test_liquid_and_the_tokenizer_it_is_published_without(tmp_path: Path) -> None:
    torch.manual_seed(0)
    family = tiny_liquid()
    family.save(tmp_path / "liquid")
    (tmp_path / "liquid" / OWN).rename(tmp_path / "vq")
    (tmp_path / "holder").mkdir()
    (tmp_path / "vq").rename(tmp_path / "holder" / OWN)
    assert _run("liquid", tmp_path / "liquid", "--out", tmp_path / "out")[0] == 2
    command = ("liquid", tmp_path / "liquid", "--out", tmp_path / "out", "--image-tokenizer", tmp_path / "holder")
    assert _run(*command)[0] == 0
    assert load(tmp_path / "out", role="forward").family.tokenizer == family.tokenizer
    assert _run(*command[:3], tmp_path / "padded", *command[4:], "--pad")[0] == 0
    padded = load(tmp_path / "padded", role="forward").family
    assert (padded.images.config.fit, padded.tokenizer == family.tokenizer) == ("pad", False), "other image tokens"
    assert "leave --pad out" in _run("chameleon", tmp_path / "liquid", "--out", tmp_path / "other", "--pad")[1]


@pytest.mark.parametrize(
    ("family", "says"), [("chameleon", "holds no checkpoint of Chameleon"), ("liquid", "holds no image tokenizer")]
)
def test_what_is_no_checkpoint_is_said(tmp_path: Path, family: str, says: str) -> None:
    (tmp_path / "empty").mkdir()
    code, output = _run(family, tmp_path / "empty", "--out", tmp_path / "out")
    assert code == 2
    assert says in " ".join(output.split())
    assert _run(family, tmp_path / "nowhere", "--out", tmp_path / "out")[0] == 2
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("mine")
    assert "not empty" in _run(family, tmp_path / "empty", "--out", tmp_path / "full")[1]
    assert (tmp_path / "full" / "thesis.tex").read_text() == "mine"

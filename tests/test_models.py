"""Models on disk and by name."""

from __future__ import annotations

import gc
import json
import os
import re
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from retrodict import api
from retrodict.cli import app
from retrodict.dynamics import confidence
from retrodict.dynamics.likelihood import score
from retrodict.dynamics.sequences import build
from retrodict.files import write_json
from retrodict.loading import CARD, SHIPPED, load, load_family, resolve, save_model
from retrodict.models.editors import CopyModel
from retrodict.models.small.family import SmallFamily

ACTION = "push the red ball to the left"


def test_a_saved_model_is_the_same_model(family: SmallFamily, tmp_path: Path) -> None:
    family.use_change_mask = False
    save_model(family, "forward", tmp_path / "model", note="a fact")
    loaded = load_family(tmp_path / "model")
    assert json.loads((tmp_path / "model" / CARD).read_text())["note"] == "a fact"
    assert isinstance(loaded, SmallFamily)
    assert (loaded.use_change_mask, loaded.tokenizer, loaded.spec) == (False, family.tokenizer, family.spec)
    config = (tmp_path / "model" / "config.json").read_text()
    (tmp_path / "model" / "config.json").write_text(config.replace("use_change_mask", "told_changes"))
    earlier = load_family(tmp_path / "model")
    assert isinstance(earlier, SmallFamily) and not earlier.use_change_mask, "a model of an earlier version"
    codes = {"source_L": np.arange(9), "target_L": np.arange(9)[::-1].copy()}
    for direction in ("forward", "inverse"):
        one, other = (score(f, [build(f, direction, action=ACTION, **codes)])[0] for f in (family, loaded))  # type: ignore[arg-type]
        assert one == other
    images = [Image.effect_noise((30, 20), 90), Image.new("RGB", (24, 24), "red")]
    assert loaded.encode(images).codes_NL.tolist() == family.encode(images).codes_NL.tolist()
    assert [i.tobytes() for i in loaded.decode(np.arange(9)[None])] == [
        i.tobytes() for i in family.decode(np.arange(9)[None])
    ]


def test_another_image_tokenizer_has_another_name(family: SmallFamily) -> None:
    name = family.images.fingerprint
    family.images.codebook.weight.data[0, 0] += 1
    assert family.images.fingerprint != name


def test_roles(tiny_model: Path) -> None:
    for role in ("inverse", "forward"):
        assert load(tiny_model, role=role).family.name == "small"  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="is trained in the inverse direction, but here the forward one is needed"):
        load(tiny_model / "inverse", role="forward")
    with pytest.raises(ValueError, match=r"holds no forward model: no retrodict\.json in it, nor in forward or fdm"):
        load(tiny_model.parent, role="forward")
    assert isinstance(load("copy", role="forward"), CopyModel)
    with pytest.raises(ValueError, match="copy is a copy of the source: it only predicts"):
        load("copy", role="inverse")


def test_unknown_names() -> None:
    with pytest.raises(ValueError, match="There is no model 'smal': give a folder"):
        load("smal", role="forward")
    with pytest.raises(ValueError, match="The model 'nobody/nothing' is no folder here and could not be downloaded"):
        load("nobody/nothing", role="forward")


def test_a_folder_does_not_stand_in_for_a_shipped_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small").mkdir()
    assert resolve("small").is_relative_to(SHIPPED)
    with pytest.raises(ValueError, match="holds no forward model"):
        load("./small", "forward")


def test_a_family_of_a_later_version(tmp_path: Path) -> None:
    (tmp_path / CARD).write_text('{"family": "huge", "direction": "forward"}')
    with pytest.raises(ValueError, match="There is no model family 'huge': this version knows small, chameleon"):
        load(tmp_path, role="forward")


def count_loads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Folders from which a small family is read from now on."""
    loads: list[Path] = []
    read = SmallFamily.load.__func__  # type: ignore[attr-defined]
    monkeypatch.setattr(SmallFamily, "load", classmethod(lambda cls, folder: loads.append(folder) or read(cls, folder)))
    return loads


@pytest.fixture
def young() -> Iterator[None]:
    """What is made meanwhile is collected by `gc.collect(0)`: looking through all of a long run takes half a minute."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("young")
def test_one_checkpoint_in_both_roles_is_loaded_once(
    family: SmallFamily, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    family.save(tmp_path)
    write_json(tmp_path / CARD, {"family": "small"})
    loads = count_loads(monkeypatch)
    api.predict(Image.new("RGB", (24, 24)), ACTION, n=2, model=tmp_path, verifier="idm")
    assert loads == [tmp_path]
    forward, inverse = load(tmp_path, "forward"), load(tmp_path, "inverse")
    assert forward.family is inverse.family  # type: ignore[attr-defined]
    assert len(loads) == 2, "nothing is kept for later calls"
    assert load_family(tmp_path) is not forward.family, "what is trained is nobody else's"  # type: ignore[attr-defined]
    os.utime(tmp_path / "model.safetensors", (1, 1))
    assert load(tmp_path, "forward").family is not inverse.family  # type: ignore[attr-defined]
    gone = weakref.ref(inverse.family)  # type: ignore[attr-defined]
    del forward, inverse
    gc.collect(0)
    assert gone() is None


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("model.safetensors", None),
        ("model.safetensors", b"\x10\0\0\0\0\0\0\0{}"),
        ("config.json", b"{"),
        ("config.json", b"[" * 99_999),
        (CARD, b"[]"),
        (CARD, b'{"family": 3}'),
        (CARD, b'{"family": "small", "base": "."}'),
        ("model.safetensors.index.json", b'{"weight_map": {"a": "../model.safetensors"}}'),
        ("model.safetensors.index.json", b'{"weight_map": {"a": "model.safetensors"}}'),
        ("words.json", None),
        ("words.json", b"{}"),
        ("image_tokenizer/config.json", None),
        ("image_tokenizer/model.safetensors", b"no"),
    ],
)
def test_damaged_folders_are_named_and_are_for_the_user_to_fix(
    family: SmallFamily, tmp_path: Path, file: str, content: bytes | None
) -> None:
    save_model(family, "inverse", tmp_path)
    if content is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_bytes(content)
    Image.new("RGB", (24, 24)).save(tmp_path / "a.png")
    images = [str(tmp_path / "a.png")] * 2
    done = CliRunner().invoke(app, ["explain", *images, "--model", str(tmp_path)])
    assert done.exit_code == 2, done.output
    assert Path(file).name in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("part", [".", "image_tokenizer"])
def test_weights_as_whole_numbers_are_refused(family: SmallFamily, tmp_path: Path, part: str) -> None:
    """Loading would take them at their face value: a quantized copy of a model predicts noise."""
    save_model(family, "inverse", tmp_path)
    file = tmp_path / part / "model.safetensors"
    weights = load_file(file)
    name = next(name for name, tensor in weights.items() if tensor.is_floating_point() and tensor.ndim > 1)
    save_file({**weights, name: weights[name].to(torch.int8)}, file)
    with pytest.raises(
        ValueError, match=rf"{re.escape(str(file.parent))} holds no weights .*: {name} is of torch.int8"
    ):
        load(tmp_path, "inverse")


@pytest.mark.parametrize(
    "content",
    [
        b"[",
        b'{"idm": 3}',
        b'{"idm": {"intercept": 0.5, "n": 3}}',
        b'{"idm": {"intercept": 0.5, "slope": "1", "n": 3}}',
        b'{"idm": {"intercept": NaN, "slope": 1.0, "n": 3}}',
    ],
)
def test_a_damaged_calibration_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "confidence.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"confidence\.json is damaged, get it again"):
        confidence.read(tmp_path)
    curves = {"idm": confidence.Confidence(0.5, 1.0, 3)}
    confidence.write(tmp_path, curves)
    assert confidence.read(tmp_path) == curves


def test_sizes_that_are_none_and_a_model_of_the_other_direction_are_refused(
    family: SmallFamily, tmp_path: Path
) -> None:
    save_model(family, "inverse", tmp_path / "forward")
    with pytest.raises(ValueError, match="is trained in the inverse direction, but here the forward one is needed"):
        load(tmp_path, "forward")
    config = tmp_path / "forward" / "config.json"
    stored = json.loads(config.read_text())
    for value in ("x", -1, 1.5, 10**9):
        write_json(config, stored | {"hidden_size": value})
        with pytest.raises(ValueError, match=rf"config\.json is damaged, get it again: hidden_size is {value!r}"):
            load(tmp_path / "forward", "inverse")

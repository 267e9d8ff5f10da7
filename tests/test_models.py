"""Models on disk and by name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from retrodict.dynamics.likelihood import score
from retrodict.dynamics.sequences import build
from retrodict.loading import CARD, load, load_family, save_model
from retrodict.models.editors import CopyModel
from retrodict.models.small.family import SmallFamily

ACTION = "push the red ball to the left"


def test_a_saved_model_is_the_same_model(family: SmallFamily, tmp_path: Path) -> None:
    family.told_changes = False
    save_model(family, "forward", tmp_path / "model", note="a fact")
    loaded = load_family(tmp_path / "model")
    assert json.loads((tmp_path / "model" / CARD).read_text())["note"] == "a fact"
    assert isinstance(loaded, SmallFamily)
    assert (loaded.told_changes, loaded.tokenizer, loaded.spec) == (False, family.tokenizer, family.spec)
    codes = {"source_L": np.arange(9), "target_L": np.arange(9)[::-1].copy()}
    for direction in ("forward", "inverse"):
        one, other = (score(f, [build(f, direction, action=ACTION, **codes)])[0] for f in (family, loaded))  # type: ignore[arg-type]
        assert one == other
    pictures = [Image.effect_noise((30, 20), 90), Image.new("RGB", (24, 24), "red")]
    assert loaded.encode(pictures).codes_NL.tolist() == family.encode(pictures).codes_NL.tolist()
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
    with pytest.raises(ValueError, match='"copy" only predicts'):
        load("copy", role="inverse")


def test_unknown_names() -> None:
    with pytest.raises(ValueError, match="There is no model 'smal': give a folder"):
        load("smal", role="forward")
    with pytest.raises(ValueError, match="The model 'nobody/nothing' is no folder here and could not be downloaded"):
        load("nobody/nothing", role="forward")


def test_a_family_of_a_later_version(tmp_path: Path) -> None:
    (tmp_path / CARD).write_text('{"family": "huge", "direction": "forward"}')
    with pytest.raises(ValueError, match="There is no model family 'huge': this version knows small, chameleon"):
        load(tmp_path, role="forward")

"""The VQGAN against the authors' code, by goldens that `goldens/make_chameleon.py` made with it (or live, where a clone
is named), and its checkpoints' layouts."""

from __future__ import annotations

import json
import os
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import ChameleonConfig, ChameleonVQVAE

from retrodict.models.vqgan import VQGAN, VQGANConfig, square_pixels, to_images
from retrodict.models.vqgan_files import PREFIX, find_vqgan, hf_config, save_vqgan

GOLDENS = Path(__file__).parent / "goldens"
MAKE = SimpleNamespace(**runpy.run_path(str(GOLDENS / "make_chameleon.py")))
CHECKPOINTS = MAKE.CHECKPOINTS


@pytest.fixture(scope="module", params=["stored", "live"])
def golden(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """What the authors' code made: committed (thinned), or computed now (whole)."""
    if request.param == "stored":
        return "stored", dict(np.load(GOLDENS / "chameleon.npz"))
    if MAKE.VARIABLE not in os.environ:
        pytest.skip(f"{MAKE.VARIABLE} names no clone of github.com/facebookresearch/chameleon")
    return "live", MAKE.everything(Path(os.environ[MAKE.VARIABLE]))


def _ckpt(folder: Path, kind: str) -> Path:
    CHECKPOINTS.write_vqgan(folder, kind, MAKE.vqgan_state(kind))
    return folder


@pytest.mark.parametrize("kind", ["plain", "attention"])
def test_equals_the_authors(golden: tuple[str, dict[str, Any]], kind: str, tmp_path: Path) -> None:
    made, expected = golden
    thin = MAKE.thin if made == "stored" else lambda name, value: value
    vqgan = find_vqgan(_ckpt(tmp_path, kind))
    images = CHECKPOINTS.sample_images()
    for name, image in images.items():
        found = thin("input", square_pixels(image, 512).numpy())
        np.testing.assert_array_equal(found, expected[f"{kind}.{name}.input"], err_msg=name)
    for name in ("square", "odd"):
        codes = vqgan.encode([images[name]])
        np.testing.assert_array_equal(codes.codes_NL[0], expected[f"{kind}.{name}.codes"])
        assert len(set(codes.codes_NL[0])) > 20, "a golden of few codes would prove little"
        features = codes.features_NLD[0].reshape(32, 32, -1).transpose(2, 0, 1)
        np.testing.assert_allclose(thin("features", features), expected[f"{kind}.{name}.features"], atol=1e-5)
        (image,) = vqgan.decode(codes.codes_NL)
        pixels, wanted = thin("pixels", np.asarray(image)), expected[f"{kind}.{name}.pixels"]
        if made == "live":
            np.testing.assert_array_equal(pixels, wanted)
        else:  # another processor may round the last bit of a float differently, and truncation shows it
            assert np.abs(pixels.astype(int) - wanted).max() <= 1
            assert (pixels == wanted).mean() > 0.999


def test_wide_latents_decode(tmp_path: Path) -> None:
    vqgan = find_vqgan(_ckpt(tmp_path, "attention"))
    with torch.inference_mode():
        pixels = vqgan.reconstruct(torch.arange(6).view(1, 2, 3))
    assert pixels.shape == (1, 3, 32, 48)


def test_pixels_are_truncated() -> None:
    values = torch.tensor([-2.0, -1.0, 0.0, 0.999, 1.0, 3.0]).view(1, 1, 1, 6).expand(1, 3, 1, 6)
    (image,) = to_images(values)
    assert np.asarray(image)[0, :, 0].tolist() == [0, 0, 127, 254, 255, 255]


def test_released_size_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        vqgan = VQGAN(VQGANConfig())
    counts = {part: sum(p.numel() for p in getattr(vqgan, part).parameters()) for part in ("encoder", "decoder")}
    assert counts == {"encoder": 27_194_880, "decoder": 39_294_851}
    assert sum(p.numel() for p in vqgan.parameters()) == 68_718_467
    assert vqgan.config.grid == (32, 32)
    with torch.device("meta"):  # attention at 16 is never reached by a tokenizer of 512 pixels
        also = VQGAN(VQGANConfig(attn_resolutions=(16,)))
    assert also.state_dict().keys() == vqgan.state_dict().keys()


SMALL = VQGANConfig(
    size=32, resolution=32, ch=32, ch_mult=(1, 2), num_res_blocks=1, z_channels=8, embed_dim=8, n_embed=20
)


def _small() -> VQGAN:
    vqgan = VQGAN(SMALL)
    vqgan.load_state_dict(CHECKPOINTS.fill(vqgan, 3))
    return vqgan.eval()


def _hf_folder(folder: Path, vqgan: VQGAN, dtype: torch.dtype = torch.float32, skip: str = "nothing") -> Path:
    """The tensors that a Chameleon checkpoint of transformers holds, by what converters wrote."""
    folder.mkdir(exist_ok=True)
    config = ChameleonConfig(vocabulary_map={"<image>": 0}, vq_config=hf_config(vqgan.config))
    (folder / "config.json").write_text(config.to_json_string())
    state = {PREFIX + k: v.to(dtype) for k, v in vqgan.state_dict().items() if not k.startswith(skip)}
    save_file({**state, "lm_head.weight": torch.zeros(2)}, folder / "model.safetensors")
    return folder


def test_layout_of_transformers(tmp_path: Path) -> None:
    vqgan = _small()
    found = find_vqgan(_hf_folder(tmp_path, vqgan))
    assert found.fingerprint() == vqgan.fingerprint()
    image = CHECKPOINTS.sample_images()["wide"]
    library = ChameleonVQVAE._from_config(ChameleonConfig(vq_config=hf_config(SMALL)).vq_config).eval()
    encoder = {k: v for k, v in vqgan.state_dict().items() if not k.startswith("decoder.")}
    library.load_state_dict(encoder, strict=True)
    with torch.inference_mode():
        theirs = library.encode(square_pixels(image, 32)[None])
        features = library.quant_conv(theirs.last_hidden_state)
    ours = found.encode([image])
    assert ours.codes_NL[0].tolist() == theirs.image_tokens.tolist()
    np.testing.assert_allclose(ours.features_NLD[0], features[0].flatten(1).T.numpy(), atol=1e-6)


def test_float32_whatever_the_checkpoint_has(tmp_path: Path) -> None:
    vqgan = find_vqgan(_hf_folder(tmp_path, _small(), torch.bfloat16))
    assert {p.dtype for p in vqgan.parameters()} == {torch.float32}
    image = CHECKPOINTS.sample_images()["square"]
    plain = vqgan.encode([image])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (vqgan.encode([image]).features_NLD == plain.features_NLD).all()


def test_our_own_layout_and_order_of_search(tmp_path: Path) -> None:
    vqgan = _small()
    save_vqgan(vqgan, tmp_path / "image_tokenizer")
    _ckpt(tmp_path / "tokenizer", "plain")  # ours goes first
    assert find_vqgan(tmp_path).fingerprint() == vqgan.fingerprint()


@pytest.mark.parametrize("place", [".", "tokenizer", "chameleon"])
def test_where_publishers_put_it(tmp_path: Path, place: str) -> None:
    _ckpt(tmp_path / place, "plain")
    assert find_vqgan(tmp_path).config.n_embed == CHECKPOINTS.CODES


def test_what_cannot_be_loaded_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no image tokenizer"):
        find_vqgan(tmp_path)
    with pytest.raises(ValueError, match="without its decoder"):
        find_vqgan(_hf_folder(tmp_path / "hf", _small(), skip="decoder."))
    with pytest.raises(ValueError, match=r"no quant_conv\.bias and 1 more"):
        find_vqgan(_hf_folder(tmp_path / "hf", _small(), skip="quant_conv."))
    folder = _ckpt(tmp_path / "ckpt", "plain")
    yaml = (folder / "vqgan.yaml").read_text()
    (folder / "vqgan.yaml").write_text(yaml.replace("double_z: false", "double_z: true"))
    with pytest.raises(ValueError, match="double_z: True"):
        find_vqgan(folder)
    (folder / "vqgan.yaml").write_text(yaml.replace("z_channels: 16", "z_channels: 8"))
    with pytest.raises(ValueError, match="does not fit its configuration"):
        find_vqgan(folder)
    (folder / "vqgan.ckpt").write_bytes(b"no checkpoint")
    (folder / "vqgan.yaml").write_text(yaml)
    with pytest.raises(ValueError, match="damaged"):
        find_vqgan(folder)


def test_a_checkpoint_that_runs_code_is_not_opened(tmp_path: Path) -> None:
    folder = _ckpt(tmp_path, "plain")
    ran = tmp_path / "ran"
    torch.save({"state_dict": {}, "callback": _Touch(ran)}, folder / "vqgan.ckpt")
    with pytest.raises(ValueError, match="more than tensors"):
        find_vqgan(folder)
    assert not ran.exists()


class _Touch:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.file,))


def test_preprocessing_config_gives_the_size(tmp_path: Path) -> None:
    folder = _hf_folder(tmp_path, _small())
    (folder / "preprocessor_config.json").write_text(json.dumps({"crop_size": {"height": 64, "width": 64}}))
    assert find_vqgan(folder).config.grid == (32, 32)


def test_bars_in_place_of_a_crop() -> None:
    """As SWIRL's authors prepare images: their fill colour, the longer side kept, then one resize."""
    image = Image.new("RGB", (64, 32), "white")
    pixels = ((square_pixels(image, 32, "pad") + 1) / 2 * 255).round().permute(1, 2, 0).to(torch.uint8).numpy()
    assert pixels.shape == (32, 32, 3)
    assert pixels[0, 5].tolist() == pixels[31, 20].tolist() == [122, 116, 104]
    assert pixels[10:22].min() >= 254, "16 rows of the image, less what Lanczos blends at its edges"
    square = Image.effect_noise((48, 48), 60).convert("RGB")
    assert torch.equal(square_pixels(square, 32, "pad"), square_pixels(square, 32))

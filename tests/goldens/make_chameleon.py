"""Make `chameleon.npz`: what the authors' own code computes on the checkpoints of `checkpoints.py`.

    RETRODICT_CHAMELEON_REFERENCE=CLONE python tests/goldens/make_chameleon.py

CLONE is a clone of github.com/facebookresearch/chameleon (dbbe47f was used). None of it is kept here. Its transformer
wants xformers, which wants a GPU; the four names that it imports are computed here in plain torch instead.
"""

from __future__ import annotations

import os
import runpy
import sys
import tempfile
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

HERE = Path(__file__).parent
CHECKPOINTS = SimpleNamespace(**runpy.run_path(str(HERE / "checkpoints.py")))
VARIABLE = "RETRODICT_CHAMELEON_REFERENCE"
VQGAN_SEED = {"plain": 0, "attention": 5}


def reference(folder: Path) -> SimpleNamespace:
    """The authors' modules, imported from a clone."""
    _stand_in_for_xformers()
    sys.path.insert(0, str(folder))
    from importlib import import_module

    names = ("vqgan", "image_tokenizer", "transformer", "vocab", "logits_processor")
    return SimpleNamespace(**{name: import_module(f"chameleon.inference.{name}") for name in names})


class _RMSNorm(nn.Module):
    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


def _rope(xq: Tensor, xk: Tensor, xv: Tensor, cache_k: Tensor, cache_v: Tensor, attn_bias: Any, theta: float) -> Tensor:
    """Rotary embedding of neighbouring pairs, for one sequence that fills the cache from its start."""

    def rotated(x: Tensor) -> Tensor:
        width = x.shape[-1]
        angles = torch.arange(x.shape[1])[:, None] * theta ** -(torch.arange(0, width, 2) / width)
        pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
        return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)[None, :, None]).flatten(-2)

    cache_k.copy_(rotated(xk))
    cache_v.copy_(xv)
    return rotated(xq)


def _attend(xq: Tensor, keys: Tensor, values: Tensor, attn_bias: Any) -> Tensor:
    """Causal attention; [1, T, groups, heads per group, width]."""
    q, k, v = (x.flatten(2, 3).transpose(1, 2) for x in (xq, keys, values))
    return nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(xq.shape)


def _stand_in_for_xformers() -> None:
    modules = {name: ModuleType(name) for name in ("xformers", "xformers.ops", "xformers.ops.fmha.attn_bias")}
    fmha = SimpleNamespace(memory_efficient_attention_forward=_attend)
    modules["xformers.ops"].__dict__.update(RMSNorm=_RMSNorm, fmha=fmha, rope_padded=_rope)
    modules["xformers.ops.fmha"] = ModuleType("xformers.ops.fmha")
    modules["xformers.ops.fmha.attn_bias"].__dict__["BlockDiagonalCausalWithOffsetPaddedKeysMask"] = object
    sys.modules.update(modules)


def vqgan_state(kind: str) -> dict[str, Tensor]:
    """Weights for a kind of VQGAN, by the names that our module has; the authors' code loads them strictly below."""
    from retrodict.models.vqgan import VQGAN, VQGANConfig

    known = {k: tuple(v) if isinstance(v, list) else v for k, v in CHECKPOINTS.ddconfig(kind).items()}
    known = {k: v for k, v in known.items() if k not in ("double_z", "dropout")}
    module = VQGAN(VQGANConfig(size=512, embed_dim=16, n_embed=CHECKPOINTS.CODES, **known))
    state: dict[str, Tensor] = CHECKPOINTS.fill(module, VQGAN_SEED[kind])
    return state


@torch.inference_mode()
def vqgan_goldens(code: SimpleNamespace, folder: Path, kind: str) -> dict[str, Any]:
    """Inputs, features, codes and pixels, as the authors' image tokenizer makes them."""
    state = vqgan_state(kind)
    CHECKPOINTS.write_vqgan(folder, kind, state)
    tokenizer = code.image_tokenizer.ImageTokenizer(str(folder / "vqgan.yaml"), str(folder / "vqgan.ckpt"))
    tokenizer._vq_model.load_state_dict(state, strict=True)
    found: dict[str, Any] = {}
    for name, image in CHECKPOINTS.sample_images().items():
        pixels = tokenizer._vqgan_input_from(tokenizer._whiten_transparency(image))
        found[f"{name}.input"] = pixels[0].numpy()
        if name in ("square", "odd"):
            found[f"{name}.features"] = tokenizer._vq_model.quant_conv(tokenizer._vq_model.encoder(pixels))[0].numpy()
            codes = tokenizer.img_tokens_from_pil(image)
            found[f"{name}.codes"] = codes.numpy().astype(np.uint8)
            found[f"{name}.pixels"] = np.asarray(tokenizer.pil_from_img_toks(codes))
    return found


@torch.inference_mode()
def transformer_goldens(code: SimpleNamespace, vocabulary: int, swin_norm: bool) -> dict[str, Any]:
    """Logits of a short sequence, and the guided ones after a forward prompt, with codes forced after it."""
    args = code.transformer.ModelArgs(**CHECKPOINTS.params(swin_norm), vocab_size=vocabulary)
    model = code.transformer.Transformer(args).float()
    unexpected = model.load_state_dict(CHECKPOINTS.transformer_state(vocabulary), strict=False).unexpected_keys
    assert unexpected == ["rope.freqs"], unexpected

    def logits(ids: list[int]) -> Tensor:
        cache = code.transformer.make_cache(args, len(ids), dtype=torch.float32)
        found: Tensor = model.forward_with_attn_bias(torch.tensor(ids), object(), cache)
        return found

    names = CHECKPOINTS.prompts(vocabulary)
    special, codes = len(CHECKPOINTS.SPECIAL), CHECKPOINTS.CODES
    boi, eoi = special + codes + 1, special + codes
    kept = {0, boi, eoi, *range(special, special + codes)}
    branches = [names["forward"], [i for i in names["forward"] if i in kept], [0, boi]]
    mix = code.logits_processor.InBatchInstructCFGLogitsProcessor(3.0, 1.2)
    guided = []
    for step in range(len(names["forced"]) + 1):
        last = torch.stack([logits(branch + names["forced"][:step])[-1] for branch in branches])
        guided.append(mix(None, last)[0])
    return {"logits": logits(names["short"]).numpy(), "guided": torch.stack(guided).numpy()}


def everything(folder: Path) -> dict[str, Any]:
    """All goldens, whole, by "part.name"."""
    code = reference(folder)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        vocabulary = CHECKPOINTS.write_words(Path(temporary))
        for kind in CHECKPOINTS.VQGANS:
            found |= {f"{kind}.{k}": v for k, v in vqgan_goldens(code, Path(temporary) / kind, kind).items()}
        for swin in (False, True):
            found |= {f"swin{swin:d}.{k}": v for k, v in transformer_goldens(code, vocabulary, swin).items()}
        words = code.vocab.VocabInfo(_vocabulary(Path(temporary)))
        found["vocabulary"] = np.array([words.bos_id, words.pad_id, words.eos_id, words.boi_id, words.eoi_id])
        found["first_codes"] = (
            code.vocab.VocabTranslation(words).convert_img2bp2(torch.arange(CHECKPOINTS.CODES)).numpy()
        )
    return found


def _vocabulary(folder: Path) -> dict[str, int]:
    import json

    found: dict[str, int] = json.loads((folder / "text_tokenizer.json").read_text())["model"]["vocab"]
    return found


def thinned(goldens: dict[str, Any]) -> dict[str, Any]:
    """What is committed: all codes and logits, and of large arrays every eighth row and column."""
    return {name: thin(name, value) for name, value in goldens.items()}


def thin(name: str, value: Any) -> Any:
    part = name.rsplit(".", 1)[-1]
    steps = {"input": np.s_[:, ::8, ::8], "pixels": np.s_[::8, ::8], "features": np.s_[:, ::4, ::4]}
    return value[steps[part]] if part in steps else value


if __name__ == "__main__":
    if VARIABLE not in os.environ:
        sys.exit(f"{VARIABLE} must name a clone of github.com/facebookresearch/chameleon.")
    out = HERE / "chameleon.npz"
    np.savez_compressed(out, **thinned(everything(Path(os.environ[VARIABLE]))))
    sys.stdout.write(f"{out}: {out.stat().st_size:,} bytes\n")

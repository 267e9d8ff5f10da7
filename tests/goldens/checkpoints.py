"""Tiny checkpoints in the format in which Chameleon's authors publish theirs. Random, but the same everywhere: numpy's
`RandomState` is frozen, torch's generators are not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor, nn

CODES = 48
# At 512 pixels these give 32 x 32 tokens, which the authors' code takes for granted.
VQGANS: dict[str, dict[str, Any]] = {
    "plain": {"resolution": 512, "attn_resolutions": [], "ch_mult": [1, 1, 1, 1, 1], "num_res_blocks": 1},
    "attention": {"resolution": 256, "attn_resolutions": [16], "ch_mult": [1, 1, 1, 1, 2], "num_res_blocks": 1},
}
DIM, LAYERS, HEADS, MULTIPLE = 48, 2, 4, 16
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
AFTER = ("<eoss>", "<racm3:break>", "<reserved08706>", "<reserved08707>")


def code_name(code: int) -> str:
    return "IMGIMG" + "".join("ABCDEFGHIJ"[int(digit)] for digit in str(code)) + "Z"


def fill(module: nn.Module, seed: int) -> dict[str, Tensor]:
    """A state for a module: matrices with unit gain, norms near 1, biases near 0, embeddings near the features."""
    random = np.random.RandomState(seed)
    state = {}
    for name, value in sorted(module.state_dict().items()):
        sampled = random.standard_normal(tuple(value.shape))
        if "embedding" in name:
            sampled *= 0.3
        elif value.ndim > 1:
            sampled /= np.sqrt(np.prod(value.shape[1:]))
        else:
            sampled = sampled * 0.1 + (1.0 if name.endswith("weight") else 0.0)
        state[name] = torch.from_numpy(sampled.astype(np.float32))
    return state


def ddconfig(kind: str) -> dict[str, Any]:
    wide = {"double_z": False, "z_channels": 16, "in_channels": 3, "out_ch": 3, "ch": 32, "dropout": 0.0}
    return {**wide, **VQGANS[kind]}


def write_vqgan(folder: Path, kind: str, state: dict[str, Tensor]) -> None:
    """`vqgan.ckpt` and `vqgan.yaml`, as they lie in `tokenizer/`."""
    folder.mkdir(parents=True, exist_ok=True)
    # Training leaves more in the file than inference reads.
    torch.save({"state_dict": {**state, "loss.discriminator.main.0.weight": torch.zeros(2)}}, folder / "vqgan.ckpt")
    params = {
        "embed_dim": 16,
        "n_embed": CODES,
        "ddconfig": ddconfig(kind),
        "lossconfig": {"target": "nothing.that.exists", "params": {"disc_start": 100001}},
        "ckpt_path": None,
    }
    (folder / "vqgan.yaml").write_text(yaml.safe_dump({"model": {"target": "taming.VQModel", "params": params}}))


def write_words(folder: Path, order: list[int] | None = None) -> int:
    """`text_tokenizer.json`: letters only. `order` shuffles the ids of image tokens. Returns the number of tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    codes = [code_name(code) for code in order or range(CODES)]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = [*SPECIAL, *codes, *AFTER, *letters]
    tokenizer = Tokenizer(models.BPE({name: index for index, name in enumerate(names)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in (*SPECIAL, *AFTER)])
    tokenizer.save(str(folder / "text_tokenizer.json"))
    return len(names)


def transformer_shapes(vocabulary: int, shards: int = 1) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors in a whole `consolidated.pth`; queries, keys and values are apart."""
    inner = MULTIPLE * -(-int(2 * 4 * DIM / 3) // MULTIPLE)
    shapes: dict[str, tuple[int, ...]] = {
        "tok_embeddings.weight": (vocabulary, DIM),
        "norm.weight": (DIM,),
        "output.weight": (vocabulary, DIM),
        "rope.freqs": (DIM // HEADS // 2,),
    }
    for i in range(LAYERS):
        for part in ("wq", "wk", "wv", "wo"):
            shapes[f"layers.{i}.attention.{part}.weight"] = (DIM, DIM)
        for part in ("q_normalization", "k_normalization"):
            shapes[f"layers.{i}.attention.{part}.weight"] = (DIM // HEADS,)
            shapes[f"layers.{i}.attention.{part}.bias"] = (DIM // HEADS,)
        for part, shape in (("w1", (inner, DIM)), ("w3", (inner, DIM)), ("w2", (DIM, inner))):
            shapes[f"layers.{i}.feed_forward.{part}.weight"] = shape
        for part in ("attention_norm", "ffn_norm"):
            shapes[f"layers.{i}.{part}.weight"] = (DIM,)
    return shapes


def transformer_state(vocabulary: int, seed: int = 1) -> dict[str, Tensor]:
    random = np.random.RandomState(seed)
    state = {}
    for name, shape in sorted(transformer_shapes(vocabulary).items()):
        sampled = random.standard_normal(shape)
        if name.startswith("tok_embeddings"):
            pass
        elif len(shape) > 1:
            sampled *= 2 / np.sqrt(shape[1])
        else:
            sampled = sampled * 0.3 + (0.0 if name.endswith("bias") else 1.0)
        state[name] = torch.from_numpy(sampled.astype(np.float32))
    return state


def params(swin_norm: bool) -> dict[str, Any]:
    return {
        "dim": DIM,
        "n_layers": LAYERS,
        "n_heads": HEADS,
        "norm_eps": 1e-5,
        "rope_theta": 5000.0,
        "multiple_of": MULTIPLE,
        "qk_normalization": True,
        "swin_norm": swin_norm,
    }


def write_chameleon(root: Path, swin_norm: bool, vqgan: dict[str, Tensor], kind: str = "plain") -> None:
    """A whole download: `models/7b/` and `tokenizer/`."""
    folder = root / "models" / "7b"
    folder.mkdir(parents=True)
    vocabulary = write_words(root / "tokenizer")
    write_vqgan(root / "tokenizer", kind, vqgan)
    (folder / "params.json").write_text(json.dumps({"model": params(swin_norm), "seq_len": 4096}))
    notes = {"model_parallel_size": 1, "vocab_size": vocabulary}
    (folder / "consolidate_params.json").write_text(json.dumps(notes))
    torch.save(transformer_state(vocabulary), folder / "consolidated.pth")


def sample_images() -> dict[str, Image.Image]:
    """Images of the shapes and kinds that are prepared differently."""
    sizes = {"square": (512, 512), "wide": (640, 480), "odd": (427, 300), "tall": (301, 513), "small": (64, 64)}
    found = {name: Image.fromarray(_noise(*size)) for name, size in sizes.items()}
    found["gray"] = found["wide"].convert("L")
    clear = np.dstack([_noise(300, 300), (_noise(300, 300)[..., :1] // 2 + 64)])
    found["clear"] = Image.fromarray(clear)
    return found


def _noise(width: int, height: int) -> Any:
    y, x = np.mgrid[:height, :width] / 64.0
    waves = [np.sin(3 * x + y), np.cos(x * y), np.sin(x) * np.cos(5 * y)]
    return (np.stack(waves, -1) * 127.5 + 127.5).astype(np.uint8)


def prompts(vocabulary: int) -> dict[str, list[int]]:
    """Token sequences: a short one, and a forward prompt with a whole source image, up to its opening."""
    random = np.random.RandomState(2)
    first, eoi, boi, sep = len(SPECIAL), len(SPECIAL) + CODES, len(SPECIAL) + CODES + 1, len(SPECIAL) + CODES + 2
    text = random.randint(len(SPECIAL) + CODES + len(AFTER), vocabulary, 12).tolist()
    source = (random.randint(0, CODES, 1024) + first).tolist()
    return {
        "short": random.randint(0, vocabulary, 40).tolist(),
        "forward": [0, *text, boi, *source, eoi, sep, boi],
        "forced": (random.randint(0, CODES, 3) + first).tolist(),
    }

"""From the authors' original format (Meta's download, `GAIR/Anole-7b-v0.1`) to the layout of transformers.

Two things change. The authors rotate neighbouring pairs of a head's dimensions, transformers its two halves, so the
rows of queries and keys are reordered, and with them the norms over a head. Shards of model parallelism, each with its
own norms, are put together.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from zipfile import is_zipfile

import torch
from torch import Tensor
from transformers import ChameleonConfig

from retrodict.files import JsonObject
from retrodict.models.chameleon.family import ChameleonFamily
from retrodict.models.chameleon.layout import NORM, configuration, write_checkpoint
from retrodict.models.checkpoint import read_tensors, shape_of
from retrodict.models.hf import FILE, TextTokenizer
from retrodict.models.vqgan_files import PREFIX, find_vqgan

_PLACEHOLDER = ("<reserved08707>", "<image>")  # as transformers names it

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Original:
    """Where the parts of an original checkpoint lie."""

    weights: Path  # folder with params.json and consolidated*.pth
    tokenizer: Path  # text_tokenizer.json


def find_original(folder: Path) -> Original | None:
    """The original checkpoint in a download's root, or in the folder of one of its sizes; None if there is none."""
    folders = [file.parent for file in sorted([*folder.glob("params.json"), *folder.glob("models/*/params.json")])]
    if not folders:
        return None
    if len(folders) > 1:
        raise ValueError(f"{folder} holds several models: name one of {', '.join(str(p) for p in folders)}.")
    for root in (folder, *folder.resolve().parents[:2]):
        for file in (root / "tokenizer" / "text_tokenizer.json", root / "text_tokenizer.json"):
            if file.is_file():
                return Original(folders[0], file)
    raise ValueError(f"{folder} holds no tokenizer/text_tokenizer.json, which comes with the weights.")


def convert(source: Path, out: Path, vqgan: Path | None = None) -> None:
    """Write `out` in the layout of transformers, weights in the type that they have.

    `source` is an original download, in the layout of Anole's fork of transformers or of Lumina-mGPT's, or already in
    the layout of transformers, which may lack the image tokenizer's decoder. `vqgan` names another folder for the image
    tokenizer. Raises `ValueError` for what is missing, damaged or unknown.
    """
    original = find_original(source)
    if original is not None:
        _convert_original(original, out, vqgan)
        return
    if not (source / "config.json").is_file():
        raise ValueError(f"{source} holds no checkpoint of Chameleon: neither params.json nor config.json is there.")
    norm = shape_of(source, NORM) or ()
    if len(norm) == 1:
        _convert_fork(source, out, vqgan)
    elif norm and norm[0] != ChameleonConfig.from_pretrained(source).num_attention_heads:
        _convert_mgpt(source, out, vqgan)
    else:
        ChameleonFamily.load(source, vqgan).save(out)


def _convert_fork(source: Path, out: Path, vqgan: Path | None) -> None:
    """Anole's fork kept the authors' order of rows, and one norm for all heads."""
    images = find_vqgan(vqgan or source)
    config = ChameleonConfig.from_pretrained(source)
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads or config.num_attention_heads
    state = {name: value for name, value in read_tensors(source).items() if not name.startswith(PREFIX)}
    for name, value in state.items():
        count = heads if ".q_" in name else kv_heads
        if name.endswith((".q_proj.weight", ".k_proj.weight")):
            state[name] = halves(value, count)
        elif ".self_attn.q_norm." in name or ".self_attn.k_norm." in name:
            if value.ndim != 1:
                raise ValueError(f"{source} is not in the layout of Anole's fork: {name} has {value.ndim} dimensions.")
            state[name] = per_head([value], count)
    write_checkpoint(out, config, state, images, TextTokenizer.load(source))


def _convert_mgpt(source: Path, out: Path, vqgan: Path | None) -> None:
    """Lumina-mGPT's layout is that of transformers but for the norms of queries and keys: one a shard of the original,
    which its heads share. The tokenizers are the authors' own files, in a folder beside the weights."""
    images = find_vqgan(vqgan or source)
    config = ChameleonConfig.from_pretrained(source)
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads or config.num_attention_heads
    state = {name: value for name, value in read_tensors(source).items() if not name.startswith(PREFIX)}
    for name, value in state.items():
        if ".self_attn.q_norm." in name or ".self_attn.k_norm." in name:
            count = heads if ".q_norm." in name else kv_heads
            if count % len(value):
                raise ValueError(f"{source} has {len(value)} norms for {count} heads in {name}: no known layout.")
            state[name] = value.repeat_interleave(count // len(value), 0)
    own = source / FILE
    file = own if own.is_file() else source / "original_tokenizers" / "text_tokenizer.json"
    if not file.is_file():
        raise ValueError(f"{source} holds no {FILE}, nor original_tokenizers/text_tokenizer.json.")
    write_checkpoint(out, config, state, images, _words(file))


def _words(file: Path) -> TextTokenizer:
    """The authors' text tokenizer."""
    return TextTokenizer(file.read_text(encoding="utf-8").replace(*_PLACEHOLDER))


def _convert_original(original: Original, out: Path, vqgan: Path | None) -> None:
    images = find_vqgan(vqgan or original.tokenizer.parent)
    words = _words(original.tokenizer)
    params = _params(original.weights)
    shards = [_read(file) for file in _shard_files(original.weights)]
    heads, layers = params["n_heads"], params["n_layers"]
    kv_heads = params.get("n_kv_heads") or heads
    state = dict(_converted(shards, layers, heads, kv_heads))
    if params.get("qk_normalization") is False or "model.layers.0.self_attn.q_norm.weight" not in state:
        raise ValueError(f"{original.weights} has no norms of queries and keys, which transformers always has.")
    vocabulary_size, width = state["model.embed_tokens.weight"].shape
    if len(words) > vocabulary_size:
        raise ValueError(f"The tokenizer has {len(words)} tokens, but the weights only {vocabulary_size}.")
    config = configuration(
        words.vocabulary,
        images,
        vocab_size=vocabulary_size,
        hidden_size=width,
        intermediate_size=state["model.layers.0.mlp.gate_proj.weight"].shape[0],
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        rms_norm_eps=params.get("norm_eps", 1e-5),
        rope_parameters={"rope_type": "default", "rope_theta": params.get("rope_theta", 10000.0)},
        swin_norm=bool(params.get("swin_norm", False)),
        dtype=state["lm_head.weight"].dtype,
    )
    write_checkpoint(out, config, state, images, words)


def _params(folder: Path) -> JsonObject:
    params: JsonObject = json.loads((folder / "params.json").read_text())
    params |= params.get("model") or {}
    missing = [name for name in ("n_heads", "n_layers") if name not in params]
    if missing:
        raise ValueError(f"{folder / 'params.json'} does not say {' and '.join(missing)}.")
    return params


def _shard_files(folder: Path) -> list[Path]:
    whole = folder / "consolidated.pth"
    files = [whole] if whole.is_file() else sorted(folder.glob("consolidated.[0-9][0-9].pth"))
    if not files:
        raise ValueError(f"{folder} holds no weights: there is no consolidated.pth in it.")
    notes = folder / "consolidate_params.json"
    wanted = json.loads(notes.read_text()).get("model_parallel_size") if notes.is_file() else None
    if files != [whole] and wanted not in (None, len(files)):
        raise ValueError(f"{folder} is incomplete: {len(files)} of {wanted} shards are there.")
    return files


def _read(file: Path) -> State:
    try:
        # Mapped, 14 GB need no memory; files of old versions of torch cannot be.
        state: State = torch.load(file, map_location="cpu", weights_only=True, mmap=is_zipfile(file))
    except (UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f"{file} is damaged, or holds more than tensors: {str(error).splitlines()[0]}") from error
    return state


def _converted(shards: list[State], layers: int, heads: int, kv_heads: int) -> Iterator[tuple[str, Tensor]]:
    def joined(name: str, dim: int | None) -> Tensor:
        try:
            parts = [shard[name] for shard in shards]
        except KeyError:
            raise ValueError(f"The original weights have no {name}.") from None
        return parts[0] if dim is None or len(parts) == 1 else torch.cat(parts, dim)

    yield "model.embed_tokens.weight", joined("tok_embeddings.weight", 1)
    yield "model.norm.weight", joined("norm.weight", None)
    yield "lm_head.weight", joined("output.weight", 0)
    split = [_split(shard, heads, kv_heads) for shard in shards]
    shards[:] = split
    for i in range(layers):
        old, new = f"layers.{i}.", f"model.layers.{i}."
        yield new + "input_layernorm.weight", joined(old + "attention_norm.weight", None)
        yield new + "post_attention_layernorm.weight", joined(old + "ffn_norm.weight", None)
        yield new + "self_attn.q_proj.weight", halves(joined(old + "attention.wq.weight", 0), heads)
        yield new + "self_attn.k_proj.weight", halves(joined(old + "attention.wk.weight", 0), kv_heads)
        yield new + "self_attn.v_proj.weight", joined(old + "attention.wv.weight", 0)
        yield new + "self_attn.o_proj.weight", joined(old + "attention.wo.weight", 1)
        yield new + "mlp.gate_proj.weight", joined(old + "feed_forward.w1.weight", 0)
        yield new + "mlp.up_proj.weight", joined(old + "feed_forward.w3.weight", 0)
        yield new + "mlp.down_proj.weight", joined(old + "feed_forward.w2.weight", 1)
        for ours, theirs, count in (("q_norm", "q_normalization", heads), ("k_norm", "k_normalization", kv_heads)):
            for part in ("weight", "bias"):
                name = f"{old}attention.{theirs}.{part}"
                if name in shards[0]:
                    yield f"{new}self_attn.{ours}.{part}", per_head([shard[name] for shard in shards], count)


def _split(shard: State, heads: int, kv_heads: int) -> State:
    """Checkpoints may hold queries, keys and values in one tensor, and the two inner projections in another."""
    state = dict(shard)
    for name in shard:
        if name.endswith("attention.wqkv.weight"):
            rows = len(shard[name]) // (heads + 2 * kv_heads)  # of one head in this shard's share
            parts = shard[name].split([heads * rows, kv_heads * rows, kv_heads * rows])
            state |= {name.replace("wqkv", new): part for new, part in zip(("wq", "wk", "wv"), parts, strict=True)}
        elif name.endswith("feed_forward.w13.weight"):
            state |= {
                name.replace("w13", new): part for new, part in zip(("w1", "w3"), shard[name].chunk(2), strict=True)
            }
    return state


def halves(rows_OD: Tensor, heads: int) -> Tensor:
    """Rows of queries or keys: from neighbouring pairs within each head to its two halves."""
    out, width = rows_OD.shape
    return rows_OD.view(heads, out // heads // 2, 2, width).transpose(1, 2).reshape(out, width)


def per_head(norms: list[Tensor], heads: int) -> Tensor:
    """[heads, width of a head] of one norm per shard, in the order of `halves`."""
    ordered = [norm.view(-1, 2).t().reshape(1, -1) for norm in norms]
    return torch.cat(ordered).repeat_interleave(heads // len(norms), 0)

"""Where the weights of a `VQGAN` are found, in every layout that Chameleon, Anole and Liquid are published in."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from pickle import UnpicklingError

import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

from retrodict.files import JsonMapping, JsonObject, write_json
from retrodict.models.checkpoint import has_tensors, read_tensors
from retrodict.models.registry import read_json
from retrodict.models.vqgan import VQGAN, VQGANConfig

FOLDERS = (
    ".",
    "tokenizer",
    "chameleon",
    "vqgan",
    "original_tokenizers",
)  # where publishers put `vqgan.ckpt` and `vqgan.yaml`
OWN = "image_tokenizer"  # where we put a tokenizer next to weights that cannot hold it
PREFIX = "model.vqmodel."  # of the tokenizer's tensors in a Chameleon checkpoint of transformers
_PARTS = ("encoder.", "decoder.", "quantize.embedding.", "quant_conv.", "post_quant_conv.")
_UNUSUAL = {
    "double_z": False,
    "resamp_with_conv": True,
    "give_pre_end": False,
    "tanh_out": False,
    "use_linear_attn": False,
    "attn_type": "vanilla",
}


def find_vqgan(folder: Path) -> VQGAN:
    """The tokenizer that lies in a checkpoint's folder, in float32.

    Looks for what `save_vqgan` wrote, for `vqgan.ckpt` in the folders where publishers put it, and for
    `model.vqmodel.*` among the checkpoint's own tensors. Raises `ValueError` when there is none, or none that decodes.
    """
    if (folder / OWN).is_dir():
        return load_vqgan(folder / OWN)
    for part in FOLDERS:
        if (folder / part / "vqgan.ckpt").is_file():
            return _load_ckpt(folder / part / "vqgan.ckpt")
    if (folder / "config.json").is_file() and has_tensors(folder, PREFIX):
        return _load_hf(folder)
    raise ValueError(
        f"{folder} holds no image tokenizer: put the authors' vqgan.ckpt and vqgan.yaml in {folder / 'tokenizer'}, "
        "or name their folder with --image-tokenizer."
    )


def save_vqgan(vqgan: VQGAN, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: v.cpu().contiguous() for k, v in vqgan.state_dict().items()}, folder / "model.safetensors")
    write_json(folder / "config.json", asdict(vqgan.config))


def load_vqgan(folder: Path) -> VQGAN:
    """What `save_vqgan` wrote."""
    fields = read_json(folder / "config.json")
    return _build(_config(fields, folder / "config.json"), read_tensors(folder), folder)


def _load_ckpt(file: Path) -> VQGAN:
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(
            f"{file} is damaged, or holds more than tensors, which is not opened: {str(error).splitlines()[0]}"
        ) from error
    state = content.get("state_dict", content)
    yaml_file = file.with_suffix(".yaml")
    config = _from_yaml(yaml_file) if yaml_file.is_file() else VQGANConfig()
    return _build(config, state, file)


def _from_yaml(file: Path) -> VQGANConfig:
    loaded = yaml.safe_load(file.read_text())
    params = loaded.get("model", loaded) if isinstance(loaded, dict) else {}
    params = params.get("params", params)
    if not isinstance(params, dict) or "ddconfig" not in params:
        raise ValueError(f"{file} describes no VQGAN: it has no model.params.ddconfig.")
    if params.get("remap") is not None:
        raise ValueError(f"{file} remaps its codes, which no tokenizer of Chameleon or Liquid does.")
    wide = {name: params[name] for name in ("n_embed", "embed_dim") if name in params}
    config = _config({**params["ddconfig"], **wide}, file)
    # The authors' code tokenizes at 512 whatever resolution the yaml was trained with.
    return config if config.stride != 16 else VQGANConfig(**{**asdict(config), "size": 512})


def _config(fields: JsonMapping, file: Path) -> VQGANConfig:
    for name, usual in _UNUSUAL.items():
        if fields.get(name, usual) != usual:
            raise ValueError(f"{file} says {name}: {fields[name]}; only {name}: {usual} is known here.")
    known = {name: fields[name] for name in asdict(VQGANConfig()) if fields.get(name) is not None}
    known["attn_resolutions"] = tuple(known.get("attn_resolutions", ()))
    known["ch_mult"] = tuple(known.get("ch_mult", VQGANConfig.ch_mult))
    known.setdefault("size", known.get("resolution", VQGANConfig.size))
    return VQGANConfig(**known)


def _load_hf(folder: Path) -> VQGAN:
    fields = read_json(folder / "config.json").get("vq_config") or {}
    names = {
        "base_channels": "ch",
        "channel_multiplier": "ch_mult",
        "latent_channels": "z_channels",
        "num_embeddings": "n_embed",
        "double_latent": "double_z",
    }
    renamed = {names.get(name, name): value for name, value in fields.items()}
    processor = folder / "preprocessor_config.json"
    if processor.is_file():
        crop = read_json(processor).get("crop_size")
        renamed["size"] = crop.get("height") if isinstance(crop, dict) else crop
    config = _config(renamed, folder / "config.json")
    state = {name.removeprefix(PREFIX): value for name, value in read_tensors(folder, PREFIX).items()}
    return _build(config, state, folder)


def hf_config(config: VQGANConfig) -> JsonObject:
    """The same sizes as `vq_config` of a Chameleon configuration in transformers."""
    return {
        "embed_dim": config.embed_dim,
        "num_embeddings": config.n_embed,
        "latent_channels": config.z_channels,
        "resolution": config.resolution,
        "in_channels": config.in_channels,
        "base_channels": config.ch,
        "channel_multiplier": list(config.ch_mult),
        "num_res_blocks": config.num_res_blocks,
        "attn_resolutions": list(config.attn_resolutions) or None,
    }


def _build(config: VQGANConfig, state: Mapping[str, Tensor], where: Path) -> VQGAN:
    """Float32, in evaluation mode. Tensors of training (losses, discriminators) are left out; others must fit."""
    if config.size % config.stride:
        raise ValueError(f"{where}: images of {config.size} pixels do not divide into tokens of {config.stride}.")
    with torch.device("meta"):
        vqgan = VQGAN(config)
    mine = {name: value for name, value in state.items() if name.startswith(_PARTS)}
    if rounded := {str(value.dtype).removeprefix("torch.") for value in mine.values()} - {"float32"}:
        logging.getLogger("retrodict").warning(
            "retrodict: the image tokenizer in %s is stored in %s: its image tokens differ from those of the authors' "
            "vqgan.ckpt in float32, which GAIR/Anole-7b-v0.1 has; retrodict convert --image-tokenizer takes it",
            where,
            ", ".join(sorted(rounded)),
        )
    mine = {name: value.float() for name, value in mine.items()}
    wanted = vqgan.state_dict()
    missing = sorted(wanted.keys() - mine.keys())
    if missing and all(name.startswith("decoder.") for name in missing) and len(missing) > len(wanted) // 4:
        raise ValueError(
            f"{where} holds an image tokenizer without its decoder (as facebook/chameleon-7b does), so it cannot write "
            "images: name the folder of the authors' vqgan.ckpt with --image-tokenizer."
        )
    problems = [f"no {name}" for name in missing] + [f"an unknown {name}" for name in sorted(mine.keys() - wanted)]
    problems += [
        f"{name} of shape {tuple(mine[name].shape)}, not {tuple(wanted[name].shape)}"
        for name in sorted(wanted.keys() & mine.keys())
        if mine[name].shape != wanted[name].shape
    ]
    if problems:
        more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
        raise ValueError(f"The image tokenizer in {where} does not fit its configuration: {problems[0]}{more}.")
    vqgan.load_state_dict(mine, assign=True)
    return vqgan.requires_grad_(False).eval()

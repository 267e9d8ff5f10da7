"""Model folders in the layout of transformers and PEFT: safetensors, `config.json`, a tokenizer, adapters."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from retrodict.files import JsonObject
from retrodict.models.registry import read_json
from retrodict.models.token_family import Trainable
from retrodict.placement import chosen_device, in_four_bits
from retrodict.precision import matmul_precision
from retrodict.prompts import Direction

if TYPE_CHECKING:
    from peft import PeftModel

INDEX = "model.safetensors.index.json"
PREPROCESSING = "preprocessor_config.json"
# What lies beside configuration and weights: how images are prepared, the tokenizer's settings, chat templates.
EXTRA_FILES = (
    PREPROCESSING,
    "processor_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
)


@contextmanager
def no_bars() -> Iterator[None]:
    """While the block runs, transformers shows no progress bars: one in the middle of our own would break it."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def load_pretrained(model_class: Any, folder: Path, dtype: torch.dtype | str = "auto", **config: Any) -> Any:
    """The model in a folder, by default in the type it is stored in, ready for inference. `config` are values that its
    `config.json` has otherwise, or not at all.

    Raises:
        ValueError: A file is missing or damaged, or the weights are not all there (the library fills such weights with
            random numbers and only warns).
    """
    for file in sorted(folder.glob("*.safetensors")):
        with _open(file):  # says which file is damaged; the library does not
            pass
    try:
        with no_bars():
            options = config | (_four_bit_options() if in_four_bits() else {})
            module, loaded = model_class.from_pretrained(folder, dtype=dtype, output_loading_info=True, **options)
    except OSError as error:  # transformers says so of folders that lack a file
        raise ValueError(f"{folder} cannot be loaded as {model_class.__name__}: {str(error).splitlines()[0]}") from None
    wrong = sorted(str(key) for kind in ("missing_keys", "mismatched_keys") for key in loaded[kind])
    if wrong:
        shown = ", ".join(wrong[:3]) + (f" and {len(wrong) - 3:,} more" if len(wrong) > 3 else "")
        raise ValueError(
            f"{folder} is no complete {model_class.__name__}: it lacks {shown}, or has another shape there."
        )
    return module.eval()


# Parts that stay as they are stored when a model is kept in 4 bits: heads, embeddings, everything for images.
_NOT_IN_FOUR_BITS = ("lm_head", "vqmodel", "vision_model", "aligner", "generation_aligner", "generation_head")


def _four_bit_options() -> dict[str, Any]:
    """NF4 with quantised scales (Dettmers et al. 2023), products in the type that the device is quickest in."""
    if find_spec("bitsandbytes") is None:
        raise ImportError("Weights in 4 bits need bitsandbytes: pip install 'retrodict[4bit]'")
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=matmul_precision()[0],
        llm_int8_skip_modules=list(_NOT_IN_FOUR_BITS),
    )
    return {"quantization_config": config, "device_map": {"": chosen_device()}}


def take_image_tokenizer(module: Any, folder: Path) -> Any:
    """Take the image tokenizer out of a model: no cast, wrapper or optimizer of `module` reaches it there.

    Its weights are read once more, in float32: loading the whole in bfloat16 has rounded them.
    """
    vq = module.model.vqmodel.float()
    del module.model.vqmodel
    names = [name for name in tensor_files(folder) if "vqmodel." in name]
    prefix = names[0].split("vqmodel.")[0] + "vqmodel."
    state = read_tensors(folder, prefix)
    vq.load_state_dict({name.removeprefix(prefix): value.float() for name, value in state.items()})
    return vq.eval().requires_grad_(False)


def save_with_image_tokenizer(module: Any, vq: nn.Module, extra: Mapping[str, str], directory: Path) -> None:
    """Write a folder that the library loads, too: the image tokenizer back in its place, and the `extra` files."""
    module.model.vqmodel = vq
    try:
        with no_bars():
            module.save_pretrained(directory)
    finally:
        del module.model.vqmodel
    for name, text in extra.items():
        (directory / name).write_text(text, encoding="utf-8")


def read_extra_files(folder: Path) -> dict[str, str]:
    """Name -> content of those of `EXTRA_FILES` that are there."""
    return {name: (folder / name).read_text(encoding="utf-8") for name in EXTRA_FILES if (folder / name).is_file()}


def preprocessing(folder: Path) -> JsonObject:
    """`preprocessor_config.json`, or the same part of a newer folder's `processor_config.json`."""
    for file, part in ((PREPROCESSING, ""), ("processor_config.json", "image_processor")):
        config = read_json(folder / file) if (folder / file).is_file() else {}
        config = config.get(part, {}) if part else config
        if {"image_mean", "image_std"} <= config.keys():
            return config
    raise ValueError(f"{folder} does not say how images are prepared: {PREPROCESSING} with image_mean is missing.")


def tensor_files(folder: Path) -> dict[str, Path]:
    """Tensor name -> the file that holds it. Raises `ValueError` when there are no weights, or shards are missing."""
    index = folder / INDEX
    if index.is_file():
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict):
            raise ValueError(f"{index} is damaged, get it again: it has no weight_map.")
        if astray := [file for file in weight_map.values() if not isinstance(file, str) or Path(file).name != file]:
            raise ValueError(f"{index} is damaged, get it again: it names {astray[0]!r}, which is no file beside it.")
        files = {name: folder / file for name, file in weight_map.items()}
        for file in sorted(set(files.values())):
            if not file.is_file():
                raise ValueError(f"{folder} is incomplete: {file.name} is missing.")
        return files
    file = folder / "model.safetensors"
    if not file.is_file():
        raise ValueError(f"{folder} holds no weights: there is no model.safetensors in it.")
    with _open(file) as tensors:
        return dict.fromkeys(tensors.keys(), file)


def has_tensors(folder: Path, prefix: str) -> bool:
    """Whether a folder holds weights at all, and some whose names start with `prefix`."""
    has_weights = (folder / INDEX).is_file() or (folder / "model.safetensors").is_file()
    return has_weights and any(name.startswith(prefix) for name in tensor_files(folder))


def read_tensors(folder: Path, prefix: str = "") -> dict[str, Tensor]:
    """All tensors whose names start with `prefix`."""
    by_file: dict[Path, list[str]] = {}
    for name, file in tensor_files(folder).items():
        if name.startswith(prefix):
            by_file.setdefault(file, []).append(name)
    state: dict[str, Tensor] = {}
    for file, names in by_file.items():
        with _open(file) as tensors:
            if missing := set(names) - {*tensors.keys()}:
                raise ValueError(f"{file} is not the one that {INDEX} means: it holds no {sorted(missing)[0]}.")
            state.update({name: tensors.get_tensor(name) for name in names})
    return state


def check_kinds(stored: Mapping[str, Tensor], module: nn.Module, folder: Path) -> None:
    """Raises `ValueError` where weights are stored as whole numbers, which loading would take at their face value."""
    for name, own in module.state_dict().items():
        if own.is_floating_point() and name in stored and not stored[name].is_floating_point():
            raise ValueError(f"{folder} holds no weights as they are written here: {name} is of {stored[name].dtype}.")


def shape_of(folder: Path, suffix: str) -> tuple[int, ...] | None:
    """Shape of the first tensor whose name ends so, without reading it."""
    for name, file in sorted(tensor_files(folder).items()):
        if name.endswith(suffix):
            with _open(file) as tensors:
                return tuple(tensors.get_slice(name).get_shape())
    return None


def write_tensors(tensors: Mapping[str, Tensor], folder: Path) -> None:
    """`model.safetensors`, in shards of 5 GB with an index where it is larger."""
    from huggingface_hub import save_torch_state_dict

    save_torch_state_dict(dict(tensors), folder, max_shard_size="5GB", is_main_process=True)


def _open(file: Path) -> safe_open:
    try:
        return safe_open(file, framework="pt")
    except SafetensorError as error:
        raise ValueError(f"{file} is damaged, get it again: {error}") from error


def save_adapter(adapter: PeftModel, family: Trainable, direction: Direction, out: Path) -> None:
    """Write what PEFT loads onto the same base, and a model card."""
    from huggingface_hub import ModelCard, ModelCardData

    out.mkdir(parents=True, exist_ok=True)
    adapter.save_pretrained(str(out), save_embedding_layers=False)  # they are frozen; "auto" would ask the hub
    base = adapter.peft_config["default"].base_model_name_or_path
    data = ModelCardData(library_name="peft", base_model=base, tags=["lora", "retrodict", family.name])
    text = _MODEL_CARD.format(data=data.to_yaml(), family=family.name, direction=direction, base=base)
    (out / "README.md").write_text(ModelCard(text).content, encoding="utf-8")


def load_adapter(module: Any, folder: Path, *, merge: bool = False) -> None:
    """Put a trained adapter into the base that it was trained on.

    It stays beside the base's weights, for inference: added to weights in bfloat16, small changes would be rounded away
    (of an update that is 1 % of the weights, 17 % is lost; of one that is .2 %, 61 %). With `merge` it is added to them
    in float32, and all weights stay in it.

    Raises:
        ValueError: The adapter does not fit its base, or is damaged.
    """
    import peft

    if merge:
        module.float()
    try:
        with quiet_peft():
            warnings.filterwarnings("error", "Found missing adapter keys", UserWarning)
            adapted = peft.PeftModel.from_pretrained(module, folder)
    except (RuntimeError, ValueError, UserWarning, SafetensorError) as error:
        raise ValueError(f"The adapter {folder} does not fit its base: {' '.join(str(error).split())}") from error
    if merge:
        merged: Any = adapted.merge_and_unload()
        assert merged is module
    module.train(False).requires_grad_(False)


@contextmanager
def quiet_peft() -> Iterator[None]:
    """PEFT asks transformers a question by its old name, and transformers tells our users so."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        yield


_MODEL_CARD = """---
{data}
---

# {family}, {direction} direction

A LoRA adapter for `{base}`, trained by retrodict. `retrodict.json` beside this file says on what and how.

    retrodict.load("FOLDER")                                # with its base, ready to use
    peft.PeftModel.from_pretrained(base_model, "FOLDER")    # on your own copy of the base
"""

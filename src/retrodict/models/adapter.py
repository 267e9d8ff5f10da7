"""Adapters on disk, in PEFT's own format: `adapter_model.safetensors` and `adapter_config.json`, beside our card."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from retrodict.models.protocol import TokenFamily
from retrodict.prompts import Direction


def save_adapter(adapter: Any, family: TokenFamily, direction: Direction, out: Path) -> None:
    """Write what PEFT loads onto the same base, and a model card."""
    out.mkdir(parents=True, exist_ok=True)
    adapter.save_pretrained(out, save_embedding_layers=False)  # they are frozen; "auto" would ask the hub
    base = adapter.peft_config["default"].base_model_name_or_path
    data = ModelCardData(library_name="peft", base_model=base, tags=["lora", "retrodict", family.name])
    text = _CARD.format(data=data.to_yaml(), family=family.name, direction=direction, base=base)
    (out / "README.md").write_text(ModelCard(text).content, encoding="utf-8")


def load_adapter(family: TokenFamily, folder: Path) -> None:
    """Add a trained adapter to the weights of `family.module`, the base that it was trained on.

    Merged, it costs nothing when the model is used. Raises `ValueError` when the adapter does not fit.
    """
    import peft

    try:
        with quiet():
            warnings.filterwarnings("error", "Found missing adapter keys", UserWarning)
            adapted = peft.PeftModel.from_pretrained(family.module, folder)
    except (RuntimeError, ValueError, UserWarning) as error:
        raise ValueError(f"The adapter {folder} does not fit its base: {' '.join(str(error).split())}") from error
    merged: Any = adapted.merge_and_unload()
    assert merged is family.module
    merged.train(False).requires_grad_(False)


@contextmanager
def quiet() -> Iterator[None]:
    """PEFT asks transformers a question by its old name, and transformers tells our users so."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        yield


_CARD = """---
{data}
---

# {family}, {direction} direction

A LoRA adapter for `{base}`, trained by retrodict. `retrodict.json` beside this file says on what and how.

    retrodict.load("FOLDER")                                # with its base, ready to use
    peft.PeftModel.from_pretrained(base_model, "FOLDER")    # on your own copy of the base
"""

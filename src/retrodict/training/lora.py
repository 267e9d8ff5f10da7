"""LoRA (Hu et al. 2021): small trained matrices added to frozen ones.

What is adapted, the family says (`TrainSpec.lora_targets`, matched against whole module names): bare names such as
`q_proj` would hit image tokenizers and vision towers, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from retrodict.models.checkpoint import quiet_peft
from retrodict.models.token_family import Trainable
from retrodict.training.config import LoraConfig

if TYPE_CHECKING:
    from peft import PeftModel


def add_adapter(family: Trainable, config: LoraConfig, base: str) -> PeftModel:
    """Put an adapter into `family.module`, which goes on being used as it is, and freeze all else.

    `base` is the path or hub id that the module came from. The result is the `peft.PeftModel` that saves the adapter.
    Raises `ValueError` when the family has no layers for it.
    """
    import peft

    targets = family.train_spec.lora_targets
    if targets is None:
        raise ValueError(f"The family {family.name} is trained whole: leave `lora` out.")
    settings = peft.LoraConfig(
        r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout, target_modules=targets
    )
    with quiet_peft():
        adapter = peft.get_peft_model(family.module, settings)
    adapter.peft_config["default"].base_model_name_or_path = base
    return adapter


def freeze_embeddings(family: Trainable) -> None:
    """Leave token embeddings and head as they are, where the family asks for it."""
    if family.train_spec.freeze_embeddings:
        module: Any = family.module
        for table in (module.get_input_embeddings(), module.get_output_embeddings()):
            if isinstance(table, nn.Module):
                table.requires_grad_(False)

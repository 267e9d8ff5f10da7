"""What a training run writes while it goes: the weights that it trains, and no others."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import Trainer
from transformers.trainer import SCHEDULER_NAME
from transformers.utils import SAFE_WEIGHTS_NAME


def trained(module: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


def save_trained(module: nn.Module, folder: Path, *, write: bool) -> None:
    """Write the trained weights to `folder`. Each process must call it: sharded ones are put together for it."""
    weights = {name: whole(parameter.detach()) for name, parameter in trained(module).items()}
    if write:
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.contiguous() for name, tensor in weights.items()}, folder / SAFE_WEIGHTS_NAME)


@torch.no_grad()
def load_trained(module: nn.Module, folder: Path) -> None:
    """Read what `save_trained` wrote. Raises `ValueError` when that was another model, or trained in other parts."""
    weights = load_file(folder / SAFE_WEIGHTS_NAME)
    parameters = trained(module)
    if weights.keys() != parameters.keys():
        other = sorted(weights.keys() ^ parameters.keys())
        raise ValueError(f"{folder} is a checkpoint of another model: {other[0]} is not in both.")
    for name, parameter in parameters.items():
        value: Tensor = weights[name].to(parameter.device, parameter.dtype)
        if isinstance(parameter, DTensor):
            value = distribute_tensor(value, parameter.device_mesh, parameter.placements)
        parameter.copy_(value)


def gather(module: nn.Module, *, keep: bool) -> None:
    """Make the sharded weights of a module whole on the processes that `keep` them; the others drop theirs."""
    for name, parameter in list(module.named_parameters()):
        if isinstance(parameter, DTensor):
            tensor = whole(parameter.detach())
            # a copy: what is put together of uneven parts lies in a larger storage, which is not saved
            held = tensor.cpu().clone() if keep else torch.empty(0, dtype=tensor.dtype)
            owner, _, leaf = name.rpartition(".")
            module.get_submodule(owner).register_parameter(leaf, nn.Parameter(held, parameter.requires_grad))


def unflatten(module: nn.Module) -> None:
    """Give each weight a storage of its own: DeepSpeed makes them parts of one buffer, which cannot be saved."""
    for parameter in module.parameters():
        parameter.data = parameter.data.clone()


def whole(tensor: Tensor) -> Tensor:
    full: Tensor = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return full


def save_sharded_optimizer(trainer: Trainer, folder: str) -> None:
    """What `Trainer` writes under FSDP, but not the frozen weights with it."""
    from accelerate.utils import save_fsdp_optimizer

    plugin = trainer.accelerator.state.fsdp_plugin
    save_fsdp_optimizer(plugin, trainer.accelerator, trainer.optimizer, trainer.model, folder)
    if trainer.args.should_save:
        assert trainer.lr_scheduler is not None
        torch.save(trainer.lr_scheduler.state_dict(), Path(folder) / SCHEDULER_NAME)

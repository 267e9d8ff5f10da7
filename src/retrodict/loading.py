"""Models by name: the shipped ones, and folders or hub repositories, published or written by training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, overload

from retrodict.models.protocol import ForwardModel, InverseModel, TokenFamily
from retrodict.models.registry import CARD, card_of, get_family
from retrodict.prompts import Direction

SHIPPED = Path(__file__).parent / "weights"


def save_model(family: TokenFamily, direction: Direction, out: Path, *, adapter: Any = None, **facts: Any) -> None:
    """Write a model folder: the family, or the trained adapter alone (a `peft.PeftModel`; `facts` name its `base`).

    The card is written last: a folder without it is not a model.
    """
    from retrodict.files import write_json
    from retrodict.models.adapter import save_adapter
    from retrodict.versions import versions

    out.mkdir(parents=True, exist_ok=True)
    if adapter is None:
        family.save(out)
    else:
        save_adapter(adapter, family, direction, out)
    write_json(out / CARD, {"family": family.name, "direction": direction, **facts, "versions": versions()})


def is_model(folder: Path) -> bool:
    return (folder / CARD).is_file()


def load_family(folder: Path) -> TokenFamily:
    """The token family in a model folder, or in a published checkpoint's.

    A folder that holds an adapter (in PEFT's format) names its base, a folder or a hub id, in its card; the adapter is
    merged into it. Raises `ValueError` for what this version does not know.
    """
    card = card_of(folder)
    if "family" not in card:
        raise ValueError(f"{folder} holds no model: no {CARD}, and no config.json of a family that is known here.")
    if "base" not in card:
        family: TokenFamily = get_family(card["family"]).load_class().load(folder)
        return family
    beside = folder / card["base"]
    base = load_family(beside if beside.is_dir() else _folder(card["base"]))
    if base.name != card["family"]:
        raise ValueError(f"{folder} adapts a {card['family']} model, but its base {card['base']} is a {base.name} one.")
    from retrodict.models.adapter import load_adapter

    load_adapter(base, folder)
    return base


@overload
def load(name: str | Path, role: Literal["forward"]) -> ForwardModel: ...
@overload
def load(name: str | Path, role: Literal["inverse"]) -> InverseModel: ...
@overload
def load(name: str | Path, role: Direction) -> Any: ...
def load(name: str | Path, role: Direction) -> Any:
    """A model: "small" (comes with the package), "copy", a folder that training wrote, a model hub id, or an image
    editor (`diffusers:` and a folder or hub id, or a folder with a `model_index.json`), or a vision-language model
    behind a chat endpoint, which only explains (`chat:MODEL` or `chat:MODEL@BASE_URL`). A folder or hub id of a
    vision-language model that only reads pictures (Qwen-VL, SmolVLM, LLaVA) is an inverse model as it is.

    A folder is a model itself, or holds one in `inverse/` and one in `forward/` (or `idm/` and `fdm/`, as the loop
    writes them). Raises `ValueError` when there is no such model or it has the other role.
    """
    if str(name) == "copy":
        from retrodict.models.editors import CopyModel

        if role == "inverse":
            raise ValueError(
                '"copy" only predicts: it cannot say which action happened (verifiers for it: random, none).'
            )
        return CopyModel()
    if str(name).startswith("chat:"):
        from retrodict.chat.explainer import ChatExplainer

        if role == "forward":
            raise ValueError(f"{name} is a model behind a chat endpoint: it only explains.")
        return ChatExplainer(str(name))
    if editor := _editor(str(name)):
        from retrodict.models.editors import DiffusersEditor

        if role == "inverse":
            raise ValueError(f"{name} is an image editor: it only predicts (verifiers for it: random, none).")
        return DiffusersEditor(editor)
    folder = _folder(str(name))
    if _only_reads(folder):
        from retrodict.models.vlm import Captioner

        if role == "forward":
            raise ValueError(f"{name} reads pictures and writes none: it explains and verifies, but predicts nothing.")
        return Captioner.load(folder)
    from retrodict.dynamics.unified import UnifiedModel

    return UnifiedModel(load_family(_role_folder(folder, role)))


def _only_reads(folder: Path) -> bool:
    """Whether a folder holds a vision-language model of none of our families, which reads pictures but draws none."""
    if "family" in card_of(folder) or not (folder / "config.json").is_file():
        return False
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as NAMES

    return json.loads((folder / "config.json").read_text()).get("model_type") in NAMES


def _editor(name: str) -> str:
    """The folder or hub id of a diffusers pipeline, or nothing. `diffusers:` says so, and so do a folder's files."""
    from retrodict.models.editors import PIPELINE

    prefix, colon, rest = name.partition(":")
    if colon and prefix == "diffusers":
        return rest
    return name if (Path(name) / PIPELINE).is_file() else ""


def _folder(name: str) -> Path:
    for candidate in (Path(name), SHIPPED / name):
        if candidate.is_dir():
            return candidate
    if name.count("/") == 1 and not name.startswith((".", "/")):
        return _download(name)
    shipped = ", ".join(sorted(f.name for f in SHIPPED.glob("*") if f.is_dir()))
    raise ValueError(f"There is no model '{name}': give a folder, a hub id (owner/name), copy, or one of: {shipped}.")


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(
                name, allow_patterns=["*.json", "*.safetensors", "*.md", "*.yaml", "*.jinja", "*vqgan.ckpt"]
            )
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"The model '{name}' is no folder here and could not be downloaded: {reason}") from error


def _role_folder(folder: Path, role: Direction) -> Path:
    card = card_of(folder)
    if "family" in card:
        found = card.get("direction", role)  # a base that nobody has trained yet can be asked either way
        if found != role:
            raise ValueError(f"{folder} is trained in the {found} direction, but here the {role} one is needed.")
        return folder
    names = {"inverse": ("inverse", "idm"), "forward": ("forward", "fdm")}[role]
    for inner in names:
        if is_model(folder / inner):
            return folder / inner
    raise ValueError(f"{folder} holds no {role} model: no {CARD} in it, nor in {' or '.join(names)} inside it.")

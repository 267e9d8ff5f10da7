"""Models by name: the shipped ones, and folders or hub repositories that training wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, overload

from retrodict.models.protocol import Direction, ForwardModel, InverseModel, TokenFamily

CARD = "retrodict.json"  # what makes a folder a model: {"family", "direction", ...}
SHIPPED = Path(__file__).parent.parent / "weights"


def save_model(family: TokenFamily, direction: Direction, out: Path, **facts: Any) -> None:
    """Write a model folder. The card is written last: a folder without it is not a model."""
    from retrodict.transitions import write_json
    from retrodict.versions import versions

    out.mkdir(parents=True, exist_ok=True)
    family.save(out)
    write_json(out / CARD, {"family": family.name, "direction": direction, **facts, "versions": versions()})


def is_model(folder: Path) -> bool:
    return (folder / CARD).is_file()


def load_family(folder: Path) -> TokenFamily:
    """The token family in a model folder. Raises `ValueError` for a family that this version does not know."""
    card = json.loads((folder / CARD).read_text())
    if card["family"] == "small":
        from retrodict.models.small.family import SmallFamily

        return SmallFamily.load(folder)
    raise ValueError(f"{folder} holds a model of the family '{card['family']}', which this version does not know.")


@overload
def load(name: str | Path, role: Literal["forward"]) -> ForwardModel: ...
@overload
def load(name: str | Path, role: Literal["inverse"]) -> InverseModel: ...
@overload
def load(name: str | Path, role: Direction) -> Any: ...
def load(name: str | Path, role: Direction) -> Any:
    """A model: "small" (comes with the package), "copy", a folder that training wrote, or a model hub id.

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
    folder = _role_folder(_folder(str(name)), role)
    from retrodict.dynamics.unified import UnifiedModel

    return UnifiedModel(load_family(folder))


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
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.md"]))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"The model '{name}' is no folder here and could not be downloaded: {reason}") from error


def _role_folder(folder: Path, role: Direction) -> Path:
    if is_model(folder):
        found = json.loads((folder / CARD).read_text())["direction"]
        if found != role:
            raise ValueError(f"{folder} is trained in the {found} direction, but here the {role} one is needed.")
        return folder
    names = {"inverse": ("inverse", "idm"), "forward": ("forward", "fdm")}[role]
    for inner in names:
        if is_model(folder / inner):
            return folder / inner
    raise ValueError(f"{folder} holds no {role} model: no {CARD} in it, nor in {' or '.join(names)} inside it.")

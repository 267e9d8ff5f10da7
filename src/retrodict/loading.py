"""Models by name: the shipped ones, and folders or hub repositories, published or written by training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, overload
from weakref import WeakValueDictionary

from retrodict.files import JsonObject
from retrodict.models.protocol import ForwardModel, InverseModel
from retrodict.models.registry import CARD, card_of, get_family, read_json
from retrodict.models.token_family import TokenFamily, Trainable
from retrodict.placement import AUTO, FOUR_BIT, asked_for, chosen_device, chosen_dtype, in_four_bits
from retrodict.prompts import Direction

if TYPE_CHECKING:
    from peft import PeftModel

    from retrodict.dynamics.unified import UnifiedModel

INSIDE: dict[Direction, tuple[str, str]] = {"inverse": ("inverse", "idm"), "forward": ("forward", "fdm")}
SHIPPED = Path(__file__).parent / "weights"


def save_model(
    family: Trainable, direction: Direction, out: Path, *, adapter: PeftModel | None = None, **metadata: object
) -> None:
    """Write a model folder. The card is written last: a folder without it is not a model.

    Args:
        family: The model; with `adapter`, the one that it adapts.
        direction: What it was trained for.
        out: The folder.
        adapter: A `peft.PeftModel`, which is saved instead of the whole model.
        **metadata: More entries of the card; with an adapter, its `base`, a folder or a hub id.
    """
    from retrodict.files import write_json
    from retrodict.models.checkpoint import save_adapter
    from retrodict.versions import versions

    out.mkdir(parents=True, exist_ok=True)
    if adapter is None:
        family.save(out)
    else:
        save_adapter(adapter, family, direction, out)
    write_json(out / CARD, {"family": family.name, "direction": direction, **metadata, "versions": versions()})


def is_model(folder: Path) -> bool:
    """Whether a folder is a model that this package has written."""
    return (folder / CARD).is_file()


def family_of(name: str | Path, role: Direction | None = None) -> str:
    """The name of the family of `load_family(name, role)`, without its weights; errors are the same."""
    return str(_family_card(name, role)[1]["family"])


def load_family(name: str | Path, role: Direction | None = None, *, merge: bool = False) -> TokenFamily:
    """A token family of one's own, to train or to change: `load` shares those that it gives out.

    Args:
        name: A model folder, or a published checkpoint's, or a hub id. A folder that holds an adapter (in PEFT's
            format) names its base, a folder or a hub id, in its card; the adapter stays beside the base's weights, as
            it was trained.
        role: Takes the model inside the folder that has this role.
        merge: Adds an adapter to its base's weights, all in float32, so that the whole can be trained or saved.

    Raises:
        ValueError: It holds no model that this version knows, or one that is damaged; the file is named.
    """
    folder, card = _family_card(name, role)
    if "base" not in card:
        family: TokenFamily = get_family(card["family"]).load_class().load(folder)
        return family
    quantised = (card.get("lora") or {}).get("four_bit", False)
    with asked_for(AUTO, FOUR_BIT if quantised else AUTO):  # as it was trained
        base = load_family(_base_folder(folder, card))
    if base.name != card["family"]:
        raise ValueError(f"{folder} adapts a {card['family']} model, but its base {card['base']} is a {base.name} one.")
    from retrodict.models.checkpoint import load_adapter

    load_adapter(base.module, folder, merge=merge)
    return base


def _family_card(name: str | Path, role: Direction | None) -> tuple[Path, JsonObject]:
    if any(kind.owns(str(name)) for kind in _BY_NAME):
        raise ValueError(f'"{name}" has no weights to start from.')
    folder = resolve(name) if role is None else _role_folder(resolve(name), role)
    card = card_of(folder)
    if "family" not in card:
        raise ValueError(f"{folder} holds no model: no {CARD}, and no config.json of a family that is known here.")
    return folder, card


@overload
def load(name: str | Path, role: Literal["forward"], *, device: str = AUTO, dtype: str = AUTO) -> ForwardModel: ...
@overload
def load(name: str | Path, role: Literal["inverse"], *, device: str = AUTO, dtype: str = AUTO) -> InverseModel: ...
@overload
def load(
    name: str | Path, role: Direction, *, device: str = AUTO, dtype: str = AUTO
) -> InverseModel | ForwardModel: ...
def load(name: str | Path, role: Direction, *, device: str = AUTO, dtype: str = AUTO) -> InverseModel | ForwardModel:
    """A model by its name, ready for use. One checkpoint that is asked for in both roles is loaded once.

    Args:
        name: a shipped model (`shipped_models`); "copy"; a folder that training wrote, which is a model itself or holds
            one in `inverse/` and one in `forward/` (or `idm/` and `fdm/`, as the loop writes them); a published
            checkpoint's folder or hub id; a folder or hub id of a vision-language model that only reads images
            (Qwen-VL, SmolVLM, LLaVA); `diffusers:` and a folder or hub id of an image editor, or a folder with a
            `model_index.json`; `chat:MODEL` or `chat:MODEL@URL[,URL...]`, a model behind chat endpoints;
            `edits:MODEL@BASE_URL`, an image editor behind one.
        role: "forward" to predict, "inverse" to explain and verify.
        device: Where it runs, such as "cuda:1"; by default on a GPU where there is one (`placement`).
        dtype: The type of its weights, such as "bfloat16"; by default the one that they are stored in.

    Raises:
        ValueError: There is no such model or device, it is damaged, or it has the other role.
    """
    if role not in INSIDE:
        raise ValueError(f'There is no role "{role}": use forward or inverse.')
    name = location = str(name)
    kind = next((kind for kind in _BY_NAME if kind.owns(name)), None)
    if kind is None:
        folder = resolve(name)
        inside = next((folder / inner for inner in INSIDE[role] if is_model(folder / inner)), folder)
        kind = _VLM if _is_vlm(inside) else _UNIFIED
        location = str(inside if kind is _VLM else folder)
    if role not in kind.roles:
        other = {"forward": "explains and verifies", "inverse": "predicts (verifiers for it: random, none)"}[role]
        raise ValueError(f"{name} is {kind.title}: it only {other}.")
    with asked_for(device, dtype):
        return kind.load(location, role)


class _Kind(NamedTuple):
    """One kind of model: what it can be asked for, how it is loaded, and which names are its own."""

    title: str
    roles: tuple[Direction, ...]
    load: Callable[[str, Direction], InverseModel | ForwardModel]
    owns: Callable[[str], bool] = lambda name: False


def _copy(name: str, role: Direction) -> ForwardModel:
    from retrodict.models.editors import CopyModel

    return CopyModel()


def _endpoint(name: str, role: Direction) -> InverseModel:
    from retrodict.chat.inverse import ChatInverse

    return ChatInverse(name)


def _edits(name: str, role: Direction) -> ForwardModel:
    from retrodict.chat.edits import EditEndpoint

    return EditEndpoint(name)


def _is_editor(name: str) -> bool:
    from retrodict.models.editors import PIPELINE

    return name.startswith("diffusers:") or (Path(name) / PIPELINE).is_file()


def _editor(name: str, role: Direction) -> ForwardModel:
    from retrodict.models.editors import DiffusersEditor

    return DiffusersEditor(name.removeprefix("diffusers:"))


def _is_vlm(folder: Path) -> bool:
    card = card_of(folder)
    if "family" in card or not (folder / "config.json").is_file():
        return "family" in card and get_family(card["family"]).reads_only
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as NAMES

    return str(read_json(folder / "config.json").get("model_type")) in NAMES


def _vlm(name: str, role: Direction) -> InverseModel:
    from retrodict.models.checkpoint import load_adapter
    from retrodict.models.vlm import Captioner

    folder, card = Path(name), card_of(Path(name))
    if "base" not in card:
        return Captioner.load(folder)
    captioner = Captioner.load(_base_folder(folder, card))
    load_adapter(captioner.vlm.model, folder)
    return captioner


def _unified(name: str, role: Direction) -> UnifiedModel:
    from retrodict.dynamics import confidence
    from retrodict.dynamics.unified import UnifiedModel

    folder = _role_folder(Path(name), role)
    return UnifiedModel(_shared_family(folder), confidence.read(folder) if role == "forward" else None)


_BY_NAME = (
    _Kind("a copy of the source", ("forward",), _copy, lambda name: name == "copy"),
    _Kind("a model behind a chat endpoint", ("inverse",), _endpoint, lambda name: name.startswith("chat:")),
    _Kind("an editor behind an endpoint", ("forward",), _edits, lambda name: name.startswith("edits:")),
    _Kind("an image editor", ("forward",), _editor, _is_editor),
)
_VLM = _Kind("a vision-language model that writes no images", ("inverse",), _vlm)
_UNIFIED = _Kind("a unified model", ("forward", "inverse"), _unified)

# Families in use, by the files that they were read from: gone when nobody holds them any more.
_shared: WeakValueDictionary[tuple[object, ...], TokenFamily] = WeakValueDictionary()


def _shared_family(folder: Path) -> TokenFamily:
    device, dtype = chosen_device(), chosen_dtype()
    key = (device, dtype, in_four_bits(), *_file_state(folder))
    family = _shared.get(key)
    if family is None:
        family = load_family(folder)
        if in_four_bits() and not getattr(family.module, "is_quantized", False):
            raise ValueError(f"{folder} is a {family.name} model, which is not kept in 4 bits: leave --dtype 4bit out.")
        if not getattr(family.module, "is_quantized", False):
            family.module.to(device=device, dtype=dtype)
        _shared[key] = family
    return family


def _file_state(folder: Path) -> tuple[object, ...]:
    """A model folder's path and the sizes and times of its files, and of its base's."""
    stats = [(str(path), path.stat()) for path in sorted(folder.resolve().rglob("*")) if path.is_file()]
    card = card_of(folder)
    base = _file_state(_base_folder(folder, card)) if "base" in card else ()
    return (*((path, stat.st_size, stat.st_mtime_ns) for path, stat in stats), *base)


def resolve(name: str | Path) -> Path:
    """The folder of a model: a shipped one, the one that is named (`./small` where a shipped one has the same name),
    or the hub's cache.

    Raises:
        ValueError: There is none of that name.
    """
    from retrodict.models.hub import is_hub_id, model_folder

    if str(name) in shipped_models():
        return SHIPPED / name
    if Path(name).is_dir() or is_hub_id(name):
        return model_folder(name)
    shipped = ", ".join(shipped_models())
    raise ValueError(f"There is no model '{name}': give a folder, a hub id (owner/name), copy, or one of: {shipped}.")


def shipped_models() -> list[str]:
    """Names of the models that come with the package."""
    return sorted(folder.name for folder in SHIPPED.glob("*") if folder.is_dir())


def shipped_for(world: str) -> str | None:
    """The shipped model that was trained on a world; None where none was."""
    return next((name for name in shipped_models() if world_of_model(name) == world), None)


def world_of_model(name: str) -> str | None:
    """The world that a shipped model was trained on; None for any other model."""
    return card_of(SHIPPED / name / "forward").get("world") if name in shipped_models() else None


def _base_folder(folder: Path, card: JsonObject) -> Path:
    """Of an adapter: a path from its own folder, or any other name."""
    inside = folder / card["base"]
    base = inside if inside.is_dir() else resolve(card["base"])
    if base.resolve() == folder.resolve():
        raise ValueError(f"{folder / CARD} is damaged, get it again: it names {folder} as its own base.")
    return base


def folder_of(name: str | Path, role: Direction) -> Path:
    """The folder of a unified model that `load` takes by this name. Raises `ValueError` for any other."""
    return _role_folder(resolve(name), role)


def _role_folder(folder: Path, role: Direction) -> Path:
    card = card_of(folder)
    if "family" in card:
        trained = card.get("direction", role)  # a base that nobody has trained yet can be asked either way
        if trained != role:
            raise ValueError(f"{folder} is trained in the {trained} direction, but here the {role} one is needed.")
        return folder
    names = INSIDE[role]
    if (folder / "results.json").is_file():  # of a loop of several rounds, the best
        kept = read_json(folder / "results.json").get("kept")
        names = (names[0], str(kept.get(names[1], names[1])) if isinstance(kept, dict) else names[1])
    for inner in names:
        if is_model(folder / inner):
            return _role_folder(folder / inner, role)
    raise ValueError(f"{folder} holds no {role} model: no {CARD} in it, nor in {' or '.join(names)} inside it.")

"""Published weights: from the hub to a folder, and from the authors' format to a model folder that `load` takes."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path

from retrodict.files import write_json
from retrodict.models.registry import CARD, ORIGINAL, Part, get_family, load_named, read_json
from retrodict.run_folder import RECORD, Input, check, claim
from retrodict.versions import versions

_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
TIMEOUT = 10  # seconds until a hub that does not answer is given up


def is_hub_id(name: str | Path) -> bool:
    """Whether a name is `owner/name`, and no path: those begin with a dot or a slash, or are there."""
    name = str(name)
    return name.count("/") == 1 and not name.startswith((".", "/")) and not Path(name).is_dir()


def model_folder(name: str | Path) -> Path:
    """The folder of a model: the one that is named, or the hub's cache of the repository that is.

    Raises:
        ValueError: There is no such folder, and the repository could not be fetched.
    """
    if Path(name).is_dir():
        return Path(name)
    if not is_hub_id(name):
        raise ValueError(f"There is no folder {name}, and a hub id has the form owner/name.")
    try:
        return fetch(Part(str(name)))
    except ValueError as error:
        raise ValueError(f"The model '{name}' is no folder here and could not be downloaded: {error}") from None


def download(parts: tuple[Part, ...], out: Path | None) -> list[str]:
    """Fetch parts into a folder, or into the hub's cache; what is there already is not fetched again.

    Raises `ValueError` for a folder that something else wrote; one that was filled by hand and lacks nothing is fine.

    Returns what could not be fetched, a line each that says why and where it is.
    """
    if out is not None and ((out / RECORD).is_file() or not all(_is_complete(part, out) for part in parts)):
        claim(out, "download", {"repositories": [part.repository for part in parts]})
    missing = []
    for part in parts:
        try:
            fetch(part, out)
        except ValueError as error:
            files = ", ".join(part.required) or "its files"
            where = f" and put {files} into {out}" if out is not None else ""
            missing.append(f"{part.repository}: could not be fetched ({error}); get it from {part.page}{where}")
    return missing


def fetch(part: Part, out: Path | None = None) -> Path:
    """Files of a repository: in `out`, or in the hub's cache, which also serves where the hub cannot be reached.

    Raises:
        ValueError: They cannot be had, or not all that loading needs; it says why.
    """
    from huggingface_hub import HfApi, constants, snapshot_download

    if out is not None and _is_complete(part, out):
        return out
    expected = network_errors()
    problem = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else ""
    published: list[str] = []
    try:  # the client would ask a hub that does not answer for many minutes, and take any folder for the answer
        if not problem:
            info = HfApi().repo_info(part.repository, repo_type=part.kind, revision="main", timeout=TIMEOUT)
            published = [file.rfilename for file in getattr(info, "siblings", None) or ()]
    except expected as error:
        problem = first_words(error)
    if problem and out is not None:
        raise ValueError(problem)
    ignored = [ORIGINAL] if any(name.endswith(".safetensors") for name in published) else []
    try:
        folder = Path(
            snapshot_download(
                part.repository,
                repo_type=part.kind,
                allow_patterns=list(part.patterns),
                ignore_patterns=ignored,
                local_dir=out,
                etag_timeout=TIMEOUT,
                local_files_only=bool(problem),
            )
        )
    except expected as error:
        raise ValueError(problem or first_words(error)) from None
    wanted = [name for name in published if _matches(name, part.patterns) and not _matches(name, ignored)]
    for name in wanted:
        if not (folder / name).is_file():
            raise ValueError(f"{name} did not arrive: the same command gets it")
    if lacks := _lacks(part, folder):
        raise ValueError(lacks)
    return folder


def network_errors() -> tuple[type[Exception], ...]:
    """What the hub's client raises where a repository cannot be had or written."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    # Also the errors of the HTTP library that the client uses, whichever that is.
    network = (t for t in HfHubHTTPError.__mro__ if "HTTPError" in t.__name__ and issubclass(t, Exception))
    return OSError, OfflineModeIsEnabled, HFValidationError, *network


def rows_folder(name: str | Path) -> Path:
    """The folder of rows: the one that is named, or the hub's cache of the data set `hf://datasets/OWNER/NAME`.

    `OWNER/NAME` is enough where there is no such folder.

    Raises:
        ValueError: The data set could not be fetched.
    """
    text = str(name)
    dataset = "/".join(Path(text).parts[2:]) if text.startswith("hf:/") else text
    if dataset == text and (not is_hub_id(text) or Path(text).exists()):
        return Path(name)
    try:
        return fetch(Part(dataset, ("*.parquet",), "dataset"))
    except ValueError as error:
        raise ValueError(f"The data set '{dataset}' is no folder here and could not be had: {error}") from None


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def first_words(error: Exception) -> str:
    """An error of the hub's client in one short line."""
    return " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__


def _is_complete(part: Part, out: Path) -> bool:
    """Whether a folder holds all that is needed and nothing that was not finished."""
    unfinished = any((out / ".cache" / "huggingface").rglob("*.incomplete"))
    return not unfinished and not _lacks(part, out)


def _lacks(part: Part, folder: Path) -> str:
    """What a folder lacks that loading needs, in words; empty where it lacks nothing."""
    for pattern in part.required:
        if not any(folder.glob(pattern)):
            return f"it holds no {pattern}"
    if part.required:
        return ""
    if not any(any(folder.rglob(pattern)) for pattern in ("*.safetensors", ORIGINAL, "*vqgan.ckpt")):
        return "it holds no weights in safetensors, which alone are read"
    if not any(any(folder.rglob(name)) for name in ("config.json", "model_index.json", "params.json", "vqgan.yaml")):
        return "it holds no config.json"
    for index in folder.rglob("*.safetensors.index.json"):
        for name in sorted(set((read_json(index).get("weight_map") or {}).values())):
            if not (index.parent / name).is_file():
                return f"{index.relative_to(folder)} names {name}, which is not there"
    for config in folder.rglob("tokenizer_config.json"):
        if not any((config.parent / name).is_file() for name in _TOKENIZERS):
            return f"{config.relative_to(folder)} stands without a tokenizer: none of {', '.join(_TOKENIZERS)} is there"
    return ""


def convert(family: str, source: Path, out: Path, image_tokenizer: Path | None = None, *, pad: bool = False) -> None:
    """Write `out`, all or nothing; a folder that holds this model already is left alone.

    `image_tokenizer` names the folder of the authors' `vqgan.ckpt`, for checkpoints that come without one. With `pad`
    images get bars to become square, and are not cropped, as some models were trained. Raises `ValueError` for what is
    missing, damaged, of another family, or in a layout that cannot be read, and for an `out` that holds anything else.
    """
    record = get_family(family)
    if image_tokenizer is not None and not record.foreign_tokenizer:
        raise ValueError(f"{record.title} comes with its image tokenizer: leave --image-tokenizer out.")
    inputs: dict[str, Input] = {"source": source, "image_tokenizer": image_tokenizer}
    if pad and not record.pads:
        raise ValueError(f"{record.title} prepares images in one way only: leave --pad out.")
    run = check(out, "convert", {"family": family, **({"pad": True} if pad else {})}, inputs=inputs)
    if (out / CARD).is_file():
        return
    for folder in (source, image_tokenizer):
        if folder is not None and not folder.is_dir():
            raise ValueError(f"There is no folder {folder}.")
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        if record.converter:
            load_named(record.converter)(source, partial, image_tokenizer)
        else:
            given = () if image_tokenizer is None else (image_tokenizer,)
            model = record.load_class().load(source, *given)
            if pad:
                model.images.padding()
            model.save(partial)
        write_json(partial / CARD, {"family": family, "source": source.name, "versions": versions()})
        write_json(partial / RECORD, run)
        out.mkdir(parents=True, exist_ok=True)
        for path in sorted(partial.iterdir(), key=lambda path: (path.name == CARD, path.name != RECORD)):
            shutil.rmtree(out / path.name, ignore_errors=True)  # a folder, of an earlier try
            path.replace(out / path.name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)

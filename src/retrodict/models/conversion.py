"""From a published checkpoint to a folder that `load` takes: weights, both tokenizers and a card in one place."""

from __future__ import annotations

import shutil
from pathlib import Path

from retrodict.files import write_json
from retrodict.models.registry import CARD, family_class
from retrodict.versions import versions


def convert(family: str, source: Path, out: Path, image_tokenizer: Path | None = None) -> None:
    """Write `out`, all or nothing; a folder that holds a converted model already is left alone.

    `image_tokenizer` names the folder of the authors' `vqgan.ckpt`, for checkpoints that come without one. Raises
    `ValueError` for what is missing, damaged, of another family, or in a layout that cannot be read.
    """
    found = family_class(family)
    if (out / CARD).is_file():
        return
    for folder in (source, image_tokenizer):
        if folder is not None and not folder.is_dir():
            raise ValueError(f"There is no folder {folder}.")
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out} is not empty: choose another --out.")
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        if family == "chameleon":
            from retrodict.models.chameleon.convert import convert as convert_chameleon

            convert_chameleon(source, partial, image_tokenizer)
        else:
            given = () if image_tokenizer is None else (image_tokenizer,)
            try:
                read = found.load(source, *given)
            except OSError as error:  # transformers says so of folders that lack a file
                raise ValueError(f"{source} cannot be read as {family}: {str(error).splitlines()[0]}") from error
            read.save(partial)
        write_json(partial / CARD, {"family": family, "source": source.name, "versions": versions()})
        if out.exists():
            out.rmdir()
        partial.replace(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)

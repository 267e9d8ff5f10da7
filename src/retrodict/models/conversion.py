"""From a published checkpoint to a folder that `load` takes: weights, both tokenizers and a card in one place."""

from __future__ import annotations

import shutil
from pathlib import Path

from retrodict.files import write_json
from retrodict.models.registry import CARD, get_family, load_named
from retrodict.run_folder import RECORD, Input, check
from retrodict.versions import versions


def convert(family: str, source: Path, out: Path, image_tokenizer: Path | None = None) -> None:
    """Write `out`, all or nothing; a folder that holds this model already is left alone.

    `image_tokenizer` names the folder of the authors' `vqgan.ckpt`, for checkpoints that come without one. Raises
    `ValueError` for what is missing, damaged, of another family, or in a layout that cannot be read, and for an `out`
    that holds anything else.
    """
    record = get_family(family)
    if image_tokenizer is not None and not record.foreign_tokenizer:
        raise ValueError(f"{record.title} comes with its image tokenizer: leave --image-tokenizer out.")
    inputs: dict[str, Input] = {"source": source, "image_tokenizer": image_tokenizer}
    run = check(out, "convert", {"family": family}, inputs=inputs)
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
            try:
                read = record.load_class().load(source, *given)
            except OSError as error:  # transformers says so of folders that lack a file
                raise ValueError(f"{source} cannot be read as {family}: {str(error).splitlines()[0]}") from error
            read.save(partial)
        write_json(partial / CARD, {"family": family, "source": source.name, "versions": versions()})
        write_json(partial / RECORD, run)
        out.mkdir(parents=True, exist_ok=True)
        for path in sorted(partial.iterdir(), key=lambda path: (path.name == CARD, path.name != RECORD)):
            shutil.rmtree(out / path.name, ignore_errors=True)  # a folder, of an earlier try
            path.replace(out / path.name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)

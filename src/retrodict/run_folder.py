"""Whose folder it is: the one rule of every command that writes a folder.

A folder given for output is one of four things:

- *ours*: empty or missing, or of the same command with the same settings on the same inputs. The run begins or resumes.
- *another run's*: settings or inputs differ. Refused with the first difference, both values and the remedy.
- *not ours*: it holds files and no record of a run. Refused.
- *an input*: it is or contains what the run reads, or lies in a folder of rows or of another run. Refused.

A refusal changes nothing in the folder. The record is `run.json`: the command, its settings, and a fingerprint of each
input, so that an input that changed under its name is refused as well. A command that looks at its inputs anew each
time (`mine` at its clips, `annotate` at its files of pairs) keys its work by content itself and names them `apart`:
then they must only lie elsewhere.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from retrodict import placement
from retrodict.files import JsonMapping, JsonObject, write_json

RECORD = "run.json"
_NOTES = frozenset({RECORD, "recipe.yaml"})  # beside a record, these two alone are a run that has not begun
_READ = 64 << 20  # bytes up to which an input is known by its content

_WEIGHTS, _ROWS, _ALL = "**/*.safetensors", "*.parquet", "**/*"

Input = str | Path | Sequence[Path] | None  # a model's name, whose weights count where it is a folder; or data


def claim(
    out: Path,
    command: str,
    settings: JsonMapping,
    *,
    inputs: Mapping[str, Input] | None = None,
    apart: Iterable[Path] = (),
) -> bool:
    """Make `out` the folder of this run, or go on with it.

    Args:
        out: the folder to write to; made when it is missing.
        command: what writes it, as the user calls it.
        settings: all that decides what is made. Nested mappings are compared by their dotted keys.
        inputs: data (a `Path`) and models (a `str`: any name that `load` takes) that must be as they were when the run
            began. What is gone by now is not missed.
        apart: inputs that the run looks at anew itself.

    Returns:
        Whether the run begins; else it resumes.

    Raises:
        ValueError: the folder is another run's, not ours, or an input.
    """
    record = check(out, command, settings, inputs=inputs, apart=apart)
    begins = _begun(out) is None
    if begins:
        write_json(out / RECORD, record)
    return begins


def check(
    out: Path,
    command: str,
    settings: JsonMapping,
    *,
    inputs: Mapping[str, Input] | None = None,
    apart: Iterable[Path] = (),
) -> JsonObject:
    """The record that `claim` would write, with its refusals; nothing is written."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file: give a folder for the output.")
    given = {name: paths for name, value in (inputs or {}).items() if (paths := _paths(value))}
    weights = {name for name, value in (inputs or {}).items() if isinstance(value, str)}
    for path in (*apart, *(path for paths in given.values() for path in paths)):
        if path.exists():
            _refuse_overlap(out, path)
    record = {
        "command": command,
        "settings": json.loads(json.dumps(_flat(settings) | placement.settings(), default=str)),
        "inputs": {
            name: {
                "at": [str(path if name in weights else path.absolute()) for path in paths],
                "key": _key(paths, _WEIGHTS if name in weights else "", out),
            }
            for name, paths in given.items()
        },
    }
    stranger = _begun(out)
    if stranger is None:
        return record
    if not (out / RECORD).is_file():
        raise ValueError(
            f"{out} is not empty: it holds {stranger} and no {RECORD}, so it is of no run that could go on here; "
            "choose another --out."
        )
    if difference := _difference(_read(out / RECORD), record):
        raise ValueError(f"{out} holds a run with {difference}: choose another --out, or delete that folder.")
    return record


def fingerprint(path: Path, *, pattern: str = "", but: Path | None = None) -> str:
    """What changes when a file or folder does: 16 hex digits.

    Of a folder the files of the `pattern` count, by default its rows, or where it has none all files; hidden ones and
    those in the folder `but` never do. Up to 64 MB are read; what is larger is known by names, sizes and times of
    change, as reading it could cost more than the work that is saved.
    """
    files = _files(path, pattern or _data(path), but)
    stats = [file.stat() for file in files]
    small = sum(stat.st_size for stat in stats) <= _READ
    digest = hashlib.sha256()
    for file, stat in zip(files, stats, strict=True):
        name = file.relative_to(path).as_posix() if file != path else ""
        content = hashlib.sha256(file.read_bytes()).hexdigest() if small else f"{stat.st_size} {stat.st_mtime_ns}"
        digest.update(f"{name}\0{content}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]


def relative_path(path: Path, out: Path) -> str:
    """`path` as seen from `out`, so that a run that was moved with its inputs still resumes."""
    try:
        return Path(os.path.relpath(path, out)).as_posix()
    except ValueError:  # on another drive
        return str(path.absolute())


def _data(folder: Path) -> str:
    return _ROWS if any(folder.glob(_ROWS)) else _ALL


def _files(path: Path, pattern: str, but: Path | None) -> list[Path]:
    if path.is_file():
        return [path]
    left_out = but and but.resolve()
    files = (file for file in path.glob(pattern) if file.is_file() and not file.name.startswith("."))
    return sorted(file for file in files if left_out not in file.resolve().parents)


def _paths(value: Input) -> list[Path]:
    if value is None or value == "":
        return []
    return [Path(value)] if isinstance(value, (str, Path)) else list(value)


def _key(paths: Sequence[Path], pattern: str, out: Path) -> str:
    """Of several inputs together; empty where one is not there."""
    if not all(path.exists() for path in paths):
        return ""
    keys = [fingerprint(path, pattern=pattern, but=out) for path in paths]
    return keys[0] if len(keys) == 1 else hashlib.sha256("".join(keys).encode()).hexdigest()[:16]


def _refuse_overlap(out: Path, path: Path) -> None:
    ours, read = out.resolve(), path.resolve()
    if ours == read or read in ours.parents or ours in read.parents:
        how = "is" if ours == read else "lies in" if read in ours.parents else "contains"
        if how != "lies in" or (path / RECORD).is_file() or _data(path) == _ROWS:  # else a desk, with a drawer for it
            raise ValueError(f"{out} {how} the input {path}: inputs are never written to, so choose another --out.")


def _begun(out: Path) -> str | None:
    """The name of one thing that the folder holds beside notes on its run; None when there is nothing."""
    names = sorted(entry.name for entry in out.iterdir() if not entry.name.startswith(".")) if out.is_dir() else []
    notes = _NOTES if RECORD in names else ()
    return next((name for name in names if name not in notes), None)


def _read(file: Path) -> JsonObject:
    try:
        record: JsonObject = json.loads(file.read_text(encoding="utf-8"))
        _ = str(record["command"]), {**record["settings"]}, [{**given} for given in record["inputs"].values()]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{file} cannot be read ({error!r}): choose another --out, or delete that folder.") from None
    return record


def _difference(recorded: JsonMapping, wanted: JsonMapping) -> str:
    """The first thing in which two records differ, in words; empty where they agree."""
    if recorded["command"] != wanted["command"]:
        return f"command {recorded['command']} and not {wanted['command']}"
    for name in sorted({**recorded["settings"], **wanted["settings"]}):
        was, now = recorded["settings"].get(name), wanted["settings"].get(name)
        if was != now:
            if section := _section_of(name, recorded, wanted):
                whole = ("None", "a section") if section in recorded["settings"] else ("a section", "None")
                return f"{section} {whole[0]} and not {whole[1]}"
            return f"{name} {was} and not {now}"
    for name in sorted({**recorded["inputs"], **wanted["inputs"]}):
        was, now = ({"at": [], "key": "", **records["inputs"].get(name, {})} for records in (recorded, wanted))
        if was["key"] and was["key"] == now["key"]:
            continue
        if was["at"] != now["at"]:
            return f"{name} {', '.join(was['at']) or None} and not {', '.join(now['at']) or None}"
        if was["key"] and now["key"]:  # else a name, or gone: what was made of it stays good
            return f"{name} as it was before {', '.join(now['at'])} changed"
    return ""


def _section_of(name: str, *records: JsonMapping) -> str:
    """The section around a setting that one of the records leaves out as a whole; empty where there is none."""
    parts = name.split(".")
    above = [".".join(parts[:end]) for end in range(1, len(parts))]
    return next((section for section in above for record in records if section in record["settings"]), "")


def _flat(values: JsonMapping, prefix: str = "") -> JsonObject:
    flat: JsonObject = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat

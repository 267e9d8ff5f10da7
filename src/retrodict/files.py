"""Files that appear whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

JsonObject = dict[str, Any]  # what JSON files hold
JsonMapping = Mapping[str, Any]  # the same, to be read only


def write_atomic(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write(temporary)` and rename the result to `path`, so that no reader and no crash sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        temporary.chmod(0o644)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: object) -> None:
    text = json.dumps(value, indent=1, sort_keys=False, allow_nan=True) + "\n"
    write_text(path, text)


def write_lines(path: Path, records: Iterable[JsonMapping]) -> None:
    """Write JSON lines, whole or not at all."""
    write_text(path, "".join(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n" for record in records))


def read_lines(path: Path) -> list[JsonObject]:
    """JSON lines up to one that a kill cut off; none where there is no file."""
    records: list[JsonObject] = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records


def write_text(path: Path, text: str) -> None:
    write_atomic(Path(path), lambda temporary: temporary.write_text(text, encoding="utf-8"))


def made_once(file: Path, make: Callable[[], T], whole: Callable[[T], bool] = lambda value: True) -> Any:
    """The JSON value in `file`, else made, and written where it is `whole`. Floats come back bit by bit, NaN too."""
    if file.is_file():
        return json.loads(file.read_text(encoding="utf-8"))
    made = make()
    if whole(made):
        write_json(file, made)
    return json.loads(json.dumps(made))

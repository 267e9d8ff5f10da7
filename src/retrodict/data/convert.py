"""Labelled data of any layout, or out of memory, written as a directory that every later stage reads."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain, count
from pathlib import Path
from typing import Any

from retrodict.data.items import Item, UnusableError, as_text
from retrodict.files import LONGEST_ACTION, JsonMapping, is_text, visible, write_json, write_lines
from retrodict.images import image_bytes
from retrodict.progress import Progress, QuietProgress
from retrodict.run_folder import RECORD, check
from retrodict.shards import ALL, Share
from retrodict.transitions import MANIFEST, FramePair, Transition, file_rows, read_notes, write_manifest, write_rows

IMAGES = (
    "Paths of images start from the file's folder, unless --images names another that holds them all; with --images / "
    "whole paths may lead anywhere."
)
LEFT_OUT = "left_out.jsonl"  # id and reason of every item that gave no row

_ITEMS = 500  # per file: what a killed run repeats
_LEDGER = b"retrodict.items"  # key and reason of every item of the file; no reason: it gave a row


def write_transitions(
    items: Iterable[Item],
    out: Path,
    *,
    source: JsonMapping,
    inputs: Iterable[Path] = (),
    total: int = 0,
    share: Share = ALL,
    progress: Progress | None = None,
) -> Counter[str] | None:
    """Read labelled items and write their transitions to `out`.

    The same call again reads what is new or has changed, be it a label or a file, and takes out what is gone.
    `left_out.jsonl` lists what was left out, with its reason.

    Args:
        items: of `labelled_clips` or `image_pairs`.
        out: a new directory, or that of an earlier call for the same `source`.
        source: where the items come from; JSON values. It stands in the manifest.
        inputs: the files and folders that the items are read from.
        total: number of items, where it is known.
        share: which of several processes this is, all of which are given the same items.
        progress: advances with every item.

    Returns:
        How many were left out, by reason; None where other processes are still at their shares.

    Raises:
        ValueError: `out` holds something else, or not one item gave a transition.
    """
    return _write_all(items, out, check(out, "import", source, apart=inputs), source, total, share, progress)


def write_pairs(
    out: str | Path, pairs: Iterable[Sequence[Any] | Mapping[str, Any]], *, progress: Progress | None = None
) -> Counter[str]:
    """Write images with the action between them, out of memory or from files, as a folder of labelled transitions.

    write_pairs("labelled", [(before, after, "turn left", "episode 1"), ...])

    Args:
        out: a new folder. One whose writing was interrupted continues with the same pairs; a finished one stays as it
            is, and other pairs are refused.
        pairs: `(source, target, action)`, and where they are known `group` and `category`; or mappings with these names
            and, if wanted, `id`. Images are whatever `images.read_image` reads. Pairs of one group (an episode, a
            clip, a scene) are never both trained and tested on, and a pair without one is a group of its own.
            Selection and reports go by category. Without an `id`, of equal pairs the first counts.
        progress: advances with every pair.

    Returns:
        How many pairs were left out, by reason; `left_out.jsonl` lists them.

    Raises:
        FileNotFoundError: there is no such image.
        ValueError: a pair lacks something or has an image that cannot be read, there are no pairs, or `out` holds
            something else.
    """
    out = Path(out)
    left_out = _write_all(_items(pairs), out, check(out, "write_pairs", {}), {}, progress=progress, once=True)
    assert left_out is not None, "nobody shares what is in one process's memory"
    return left_out


def pair_id(source: bytes, target: bytes, action: str) -> str:
    """Names a pair by what it shows: 16 hex digits."""
    parts = (hashlib.sha256(part).digest() for part in (source, target, action.encode()))
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


_PAIR = ("source", "target", "action", "group", "category")


def _items(pairs: Iterable[Sequence[Any] | Mapping[str, Any]]) -> Iterator[Item]:
    if not isinstance(pairs, Iterable):
        raise ValueError(f"pairs must be (source, target, action) of each, not a {type(pairs).__name__}.")
    for number, pair in enumerate(pairs):
        if not isinstance(pair, Mapping | Sequence) or isinstance(pair, str | bytes):
            raise ValueError(f"Pair {number} is a {type(pair).__name__}, and not (source, target, action).")
        given = dict(pair) if isinstance(pair, Mapping) else dict(zip(_PAIR, pair, strict=False))
        said = given.get("action")
        action = visible(said) if isinstance(said, str) else ""
        if len(pair) > len(given) or given.keys() - {*_PAIR, "id"} or not {"source", "target"} <= given.keys():
            raise ValueError(
                f"Pair {number} is not (source, target, action), with group and category where they are known, nor a "
                f"mapping with these names and id: it has {', '.join(map(str, given)) or 'nothing'}."
            )
        if not action:
            raise ValueError(f"Pair {number} has no action: say in words what leads from its source to its target.")
        if not is_text(str(said)):
            raise ValueError(f"The action of pair {number} holds half a character, which is no text.")
        if len(action) > LONGEST_ACTION:
            raise ValueError(f"The action of pair {number} is longer than {LONGEST_ACTION:,} characters: shorten it.")
        source, target = (image_bytes(given[side], f"The {side} of pair {number}") for side in ("source", "target"))
        shows = pair_id(source, target, action)
        identity, group, category = (as_text(given.get(name)) for name in ("id", "group", "category"))
        row = Transition(
            id=identity or shows,
            clip=group,
            category=category,
            group=group,
            frame_target=1,
            source=source,
            target=target,
            provenance={"row": number},
            action=action,
            action_source="human",
        )
        key = hashlib.sha256(json.dumps([shows, identity, group, category]).encode()).hexdigest()[:16]
        yield _in_memory(key, row)


def _in_memory(key: str, row: Transition) -> Item:
    return Item(row.id, lambda: key, lambda: row)


def _write_all(
    items: Iterable[Item],
    out: Path,
    record: JsonMapping,
    source: JsonMapping,
    total: int = 0,
    share: Share = ALL,
    progress: Progress | None = None,
    *,
    once: bool = False,
) -> Counter[str] | None:
    """Write what is not written yet; a folder that is finished changes only where it is not to be made `once`.

    Items belong to parts by their place among all, whatever is written of them, so that each is of one process.
    """
    progress = progress or QuietProgress()
    finished = once and (out / MANIFEST).is_file()
    recorded = frozenset(_reasons(out))
    keys: dict[str, str] = {}  # by id
    repeated: list[str] = []
    new: list[tuple[str, Item]] = []  # of the part that is being read

    def flush(part: int) -> None:
        if new and share.takes(part):
            write_json(out / RECORD, record)
            _write(out, part, new)
        new.clear()

    for number, item in enumerate(items):
        progress.advance(number, total)
        if item.id in keys:
            repeated.append(item.id)
            continue
        if keys and len(keys) % _ITEMS == 0:
            flush(len(keys) // _ITEMS - 1)
        key = keys[item.id] = item.key()
        if key in recorded:
            continue
        if finished:
            raise ValueError(_holds_others(out))
        new.append((key, item))
    gone = recorded - set(keys.values())
    if finished and gone:
        raise ValueError(_holds_others(out))
    flush((len(keys) - 1) // _ITEMS)
    reasons = _reasons(out)
    if not all(key in reasons for key in keys.values()):
        return None
    left_out = [{"id": name, "reason": reasons[key]} for name, key in keys.items() if reasons[key]]
    left_out += [{"id": name, "reason": "repeated_id"} for name in repeated]
    dropped = Counter(entry["reason"] for entry in left_out)
    kept = len(keys) + len(repeated) - len(left_out)
    if not kept:  # a disk may be gone: what an earlier call wrote stays
        _clean(out)
        raise ValueError(_nothing(out, dropped))
    _forget(out, gone)
    if left_out:
        write_lines(out / LEFT_OUT, left_out)
    else:
        (out / LEFT_OUT).unlink(missing_ok=True)
    write_manifest(out, kind="transitions", config=dict(source), kept=kept, dropped=dropped)
    return dropped


def _holds_others(out: Path) -> str:
    return f"{out} holds other pairs than these and is finished: choose another folder, or delete that one."


def _files(out: Path) -> list[Path]:
    return sorted(out.glob("transitions-*.parquet"))


def _ledger(file: Path) -> list[tuple[str, str]]:
    return [(key, reason) for key, reason in json.loads(read_notes(file)[_LEDGER])]


def _reasons(out: Path) -> dict[str, str]:
    """By key, why an item gave no row; empty where it gave one."""
    return {key: reason for file in _files(out) for key, reason in _ledger(file)}


def _write(out: Path, part: int, items: Iterable[tuple[str, Item]]) -> None:
    """Write a file of new items of a part."""
    ledger: list[tuple[str, str]] = []
    notes: dict[bytes, bytes] = {}

    def rows() -> Iterator[Transition]:
        for key, item in items:
            reason = ""
            try:
                yield item.read()
            except UnusableError as error:
                reason = error.reason
            ledger.append((key, reason))
        notes[_LEDGER] = json.dumps(ledger).encode()

    first = out / f"transitions-{part:05d}.parquet"
    later = (first.with_stem(f"{first.stem}-{number}") for number in count(1))
    file = next(file for file in chain([first], later) if not file.exists())
    write_rows(file, rows(), notes=notes)


def _forget(out: Path, keys: Collection[str]) -> None:
    """Take out the rows of items that are gone, or are something else now."""
    for file in _files(out) if keys else ():
        ledger = _ledger(file)
        kept = [(key, reason) for key, reason in ledger if key not in keys]
        if not kept:
            file.unlink(missing_ok=True)
        elif len(kept) < len(ledger):
            write_rows(file, _rows_of(file, ledger, keys), notes={_LEDGER: json.dumps(kept).encode()})


def _rows_of(file: Path, ledger: Iterable[tuple[str, str]], without: Collection[str]) -> Iterator[FramePair]:
    rows = file_rows(file)
    for key, reason in ledger:
        if not reason and (row := next(rows)) and key not in without:
            yield row


def _nothing(out: Path, dropped: Mapping[str, int]) -> str:
    reasons = ", ".join(f"{number} {reason}" for reason, number in sorted(dropped.items()))
    astray = any(dropped.get(reason) for reason in ("missing_image", "outside_folder"))
    hint = f" {IMAGES}" if astray else ""
    return f"No transition could be read ({reasons or 'no rows'}); nothing was written to {out}.{hint}"


def _clean(out: Path) -> None:
    for file in _files(out):
        if all(reason for _, reason in _ledger(file)):
            file.unlink()
    if not _files(out):
        (out / RECORD).unlink(missing_ok=True)
        with suppress(OSError):  # not there, or not empty
            out.rmdir()

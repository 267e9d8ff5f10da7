"""Judgements with what is needed to read them: of one study, or of several that asked about the same systems."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from retrodict.files import JsonObject
from retrodict.study.database import copied
from retrodict.study.export import Record, read_export, records
from retrodict.study.plan import DATABASE, PICTURES, Check, Key, KeyedItem, Plan, read_key, read_plan
from retrodict.study.store import Store


@dataclass(frozen=True)
class Pool:
    """What the analysis sees. `items` and `checks` are by their keys, which differ from study to study."""

    folders: Sequence[Path]
    rows: Sequence[Record]
    plans: Sequence[Plan]
    keys: Sequence[Key]
    items: Mapping[str, KeyedItem]
    checks: Mapping[str, Check]

    @property
    def plan(self) -> Plan:
        return self.plans[0]

    @property
    def systems(self) -> tuple[str, ...]:
        return self.keys[0].systems

    def counts(self, name: str) -> dict[str, int]:
        """Of `left_out` or `reshaped`, the sums over studies."""
        total: dict[str, int] = {}
        for key in self.keys:
            for system, count in getattr(key, name).items():
                total[system] = total.get(system, 0) + count
        return total

    def actions(self) -> dict[str, str]:
        return {self.items[shown.key].id: shown.action for plan in self.plans for shown in plan.items}

    def image(self, item: str, system: str) -> bytes:
        """PNG bytes of what was shown of an item; of its source with system "". Nothing where the file is gone."""
        for folder, plan in zip(self.folders, self.plans, strict=True):
            for shown in plan.items:
                if self.items[shown.key].id == item:
                    names = {of: name for name, of in self.items[shown.key].pictures.items()} | {"": shown.source}
                    path = folder / PICTURES / f"{names[system]}.png"
                    return path.read_bytes() if path.is_file() else b""
        raise KeyError(item)

    def named(self, row: Record) -> JsonObject:
        """A judgement with systems in place of images; in a check, the decoy by its kind."""
        if row["kind"] == "check":
            check = self.checks[row["item"]]
            names = dict.fromkeys(row["order"], "other") | {check.decoy: check.kind}
            item = next(key.checks[row["item"]] for key in self.keys if row["item"] in key.checks)
        else:
            item, names = self.items[row["item"]].id, dict(self.items[row["item"]].pictures)
        shown: JsonObject = {"order": [names[name] for name in row["order"]]}
        shown |= {side: names[row[side]] if row[side] else None for side in ("best", "worst")}
        return row | {"item": item} | shown


def gather(folders: Sequence[Path], exports: Sequence[Path] = ()) -> Pool:
    """The judgements of these studies' databases, or in their place those of blind exports.

    With several sources raters are called `<source>/<number>`, as two studies number theirs alike.

    Raises:
        ValueError: a study is missing or damaged, they asked different things or about different systems or images, an
            export is of none of them, or two sources hold the same judgement.
    """
    plans, keys = [read_plan(folder) for folder in folders], [read_key(folder) for folder in folders]
    for folder, plan, key in zip(folders[1:], plans[1:], keys[1:], strict=True):
        _check_alike(folder, plan, key, plans[0], keys[0])
    pool = Pool(
        folders,
        [],
        plans,
        keys,
        {name: item for key in keys for name, item in key.items.items()},
        {check.key: check for plan in plans for check in plan.checks},
    )
    _check_images(pool)
    sources = [(file.stem, read_export(file)) for file in exports] or [
        (folder.resolve().name, _records(folder, plan)) for folder, plan in zip(folders, plans, strict=True)
    ]
    labels = [
        label if [one for one, _ in sources].count(label) == 1 else f"{label} {i}"
        for i, (label, _) in enumerate(sources, 1)
    ]
    rows, seen = [], dict[tuple[str, int, str], str]()
    for label, (_, of_source) in zip(labels, sources, strict=True):
        for row in of_source:
            if row["item"] not in pool.items and row["item"] not in pool.checks:
                raise ValueError(f"{label} has judgements of items that are in none of these studies.")
            click = row["item"], row["rater"], row["at"]
            if seen.setdefault(click, label) != label:
                raise ValueError(f"{seen[click]} and {label} hold the same judgements: give one of them.")
            rows.append(row if len(sources) == 1 else row | {"rater": f"{label}/{row['rater']}"})
    return Pool(folders, rows, plans, keys, pool.items, pool.checks)


def _records(folder: Path, plan: Plan) -> list[Record]:
    with copied(folder / DATABASE) as copy, Store(copy, called=folder / DATABASE) as store:
        return records(store, plan)


def _check_alike(folder: Path, plan: Plan, key: Key, first: Plan, of_first: Key) -> None:
    asked = [(one.design.method, one.design.points, one.design.questions) for one in (first, plan)]
    if key.systems != of_first.systems:
        raise ValueError(f"{folder} compares {', '.join(key.systems)} and not {', '.join(of_first.systems)}.")
    if asked[0] != asked[1]:
        raise ValueError(f"{folder} asked something else: its questions or its scale differ.")


def _check_images(pool: Pool) -> None:
    """Raises `ValueError` where two studies showed different images under one item and system."""
    digests = {name: digest for plan in pool.plans for name, digest in plan.digests.items()}
    shown: dict[tuple[str, str], str] = {}
    for item in pool.items.values():
        for name, system in item.pictures.items():
            if shown.setdefault((item.id, system), digests[name]) != digests[name]:
                raise ValueError(
                    f"The studies showed different images of {system} for {item.id}: they cannot be merged."
                )

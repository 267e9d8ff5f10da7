"""`retrodict study build`: choose items, hide who made which image, write a folder that `serve` can show."""

from __future__ import annotations

import random
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from retrodict.files import JsonMapping, write_json
from retrodict.progress import Progress
from retrodict.run_folder import RECORD, check
from retrodict.study.examples import examples
from retrodict.study.images import encode, keyed_name, noise, shown_size, write_images
from retrodict.study.plan import (
    DATABASE,
    KEY,
    MOST_CANDIDATES,
    PICTURES,
    PLAN,
    CheckKind,
    Design,
    Key,
    KeyedCheck,
    KeyedItem,
    Plan,
    Shown,
    read_key,
    read_plan,
    to_json,
)
from retrodict.study.sources import System, folder_of, read_items, read_system
from retrodict.study.store import Store
from retrodict.transitions import Transition

CONSENT = (
    "You will see a picture of a scene, a sentence that says what somebody does there, and several pictures made by "
    "computer programs that try to show the scene afterwards. You choose the best one and the worst one.",
    "We keep your choices and how long each one took. We ask for no name and no address, and we keep none. Taking part "
    "is voluntary. You may stop at any time, and come back with the same link.",
)
_CHECKS_PER_ITEM = 0.05  # one attention check per twenty items, two at least


def build(
    given: Sequence[str],
    out: Path,
    *,
    data: Path | None = None,
    design: Design | None = None,
    title: str = "Which picture shows what happens next?",
    consent: Sequence[str] = CONSENT,
    allow_missing: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> Plan:
    """Write the study folder: `study.json`, `key.json`, `pictures/` and the database with its raters.

    `given` names the systems' folders as `[NAME=]FOLDER[@VERIFIER]`. The same call again changes nothing. Raises
    `ValueError` when a system lacks an item (unless `allow_missing`: then only items that all systems have are asked
    about, and the others are counted), when a subset is too small, and when `out` holds another study or anything else.
    """
    design = design or Design()
    settings = {"systems": given, "design": vars(design), "title": title, "consent": consent, "seed": seed}
    settings["allow_missing"] = allow_missing
    record = check(out, "study build", settings, inputs={"systems": [folder_of(one) for one in given], "data": data})
    if (out / PLAN).is_file():
        plan = read_plan(out)
        with Store(out / DATABASE) as store:
            store.create(plan)
        return plan
    systems = _systems(given)
    every = read_items(given, data)
    items, left_out = _complete(every, systems, allow_missing)
    chosen = _choose(items, design.per_subset, seed)
    if progress is not None:
        progress.stage("images", f"{len(chosen)} items, {len(systems)} candidates each")
    maker = _Maker(_salt(out), systems, seed)
    for done, item in enumerate(chosen, 1):
        maker.add_item(item)
        if progress is not None:
            progress.advance(done, len(chosen))
    spare = [item for item in items if item not in chosen] or chosen
    for number, item in enumerate(_check_items(spare, max(2, round(_CHECKS_PER_ITEM * len(chosen))), seed)):
        maker.add_check(item, number)
    made, drawn = examples(maker.salt, len(systems))
    maker.images |= drawn
    plan = Plan(
        title=title,
        consent=tuple(consent),
        items=tuple(sorted(maker.items, key=lambda one: one.key)),
        checks=tuple(sorted(maker.checks, key=lambda one: one.key)),
        examples=tuple(made),
        raters=design.raters,
        repeat_share=design.repeat_share,
        seed=seed,
    )
    _write(out, record, plan, maker, left_out)
    if progress is not None:
        progress.done(f"{len(chosen)} items")
    return plan


def _salt(out: Path) -> str:
    """That of an interrupted build, which so goes on under the same names: what it had written is written over."""
    if (out / KEY).is_file():
        return read_key(out).salt
    if (out / DATABASE).is_file():
        raise ValueError(f"{out} holds judgements and no {KEY}: bring that file back, or choose another --out.")
    return secrets.token_hex(32)


def _systems(given: Sequence[str]) -> list[System]:
    systems = [system for one in given for system in read_system(one)]
    names = [system.name for system in systems]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"Two systems are called {', '.join(twice)}: give them names, as in new={given[-1]}.")
    if not 2 <= len(systems) <= MOST_CANDIDATES:
        raise ValueError(f"A study compares 2 to {MOST_CANDIDATES} systems; these folders hold {len(systems)}.")
    return systems


def _complete(
    items: Sequence[Transition], systems: Sequence[System], allow_missing: bool
) -> tuple[list[Transition], dict[str, int]]:
    lacking = {system.name: [item.id for item in items if item.id not in system.images] for system in systems}
    counts = {name: len(ids) for name, ids in lacking.items() if ids}
    if counts and not allow_missing:
        said = ", ".join(f"{name} lacks {count} (such as {lacking[name][0]})" for name, count in counts.items())
        raise ValueError(
            f"Not every system has an image for every one of the {len(items)} items: {said}. Make them, or ask only "
            "about items that all have with --allow-missing; the report then says how many were left out."
        )
    missing = {name for ids in lacking.values() for name in ids}
    complete = [item for item in items if item.id not in missing and item.source is not None]
    if not complete:
        raise ValueError("No item has an image of every system: were they made on the same benchmark and seed?")
    return complete, counts


def _choose(items: Sequence[Transition], per_subset: int, seed: int) -> list[Transition]:
    """`per_subset` items of each subset, from as many groups as there are, so that items do not share a scene."""
    chosen = []
    for subset in sorted({item.category for item in items}):
        part = [item for item in items if item.category == subset]
        if len(part) < per_subset:
            raise ValueError(
                f'Subset "{subset}" has {len(part)} items, not {per_subset}: set --per-subset {len(part)}.'
            )
        random.Random(f"{seed}/{subset}").shuffle(part)
        seen: dict[str, int] = {}
        turns = []
        for item in part:  # the first of every group, then the second of every group, and so on
            turns.append(seen.get(item.group, 0))
            seen[item.group] = turns[-1] + 1
        ranked = sorted(range(len(part)), key=lambda i: turns[i])
        chosen += [part[i] for i in ranked[:per_subset]]
    return chosen


def _check_items(items: Sequence[Transition], count: int, seed: int) -> list[Transition]:
    rows = list(items)
    random.Random(f"{seed}/checks").shuffle(rows)
    return rows[:count]


class _Maker:
    """Collects items, checks and images under keyed names."""

    def __init__(self, salt: str, systems: Sequence[System], seed: int) -> None:
        self.salt, self.systems, self.seed = salt, systems, seed
        self.items: list[Shown] = []
        self.checks: list[Shown] = []
        self.keyed: dict[str, KeyedItem] = {}
        self.keyed_checks: dict[str, KeyedCheck] = {}
        self.images: dict[str, bytes] = {}

    def add_item(self, item: Transition) -> None:
        shown, names = self._shown(item, "item", {})
        self.items.append(shown)
        judges = sorted({judge for system in self.systems for judge in system.scores})
        self.keyed[shown.key] = KeyedItem(
            id=item.id,
            group=item.cluster,
            subset=item.category,
            pictures={name: system for system, name in names.items()},
            frames={s.name: s.frames[item.id] for s in self.systems if item.id in s.frames},
            scores={j: {s.name: s.scores.get(j, {}).get(item.id) for s in self.systems} for j in judges},
        )

    def add_check(self, item: Transition, number: int) -> None:
        """Replace one system's image: by noise, and in every second check, where it is known, by the truth."""
        replaced = self.systems[random.Random(f"{self.salt}/{item.id}").randrange(len(self.systems))]
        kind: CheckKind = "truth" if number % 2 and item.target is not None else "noise"
        decoy = item.target_image if kind == "truth" else noise(item.source_image, item.id)
        shown, names = self._shown(item, "check", {replaced.name: encode(decoy, shown_size(item.source_image))})
        same = [self.images[name] for system, name in names.items() if system != replaced.name]
        if kind == "truth" and self.images[names[replaced.name]] in same:  # then picking it as worst is no mistake
            self.images[names[replaced.name]] = encode(noise(item.source_image, item.id), shown.size)
            kind = "noise"
        self.checks.append(shown)
        self.keyed_checks[shown.key] = KeyedCheck(item.id, kind, names[replaced.name])

    def _shown(self, item: Transition, kind: str, instead: Mapping[str, bytes]) -> tuple[Shown, dict[str, str]]:
        size = shown_size(item.source_image)
        source = keyed_name(self.salt, kind, item.id, "source")
        self.images[source] = encode(item.source_image, size)
        names = {}
        for system in self.systems:
            names[system.name] = keyed_name(self.salt, kind, item.id, "system", system.name)
            self.images[names[system.name]] = instead.get(system.name) or encode(_open(system, item.id), size)
        key = keyed_name(self.salt, kind, item.id)
        return Shown(key, item.category, item.action, source, tuple(sorted(names.values())), size), names


def _open(system: System, item: str) -> Any:
    try:
        return system.images[item]()
    except OSError as error:
        raise ValueError(f"{system.name} has an unreadable image of {item}: {error}") from None


def _write(out: Path, record: JsonMapping, plan: Plan, maker: _Maker, left_out: Mapping[str, int]) -> None:
    """The key comes first, as it decides all names, and the plan last: a folder with it is complete.

    The record names the systems, so it is as secret as the key.
    """
    write_json(out / RECORD, record)
    key = Key(
        salt=maker.salt,
        systems=tuple(sorted(system.name for system in maker.systems)),
        items=dict(sorted(maker.keyed.items())),
        checks=dict(sorted(maker.keyed_checks.items())),
        inputs={system.name: system.origin for system in maker.systems},
        left_out=left_out,
    )
    write_json(out / KEY, to_json(key))
    write_images(out / PICTURES, maker.images)
    with Store(out / DATABASE) as store:
        store.create(plan)
    for secret in (RECORD, KEY, DATABASE):
        (out / secret).chmod(0o600)
    write_json(out / PLAN, to_json(plan))

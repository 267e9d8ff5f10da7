"""`retrodict study build`: choose items, hide who made which image, write a folder that `serve` can show."""

from __future__ import annotations

import random
import secrets
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from PIL import Image

from retrodict.files import JsonMapping, write_json
from retrodict.progress import Progress
from retrodict.run_folder import RECORD, check
from retrodict.study.analysis.exclude import parse_rules
from retrodict.study.examples import examples, own_examples
from retrodict.study.images import encode, is_reshaped, keyed_name, noise, shown_size, write_images
from retrodict.study.plan import (
    DATABASE,
    KEY,
    MOST_CANDIDATES,
    PICTURES,
    PLAN,
    Check,
    CheckKind,
    Crowd,
    Design,
    Key,
    KeyedItem,
    Plan,
    Shown,
    read_key,
    read_plan,
    to_json,
)
from retrodict.study.sources import System, folder_of, read_items, read_system
from retrodict.study.store import Store
from retrodict.study.words import english
from retrodict.transitions import Transition

_CHECKS_PER_ITEM = 0.05  # one attention check per twenty items, two at least


@dataclass(frozen=True)
class Texts:
    """What raters read, where it is not the default.

    Attributes:
        title: heading of the first page.
        consent: paragraphs of the first page.
        words: what replaces the English words of the pages.
        examples: folder with `examples.json` and the images it names.
    """

    title: str = ""
    consent: tuple[str, ...] = ()
    words: Mapping[str, str] = field(default_factory=dict)
    examples: Path | None = None


def build(
    given: Sequence[str],
    out: Path,
    *,
    data: Path | None = None,
    design: Design | None = None,
    texts: Texts | None = None,
    crowd: Crowd | None = None,
    exclude: Sequence[str] = (),
    allow_missing: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> Plan:
    """Write the study folder: `study.json`, `key.json`, `pictures/` and the database with its raters.

    The same call again changes nothing.

    Args:
        given: the systems' folders as `[NAME=]FOLDER[@VERIFIER]`.
        out: the folder.
        data: the benchmark's folder, for systems that are folders of images.
        design: what is asked of whom.
        texts: what raters read.
        crowd: how people whom a platform sends become raters; None: by personal links only.
        exclude: rules of exclusion that the report applies, fixed now.
        allow_missing: ask only about items that all systems have an image of, and count the others.
        seed: of all that is random.
        progress: told how far it is.

    Returns:
        What was written to `study.json`.

    Raises:
        ValueError: a system lacks an item, a subset is too small, a text or rule is wrong, an image is broken, or `out`
            holds another study or anything else.
    """
    design, texts = design or Design(), texts or Texts()
    _check_design(design)
    parse_rules(exclude)
    if crowd is not None:
        _check_crowd(crowd, design)
    settings = {
        "systems": given,
        "design": {name: value for name, value in vars(design).items() if name != "raters"},
        **{name: value for name, value in vars(texts).items() if name != "examples"},
        "crowd": crowd and vars(crowd),
        "exclude": exclude,
        "seed": seed,
        "allow_missing": allow_missing,
    }
    inputs = {"systems": [folder_of(one) for one in given], "data": data, "examples": texts.examples}
    record = check(out, "study build", settings, inputs=inputs)
    if (out / PLAN).is_file():
        return _built(out, design)
    systems = _systems(given)
    items, left_out = _complete(_distinct(read_items(given, data)), systems, allow_missing)
    chosen = _choose(items, design.per_subset, seed)
    if design.show > len(systems):
        raise ValueError(f"--show {design.show} of {len(systems)} systems: show at most all.")
    maker = _Maker(_salt(out), systems)
    for item in chosen:
        maker.add_item(item)
    taken = {item.id for item in chosen}
    spare = [item for item in items if item.id not in taken] or chosen
    count = max(2, round(_CHECKS_PER_ITEM * (design.items_per_rater or len(chosen))))
    for number, item in enumerate(_check_items(spare, count, seed)):
        maker.add_check(item, number)
    shown = design.show or len(systems)
    words = {**english(), **texts.words}
    made = own_examples(texts.examples, maker.salt, shown) if texts.examples else examples(maker.salt, shown, words)
    maker.images |= {name: partial(bytes, data) for name, data in made[1].items()}
    plan = Plan(
        title=texts.title or words["title"],
        consent=texts.consent or (words["consent_what"], words["consent_data"]),
        items=tuple(sorted(maker.items, key=lambda one: one.key)),
        checks=tuple(sorted(maker.checks, key=lambda one: one.key)),
        examples=tuple(made[0]),
        design=design,
        seed=seed,
        digests={},
        crowd=crowd,
        exclude=tuple(exclude),
        words=dict(texts.words),
    )
    _check_texts(plan)
    if progress is not None:
        progress.stage("images", f"{len(chosen)} items, {len(systems)} candidates each")
    plan = _write(out, record, plan, maker, left_out, progress)
    if progress is not None:
        progress.done(f"{len(chosen)} items")
    return plan


def _check_design(design: Design) -> None:
    if design.method == "best-worst" and design.show == 1:
        raise ValueError("--show 1 leaves nothing to compare: show 2 or more, or use --method rating.")
    if not 2 <= design.points <= 9:
        raise ValueError(f"--points {design.points}: a rating scale has 2 to 9 points.")
    if len(set(design.questions)) < len(design.questions) or not all(design.questions):
        raise ValueError("Every --question must differ from the others and have words.")


def _check_crowd(crowd: Crowd, design: Design) -> None:
    if not design.raters_per_item:
        raise ValueError("--crowd needs --raters-per-item, or nothing would say when the study has enough answers.")
    if crowd.return_url and not crowd.return_url.startswith(("https://", "http://")):
        raise ValueError(f"--return-url {crowd.return_url} is no address: it begins with https://.")


def _built(out: Path, design: Design) -> Plan:
    """A study that is there already. Raters are added to it, not built again, as it may hold judgements."""
    plan = read_plan(out)
    if design.raters != plan.design.raters:
        more = f"`retrodict study links {out} --add {max(1, design.raters - plan.design.raters)}`"
        raise ValueError(f"{out} was built for {plan.design.raters} raters: add more with {more} or on the admin page.")
    Store(out / DATABASE).close()  # or it says what is wrong with it
    return plan


def _check_texts(plan: Plan) -> None:
    """Raises `ValueError` for text that no page can show: half of a character that takes two."""
    texts = [plan.title, *plan.consent, *plan.words.values(), *plan.design.questions]
    texts += [one.action for one in (*plan.items, *plan.checks)]
    texts += [text for one in plan.examples for text in (one.action, *one.remarks)]
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{text!r} is no valid text (half of a surrogate pair): write it anew.") from None


def _distinct(items: Sequence[Transition]) -> Sequence[Transition]:
    counts = Counter(item.id for item in items)
    if twice := [name for name, count in counts.items() if count > 1]:
        raise ValueError(f"{len(twice)} ids name several items, such as {twice[0]}: an id must name one.")
    return items


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
    """Collects items, checks and images under keyed names.

    Every image is read once, so that a broken one is named before anything is written; it is encoded when its file is.
    """

    def __init__(self, salt: str, systems: Sequence[System]) -> None:
        self.salt, self.systems = salt, systems
        self.items: list[Shown] = []
        self.checks: list[Check] = []
        self.keyed: dict[str, KeyedItem] = {}
        self.keyed_checks: dict[str, str] = {}
        self.images: dict[str, Callable[[], bytes]] = {}
        self.reshaped: Counter[str] = Counter()

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
        same = [self.images[name]() for system, name in names.items() if system != replaced.name]
        if kind == "truth" and self.images[names[replaced.name]]() in same:  # then picking it as worst is no mistake
            data = encode(noise(item.source_image, item.id), shown.size)
            self.images[names[replaced.name]] = partial(bytes, data)
            kind = "noise"
        self.checks.append(Check(**vars(shown), decoy=names[replaced.name], kind=kind))
        self.keyed_checks[shown.key] = item.id

    def _shown(self, item: Transition, kind: str, instead: Mapping[str, bytes]) -> tuple[Shown, dict[str, str]]:
        size = shown_size(item.source_image)
        source = keyed_name(self.salt, kind, item.id, "source")
        self.images[source] = lambda: encode(item.source_image, size)
        names = {}
        for system in self.systems:
            names[system.name] = keyed_name(self.salt, kind, item.id, "system", system.name)
            if system.name in instead:
                self.images[names[system.name]] = partial(bytes, instead[system.name])
                continue
            self.reshaped[system.name] += kind == "item" and is_reshaped(_open(system, item.id), size)
            self.images[names[system.name]] = partial(_encoded, system, item.id, size)
        key = keyed_name(self.salt, kind, item.id)
        return Shown(key, item.category, item.action, source, tuple(sorted(names.values())), size), names


def _open(system: System, item: str) -> Image.Image:
    try:
        return system.images[item]()
    except (OSError, ValueError) as error:
        raise ValueError(f"{system.name} has an unreadable image of {item}: {error}") from None


def _encoded(system: System, item: str, size: tuple[int, int]) -> bytes:
    return encode(_open(system, item), size)


def _write(
    out: Path,
    record: JsonMapping,
    plan: Plan,
    maker: _Maker,
    left_out: Mapping[str, int],
    progress: Progress | None,
) -> Plan:
    """The key comes first, as it decides all names, and the plan, now with its digests, last: then all is there.

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
        reshaped={name: count for name, count in maker.reshaped.items() if count},
    )
    write_json(out / KEY, to_json(key))
    plan = replace(plan, digests=write_images(out / PICTURES, maker.images, progress))
    with Store(out / DATABASE, new=True) as store:
        store.create(plan)
    for secret in (RECORD, KEY, DATABASE):
        (out / secret).chmod(0o600)
    write_json(out / PLAN, to_json(plan))
    return plan

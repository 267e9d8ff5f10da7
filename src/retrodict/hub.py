"""To the Hub: a model, an adapter, rows or a run, with a card that says what it is, how good it is and how it was made.

What goes is decided by lists, not by what lies there: nothing that names folders of this machine (`run.json`) and no
checkpoint. Images go where simulated worlds drew them; elsewhere others may own them, so they stay unless asked for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from retrodict.files import JsonMapping, JsonObject
from retrodict.loading import is_model
from retrodict.models.hub import first_words, is_hub_id, network_errors
from retrodict.models.registry import CARD, get_family, read_json
from retrodict.transitions import MANIFEST, row_files
from retrodict.worlds import WORLDS

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

README = "README.md"
NUMBERS = "results.json"
_MODEL = ("*.json", "*.jsonl", "*.safetensors", "*.jinja", "*.txt", "*.model", "*.yaml")  # of a model's folder
_RUN = (NUMBERS, "report.md", "recipe.yaml", "items/*.jsonl", "judge/*.json", "judge/*.jsonl")
_IMAGES = ("report.html", "predictions/*.parquet")  # of a run's folder
_ROLES = ("inverse", "forward", "idm", "fdm", "ft")
_PRIVATE = frozenset({"run.json", README})
_STAY = "its images may not be ours to pass on: --pictures sends them"


@dataclass(frozen=True)
class Push:
    """What is to be pushed."""

    repository: str
    kind: Literal["model", "dataset"]
    card: str
    """README.md: YAML metadata, then text."""
    private: bool
    files: Mapping[str, Path | bytes] = field(repr=False)
    """By their paths in the repository, without the card."""
    left_out: Mapping[str, str]
    """Paths that stay, with the reason."""

    def lines(self) -> list[str]:
        """What goes and what stays, a line each, and the card."""
        sizes = {
            name: len(file) if isinstance(file, bytes) else file.stat().st_size for name, file in self.files.items()
        }
        head = f"{self.kind} {self.repository} ({'private' if self.private else 'public'}), {len(sizes) + 1} files"
        listed = [f"  {name}  {size:,} bytes" for name, size in {README: len(self.card.encode()), **sizes}.items()]
        return [
            head,
            *listed,
            *(f"  stays: {name} ({reason})" for name, reason in self.left_out.items()),
            "",
            self.card,
        ]


def prepare(folder: Path, repository: str, *, public: bool = False, pictures: bool = False) -> Push:
    """What `push` would send. Nothing is sent.

    Args:
        folder: A model or adapter, the folder of a loop (its models and numbers), rows of any stage, or another run.
        repository: `OWNER/NAME`.
        public: Whether all may see it.
        pictures: Whether images go that no simulated world drew.

    Raises:
        ValueError: The folder holds nothing that can be pushed, or an adapter of a folder of this machine.
    """
    if not is_hub_id(repository):
        raise ValueError(f"{repository} is no hub id: give OWNER/NAME, which is no folder here.")
    models = {"": folder} if is_model(folder) else {f"{r}/": folder / r for r in _ROLES if is_model(folder / r)}
    if any(folder.glob("*.parquet")) and not models:
        return _rows(folder, repository, public, pictures)
    if not models and not (folder / NUMBERS).is_file():
        raise ValueError(f"{folder} holds no model, no rows (.parquet) and no {NUMBERS}: nothing to push.")
    files, stay = _run_files(folder, pictures)
    for prefix, at in models.items():
        files |= {prefix + name: file for name, file in _listed(at, _MODEL)}
    card = _model_card(folder, repository, models) if models else _run_card(folder, files)
    return Push(repository, "model" if models else "dataset", card, not public, files, stay)


def push(folder: Path, repository: str, *, public: bool = False, pictures: bool = False) -> str:
    """Push a folder to the Hub in one commit, and give the address of its page. For arguments see `prepare`.

    Raises:
        ValueError: As for `prepare`, or the Hub refused or could not be reached.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, constants

    pushed = prepare(folder, repository, public=public, pictures=pictures)
    if constants.HF_HUB_OFFLINE:
        raise ValueError("HF_HUB_OFFLINE is set: unset it to push, or look first with --dry-run.")
    api = HfApi()
    contents: dict[str, Path | bytes] = {README: pushed.card.encode(), **pushed.files}
    operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=file) for name, file in contents.items()]
    try:
        page = api.create_repo(repository, repo_type=pushed.kind, private=pushed.private, exist_ok=True)
        api.create_commit(repository, operations, commit_message="retrodict push", repo_type=pushed.kind)
    except network_errors() as error:
        raise ValueError(f"{repository} was not pushed ({first_words(error)}): log in with `hf auth login`.") from None
    return str(page)


def _listed(folder: Path, patterns: tuple[str, ...]) -> Iterator[tuple[str, Path]]:
    """Files of a model's folder and of its image tokenizer's, by their paths in it."""
    for file in sorted(
        {f for pattern in patterns for at in (folder, folder / "image_tokenizer") for f in at.glob(pattern)}
    ):
        if file.name not in _PRIVATE:
            yield file.relative_to(folder).as_posix(), file


def _run_files(folder: Path, pictures: bool) -> tuple[dict[str, Path | bytes], dict[str, str]]:
    """What of a run goes besides models, and what stays."""

    def matching(patterns: tuple[str, ...]) -> dict[str, Path | bytes]:
        return {f.relative_to(folder).as_posix(): f for pattern in patterns for f in sorted(folder.glob(pattern))}

    files, images = matching(_RUN), matching(_IMAGES)
    if pictures or (images and _world(folder)):
        return files | images, {}
    return files, dict.fromkeys(images, _STAY)


def _world(folder: Path) -> str | None:
    """The world whose items a run predicted; None where it is no world's."""
    results = _numbers(folder)
    config = results.get("config") or {}
    world = (config.get("world") or {}).get("name") if not (config.get("data") or {}).get("videos") else None
    return next((name for name in (results.get("bench"), world) if name in WORLDS), None)


def _numbers(folder: Path) -> JsonObject:
    return read_json(folder / NUMBERS) if (folder / NUMBERS).is_file() else {}


def _rows(folder: Path, repository: str, public: bool, pictures: bool) -> Push:
    import pyarrow as pa
    import pyarrow.parquet as pq

    manifest = read_json(folder / MANIFEST) if (folder / MANIFEST).is_file() else {}
    files: dict[str, Path | bytes] = {}
    stay: dict[str, str] = {}
    drawn = pictures or _is_drawn(folder)
    for file in row_files(folder):
        files[file.name] = file
        if not drawn:
            table = pq.read_table(file)
            for name in ("source", "target"):
                empty = pa.nulls(len(table), table.schema.field(name).type)
                table = table.set_column(table.schema.get_field_index(name), table.schema.field(name), empty)
            sink = pa.BufferOutputStream()
            pq.write_table(table, sink)
            files[file.name] = sink.getvalue().to_pybytes()
            stay[f"images of {file.name}"] = _STAY
    kept = (manifest.get("counts") or {}).get("kept", sum(pq.read_metadata(f).num_rows for f in row_files(folder)))
    dropped = (manifest.get("counts") or {}).get("dropped") or {}
    text = [
        f"# {repository.partition('/')[2]}\n",
        f"{kept:,} {manifest.get('kind', 'rows')}: frames `source` and `target`"
        + ("" if drawn else " (left out of this copy)")
        + ", and where it is known the `action` between them, who wrote it (`action_source`) and its `logprob`.\n",
        f"Left out when it was made: {', '.join(f'{n:,} {why}' for why, n in dropped.items()) or 'nothing'}.\n",
        "Rows that share a `group` must not be both trained and tested on.\n",
        *_made(folder),
        "Licence: that of the images and labels it was made from, which whoever pushed it has to name.\n",
        f'Read it with `datasets.load_dataset("{repository}")`, or give `hf://datasets/{repository}` to retrodict.',
    ]
    metadata = {
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "*.parquet"}]}],
        "tags": ["retrodict", "world-model"],
    }
    if (folder / MANIFEST).is_file():
        files[MANIFEST] = folder / MANIFEST
    return Push(repository, "dataset", _card(_yaml(metadata), text), not public, files, stay)


def _is_drawn(folder: Path) -> bool:
    """Whether every row says that a simulated world drew its images."""
    import json

    import pyarrow.parquet as pq

    texts = (text for f in row_files(folder) for text in pq.read_table(f, columns=["provenance"])[0].to_pylist())
    return all(WORLDS.keys() & json.loads(text or "{}").keys() for text in texts)


def _model_card(folder: Path, repository: str, models: Mapping[str, Path]) -> str:
    from huggingface_hub import ModelCardData

    cards = {prefix: read_json(at / CARD) for prefix, at in models.items()}
    for prefix, card in cards.items():
        if "base" in card and not is_hub_id(card["base"]):
            raise ValueError(
                f"{folder / prefix / CARD} names its base as {card['base']}, a folder of this machine: push the base "
                'first, and write its hub id there as "base".'
            )
    base = next((card["base"] for card in cards.values() if "base" in card), None)
    family = get_family(next(iter(cards.values()))["family"])
    licence = next((c.licence for c in family.checkpoints), None)
    data = ModelCardData(
        base_model=base,
        license="other" if licence else None,
        license_name=licence,
        library_name="peft" if base else "retrodict",
        pipeline_tag="image-to-image",
        tags=["retrodict", "world-model", "inverse-dynamics"],
        model_name=repository.partition("/")[2],
        eval_results=list(_eval_results(folder)) or None,
    )
    kinds = [f"- `{prefix or './'}`: {card.get('direction', 'either direction')}" for prefix, card in cards.items()]
    text = [
        f"# {repository.partition('/')[2]}\n",
        f"{'LoRA adapter on ' + base if base else 'Model'} of the family *{family.name}*, made with retrodict.\n",
        *kinds,
        "",
        *_table(folder),
        *_made(folder),
        f"Licence: {licence + ' (of the base)' if licence else 'not stated; it was trained from nothing'}.\n",
        "```python",
        "import retrodict",
        "",
        f'retrodict.predict("frame.png", "what happens", model="{repository}")',
        "```",
    ]
    return _card(data.to_yaml(), text)


def _run_card(folder: Path, files: Mapping[str, Path | bytes]) -> str:
    items = [name for name in files if name.startswith("items/")]
    configs = [{"config_name": Path(name).stem, "data_files": [{"split": "test", "path": name}]} for name in items]
    text = ["# Numbers of a retrodict run\n", *_table(folder), *_made(folder), "`items/` has a line for each item."]
    return _card(_yaml({"tags": ["retrodict"], **({"configs": configs} if configs else {})}), text)


def _table(folder: Path) -> list[str]:
    """The numbers of a run with n and intervals, as its command ended with them."""
    from retrodict.report.terminal import numbers

    lines = numbers(folder) if (folder / NUMBERS).is_file() else []
    return ["```", *lines, "```\n"] if lines else []


def _made(folder: Path) -> list[str]:
    command = _numbers(folder).get("command") or ""
    return [f"Made with `{command}`.\n"] if command else []


def _eval_results(folder: Path) -> Iterator[EvalResult]:
    from huggingface_hub import EvalResult

    from retrodict.report import loop
    from retrodict.report.run import Run

    if not (folder / NUMBERS).is_file():
        return
    run = Run.open(folder)
    bench = str(run.get("bench") or _world(folder) or "held-out pairs")
    measure = "score" if run.has_scores else "exact patches" if loop.is_exact(run) else "L1"
    for bar in loop.ladder(run) or loop.distances(run):
        if math.isfinite(bar.value):
            yield EvalResult(
                task_type="image-to-image",
                dataset_type=bench,
                dataset_name=bench,
                metric_type=measure,
                metric_name=f"{measure}, {bar.label}",
                metric_value=round(bar.value, 4),
                metric_args={"ci95": [round(bar.low, 4), round(bar.high, 4)], "n": bar.n},
            )


def _yaml(metadata: JsonMapping) -> str:
    import yaml

    return yaml.safe_dump(dict(metadata), sort_keys=False, allow_unicode=True)


def _card(metadata: str, text: list[str]) -> str:
    return f"---\n{metadata.strip()}\n---\n\n" + "\n".join(text) + "\n"

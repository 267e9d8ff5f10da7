"""What all stages of the loop share: the run's folder and recipe, and the data that they begin with."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from retrodict.bootstrap.recipe import BootstrapRecipe
from retrodict.bootstrap.select import COLLECTION
from retrodict.prompts import Direction
from retrodict.training.data import Stored, joined, source_rows, stored_transitions
from retrodict.transitions import split_by_group

if TYPE_CHECKING:
    from retrodict.dynamics.verify import Verifier
    from retrodict.models.protocol import InverseModel
    from retrodict.video import ClipRef

SECOND = "second_proposer"  # the ablation whose pool holds a frame of FT
REPEATED = ("ft", "fdm", "fdm_true_labels")  # trained `runs` times


def in_round(name: str, number: int) -> str:
    """The name of a folder, stage or system of a round of the loop; that of the first has no number."""
    return name if number == 1 else f"{name}_round{number}"


@dataclass(frozen=True)
class Context:
    """What every stage receives. Stages hand results to each other through folders in `out`."""

    out: Path
    recipe: BootstrapRecipe

    def dir(self, name: str) -> Path:
        return self.out / name

    @property
    def systems(self) -> tuple[str, ...]:
        """The forward models of the run. Without annotated pairs FT and FDM would be the same."""
        arms = ("weighted", "true_labels", "weighted_true_labels", SECOND)
        extra = ["fdm_expert"] if self.recipe.expert else []
        extra += [f"fdm_{name}" for name in arms if name in self.recipe.ablations]
        return (*(("ft",) if self.recipe.annotates else ()), *self.in_rounds("fdm"), *extra)

    def in_rounds(self, name: str) -> list[str]:
        """The name in each round."""
        return [in_round(name, number) for number in range(1, self.recipe.rounds + 1)]

    def runs_of(self, system: str) -> dict[int, str]:
        """The training runs of a system, from 1 on, each with the name of its folder."""
        count = self.recipe.runs if system in (*REPEATED, *self.in_rounds("fdm")) else 1
        return {run: system if run == 1 else f"{system}_run{run}" for run in range(1, count + 1)}

    @property
    def inverse_models(self) -> dict[str, str]:
        """The run's inverse models by name, each as `load` takes it."""
        models = {name: str(self.dir(name)) for name in self.in_rounds("idm")}
        if self.recipe.labeller is not None:
            models = {"idm": self.recipe.labeller}
        if "no_change_mask" in self.recipe.ablations:
            models["idm_plain"] = str(self.dir("idm_plain"))
        return models

    @property
    def verifies(self) -> bool:
        """Whether the inverse model says how likely actions are: of one behind an endpoint, the recipe knows."""
        return not (self.recipe.select.without_likelihood and self.inverse_models["idm"].startswith("chat:"))

    def inverse(self) -> InverseModel:
        """What verifies: the inverse model of the best round."""
        from retrodict.loading import load

        return load(self.inverse_models[in_round("idm", self.best_round("idm"))], role="inverse")

    def best_round(self, model: str, until: int | None = None) -> int:
        """The round whose model ("idm" or "fdm") did best on validation pairs, the first of equals.

        A round that is no better is not kept: what follows begins from the one before.
        """
        means: dict[int, float] = {}
        for number in range(1, (until or self.recipe.rounds) + 1):
            file = self.validation(in_round(model, number))
            values = np.array(json.loads(file.read_text())["values"] if file.is_file() else [], float)  # null: NaN
            means[number] = float(np.nanmean(values)) if len(values) else -math.inf
        return max(means, key=lambda number: (means[number], -number))

    @property
    def main(self) -> str:
        """The forward model that is the run's result: that of the best round."""
        return in_round("fdm", self.best_round("fdm"))

    def validation(self, model: str) -> Path:
        """What a model did on each validation pair."""
        return self.dir("validation") / f"{model}.json"


def verifiers(context: Context) -> list[Verifier]:
    """What chooses among candidates, the run's own last; none where the inverse model gives no likelihood."""
    from retrodict.dynamics.verify import InverseAndForwardLikelihood, InverseLikelihood

    if not context.verifies:
        return []
    inverse = context.inverse()
    return [InverseLikelihood(inverse), InverseAndForwardLikelihood(inverse)]


def labelled(context: Context, direction: Direction = "forward") -> Stored:
    """What models of a direction learn from besides annotated pairs: no group of it is tested on."""
    data = context.recipe.data
    if not data.labelled:
        return stored_transitions(context.dir("labelled"))
    rows = joined([source_rows(source) for source in data.labelled])
    kept_apart = _tested(context.recipe, rows) or {row.cluster for row in stored_transitions(context.dir("test")).rows}
    if context.recipe.validates and context.recipe.world is None:
        kept_apart |= {row.cluster for row in stored_transitions(context.dir("val")).rows}
    if direction == "inverse":
        rows = joined([rows, *(source_rows(source) for source in data.only_inverse)])
    return rows.only([i for i, row in enumerate(rows.rows) if row.cluster not in kept_apart])


def _tested(recipe: BootstrapRecipe, rows: Stored) -> set[str]:
    """The groups to test on, as far as they are one's own."""
    if recipe.data.test is not None:
        return {row.cluster for row in stored_transitions(recipe.data.test).rows}
    if recipe.world is not None:
        return set()
    return {row.cluster for row in split_by_group(list(rows.rows), recipe.data.test_share, recipe.seed)[1]}


def held_out(recipe: BootstrapRecipe) -> Stored:
    """One's own transitions to test on, at most `bench.items`. Raises `ValueError` when there are none."""
    data = recipe.data
    if data.test is not None:
        rows = stored_transitions(data.test)
        chosen = list(range(len(rows)))
    else:
        rows = joined([source_rows(source) for source in data.labelled])
        test = {id(row) for row in split_by_group(list(rows.rows), data.test_share, recipe.seed)[1]}
        chosen = [i for i, row in enumerate(rows.rows) if id(row) in test]
    if not chosen:
        groups = len({row.group or row.id for row in rows.rows})
        raise ValueError(
            f"There is nothing to test on: {', '.join(str(s.path) for s in data.labelled)} has {groups} groups, too "
            f"few to set {data.test_share:.0%} of them aside. Name test pairs under data.test."
        )
    chosen.sort(key=lambda i: hashlib.sha256(rows.rows[i].id.encode()).digest())
    return rows.only(chosen[: recipe.bench.items])


def validated(recipe: BootstrapRecipe) -> Stored:
    """One's own transitions to choose by: a share of the groups that are not tested on.

    Raises:
        ValueError: there are too few.
    """
    rows = joined([source_rows(source) for source in recipe.data.labelled])
    tested = _tested(recipe, rows)
    rows = rows.only([i for i, row in enumerate(rows.rows) if row.cluster not in tested])
    chosen = {row.cluster for row in split_by_group(list(rows.rows), recipe.data.val_share, recipe.seed)[1]}
    if not chosen:
        raise ValueError(
            f"There is nothing to choose the best round by: {len({row.cluster for row in rows.rows})} labelled groups "
            f"are too few to set {recipe.data.val_share:.0%} of them aside. Raise data.val_share."
        )
    return rows.only([i for i, row in enumerate(rows.rows) if row.cluster in chosen])


def clips(recipe: BootstrapRecipe) -> list[Path] | list[ClipRef]:
    """One's own videos, as `mine` takes them. Raises `ValueError` when there are none."""
    from retrodict.data.layouts import read_clips
    from retrodict.video.clips import folder_clips

    videos = recipe.data.videos
    if recipe.select.per_collection:
        return [
            replace(ref, meta={**ref.meta, COLLECTION: video.path.name})
            for video in videos
            for ref in read_clips(video.layout, video.path, video.annotations)
        ]
    plain = [video.path for video in videos if video.layout == "folder"]
    refs = folder_clips(plain) if plain else []
    if len(plain) == len(videos):
        return plain
    for video in videos:
        if video.layout != "folder":
            refs += read_clips(video.layout, video.path, video.annotations)
    return refs

"""What of the loop pays? Forward models on the data of a finished demo, alike but for one thing.

    retrodict demo --seed 0 --set rounds=2 --set runs=3 --set select.strategy=likeliest --out demo
    python benchmarks/arms.py demo --out demo-arms --runs 3

The demo has two rounds, as its second inverse model and its labels are needed. Each arm takes the labels of some
inverse model, selects among them, and trains forward models of different initial weights; all are measured by greedy
frames on the demo's test scenes and compared item by item, with the noise between training runs in the intervals. Arms
that are done are not trained again. Each table goes to a JSON file of its name and, as markdown, to the screen.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from retrodict.bootstrap.annotate import annotate_dir, check_dir
from retrodict.bootstrap.context import Context, labelled
from retrodict.bootstrap.labels import labelling, with_true_labels
from retrodict.bootstrap.recipe import BootstrapRecipe
from retrodict.bootstrap.scoring import scorer
from retrodict.bootstrap.select import DEFAULT, select_dir
from retrodict.bootstrap.stages import train
from retrodict.evaluation.pool import ItemResult
from retrodict.evaluation.predict import evaluate
from retrodict.evaluation.predictions import read_predictions
from retrodict.evaluation.summary import compare_runs, over_runs
from retrodict.files import JsonObject, write_json
from retrodict.loading import load
from retrodict.progress import Progress
from retrodict.progress.view import open_progress
from retrodict.recipes import EFFECTIVE, load_recipe
from retrodict.training.config import Weighting
from retrodict.training.data import Stored, joined, stored_transitions
from retrodict.transitions import iter_rows, read_transitions
from retrodict.worlds import get_world

Runs = Sequence[Sequence[ItemResult]]
LABELS = {
    "IDM": "annotated",
    "IDM, checked": "checked",
    "second IDM, checked": "checked_again",
    "second IDM": "annotated_round2",
    "second IDM, unchecked": "unchecked",
    "IDM of twice the steps": "longer",
}  # whose labels, and the folder that has them
TRUE = "simulator"
EVEN = Weighting()


@dataclass(frozen=True)
class Arm:
    """One way to make the forward model.

    Attributes:
        labels: whose, a key of `LABELS`, or the simulator's for what the IDM's selection takes.
        strategy: which of them, a key of `retrodict.bootstrap.select.STRATEGIES`.
        share: how many of them, in multiples of the demo's.
        steps: optimizer steps, in multiples of the demo's.
        weighting: of the loss.
        against: the arm that it is compared with.
    """

    labels: str = "IDM"
    strategy: str = DEFAULT
    share: float = 1
    steps: int = 1
    weighting: Weighting = EVEN
    against: str = "one round"


_SOFT, _LATE = Weighting(method="softened"), Weighting(method="softened", start=0.5)
_RAW_LATE = Weighting(method="recognition", start=0.5)
ROUNDS = {
    "one round": Arm(),
    "all its labels": Arm(strategy="all"),
    "checked by FT": Arm("IDM, checked", "checked"),
    "informative": Arm("IDM, checked", "informative"),
    "two rounds, unchecked, all": Arm("second IDM, unchecked", "all"),
    "two rounds, selected": Arm("second IDM"),
    "two rounds, all": Arm("second IDM", "all"),
    "one round, FDM twice as long": Arm(steps=2),
    "one round, IDM and FDM twice as long": Arm("IDM of twice the steps", steps=2, against="two rounds, all"),
    "two rounds, FDM twice as long": Arm("second IDM", "all", steps=2, against="one round, FDM twice as long"),
}
SELECTION = {
    "one round": Arm(),
    "relabelled by FT, all": Arm("IDM, checked", "all"),
    "relabelled by FT, IDM's surest": Arm("IDM, checked"),
    "checked by FT": Arm("IDM, checked", "checked"),
    "checked by FT, two thirds": Arm("IDM, checked", "checked", share=2 / 3),
    "informative": Arm("IDM, checked", "informative"),
    "two rounds, all": Arm("second IDM", "all", against="checked by FT"),
    "two rounds, checked by FDM": Arm("second IDM, checked", "checked", against="checked by FT"),
    "two rounds, relabelled by FDM, all": Arm("second IDM, checked", "all", against="checked by FT"),
}
WEIGHTINGS = {
    "even": Arm(),
    "softened": Arm(weighting=_SOFT, against="even"),
    "softened, last half": Arm(weighting=_LATE, against="even"),
    "recognition, last half": Arm(weighting=_RAW_LATE, against="even"),
    "checked, even": Arm("IDM, checked", "checked"),
    "checked, softened": Arm("IDM, checked", "checked", weighting=_SOFT, against="checked, even"),
    "checked, softened, last half": Arm("IDM, checked", "checked", weighting=_LATE, against="checked, even"),
    "true, even": Arm(TRUE),
    "true, softened": Arm(TRUE, weighting=_SOFT, against="true, even"),
}
TABLES = {"selection": SELECTION, "rounds": ROUNDS, "weighting": WEIGHTINGS}
OWN = {"fdm": Arm(), "fdm_round2": Arm("second IDM", "all"), "fdm_true_labels": Arm(TRUE)}  # the demo has these


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=3, help="training runs of each arm")
    parser.add_argument("--tables", nargs="*", default=list(TABLES), choices=list(TABLES))
    options = parser.parse_args()
    torch.set_num_threads(1)
    context = Context(options.demo.resolve(), load_recipe(options.demo / EFFECTIVE, BootstrapRecipe))
    if context.recipe.rounds < 2 or context.recipe.select.strategy != DEFAULT:
        parser.error(f"{options.demo} is no demo of two rounds with the labels that the arms begin with: see above")
    with open_progress(title="arms") as progress:
        bench = Bench(context, options.out.resolve(), options.runs, progress)
        results = {table: bench.table(TABLES[table]) for table in options.tables}
    for table, entries in results.items():
        write_json(options.out / f"{table}.json", entries)
        print(f"\n{table}\n\n| | labels right | score | its runs | against | difference |\n|---|---|---|---|---|---|")
        print("\n".join(_line(name, entry) for name, entry in entries.items()))


class Bench:
    """The arms of one demo, each with its folder."""

    def __init__(self, context: Context, out: Path, runs: int, progress: Progress) -> None:
        self.context, self.out, self.runs, self.progress = context, out, runs, progress
        self.world = get_world(context.recipe.world.name if context.recipe.world else "")
        self.test = read_transitions(context.dir("test"))

    def table(self, arms: dict[str, Arm]) -> JsonObject:
        """Every arm's score over runs, the share of its labels that is right, and its paired difference."""
        measured = {name: self._measured(arm) for name, arm in arms.items()}
        entries: JsonObject = {}
        for name, arm in arms.items():
            entries[name] = {"greedy": over_runs(measured[name])}
            if arm.labels != TRUE:
                annotated = read_transitions(self._labels(arm.labels))
                chosen = read_transitions(self._selected(arm))
                entries[name]["labels"] = labelling(self.world, annotated, chosen, self.context.dir("truth"))
            if name != arm.against and arm.against in arms:
                names = (name, arm.against)
                entries[name]["against"] = compare_runs(measured[name], measured[arm.against], names=names)
        return entries

    def _measured(self, arm: Arm) -> Runs:
        own = next((name for name, other in OWN.items() if replace(arm, against="") == replace(other, against="")), "")
        trained = self.context.runs_of(own) if own in self.context.systems else {}
        return [
            read_predictions(self.context.dir("predictions") / f"{trained[run]}.parquet")
            if run in trained
            else self._trained(arm, run)
            for run in range(1, self.runs + 1)
        ]

    def _trained(self, arm: Arm, run: int) -> Sequence[ItemResult]:
        folder = self.out / self._name(arm) / str(run)
        file = folder / "predictions.parquet"
        if not file.is_file():
            self.progress.stage(f"{self._name(arm)}, run {run}")
            recipe = self.context.recipe
            longer = recipe.forward.model_copy(update={"steps": recipe.forward.steps * arm.steps})
            context = replace(self.context, recipe=recipe.model_copy(update={"forward": longer}))
            rows = joined([labelled(context), self._rows(arm)])
            train(context, self.progress, folder, "forward", rows, arm.weighting, run=run)
            model: Any = load(folder, role="forward")
            score = scorer(self.test, model.family)
            evaluate(model, self.test, scorer=score, n=0, seed=recipe.seed, keep=file, progress=self.progress)
            self.progress.done(self._name(arm))
        return read_predictions(file)

    def _name(self, arm: Arm) -> str:
        weighting = arm.weighting
        parts = [arm.labels, arm.strategy, weighting.method, f"start {weighting.start:g}", f"steps {arm.steps}"]
        parts += [f"share {arm.share:.2f}"] if arm.share != 1 else []
        return "-".join(parts).replace(", ", "-").replace(" ", "-")

    def _rows(self, arm: Arm) -> Stored:
        if arm.labels == TRUE:
            return with_true_labels(
                self.world, stored_transitions(self.context.dir("selected")), self.context.dir("truth")
            )
        return stored_transitions(self._selected(arm))

    def _selected(self, arm: Arm) -> Path:
        name = self._name(replace(arm, steps=1, weighting=EVEN))
        out, top_k = self.out / "selected" / name, round(self.context.recipe.select.top_k * arm.share)
        select_dir(self._labels(arm.labels), top_k=top_k, out=out, strategy=arm.strategy)
        return out

    def _labels(self, whose: str) -> Path:
        """The folder of labels; those that the demo has not are made."""
        name = LABELS[whose]
        if name == "checked_again":
            return self._checked_again(self.out / name)
        if name in ("unchecked", "longer"):
            return self._annotated(name)
        return self.context.dir(name)

    def _checked_again(self, out: Path) -> Path:
        second, fdm = self.context.inverse_models["idm_round2"], self.context.dir("fdm")
        check_dir(self.context.dir("annotated_round2"), model=second, forward=fdm, out=out, progress=self.progress)
        return out

    def _annotated(self, name: str) -> Path:
        """The labels of an inverse model that the demo has not."""
        model, out = self.out / f"idm-{name}", self.out / f"annotated-{name}"
        context, rows = self.context, labelled(self.context, "inverse")
        if name == "unchecked":  # as many labels as the second IDM has learned from, those that the first is surest of
            trusted = sum(1 for _ in iter_rows(context.dir("trusted"), ["id"]))
            select_dir(context.dir("annotated"), top_k=trusted, out=self.out / "trusted-unchecked")
            rows = joined([rows, stored_transitions(self.out / "trusted-unchecked")])
        else:
            longer = context.recipe.inverse.model_copy(update={"steps": 2 * context.recipe.inverse.steps})
            context = replace(context, recipe=context.recipe.model_copy(update={"inverse": longer}))
        train(context, self.progress, model, "inverse", rows, EVEN)
        annotate_dir(context.dir("pairs"), model=str(model), out=out, progress=self.progress)
        return out


def _line(name: str, entry: JsonObject) -> str:
    greedy, paired, labels = entry["greedy"], entry.get("against"), entry.get("labels")
    right = f"{labels['selected_exact']:.3f} of {labels['selected']:,}" if labels else "all"
    each = " ".join(f"{one:.3f}" for one in greedy["each"])
    low, high = greedy["ci95"]
    cells = [name, right, f"{greedy['score']:.3f} [{low:.3f}, {high:.3f}]", each]
    if paired:
        low, high = paired["ci95"]
        cells += [paired["b"], f"{paired['difference']:+.3f} [{low:+.3f}, {high:+.3f}]"]
    else:
        cells += ["", ""]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()

"""Expert iteration: the forward model learns from those of its own samples that the inverse model verifies.

Either each iteration asks frames of the selected pairs for the next action of their clip, keeps the best of some
samples where that is as plausible as true frames are, and trains the forward model anew on these pairs, too; or it goes
on from the last model by GRPO, on samples for the pairs' own actions. What the inverse model likes need not be right:
on validation pairs a monitor compares both, and the loop stops where they part.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from retrodict.bootstrap import stages
from retrodict.bootstrap.context import Context, in_round, verifiers
from retrodict.bootstrap.scoring import scorer
from retrodict.dynamics.best_of_n import choose
from retrodict.dynamics.unified import UnifiedModel
from retrodict.dynamics.verify import InverseLikelihood, Pool
from retrodict.evaluation.predict import evaluate
from retrodict.evaluation.summary import estimate
from retrodict.files import JsonObject, number_of, write_json
from retrodict.images import encode_png
from retrodict.loading import is_model, load, load_family, save_model
from retrodict.placement import place
from retrodict.progress import Progress
from retrodict.training.config import LOG, Weighting
from retrodict.training.data import Stored, joined, stored_transitions
from retrodict.training.distributed import is_main, meet
from retrodict.training.validation import can_say
from retrodict.transitions import MANIFEST, Transition, read_transitions, write_manifest, write_rows

SYSTEM = "fdm_expert"
MONITOR = "monitor.json"
BATCH = 64  # prompts that are sampled together


def run(context: Context, progress: Progress) -> str:
    """All iterations; the folder `fdm_expert` becomes the model that does best on validation pairs."""
    section = context.recipe.expert
    assert section is not None
    folder = context.dir("expert")
    models = [context.dir(context.main)]
    watched = [_monitor(context, models[0], folder / "0" / MONITOR)]
    for number in range(1, section.iterations + 1):
        here = folder / str(number)
        if section.grpo is None:
            _train_anew(context, models[-1], here, number, progress)
        elif is_main() and not is_model(here / "fdm"):
            _optimize(context, models, here / "fdm", number, progress)
        meet()
        models.append(here / "fdm")
        watched.append(_monitor(context, models[-1], here / MONITOR))
        if hacks(watched[-2], watched[-1]):
            break
    scores = [entry["score"] for entry in watched]
    best = max(range(len(scores)), key=lambda i: (scores[i], -i))
    if is_main():
        write_json(folder / MONITOR, {"iterations": watched, "kept": best, "stopped": hacks(*watched[-2:])})
        shutil.copytree(models[best], context.dir(SYSTEM), dirs_exist_ok=True)
    meet()
    stopped = "; the inverse model likes what is not right, so it stopped" if hacks(*watched[-2:]) else ""
    return f"{' to '.join(f'{score:.3f}' for score in scores)} on validation pairs, iteration {best} is kept{stopped}"


def hacks(before: JsonObject, after: JsonObject) -> bool:
    """Whether an iteration pleased the inverse model and nothing else: its score rose, and the measured one did not."""
    return bool(after["inverse_score"] > before["inverse_score"] and after["score"] <= before["score"])


def _monitor(context: Context, model: Path, file: Path) -> JsonObject:
    """Of greedy frames for the validation actions: how likely the inverse model finds the action, how many are right
    (a world's score, else the log-likelihood of the true frame), and how many are copies."""
    if is_main() and not file.is_file():
        forward: Any = load(model, role="forward")
        rows = _expressible(context, forward)
        inverse = InverseLikelihood(context.inverse())
        items = evaluate(forward, rows, scorer=scorer(rows, forward.family), verifiers=[inverse], n=0, seed=0)
        entry = estimate(items)
        if context.recipe.world is None:
            sides = [r.source_image for r in rows], [r.action for r in rows], [r.target_image for r in rows]
            entry["score"] = float(np.mean([one.sum for one in forward.score_targets(*sides)]))
        entry["inverse_score"] = float(np.mean([item.greedy.verifiers[inverse.name] for item in items]))
        write_json(file, entry)
    meet()
    watched: JsonObject = json.loads(file.read_text())
    return watched | {name: number_of(watched[name]) for name in ("score", "inverse_score")}


def prompts(rows: Sequence[Transition], count: int, seed: int) -> list[tuple[int, str]]:
    """Which frames (numbers of rows) are asked for which action: for the next one of their clip, which nobody showed
    there and which is more often possible than any other. Which rows, depends on ids and the seed."""
    clips: dict[str, list[int]] = {}
    for i in sorted(range(len(rows)), key=lambda i: (rows[i].frame_source, rows[i].id)):
        clips.setdefault(rows[i].clip or rows[i].cluster, []).append(i)
    after = {i: following for members in clips.values() for i, following in pairwise(members)}
    asked = [i for i in _shuffled(rows, seed) if i in after and rows[after[i]].action != rows[i].action]
    return [(i, rows[after[i]].action) for i in asked[:count]]


def _shuffled(rows: Sequence[Transition], seed: int) -> list[int]:
    """Numbers of rows, in an order that depends on their ids and the seed."""
    return sorted(range(len(rows)), key=lambda i: hashlib.sha256(f"{seed} {rows[i].id}".encode()).digest())


def _train_anew(context: Context, model: Path, here: Path, number: int, progress: Progress) -> None:
    """Train a model as FDM is, and on the best samples of `model`."""
    if is_main() and not (here / "samples" / MANIFEST).is_file():
        _imagine(context, model, here / "samples", number, progress)
    meet()
    rows = joined([stages.bootstrapped(context, context.best_round("fdm")), stored_transitions(here / "samples")])
    stages.train(context, progress, here / "fdm", "forward", stages.with_still(context, rows), Weighting())


def _optimize(context: Context, models: Sequence[Path], out: Path, number: int, progress: Progress) -> None:
    """Go on from the last of `models` by GRPO, not far from the first. One that was cut off begins anew.

    Its prompts are pairs as they are, whose actions are possible as far as their labels are right: a reward for what
    cannot happen would teach to please the inverse model.
    """
    from retrodict.training.grpo import optimize

    recipe, section = context.recipe, context.recipe.expert
    assert section is not None and section.grpo is not None
    policy = UnifiedModel(load_family(models[-1], "forward", merge=True))
    place(policy.family.module)
    reference: Any = load(models[0], role="forward")
    selected, seed = _selected(context), recipe.seed + number
    chosen = [selected[i] for i in _shuffled(selected.rows, seed)[: section.prompts]]
    optimize(
        policy,
        reference,
        context.inverse(),
        [(row.source_image, row.action) for row in chosen],
        section.grpo,
        n=recipe.bench.n,
        temperature=recipe.sampling.temperature,
        seed=seed,
        at_once=recipe.forward.per_device_batch_size,
        log=out / LOG,
        progress=progress,
    )
    save_model(policy.family, "forward", out, seed=recipe.seed, grpo=section.grpo.model_dump())


def _selected(context: Context) -> Stored:
    return stored_transitions(context.dir(in_round("selected", context.best_round("fdm"))))


def _imagine(context: Context, model: Path, out: Path, number: int, progress: Progress) -> None:
    """Write the samples to learn from: the best of each prompt, where its score is at least the middle one of true
    validation pairs."""
    section, recipe = context.recipe.expert, context.recipe
    assert section is not None
    forward: Any = load(model, role="forward")
    verifier = verifiers(context)[-1]
    enough = float(np.median(_scores_of_truth(forward, verifier, _expressible(context, forward))))
    selected = _selected(context)
    asked = prompts(selected.rows, section.prompts, recipe.seed + number)
    kept: list[Transition] = []
    for start in range(0, len(asked), BATCH):
        batch = asked[start : start + BATCH]
        rows, actions = [selected[i] for i, _ in batch], [action for _, action in batch]
        sources = [row.source_image for row in rows]
        pools = forward.sample(sources, actions, recipe.bench.n, recipe.seed + number, recipe.sampling)
        scores = verifier.scores([Pool(*one) for one in zip(sources, actions, pools, strict=True)])
        for row, action, pool, scored in zip(rows, actions, pools, scores, strict=True):
            best = choose(scored)
            if scored[best] >= enough:
                frame = encode_png(pool[best].image)
                made = replace(row, id=f"{row.id}-expert{number}", target=frame, action=action, logprob=scored[best])
                kept.append(made)
        progress.advance(start + len(batch), len(asked))
    if not kept:
        raise ValueError("The inverse model finds none of the samples plausible: leave expert iteration out.")
    write_rows(out / "transitions-00000.parquet", kept)
    config = {"threshold": enough, "prompts": len(asked)}
    write_manifest(
        out, kind="transitions", config=config, kept=len(kept), dropped={"implausible": len(asked) - len(kept)}
    )


def _expressible(context: Context, model: Any) -> list[Transition]:
    """The validation pairs whose actions a model can express."""
    return [row for row in read_transitions(context.dir("val")) if can_say(model.family, row.action)]


def _scores_of_truth(forward: Any, verifier: Any, rows: Sequence[Transition]) -> list[float]:
    """What the verifier says of the true frames."""
    from retrodict.models.protocol import Candidate

    sources, actions = [row.source_image for row in rows], [row.action for row in rows]
    targets = [row.target_image for row in rows]
    likely = forward.score_targets(sources, actions, targets)
    pools = [
        Pool(source, action, [Candidate(target, logprob=logprob)])
        for source, action, target, logprob in zip(sources, actions, targets, likely, strict=True)
    ]
    return [score for (score,) in verifier.scores(pools)]

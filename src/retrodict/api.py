"""What people call, one function each: images in, answers out; and the stages that label videos, folder to folder.

An image is a path, an encoded image's bytes, a PIL image or an array [H, W, 3] of uint8 (`images.read_image`). A model
is a name for `load` or a loaded model; who asks often loads once. A verifier is a name in
`dynamics.verifiers.VERIFIERS`, "none" for one greedy frame, or a `dynamics.verify.Verifier`.

Every function raises `FileNotFoundError` for a missing image and `ValueError`, in one line, for whatever else the
caller can put right: a file that is no image, an empty action, an unknown name. What a model was never trained on is no
error: a line in the log says so.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

from PIL import Image

from retrodict.dynamics.adaptive import predict_adaptively
from retrodict.dynamics.planning import Plan
from retrodict.dynamics.planning import plan as _plan
from retrodict.dynamics.rollout import rollout as _rollout
from retrodict.dynamics.unified import UnifiedModel
from retrodict.dynamics.verifiers import NONE, VERIFIERS, Parts, make_verifier
from retrodict.dynamics.verify import CopyGate, Pool, Prediction, ReadsInverse, Verifier
from retrodict.dynamics.verify import predict as _predict
from retrodict.dynamics.verify import predict_batch as _predict_batch
from retrodict.files import JsonObject
from retrodict.images import ImageLike, read_image
from retrodict.loading import load
from retrodict.models.protocol import (
    Candidate,
    Explanation,
    ForwardModel,
    InverseModel,
    LogProb,
    ScoringForwardModel,
)
from retrodict.progress import Progress, QuietProgress
from retrodict.recipes import load_recipe
from retrodict.run_folder import Input
from retrodict.sampling import Sampling
from retrodict.worlds import world_that_says

if TYPE_CHECKING:
    from retrodict.bootstrap.recipe import BootstrapRecipe
    from retrodict.training.config import TrainRecipe

AnyImage = TypeVar("AnyImage", bound=ImageLike)


def predict(
    source: ImageLike,
    action: str,
    *,
    n: int = 8,
    verifier: str | Verifier = "idm_fdm",
    model: str | Path | ForwardModel = "small",
    inverse: str | Path | InverseModel | None = None,
    seed: int = 0,
    sampling: Sampling = Sampling(),
    stop_at: float | None = None,
    reject_copies: bool = False,
) -> Prediction:
    """The frame after an action: the best of `n` candidates by the verifier.

    Args:
        source: the frame before the action.
        action: what happens, in words.
        n: number of candidates to sample.
        verifier: what picks the best one.
        model: the forward model.
        inverse: the inverse model behind the verifier; by default `model`.
        seed: the same seed gives the same candidates.
        sampling: temperature, top-p, top-k and classifier-free guidance.
        stop_at: sample two candidates at a time, and no more once one scores at least this.
        reject_copies: choose a frame that shows no change only when there is no other.

    Returns:
        The chosen frame with all candidates and their scores. `prediction.image` is an RGB image of the model's size.

    Raises:
        ValueError: the model does not know a word, follows no such sampling, or cannot be verified so.
    """
    _check(n, [action])
    frame = read_image(source)
    forward = _forward(model)
    _tell_unfamiliar(forward, [frame], [action])
    check = _verifier(verifier, model, inverse, seed)
    if check is None and (stop_at is not None or reject_copies):
        raise ValueError(f'The verifier "{NONE}" samples one frame and scores nothing: use another with these options.')
    if reject_copies and check is not None:
        if not isinstance(forward, UnifiedModel):
            raise ValueError("reject_copies needs a model of image tokens, which this one is not: leave it out.")
        check = CopyGate(check, forward)
    if stop_at is None or check is None:
        return _predict(forward, check, frame, action, n=n, seed=seed, sampling=sampling)
    return predict_adaptively(forward, check, frame, action, n=n, seed=seed, stop_at=stop_at, sampling=sampling)


def predict_batch(
    sources: Sequence[ImageLike],
    actions: Sequence[str],
    *,
    n: int = 8,
    verifier: str | Verifier = "idm_fdm",
    model: str | Path | ForwardModel = "small",
    inverse: str | Path | InverseModel | None = None,
    seed: int = 0,
    sampling: Sampling = Sampling(),
) -> list[Prediction]:
    """`predict` for many at once, which is quicker than one after another and gives the same.

    Args:
        sources: the frames before the actions.
        actions: what happens, in words; one for each source.
        n: candidates of each; this and what follows is as for `predict`.
        verifier: what picks the best one of each.
        model: the forward model.
        inverse: the inverse model behind the verifier; by default `model`.
        seed: the same seed gives the same candidates.
        sampling: temperature, top-p, top-k and classifier-free guidance.

    Returns:
        One prediction for each source, in order.

    Raises:
        ValueError: as for `predict`, or there are not as many actions as sources.
    """
    if len(sources) != len(actions):
        raise ValueError(f"There are {len(sources)} sources and {len(actions)} actions: give one action for each.")
    _check(n, actions)
    frames = [read_image(source) for source in sources]
    forward = _forward(model)
    _tell_unfamiliar(forward, frames, actions)
    check = _verifier(verifier, model, inverse, seed)
    return _predict_batch(forward, check, frames, actions, n=n, seed=seed, sampling=sampling)


def rollout(
    source: ImageLike,
    actions: str | Sequence[str],
    *,
    n: int = 8,
    verifier: str | Verifier = "idm_fdm",
    model: str | Path | ForwardModel = "small",
    inverse: str | Path | InverseModel | None = None,
    seed: int = 0,
    sampling: Sampling = Sampling(),
    reencode: bool = False,
) -> list[Prediction]:
    """Several steps: each action starts from the frame that was predicted before.

    Args:
        source: the frame before the first action.
        actions: what happens, step by step.
        n: candidates per step; this and what follows is as for `predict`.
        verifier: what picks the best candidate of each step.
        model: the forward model.
        inverse: the inverse model behind the verifier; by default `model`.
        seed: the same seed gives the same candidates.
        sampling: temperature, top-p, top-k and classifier-free guidance.
        reencode: hand each frame on as an image instead of its sampled image tokens.

    Returns:
        One prediction per action, with its `drift`.

    Raises:
        ValueError: as for `predict`.
    """
    actions = [actions] if isinstance(actions, str) else list(actions)
    _check(n, actions)
    frame = read_image(source)
    check = _verifier(verifier, model, inverse, seed)
    forward = _forward(model)
    _tell_unfamiliar(forward, [frame], actions)
    return _rollout(forward, check, frame, actions, n=n, seed=seed, sampling=sampling, reencode=reencode)


def plan(
    start: ImageLike,
    goal: ImageLike,
    *,
    steps: int = 3,
    model: str | Path | ForwardModel = "small",
    inverse: str | Path | InverseModel | None = None,
    proposals: int = 12,
    beam: int = 4,
    seed: int = 0,
) -> Plan:
    """Find actions that lead from one image to another.

    The inverse model proposes actions, the forward model imagines what they lead to, and the inverse model reads each
    imagined step again.

    Args:
        start: the image to begin with.
        goal: the image to reach.
        steps: actions, at most.
        model: the forward model.
        inverse: the inverse model; by default `model`.
        proposals: actions that are tried at each frame, at most.
        beam: frames that are kept after each step; those that look alike are one.
        seed: the same seed gives the same plan.

    Returns:
        The actions, the imagined frames and the confidence; `reached` is False where no plan was found.

    Raises:
        ValueError: `steps`, `proposals` or `beam` is below 1, or as for `explain`.
    """
    for name, value in (("steps", steps), ("proposals", proposals), ("beam", beam)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}.")
    images = read_image(start), read_image(goal)
    reader = _reader(model, inverse)
    if reader is None:
        raise ValueError("Planning needs an inverse model, and this model only predicts: give one as `inverse`.")
    _tell_unfamiliar(reader, images)
    return _plan(_forward(model), reader, *images, steps=steps, proposals=proposals, beam=beam, seed=seed)


def explain(source: ImageLike, target: ImageLike, *, model: str | Path | InverseModel = "small") -> Explanation:
    """Inverse prediction: the action that leads from one frame to the other.

    Args:
        source: the frame before the action.
        target: the frame after it.
        model: the inverse model.

    Returns:
        The action in words, and its natural-log probability under the model.

    Raises:
        ValueError: as this module says.
    """
    pair = read_image(source), read_image(target)
    reader = _inverse(model)
    _tell_unfamiliar(reader, pair)
    return reader.explain([pair])[0]


def score(source: ImageLike, target: ImageLike, action: str, *, model: str | Path | InverseModel = "small") -> LogProb:
    """How well an action says what happened: log p(action | source, target).

    Args:
        source: the frame before the action.
        target: the frame after it.
        action: what may have happened, in words.
        model: the inverse model.

    Returns:
        The natural-log probability: `sum` over the action's tokens, their `count`, and the `mean`.

    Raises:
        ValueError: the model does not know a word of the action.
    """
    _check(1, [action])
    pair = read_image(source), read_image(target)
    reader = _inverse(model)
    _tell_unfamiliar(reader, pair, [action])
    return reader.score([pair], [action])[0]


def rerank(
    source: ImageLike,
    action: str,
    candidates: Sequence[AnyImage],
    *,
    model: str | Path | InverseModel = "small",
    verifier: str | Verifier = "idm",
    inverse: str | Path | InverseModel | None = None,
) -> list[tuple[AnyImage, float]]:
    """Images from any program, sorted by how well they show the action.

    Args:
        source: the frame before the action.
        action: what should have happened, in words.
        candidates: the images to sort.
        model: the model that scores. With "idm_fdm" its forward side says how likely each image is, as images of other
            programs bring no likelihood of their own.
        verifier: what scores them.
        inverse: the inverse model behind the verifier; by default `model`.

    Returns:
        (candidate as given, score), best first; what could not be read or scored (NaN) comes last. Why a candidate
        could not be read, a line in the log says.

    Raises:
        ValueError: there are no candidates, or not one can be read.
    """
    _check(1, [action])
    if not candidates:
        raise ValueError("There are no candidates: give at least one image.")
    if verifier == NONE:
        raise ValueError(f'The verifier "{NONE}" scores nothing: use one of {", ".join(VERIFIERS)}.')
    before = read_image(source)
    read = {i: image for i, candidate in enumerate(candidates) if (image := _readable(candidate, len(candidates) > 1))}
    if not read:
        raise ValueError("Not one of the candidates is an image that can be read.")
    check = _verifier(verifier, model, inverse, seed=0, foreign=True)
    assert check is not None, "every verifier but none is one"
    if isinstance(check, ReadsInverse):
        _tell_unfamiliar(check.model, [before, *read.values()], [action])
    (known,) = check.scores([Pool(before, action, [Candidate(image) for image in read.values()])])
    scores = dict.fromkeys(range(len(candidates)), math.nan) | dict(zip(read, known, strict=True))
    order = sorted(scores, key=lambda i: (math.isnan(scores[i]), -scores[i], i))
    return [(candidates[i], scores[i]) for i in order]


def rerank_tasks(
    tasks: str | Path,
    *,
    out: str | Path,
    model: str = "small",
    verifier: str = "idm",
    inverse: str | None = None,
    images: str | Path | None = None,
    progress: Progress | None = None,
) -> list[JsonObject]:
    """`rerank` for many actions: a file of tasks in; `ranked.jsonl` and a contact sheet, `index.html`, out.

    The same call again scores only what is new, or whose images have changed.

    Args:
        tasks: JSON lines such as `{"file_name": "a.png", "action": "push it", "candidates": ["b.png", "c.png"]}`.
        out: folder to write to.
        model: the model that scores, as for `rerank`.
        verifier: what scores the candidates.
        inverse: the inverse model behind the verifier; by default `model`.
        images: folder that paths start from; by default that of `tasks`.
        progress: receives how far the work is.

    Returns:
        The lines of `ranked.jsonl`: each task's candidates, best first, with their scores, or the reason of none.

    Raises:
        ValueError: the tasks cannot be read, or `out` is another run's.
    """
    from retrodict.evaluation.rerank import rerank_tasks as run
    from retrodict.report.rerank import write_page

    if verifier == NONE:
        raise ValueError(f'The verifier "{NONE}" scores nothing: use one of {", ".join(VERIFIERS)}.')
    tasks, out = Path(tasks), Path(out)
    root = Path(images) if images else tasks.parent
    check = _verifier(verifier, model, inverse, seed=0, foreign=True)
    assert check is not None, "every verifier but none is one"
    settings = {"model": model, "verifier": verifier, "inverse": inverse or ""}
    weights: dict[str, Input] = {"model weights": model, "inverse weights": inverse}
    records = run(tasks, out=out, verifier=check, settings=settings, inputs=weights, images=root, progress=progress)
    write_page(out, records, root)
    return records


def train(recipe: str | Path | TrainRecipe, *, out: str | Path, progress: Progress | None = None) -> None:
    """Train one model. The same call again continues.

    Args:
        recipe: a YAML file, or what it says as a `training.config.TrainRecipe`.
        out: folder for the model, a name for `load`, and its `results.json`.
        progress: receives how far the work is.

    Raises:
        ValueError: there is nothing to train on, or `out` is another run's.
    """
    from retrodict.training.config import TrainRecipe
    from retrodict.training.recipe import train_recipe

    given = recipe if isinstance(recipe, TrainRecipe) else load_recipe(Path(recipe), TrainRecipe)
    train_recipe(given, Path(out), progress or QuietProgress())


def run_bootstrap(recipe: str | Path | BootstrapRecipe, *, out: str | Path, progress: Progress | None = None) -> None:
    """Run the whole loop: inverse model, annotation, forward models, report. The same call again continues.

    Args:
        recipe: a YAML file, or what it says as a `bootstrap.recipe.BootstrapRecipe`.
        out: folder for the models (`out` is a name for `load`), `results.json` and `report.html`.
        progress: receives how far the work is.

    Raises:
        ValueError: there is nothing to train or test on, or `out` is another run's.
    """
    from retrodict.bootstrap.loop import run_bootstrap as run
    from retrodict.bootstrap.recipe import BootstrapRecipe

    given = recipe if isinstance(recipe, BootstrapRecipe) else load_recipe(Path(recipe), BootstrapRecipe)
    run(given, Path(out), progress or QuietProgress())


def annotate(pairs: str | Path, *, model: str | Path, out: str | Path, progress: Progress | None = None) -> None:
    """Pseudo-label frame pairs: the inverse model says which action happened in each. The same call again continues.

    Args:
        pairs: folder of frame pairs, as `mine` writes it.
        model: name of the inverse model.
        out: folder for the labelled transitions, each with its log-probability.
        progress: receives how far the work is.

    Raises:
        ValueError: there are no pairs with images, no such model, or `out` is another run's or the input itself.
    """
    from retrodict.bootstrap.annotate import annotate_dir

    annotate_dir(Path(pairs), model=model, out=Path(out), progress=progress)


def select(transitions: str | Path, *, top_k: int, out: str | Path) -> None:
    """Keep the likeliest pseudo-labels, round-robin over the classes.

    Args:
        transitions: folder of labelled transitions, as `annotate` writes it.
        top_k: how many to keep.
        out: folder for the chosen ones.

    Raises:
        ValueError: no transition has a likelihood, or `out` is another run's or the input itself.
    """
    from retrodict.bootstrap.select import select_dir

    select_dir(Path(transitions), top_k=top_k, out=Path(out))


def _readable(candidate: ImageLike, others: bool) -> Image.Image | None:
    """The image; None, and a line in the log, for one that cannot be read beside `others`."""
    try:
        return read_image(candidate)
    except (OSError, ValueError) as error:
        if not others:
            raise
        logging.getLogger("retrodict").warning("retrodict: not scored: %s", error)
        return None


def _check(n: int, actions: Sequence[str]) -> None:
    """What can be refused before a model is loaded."""
    if n < 1:
        raise ValueError(f"n must be at least 1, not {n}.")
    if not actions:
        raise ValueError("There are no actions: give at least one.")
    if any(not action.strip() for action in actions):
        raise ValueError('An action is empty: say in words what happens, e.g. "push the red ball to the left".')


def _tell_unfamiliar(
    model: ForwardModel | InverseModel, images: Sequence[Image.Image], actions: Sequence[str] = ()
) -> None:
    """Log one line when a model is asked for what is unlike anything that it was trained on."""
    said = model.family.unfamiliar(images, actions) if isinstance(model, UnifiedModel) else []
    if said:
        logging.getLogger("retrodict").warning("retrodict: the model guesses: %s", ", and ".join(said))


def _forward(model: str | Path | ForwardModel) -> ForwardModel:
    return load(model, role="forward") if isinstance(model, str | Path) else model


def _inverse(model: str | Path | InverseModel) -> InverseModel:
    return load(model, role="inverse") if isinstance(model, str | Path) else model


def _reader(
    model: str | Path | ForwardModel | InverseModel, inverse: str | Path | InverseModel | None
) -> InverseModel | None:
    """The inverse model that is given, else the model's own; None where it only predicts."""
    if inverse is not None:
        return _inverse(inverse)
    known = isinstance(model, str | Path) or hasattr(model, "explain")
    return _inverse(cast("str | Path | InverseModel", model)) if known else None


def _verifier(
    verifier: str | Verifier,
    model: str | Path | ForwardModel | InverseModel,
    inverse: str | Path | InverseModel | None,
    seed: int,
    foreign: bool = False,
) -> Verifier | None:
    """The verifier of that name, None for "none". `foreign` candidates carry no likelihood, so it is computed."""
    if not isinstance(verifier, str):
        return verifier

    def reads() -> InverseModel:
        reader = _reader(model, inverse)
        if reader is None:
            raise ValueError(
                f'The verifier "{verifier}" needs an inverse model, and this model only predicts: give one as '
                '`inverse`, or use "random" or "none".'
            )
        return reader

    def likely() -> ScoringForwardModel:
        forward = load(model, role="forward") if isinstance(model, str | Path) else model
        if not hasattr(forward, "score_targets"):
            raise ValueError(f'The verifier "{verifier}" needs a model that says how likely an image is: use "idm".')
        return cast(ScoringForwardModel, forward)

    def explains(action: str, source: Image.Image, target: Image.Image) -> bool:
        return world_that_says(action).explains(action, source, target)

    return make_verifier(verifier, Parts(reads, explains, likely if foreign else None, seed))

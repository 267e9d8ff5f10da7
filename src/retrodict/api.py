"""What people ask models, one function each: images in, answers out. `stages` has what goes from folder to folder.

An image is a path, an encoded image's bytes, a PIL image or an array [H, W, 3] of uint8 (`images.read_image`). A model
is a name for `load` or a loaded model; who asks often loads once. A verifier is a name in
`dynamics.verifiers.VERIFIERS`, "none" for one greedy frame, or a `dynamics.verify.Verifier`.

Every function raises `FileNotFoundError` for a missing image and `ValueError`, in one line, for whatever else the
caller can put right: a file that is no image, an empty action, an unknown name. What a model was never trained on is no
error: a line in the log says so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar, cast

from retrodict.dynamics.adaptive import predict_adaptively
from retrodict.dynamics.best_of_n import Prediction, SecondProposer
from retrodict.dynamics.best_of_n import predict as _predict
from retrodict.dynamics.best_of_n import predict_batch as _predict_batch
from retrodict.dynamics.confidence import curves_of
from retrodict.dynamics.planning import Plan
from retrodict.dynamics.planning import plan as _plan
from retrodict.dynamics.rollout import rollout as _rollout
from retrodict.dynamics.unified import UnifiedModel
from retrodict.dynamics.verifiers import NONE, VERIFIERS
from retrodict.dynamics.verify import CopyGate, Pool, ReadsInverse, Verifier
from retrodict.errors import check_count
from retrodict.files import JsonObject
from retrodict.images import ImageLike, read_image
from retrodict.models.protocol import (
    Candidate,
    Explanation,
    ForwardModel,
    InverseModel,
    LogProb,
    ScoringForwardModel,
)
from retrodict.progress import Progress
from retrodict.resolve import (
    check_request,
    forward_model,
    inverse_model,
    inverse_of,
    listed,
    readable,
    tell_unfamiliar,
    verifier_of,
)
from retrodict.run_folder import Input
from retrodict.sampling import MOST_CANDIDATES, Sampling

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
    sure: float | None = None,
    second: str | Path | ForwardModel | None = None,
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
        sure: the same, once one is right with at least this probability, for a model whose confidence was calibrated.
        second: another forward model, whose most likely frame takes the place of the last candidate.
        reject_copies: choose a frame that shows no change only when there is no other.

    Returns:
        The chosen frame with all candidates and their scores. `prediction.image` is an RGB image of the model's size,
        and `prediction.fits` is False where it is more probably wrong than right.

    Raises:
        ValueError: the model does not know a word, follows no such sampling, or cannot be verified so.
    """
    check_request(n, [action], sampling)
    frame = read_image(source)
    forward = forward_model(model)
    tell_unfamiliar(forward, [frame], [action])
    check = verifier_of(verifier, model, inverse, seed)
    for name, value in (("stop_at", stop_at), ("sure", sure)):
        if value is not None and (not isinstance(value, int | float) or math.isnan(value)):
            raise ValueError(f"{name} must be a number, not {value!r}.")
    if stop_at is not None and sure is not None:
        raise ValueError("stop_at and sure both say when to stop: give one.")
    if check is None and (stop_at is not None or sure is not None or second is not None or reject_copies):
        raise ValueError(f'The verifier "{NONE}" samples one frame and scores nothing: use another with these options.')
    if reject_copies and check is not None:
        if not isinstance(forward, UnifiedModel):
            raise ValueError("reject_copies needs a model of image tokens, which this one is not: leave it out.")
        check = CopyGate(check, forward)
    if sure is not None and check is not None:
        if check.name not in curves_of(forward):
            raise ValueError(
                f'How sure this model is by "{check.name}" was not calibrated: use stop_at, or leave it out.'
            )
        stop_at = curves_of(forward)[check.name].score(sure)
    if second is not None:
        if stop_at is not None:
            raise ValueError("A second model gives one candidate, and stop_at and sure sample many times: choose one.")
        if not hasattr(forward, "score_targets"):
            raise ValueError("A second model needs a first one that says how likely an image is: leave `second` out.")
        forward = SecondProposer(cast(ScoringForwardModel, forward), forward_model(second))
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
    sources, actions = listed("sources", sources), listed("actions", actions)
    if len(sources) != len(actions):
        raise ValueError(f"There are {len(sources)} sources and {len(actions)} actions: give one action for each.")
    check_request(n, actions, sampling)
    frames = [read_image(source) for source in sources]
    forward = forward_model(model)
    tell_unfamiliar(forward, frames, actions)
    check = verifier_of(verifier, model, inverse, seed)
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
    actions = [actions] if isinstance(actions, str) else listed("actions", actions)
    check_request(n, actions, sampling)
    frame = read_image(source)
    check = verifier_of(verifier, model, inverse, seed)
    forward = forward_model(model)
    tell_unfamiliar(forward, [frame], actions)
    return _rollout(forward, check, frame, actions, n=n, seed=seed, sampling=sampling, reencode=reencode)


def plan(
    start: ImageLike,
    goal: ImageLike,
    *,
    steps: int = 3,
    model: str | Path | ForwardModel = "small",
    inverse: str | Path | InverseModel | None = None,
    proposals: int = 16,
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
        ValueError: `steps`, `proposals` or `beam` is below 1 or above 1,024, or as for `explain`.
    """
    for name, value in (("steps", steps), ("proposals", proposals), ("beam", beam)):
        check_count(name, value, MOST_CANDIDATES)
    images = read_image(start), read_image(goal)
    reader = inverse_of(model, inverse)
    if reader is None:
        raise ValueError("Planning needs an inverse model, and this model only predicts: give one as `inverse`.")
    tell_unfamiliar(reader, images)
    return _plan(forward_model(model), reader, *images, steps=steps, proposals=proposals, beam=beam, seed=seed)


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
    reader = inverse_model(model)
    tell_unfamiliar(reader, pair)
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
    check_request(1, [action])
    pair = read_image(source), read_image(target)
    reader = inverse_model(model)
    tell_unfamiliar(reader, pair, [action])
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
    check_request(1, [action])
    candidates = listed("candidates", candidates)
    if not candidates:
        raise ValueError("There are no candidates: give at least one image.")
    if verifier == NONE:
        raise ValueError(f'The verifier "{NONE}" scores nothing: use one of {", ".join(VERIFIERS)}.')
    before = read_image(source)
    read = {i: image for i, candidate in enumerate(candidates) if (image := readable(candidate, len(candidates) > 1))}
    if not read:
        raise ValueError("Not one of the candidates is an image that can be read.")
    check = verifier_of(verifier, model, inverse, seed=0, foreign=True)
    assert check is not None, "every verifier but none is one"
    if isinstance(check, ReadsInverse):
        tell_unfamiliar(check.model, [before, *read.values()], [action])
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
    check = verifier_of(verifier, model, inverse, seed=0, foreign=True)
    assert check is not None, "every verifier but none is one"
    settings = {"model": model, "verifier": verifier, "inverse": inverse or ""}
    weights: dict[str, Input] = {"model weights": model, "inverse weights": inverse}
    records = run(tasks, out=out, verifier=check, settings=settings, inputs=weights, images=root, progress=progress)
    write_page(out, records, root)
    return records

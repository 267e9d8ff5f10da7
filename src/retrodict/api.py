"""What people call: predict, explain, score, rerank, roll out. One function each, pictures in, answers out.

A picture is a path or a PIL image. A model is a name (see `load`) or a loaded model; who asks often loads once. A
verifier is a name or an object with the two members of `dynamics.verify.Verifier`.

Every function raises `FileNotFoundError` for a missing picture and `ValueError` for whatever else the caller can put
right: a file that is no picture, an empty action, words that the model does not know, an unknown name.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias, TypeVar, cast

from PIL import Image, ImageOps, UnidentifiedImageError

from retrodict.dynamics.adaptive import predict_in_waves
from retrodict.dynamics.rollout import rollout as _rollout
from retrodict.dynamics.unified import UnifiedModel
from retrodict.dynamics.verify import (
    Contrast,
    CopyGate,
    InverseAndForwardLikelihood,
    InverseLikelihood,
    Prediction,
    Random,
    ScoredBy,
    Verifier,
)
from retrodict.dynamics.verify import predict as _predict
from retrodict.files import write_atomic
from retrodict.loading import load
from retrodict.models.protocol import (
    Candidate,
    Explanation,
    ForwardModel,
    InverseModel,
    LogProb,
    ScoringForwardModel,
)
from retrodict.sampling import Sampling
from retrodict.worlds import exact_state

__all__ = [
    "VERIFIERS",
    "explain",
    "load",
    "predict",
    "read_picture",
    "rerank",
    "rollout",
    "score",
    "write_picture",
]

VERIFIERS = ("idm", "idm_mean", "idm_fdm", "contrast", "exact", "random", "none")

Picture: TypeAlias = str | Path | Image.Image
P = TypeVar("P", str, Path, Image.Image)


def predict(
    source: Picture,
    action: str,
    *,
    n: int = 8,
    verifier: str | Verifier = "idm_fdm",
    model: str | Path | ForwardModel = "small",
    seed: int = 0,
    sampling: Sampling = Sampling(),
    stop_at: float | None = None,
    reject_copies: bool = False,
) -> Prediction:
    """The frame after an action: the best of `n` candidates by the verifier.

    "idm" asks the inverse model of the same name which action a candidate shows ("idm_mean" per token), "idm_fdm" also
    how likely the forward model finds it, "contrast" how much likelier the action is than what else could be read out
    of the candidates, "exact" the rules of the simulated world, "random" leaves it to chance, and "none" draws nothing
    and takes the most likely frame.

    With `stop_at`, candidates are sampled two at a time until one scores at least that.
    `reject_copies` leaves frames that show no change for when there is nothing else.
    """
    _check(n, [action])
    picture = read_picture(source)
    forward = _forward(model)
    judge = _verifier(verifier, model, seed)
    if judge is None and (stop_at is not None or reject_copies):
        raise ValueError('The verifier "none" draws one frame and scores nothing: use another with these options.')
    if reject_copies and judge is not None:
        judge = CopyGate(judge, _unified(forward, "reject_copies"))
    if stop_at is None or judge is None:
        return _predict(forward, judge, picture, action, n=n, seed=seed, sampling=sampling)
    return predict_in_waves(forward, judge, picture, action, n=n, seed=seed, stop_at=stop_at, sampling=sampling)


def rollout(
    source: Picture,
    actions: Sequence[str],
    *,
    n: int = 8,
    verifier: str | Verifier = "idm_fdm",
    model: str | Path | ForwardModel = "small",
    seed: int = 0,
    sampling: Sampling = Sampling(),
    reencode: bool = False,
) -> list[Prediction]:
    """One prediction per action; each starts from the frame chosen before. Arguments as for `predict`.

    With `reencode` a frame is handed on as a picture, not as the image codes that were drawn.
    """
    actions = [actions] if isinstance(actions, str) else list(actions)
    _check(n, actions)
    picture = read_picture(source)
    judge = _verifier(verifier, model, seed)
    return _rollout(_forward(model), judge, picture, actions, n=n, seed=seed, sampling=sampling, reencode=reencode)


def explain(source: Picture, target: Picture, *, model: str | Path | InverseModel = "small") -> Explanation:
    """The action that leads from one frame to the other, and its log-probability."""
    pair = read_picture(source), read_picture(target)
    return _inverse(model).explain([pair])[0]


def score(source: Picture, target: Picture, action: str, *, model: str | Path | InverseModel = "small") -> LogProb:
    """log p(action | source, target) under the inverse model: how well the action says what happened."""
    _check(1, [action])
    pair = read_picture(source), read_picture(target)
    return _inverse(model).score([pair], [action])[0]


def rerank(
    source: Picture,
    action: str,
    candidates: Sequence[P],
    *,
    model: str | Path = "small",
    verifier: str | Verifier = "idm",
) -> list[tuple[P, float]]:
    """Pictures from any program, each with its score, best first; what could not be scored (NaN) comes last.

    With "idm_fdm" the forward model of the same name says how likely each picture is: other programs' pictures bring no
    likelihood of their own.
    """
    _check(1, [action])
    if not candidates:
        raise ValueError("There are no candidates: give at least one picture.")
    if verifier == "none":
        raise ValueError(f'The verifier "none" scores nothing: use one of {", ".join(VERIFIERS[:-1])}.')
    picture = read_picture(source)
    pool = [Candidate(read_picture(candidate)) for candidate in candidates]
    judge = _verifier(verifier, model, seed=0, foreign=True)
    assert judge is not None, "every verifier but none is one"
    (scores,) = judge.scores([picture], [action], [pool])
    order = sorted(range(len(pool)), key=lambda i: (math.isnan(scores[i]), -scores[i], i))
    return [(candidates[i], scores[i]) for i in order]


def read_picture(picture: Picture) -> Image.Image:
    """`picture` as RGB, turned the way its camera was held."""
    name = "The picture" if isinstance(picture, Image.Image) else str(picture)
    try:
        if isinstance(picture, Image.Image):
            return _upright(picture)
        with Image.open(picture) as opened:
            return _upright(opened)
    except (FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except UnidentifiedImageError:
        raise ValueError(f"{name} is no picture, or of a kind that cannot be read.") from None
    except Exception as error:  # decoders meet broken files with almost any exception
        raise ValueError(f"{name} is a broken picture: {error}.") from None


def _upright(picture: Image.Image) -> Image.Image:
    return ImageOps.exif_transpose(picture).convert("RGB")


def write_picture(path: Path, image: Image.Image) -> None:
    """Write a picture in the format that its name says, whole or not at all."""
    Image.init()
    kind = Image.EXTENSION.get(path.suffix.lower())
    if kind is None or kind not in Image.SAVE:
        raise ValueError(f"{path}: pictures cannot be written as {path.suffix or 'a file without a suffix'}; use .png.")
    write_atomic(path, lambda temporary: image.save(temporary, kind))


def _check(n: int, actions: Sequence[str]) -> None:
    """What can be refused before a model is loaded."""
    if n < 1:
        raise ValueError(f"n must be at least 1, not {n}.")
    if not actions:
        raise ValueError("There are no actions: give at least one.")
    if any(not action.strip() for action in actions):
        raise ValueError('An action is empty: say in words what happens, e.g. "push the red ball to the left".')


def _forward(model: str | Path | ForwardModel) -> ForwardModel:
    return load(model, role="forward") if isinstance(model, str | Path) else model


def _unified(model: ForwardModel, what: str) -> UnifiedModel:
    if not isinstance(model, UnifiedModel):
        raise ValueError(f"{what}: only a model that draws image tokens can do this, and {model!r} does not.")
    return model


def _inverse(model: str | Path | InverseModel) -> InverseModel:
    return load(model, role="inverse") if isinstance(model, str | Path) else model


def _verifier(
    verifier: str | Verifier, model: str | Path | ForwardModel, seed: int, foreign: bool = False
) -> Verifier | None:
    """The verifier of that name, None for "none". `foreign` candidates carry no likelihood, so it is computed."""
    if not isinstance(verifier, str):
        return verifier
    if verifier not in VERIFIERS:
        raise ValueError(f'No verifier "{verifier}": use one of {", ".join(VERIFIERS)}.')
    if verifier == "none":
        return None
    if verifier in ("random", "exact"):
        return Random(seed) if verifier == "random" else ScoredBy("exact", exact_state)
    if not isinstance(model, str | Path):
        raise ValueError(f'The verifier "{verifier}" belongs to a model by name; with a loaded one, give a verifier.')
    inverse = load(model, role="inverse")
    if verifier in ("idm", "idm_mean"):
        return InverseLikelihood(inverse, per_token=verifier == "idm_mean")
    if verifier == "contrast":
        return Contrast(inverse)
    return InverseAndForwardLikelihood(inverse, _scoring(model) if foreign else None)


def _scoring(model: str | Path) -> ScoringForwardModel:
    forward = load(model, role="forward")
    assert hasattr(forward, "score_targets"), "a model that explains is unified, and those score frames"
    return cast(ScoringForwardModel, forward)

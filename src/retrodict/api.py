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

from retrodict.dynamics.rollout import rollout as _rollout
from retrodict.dynamics.verify import (
    InverseAndForwardLikelihood,
    InverseLikelihood,
    Prediction,
    Random,
    Verifier,
)
from retrodict.dynamics.verify import predict as _predict
from retrodict.models.load import load
from retrodict.models.protocol import (
    Candidate,
    Explanation,
    ForwardModel,
    InverseModel,
    LogProb,
    ScoringForwardModel,
)
from retrodict.transitions import write_atomic

__all__ = ["VERIFIERS", "explain", "load", "predict", "read_picture", "rerank", "rollout", "score", "write_picture"]

VERIFIERS = ("idm", "idm_fdm", "random", "none")

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
) -> Prediction:
    """The frame after an action: the best of `n` candidates by the verifier.

    "idm" asks the inverse model of the same name which action a candidate shows, "idm_fdm" also how likely the forward
    model finds it, "random" leaves it to chance, and "none" draws nothing and takes the most likely frame.
    """
    _check(n, [action])
    picture = read_picture(source)
    return _predict(_forward(model), _verifier(verifier, model, seed), picture, action, n=n, seed=seed)


def rollout(
    source: Picture,
    actions: Sequence[str],
    *,
    n: int = 8,
    verifier: str | Verifier = "idm_fdm",
    model: str | Path | ForwardModel = "small",
    seed: int = 0,
) -> list[Prediction]:
    """One prediction per action; each starts from the frame chosen before. Arguments as for `predict`."""
    actions = [actions] if isinstance(actions, str) else list(actions)
    _check(n, actions)
    picture = read_picture(source)
    return _rollout(_forward(model), _verifier(verifier, model, seed), picture, actions, n=n, seed=seed)


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
    if verifier in ("none", "random"):
        return Random(seed) if verifier == "random" else None
    if not isinstance(model, str | Path):
        raise ValueError(f'The verifier "{verifier}" belongs to a model by name; with a loaded one, give a verifier.')
    inverse = load(model, role="inverse")
    if verifier == "idm":
        return InverseLikelihood(inverse)
    return InverseAndForwardLikelihood(inverse, _scoring(model) if foreign else None)


def _scoring(model: str | Path) -> ScoringForwardModel:
    forward = load(model, role="forward")
    assert hasattr(forward, "score_targets"), "a model that explains is unified, and those score frames"
    return cast(ScoringForwardModel, forward)

"""The verifiers that can be chosen by name: one record each, from which choices, titles and help texts derive.

Nothing heavy is loaded before a verifier is made.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

    from retrodict.dynamics.verify import Verifier
    from retrodict.models.protocol import InverseModel, ScoringForwardModel

NONE = "none"  # in place of a verifier: greedy decoding, no candidates


@dataclass(frozen=True)
class Parts:
    """What verifiers are made of. Models are functions, so that only what a verifier needs is loaded."""

    inverse: Callable[[], InverseModel]
    explains: Callable[[str, Image.Image, Image.Image], bool]  # (action, source, target), by a world's rules
    forward: Callable[[], ScoringForwardModel] | None = None  # for candidates that carry no likelihood of their own
    seed: int = 0


@dataclass(frozen=True)
class VerifierKind:
    """A verifier that can be chosen by name."""

    title: str
    about: str  # completes "NAME ...", for help texts
    make: Callable[[Parts], Verifier]
    needs_inverse: bool = False
    needs_forward: bool = False  # candidates with a likelihood, or a forward model that computes it
    needs_world: bool = False


def make_verifier(name: str, parts: Parts) -> Verifier | None:
    """The verifier of that name, made of `parts`; None for "none". Raises `ValueError` for an unknown name."""
    check_verifier(name)
    return None if name == NONE else VERIFIERS[name].make(parts)


def check_verifier(name: str) -> None:
    """Raise `ValueError` when no verifier has that name."""
    if name != NONE and name not in VERIFIERS:
        raise ValueError(f'No verifier "{name}": use one of {", ".join((*VERIFIERS, NONE))}.')


def _idm_fdm(parts: Parts) -> Verifier:
    from retrodict.dynamics.verify import InverseAndForwardLikelihood

    return InverseAndForwardLikelihood(parts.inverse(), parts.forward and parts.forward())


def _idm(parts: Parts) -> Verifier:
    from retrodict.dynamics.verify import InverseLikelihood

    return InverseLikelihood(parts.inverse())


def _idm_mean(parts: Parts) -> Verifier:
    from retrodict.dynamics.verify import InverseLikelihood

    return InverseLikelihood(parts.inverse(), per_token=True)


def _contrast(parts: Parts) -> Verifier:
    from retrodict.dynamics.verify import Contrast

    return Contrast(parts.inverse())


def _exact(parts: Parts) -> Verifier:
    from retrodict.dynamics.verify import ScoredBy

    return ScoredBy("exact", lambda source, action, target: float(parts.explains(action, source, target)))


def _random(parts: Parts) -> Verifier:
    from retrodict.dynamics.verify import Random

    return Random(parts.seed)


VERIFIERS: dict[str, VerifierKind] = {
    "idm_fdm": VerifierKind(
        "IDM + FDM",
        "adds twice how likely the forward model finds the candidate to `idm`",
        _idm_fdm,
        needs_inverse=True,
        needs_forward=True,
    ),
    "idm": VerifierKind(
        "IDM", "is the inverse model's likelihood of the action, given the candidate", _idm, needs_inverse=True
    ),
    "idm_mean": VerifierKind("IDM per token", "is the same per token", _idm_mean, needs_inverse=True),
    "contrast": VerifierKind(
        "IDM, contrastive",
        "weighs the action against what else the inverse model reads out of the candidates",
        _contrast,
        needs_inverse=True,
    ),
    "exact": VerifierKind("exact state", "asks the simulated world's own rules", _exact, needs_world=True),
    "random": VerifierKind("random", "leaves it to chance", _random),
}

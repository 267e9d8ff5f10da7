"""Models and verifiers out of what callers give: names, or the objects themselves; and what is refused, or said in the
log, before a model is asked."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar, cast

from PIL import Image

from retrodict.dynamics.unified import UnifiedModel
from retrodict.dynamics.verifiers import NONE, VERIFIERS, Parts, check_verifier, make_verifier
from retrodict.dynamics.verify import Verifier
from retrodict.errors import check_count
from retrodict.files import LONGEST_ACTION, is_text, visible
from retrodict.images import ImageLike, read_image
from retrodict.loading import load
from retrodict.models.protocol import ForwardModel, InverseModel, ScoringForwardModel
from retrodict.sampling import MOST_CANDIDATES, Sampling
from retrodict.worlds import world_that_says

T = TypeVar("T")


def readable(candidate: ImageLike, others: bool) -> Image.Image | None:
    """The image; None, and a line in the log, for one that cannot be read beside `others`."""
    try:
        return read_image(candidate)
    except (OSError, ValueError) as error:
        if not others:
            raise
        logging.getLogger("retrodict").warning("retrodict: not scored: %s", error)
        return None


def check_request(n: int, actions: Sequence[str], sampling: Sampling = Sampling()) -> None:
    """What can be refused before a model is loaded."""
    check_count("n", n, MOST_CANDIDATES)
    if not isinstance(sampling, Sampling):
        raise ValueError(f"sampling is a {type(sampling).__name__}: give a retrodict.Sampling.")
    if not actions:
        raise ValueError("There are no actions: give at least one.")
    if others := [action for action in actions if not isinstance(action, str)]:
        raise ValueError(f"An action is a {type(others[0]).__name__}: say in words what happens.")
    if others := [action for action in actions if not is_text(action)]:
        raise ValueError(f"The action {others[0][:80]!r} holds half a character, which is no text.")
    if any(not visible(action) for action in actions):
        raise ValueError('An action is empty: say in words what happens, e.g. "push the red ball to the left".')
    if longest := max((action for action in actions if len(action) > LONGEST_ACTION), key=len, default=""):
        raise ValueError(
            f"An action of {len(longest):,} characters is too long: {LONGEST_ACTION:,} at most. It begins "
            f"{longest[:40]!r}."
        )


def listed(name: str, values: Iterable[T]) -> list[T]:
    """The values of several; one alone, whose parts would be taken for them, is refused."""
    if isinstance(values, str | Path | bytes | Image.Image) or not isinstance(values, Iterable):
        raise ValueError(f"{name} must be a list, not a {type(values).__name__}.")
    return list(values)


def tell_unfamiliar(
    model: ForwardModel | InverseModel, images: Sequence[Image.Image], actions: Sequence[str] = ()
) -> None:
    """Log one line when a model is asked for what is unlike anything that it was trained on."""
    said = model.family.unfamiliar(images, actions) if isinstance(model, UnifiedModel) else []
    if said:
        logging.getLogger("retrodict").warning("retrodict: the model guesses: %s", ", and ".join(said))


def forward_model(model: str | Path | ForwardModel) -> ForwardModel:
    return load(model, role="forward") if isinstance(model, str | Path) else _able(model, "sample", "The forward model")


def inverse_model(model: str | Path | InverseModel) -> InverseModel:
    return (
        load(model, role="inverse") if isinstance(model, str | Path) else _able(model, "explain", "The inverse model")
    )


def _able(given: T, what: str, name: str) -> T:
    """Refuse what cannot be asked, before it is."""
    if not hasattr(given, what):
        raise ValueError(f"{name} is a {type(given).__name__}, which has no `{what}`: give a name, or a loaded one.")
    return given


def inverse_of(
    model: str | Path | ForwardModel | InverseModel, inverse: str | Path | InverseModel | None
) -> InverseModel | None:
    """The inverse model that is given, else the model's own; None where it only predicts."""
    if inverse is not None:
        return inverse_model(inverse)
    known = isinstance(model, str | Path) or hasattr(model, "explain")
    return inverse_model(cast("str | Path | InverseModel", model)) if known else None


def _asks_inverse(verifier: str) -> bool:
    check_verifier(verifier)
    return verifier != NONE and VERIFIERS[verifier].needs_inverse


def verifier_of(
    verifier: str | Verifier,
    model: str | Path | ForwardModel | InverseModel,
    inverse: str | Path | InverseModel | None,
    seed: int,
    foreign: bool = False,
) -> Verifier | None:
    """The verifier of that name, None for "none". `foreign` candidates carry no likelihood, so it is computed.

    Raises `ValueError` for an inverse model that the verifier does not ask, and as `make_verifier` does.
    """
    if inverse is not None and (not isinstance(verifier, str) or not _asks_inverse(verifier)):
        named = f' "{verifier}"' if isinstance(verifier, str) else ""
        raise ValueError(f"The verifier{named} asks no inverse model: leave `inverse` out, or choose another.")
    if not isinstance(verifier, str):
        return _able(verifier, "scores", "The verifier")

    def reads() -> InverseModel:
        reader = inverse_of(model, inverse)
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

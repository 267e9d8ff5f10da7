"""What the server's models do: each method is a `Work` of the engine, on several items at once."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from PIL import Image

from retrodict.chat.cache import kept_in_memory
from retrodict.chat.edits import EditEndpoint
from retrodict.dynamics.best_of_n import choose
from retrodict.dynamics.planning import Plan, plan
from retrodict.dynamics.unified import UnifiedModel
from retrodict.dynamics.verifiers import VERIFIERS, Parts, check_verifier, make_verifier
from retrodict.dynamics.verify import Pool, Verifier, scores_of_all
from retrodict.files import JsonObject, visible
from retrodict.loading import load
from retrodict.models.protocol import (
    Candidate,
    Explanation,
    ForwardModel,
    Frame,
    InverseModel,
    LogProb,
    Pair,
    image_of,
)
from retrodict.placement import chosen_device
from retrodict.training.config import Weighting
from retrodict.training.weighting import loss_weights
from retrodict.worlds import world_that_says

AT_ONCE = 16  # items of one batch; more are no quicker, and others wait longer
TEMPERATURE = 1.5  # of alternative explanations


@dataclass(frozen=True, eq=False)
class Asked:
    """A prediction that is asked for; with `candidates` only their scores."""

    source: Frame
    action: str
    candidates: tuple[Candidate, ...] = ()


@dataclass(frozen=True, eq=False)
class Verified:
    """Candidates with their scores under each verifier; `order` is that of the first, best first, NaN last."""

    candidates: tuple[Candidate, ...]
    scores: Mapping[str, Sequence[float]]
    order: tuple[int, ...]


class Models:
    """A forward model, an inverse model and a verifier, loaded for good. What endpoints answer is not kept on disk.

    Raises:
        ValueError: there is no such model or verifier, or they do not go together.
    """

    def __init__(self, model: str, inverse: str = "", verifier: str = "", n: int = 8) -> None:
        self.name, self.inverse_name, self.n = model, inverse or model, n
        with kept_in_memory():
            self.forward: ForwardModel = load(model, "forward")
            self.inverse: InverseModel = self._inverse(inverse)
        self.has_likelihood = hasattr(self.forward, "score_targets")
        self.verifier = verifier or ("idm_fdm" if self.has_likelihood else "idm")
        self.check(self.verifier)

    def _inverse(self, inverse: str) -> InverseModel:
        try:
            return load(inverse or self.name, "inverse")
        except ValueError as error:
            if inverse:
                raise
            raise ValueError(f"{error} Name the model that verifies with --inverse, such as small.") from None

    def check(self, verifier: str) -> None:
        """Raise `ValueError` for a verifier that cannot score these candidates."""
        check_verifier(verifier)
        if verifier not in VERIFIERS or (VERIFIERS[verifier].needs_forward and not self.has_likelihood):
            usable = ", ".join(self.verifiers)
            raise ValueError(f'The verifier "{verifier}" cannot score candidates of {self.name}: use one of {usable}.')

    @property
    def verifiers(self) -> list[str]:
        """Names of those that can score the candidates."""
        return [name for name, kind in VERIFIERS.items() if self.has_likelihood or not kind.needs_forward]

    @property
    def samples_elsewhere(self) -> bool:
        """Whether sampling is waiting for another server, which needs no turn of the models."""
        return isinstance(self.forward, EditEndpoint)

    @property
    def at_once(self) -> int:
        """Predictions in one batch; others than unified models sample one after another anyway."""
        return AT_ONCE if isinstance(self.forward, UnifiedModel) else 1

    @property
    def is_unified(self) -> bool:
        return isinstance(self.inverse, UnifiedModel)

    @property
    def threads(self) -> int:
        """Batches that run at a time. On a CPU each has a core of its own, which is quicker than one batch on all of
        them: its operations are too small to be shared."""
        on_cpu = self.is_unified and chosen_device().type == "cpu"
        alone = isinstance(self.forward, UnifiedModel | EditEndpoint)
        return torch.get_num_threads() if on_cpu and alone else 1

    async def arriving(self, asked: Asked, n: int, seed: int) -> AsyncGenerator[Asked]:
        """The same with the candidates that have come, whenever one more has, for a model that `samples_elsewhere`."""
        with kept_in_memory():
            forward = load(self.name, "forward")  # one for each request, as it keeps count of what it asked for
        assert isinstance(forward, EditEndpoint)
        async with aclosing(forward.arriving(image_of(asked.source), asked.action, n, seed)) as arriving:
            async for candidates in arriving:
                yield Asked(asked.source, asked.action, tuple(candidates))

    def predict(self, asked: Sequence[Asked], n: int, seed: int, verifiers: tuple[str, ...]) -> list[Verified]:
        """`n` candidates of each where there are none yet, scored by each verifier."""
        missing = [a for a in asked if not a.candidates]
        sampled = iter(
            self.forward.sample([a.source for a in missing], [a.action for a in missing], n, seed) if missing else ()
        )
        pools = [Pool(a.source, a.action, a.candidates or next(sampled)) for a in asked]
        scores = self._scores(pools, seed, verifiers)
        answers = []
        for i, pool in enumerate(pools):
            known = {name: scores[name][i] for name in verifiers}
            first = known[verifiers[0]]
            choose(first)  # raises where nothing could be scored
            order = sorted(range(len(first)), key=lambda k: (math.isnan(first[k]), -first[k], k))
            answers.append(Verified(tuple(pool.candidates), known, tuple(order)))
        return answers

    def _scores(self, pools: Sequence[Pool], seed: int, verifiers: Sequence[str]) -> dict[str, list[list[float]]]:
        reading = [self._verifier(name, seed) for name in verifiers if VERIFIERS[name].needs_inverse]
        scores = scores_of_all(reading, pools)
        for name in verifiers:
            if name not in scores:  # a new one for each prompt, so that chance does not depend on the batch
                scores[name] = [self._verifier(name, seed).scores([pool])[0] for pool in pools]
        return scores

    def _verifier(self, name: str, seed: int) -> Verifier:
        made = make_verifier(name, Parts(lambda: self.inverse, _explains, None, seed))
        assert made is not None, "every name in VERIFIERS is one"
        return made

    def explain(self, pairs: Sequence[Pair], alternatives: int) -> list[list[Explanation]]:
        """The likeliest action of each pair, then others that were sampled, the likelier first."""
        read = [[explanation] for explanation in self.inverse.explain(pairs)]
        if alternatives and isinstance(self.inverse, UnifiedModel):
            sampled = self.inverse.propose(pairs, 2 * alternatives, 0, TEMPERATURE)
            for row, others in zip(read, sampled, strict=True):
                distinct = {e.action: e for e in others if visible(e.action) and e.action != row[0].action}
                row.extend(sorted(distinct.values(), key=lambda e: -e.logprob.sum)[:alternatives])
        return read

    def score(self, asked: Sequence[tuple[Pair, str]]) -> list[LogProb]:
        """How likely the inverse model finds each action."""
        return self.inverse.score([pair for pair, _ in asked], [action for _, action in asked])

    def recognition(self, pairs: Sequence[Pair]) -> list[list[list[float]]]:
        """Recognition weights of each target's image tokens, by rows: where the image tokenizer sees a change."""
        if not isinstance(self.inverse, UnifiedModel):
            raise ValueError(f"{self.inverse_name} has no image tokenizer, so there is no recognition map.")
        family = self.inverse.family
        features_ND = family.encode([image_of(frame) for pair in pairs for frame in pair]).features_NLD
        distance_NL = np.square(features_ND[0::2] - features_ND[1::2]).sum(-1)
        weights_NL = loss_weights(distance_NL, Weighting(method="recognition"))
        weights_NL[distance_NL.sum(1) == 0] = 0  # where nothing changes
        grids: list[list[list[float]]] = weights_NL.reshape(-1, *family.spec.grid).round(3).tolist()
        return grids

    def plan(self, asked: Sequence[tuple[Image.Image, Image.Image]], steps: int, seed: int) -> list[Plan]:
        return [
            plan(self.forward, self.inverse, *images, steps=steps, proposals=16, beam=4, seed=seed) for images in asked
        ]

    def unfamiliar(self, asked: Sequence[tuple[Image.Image, str]]) -> list[list[str]]:
        """What of each image and action is unlike anything that the inverse model was trained on."""
        if not isinstance(self.inverse, UnifiedModel):
            return [[] for _ in asked]
        family = self.inverse.family
        return [family.unfamiliar([image], [action] if action else []) for image, action in asked]

    @cached_property
    def about(self) -> JsonObject:
        """What `/v1/models` says beyond OpenAI's fields."""
        return {
            "inverse": self.inverse_name,
            "verifier": self.verifier,
            "verifiers": {name: {"title": VERIFIERS[name].title} for name in self.verifiers},
            "candidates": self.n,
            "plans": not self.samples_elsewhere,
            "recognition": self.is_unified,
        }


def _explains(action: str, source: Image.Image, target: Image.Image) -> bool:
    return world_that_says(action).explains(action, source, target)

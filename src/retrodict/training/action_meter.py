"""The action meter: does a model use what it is told, on held-out pairs? A loss falls without it, too.

A forward model is asked how likely the true frame is given the right action, another pair's, and none; an inverse model
how likely the right action is given the true pair and another one. What is told to a model that uses it makes a
difference. Nothing here touches a global random state, so that measuring changes no training.

Shape suffixes: N pairs, L tokens of one image.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from retrodict.dynamics.generate import sample_images
from retrodict.dynamics.likelihood import token_losses
from retrodict.dynamics.sequences import build
from retrodict.files import JsonMapping, JsonObject
from retrodict.models.token_family import TokenFamily
from retrodict.prompts import Direction
from retrodict.sampling import Sampling
from retrodict.stats import FEW, Values, mean_interval, paired_difference, share, share_interval
from retrodict.training.data import Stored
from retrodict.training.tokens import tokenize
from retrodict.training.validation import can_say
from retrodict.transitions import Transition

PAIRS, FEWER = 48, 24  # by the hash of their ids, of a trained model and while it learns: 2 % of the demo's training
LEAST = 0.1  # share of the loss with another action that the right one saves a model which uses it, at least
COPY = 0.25  # a frame is a copy where fewer tokens differ from the source than this share of those that truly change
COPIES = 0.5  # share of copies from which on a model mostly copies


class ActionMeter:
    """Held-out pairs of one model, tokenized once and measured as often as one likes.

    At most `pairs` are taken; those without images, or with an action that the family cannot express, are left out.
    """

    def __init__(
        self,
        family: TokenFamily,
        direction: Direction,
        transitions: Sequence[Transition],
        cache: Path | None = None,
        pairs: int = PAIRS,
    ) -> None:
        self._family, self._direction = family, direction
        rows = transitions.rows if isinstance(transitions, Stored) else transitions
        order = sorted(range(len(rows)), key=lambda i: hashlib.sha256(rows[i].id.encode()).digest())
        chosen = [i for i in order if can_say(family, rows[i].action)][:pairs]
        taken = transitions.only(chosen)[:] if isinstance(transitions, Stored) else [rows[i] for i in chosen]
        self._pairs = [t for t in taken if t.source is not None and t.target is not None]
        self._groups = [t.cluster for t in self._pairs]
        seen = self._see(self._pairs, cache) if self._pairs else []
        self._sources, self._targets = [s for s, _ in seen], [t for _, t in seen]
        self._changed = [source_L != target_L for source_L, target_L in seen]
        self._others = _others([t.action for t in self._pairs])

    def _see(self, pairs: Sequence[Transition], cache: Path | None) -> Sequence[tuple[Any, Any]]:
        """Sources and targets, as `_score` takes them: image tokens."""
        tokens = tokenize(self._family, pairs, cache)
        return [tokens.pair(i) for i in range(len(tokens))]

    @property
    def can_tell(self) -> bool:
        """Whether there are pairs with different actions."""
        return any(other is not None for other in self._others)

    def losses(self) -> JsonObject:
        """What a training log keeps: the mean loss of a token, and what the meter compares, each a number."""
        with _evaluating(self._family):
            right = self._nll([t.action for t in self._pairs])
            parts = {
                "loss": [nll_S.mean() for nll_S in right],
                "right": self._told(right),
                "shuffled": self._shuffled(),
            }
        return {name: mean_interval(np.array(values)).mean for name, values in parts.items()}

    def measure(self) -> JsonObject:
        """The meter: losses with intervals over pairs, their paired difference, and what greedy frames show.

        Returns:
            `{"direction", "pairs", "right", "shuffled", "none", "difference", "copy_rate", "exact", "changed_right",
            "warning"}`; an inverse model has neither `none` nor frames. Losses are nats per token: those of the target
            that differ from the source's, or those of the action. `warning` is in words, or empty.
        """
        with _evaluating(self._family):
            right = np.array(self._told(self._nll([t.action for t in self._pairs])))
            shuffled = np.array(self._shuffled())
            entry: JsonObject = {
                "direction": self._direction,
                "pairs": len(self._pairs),
                "right": mean_interval(right, self._groups).entry("loss"),
                "shuffled": mean_interval(shuffled, self._groups).entry("loss"),
                "difference": paired_difference(shuffled, right, self._groups).entry("shuffled", "right"),
            }
            if self._direction == "forward" and self._pairs:
                entry["none"] = mean_interval(self._told(self._nll([None] * len(self._pairs))), self._groups).entry(
                    "loss"
                )
                entry |= self._frames()
        return entry | {"warning": warning(entry)}

    def _nll(self, actions: Sequence[str | None]) -> list[Values]:
        """The loss of each token of the completions, with these actions."""
        return self._score(self._sources, self._targets, actions)

    def _score(self, sources: Sequence[Any], targets: Sequence[Any], actions: Sequence[str | None]) -> list[Values]:
        """The loss of each token of what is completed, given what `_see` saw."""
        sequences = [
            build(self._family, self._direction, source_L=source_L, target_L=target_L, action=action)
            for source_L, target_L, action in zip(sources, targets, actions, strict=True)
        ]
        return [nll_S.astype(np.float64) for nll_S in token_losses(self._family, sequences)]

    def _told(self, nll: Sequence[Values]) -> list[float]:
        """The mean loss of what the action decides: the tokens that change, or all of an action."""
        if self._direction == "inverse":
            return [float(nll_S.mean()) for nll_S in nll]
        return [_mean(nll_L[changed_L]) for nll_L, changed_L in zip(nll, self._changed, strict=True)]

    def _shuffled(self) -> list[float]:
        """The same with another pair's action (forward), or of another pair (inverse); NaN where all are alike."""
        has = [i for i, other in enumerate(self._others) if other is not None]
        others = [other for other in self._others if other is not None]
        values = [math.nan] * len(self._pairs)
        if not has:
            return values
        actions = [
            self._pairs[j if self._direction == "forward" else i].action for i, j in zip(has, others, strict=True)
        ]
        seen = has if self._direction == "forward" else others
        nll = self._score([self._sources[i] for i in seen], [self._targets[i] for i in seen], actions)
        for i, nll_S in zip(has, nll, strict=True):
            told = nll_S[self._changed[i]] if self._direction == "forward" else nll_S
            values[i] = _mean(told)
        return values

    def _frames(self) -> JsonObject:
        """What greedy frames show: copies, all tokens right, and how many of the tokens that change are right."""
        actions = [t.action for t in self._pairs]
        greedy = sample_images(self._family, np.stack(self._sources), actions, 1, 0, Sampling().greedy)[0][:, 0]
        rows = list(zip(greedy, self._sources, self._targets, self._changed, strict=True))
        copies = [
            float((g != s).sum() < COPY * changed_L.sum()) if changed_L.any() else math.nan
            for g, s, _, changed_L in rows
        ]
        right = [_mean((g == t)[changed_L].astype(np.float64)) for g, _, t, changed_L in rows]
        return {
            "copy_rate": share(copies),
            "exact": share([bool((g == t).all()) for g, _, t, _ in rows]),
            "changed_right": share_interval(right, self._groups).entry("share"),
        }


def warning(entry: JsonMapping) -> str:
    """What a meter warns of, as words after "it"; empty where there is nothing, or too little to tell."""
    difference, shuffled = entry["difference"], entry["shuffled"]["loss"]
    if difference["groups"] < FEW:
        return ""
    forward = entry["direction"] == "forward"
    said = []
    if difference["ci95"][0] <= 0 or difference["difference"] < LEAST * shuffled:
        low, high = difference["ci95"]
        what, told = ("a token that changes", "action") if forward else ("a token of the action", "frame pair")
        said.append(
            f"does not use the {told}: {what} costs {entry['right']['loss']:.3f} nats with the right one and "
            f"{shuffled:.3f} with another's (difference {difference['difference']:.3f} [{low:.3f}, {high:.3f}]); check "
            "that actions say what happens, else train longer"
        )
    if forward and entry["copy_rate"]["share"] >= COPIES:
        said.append(f"mostly copies: {entry['copy_rate']['share']:.0%} of its greedy frames repeat their source")
    return "; it ".join(said)


def describe(entry: JsonMapping) -> str:
    """What a meter shows, in words."""
    n, difference = entry["pairs"], entry["difference"]
    if not difference["n"]:
        return "nothing was held out by which to tell whether it uses what it is told"
    if difference["groups"] < FEW:
        return f"{difference['groups']} held-out groups are too few to tell whether it uses what it is told"
    if entry["warning"]:
        return f"Warning: it {entry['warning']} ({n} held-out pairs)"
    right, other = entry["right"]["loss"], entry["shuffled"]["loss"]
    if entry["direction"] == "inverse":
        return f"it reads the pair: a token of the action costs {right:.2f} nats, {other:.2f} with another's pair"
    return (
        f"it uses the action: a token that changes costs {right:.2f} nats, {other:.2f} with another's action; "
        f"{entry['exact']['share']:.0%} of {n} greedy frames are right in every token, "
        f"{entry['copy_rate']['share']:.0%} copies"
    )


def _others(actions: Sequence[str]) -> list[int | None]:
    """For each action the next pair, in their order, that has another one."""
    words = [action.casefold().split() for action in actions]
    count = len(words)
    return [
        next((j % count for j in range(i + 1, i + count) if words[j % count] != words[i]), None) for i in range(count)
    ]


def _mean(values: Values) -> float:
    return float(values.mean()) if len(values) else math.nan


@contextmanager
def _evaluating(family: TokenFamily) -> Iterator[None]:
    """Without dropout; a model in training goes on training."""
    training = family.module.training
    family.module.eval()
    try:
        yield
    finally:
        family.module.train(training)

"""`retrodict judge OUT --on SET`: does a judge, a verifier or a metric choose as people did?"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from retrodict.chat.cache import open_cache
from retrodict.chat.client import Chat
from retrodict.data.choices import Choice, read_choices
from retrodict.evaluation.judge.kinds import JUDGES
from retrodict.evaluation.judge.pairwise import PairJudge
from retrodict.evaluation.judge.plan import CACHE, FOLDER, Plan, chat_judge
from retrodict.evaluation.judge.protocol import Judge, Question
from retrodict.files import JsonObject, write_json, write_lines
from retrodict.progress import Progress, QuietProgress
from retrodict.prompts.chat import load_chat_prompt
from retrodict.run_folder import claim
from retrodict.stats import paired_difference, share_interval, wilson

if TYPE_CHECKING:
    from retrodict.dynamics.verify import Verifier

LEAST_COPY = "least_copy"  # the metric that likes what differs most from the source


@dataclass(frozen=True)
class Answer:
    """What was said of one pair: 1 where the first was preferred, 0 the second, 0.5 neither; NaN with a reason."""

    outcome: float
    reason: str = ""
    choices: tuple[str, ...] = ()  # of a judge of pairs, in both orders


def agreement(
    out: Path,
    on: str,
    *,
    data: Path | None = None,
    plan: Plan | None = None,
    verifier: str = "",
    model: str = "small",
    limit: int | None = None,
    progress: Progress | None = None,
) -> JsonObject:
    """Ask about pairs of images of which people chose one, and count how often the choice is the same.

    Args:
        out: folder to write `results.json`, the lines of `items/choices.jsonl` and answers to.
        on: whose choices (`data.choices.read_choices`).
        data: folder of a published set.
        plan: the judge that is asked. A judge of pairs sees each pair in both orders; one of single images gives each
            its score, and the higher is its choice.
        verifier: in place of a judge, a verifier of the inverse model `model`, `least_copy`, or `NAME=FOLDER`
            (`judge.rewards`).
        model: the inverse model.
        limit: only the first so many pairs.

    Returns:
        What `results.json` holds.

    Raises:
        ValueError: there are no such choices, or no such judge or verifier.
    """
    began = time.monotonic()
    choices, left_out = read_choices(on, data)
    choices = choices[:limit]
    asked: JsonObject = {"verifier": verifier, "model": model} if verifier else {}
    if plan is not None:
        asked = {"judge": plan.kind, "prompt": plan.prompt, "model": plan.settings.model if plan.settings else ""}
    claim(out, "judge --on", {"on": on, "limit": limit, **asked})
    progress = progress or QuietProgress()
    progress.stage("judge", f"{len(choices)} pairs of {on}")
    if verifier:
        answers = by_scores(choices, _verifier(verifier, model))
    else:
        assert plan is not None
        answers, asked = _judged(out, choices, plan, progress)
    results: JsonObject = {"kind": "agreement", "on": on, "asked": asked, "left_out": left_out}
    results |= summarise(choices, answers)
    subsets = dict.fromkeys(choice.category for choice in choices)
    if len(subsets) > 1:
        parts = {name: [i for i, c in enumerate(choices) if c.category == name] for name in subsets}
        results["subsets"] = {
            name: summarise([choices[i] for i in part], [answers[i] for i in part]) for name, part in parts.items()
        }
    from retrodict.versions import provenance

    lines = (
        {
            "id": choice.id,
            "class": choice.category,
            "action": choice.action,
            "people": choice.preferred,
            "outcome": None if math.isnan(answer.outcome) else answer.outcome,
            "choices": list(answer.choices),
            "reason": answer.reason,
        }
        for choice, answer in zip(choices, answers, strict=True)
    )
    write_lines(out / "items" / "choices.jsonl", lines)
    results |= provenance(time.monotonic() - began)
    write_json(out / "results.json", results)
    progress.done(f"{results['n']} of {len(choices)} answered")
    return results


def summarise(choices: Sequence[Choice], answers: Sequence[Answer]) -> JsonObject:
    """How often the choices are the same.

    `same` counts all three outcomes. `right` is over pairs of which people chose one: a tie is not right. `half` is the
    same with ties as half right; `half_p` tests it against one half, pairs that share a source being one. `ties` is how
    often no choice was made. Of a judge of pairs, `consistent` is how often both orders agree, and `first` how often
    the image that came first was named.
    """
    people = np.array([choice.preferred for choice in choices])
    said = np.array([answer.outcome for answer in answers], dtype=np.float64)
    known, decided = ~np.isnan(said), people != 0.5
    both = known & decided
    right = np.where(people == 1, said, 1 - said)[both]
    groups = np.array([choice.group or choice.id for choice in choices])[both].tolist()
    half = share_interval(right, groups)
    named = [name for answer in answers for name in answer.choices]
    asked = [answer.choices for answer in answers if answer.choices]
    agree = sum(set(pair) in ({"first", "second"}, {"tie"}) for pair in asked)
    picks = Counter(named)
    decisions = picks["first"] + picks["second"]
    return {
        "n": int(known.sum()),
        "n_unscored": int((~known).sum()),
        "unscored": dict(sorted(Counter(answer.reason for answer in answers if answer.reason).items())),
        "same": wilson(int((said == people)[known].sum()), int(known.sum())).entry("share"),
        "right": wilson(int((right == 1).sum()), len(right)).entry("share"),
        "half": half.entry("share"),
        "half_p": paired_difference(right, np.full(len(right), 0.5), groups).p,
        "ties": wilson(int((said == 0.5).sum()), int(known.sum())).entry("share"),
        "people_tie": float((~decided).mean()),
        "consistent": agree / len(asked) if asked else None,
        "first": picks["first"] / decisions if decisions else None,
    }


def by_scores(
    choices: Sequence[Choice], score: Callable[[Sequence[Choice]], list[tuple[float, float]]]
) -> list[Answer]:
    """The choice of what scores single images: the higher one, a tie where they are equal."""
    return [
        Answer(math.nan, "no score") if math.isnan(a) or math.isnan(b) else Answer(float(np.sign(a - b) + 1) / 2)
        for a, b in score(choices)
    ]


def _questions(choice: Choice) -> tuple[Question, Question]:
    first, second = (
        Question(choice.id, choice.source, choice.action, image) for image in (choice.first, choice.second)
    )
    return first, second


def _judged(out: Path, choices: Sequence[Choice], plan: Plan, progress: Progress) -> tuple[list[Answer], JsonObject]:
    if JUDGES[plan.kind].asks is None:
        raise ValueError(f"The judge {plan.kind} knows simulated worlds only: --on needs one that is asked.")
    with open_cache(plan.cache or out / FOLDER / CACHE) as cache:
        judge = chat_judge(load_chat_prompt(plan.prompt), cache, plan)
        pairs = [_questions(choice) for choice in choices]
        if isinstance(judge, PairJudge):
            answers = [Answer(p.outcome, p.reason, p.choices) for p in judge.prefer(pairs, progress)]
        else:
            answers = _scored(judge, pairs, progress)
        assert isinstance(judge, Chat)
        if not judge.used and plan.online:
            raise ValueError("The judge gave no answers: the same command asks again.")
        return answers, dict(judge.metadata)


def _scored(judge: Judge, pairs: Sequence[tuple[Question, Question]], progress: Progress) -> list[Answer]:
    verdicts = iter(judge.score([question for pair in pairs for question in pair], progress))
    answers = []
    for _ in pairs:
        first, second = next(verdicts), next(verdicts)
        reason = first.reason or second.reason
        outcome = math.nan if reason else float(np.sign(first.score - second.score) + 1) / 2
        answers.append(Answer(outcome, reason))
    return answers


def _verifier(name: str, model: str) -> Callable[[Sequence[Choice]], list[tuple[float, float]]]:
    """Scores of both images of each pair by a verifier that needs no world and no forward model, or a metric."""
    from retrodict.dynamics.verifiers import VERIFIERS, Parts
    from retrodict.dynamics.verify import ScoredBy
    from retrodict.evaluation.judge.rewards import REWARDS, open_reward
    from retrodict.evaluation.metrics import l1
    from retrodict.loading import load

    if "=" in name:
        reward = open_reward(name)
        return lambda choices: _scores(reward, choices)
    usable = [key for key, kind in VERIFIERS.items() if kind.needs_inverse and not kind.needs_forward]
    if name not in (*usable, LEAST_COPY):
        raise ValueError(
            f"--verifier {name} cannot score single images: use one of {', '.join((*usable, LEAST_COPY))}, or "
            f"{', '.join(f'{kind}=FOLDER' for kind in REWARDS)}."
        )
    verifier: Verifier = ScoredBy(LEAST_COPY, lambda source, _, target: l1(target, source))
    if name != LEAST_COPY:
        inverse = load(model, "inverse")
        verifier = VERIFIERS[name].make(Parts(lambda: inverse, lambda action, source, target: False))

    return lambda choices: _scores(verifier, choices)


def _scores(verifier: Verifier, choices: Sequence[Choice]) -> list[tuple[float, float]]:
    from retrodict.dynamics.verify import Pool
    from retrodict.images import read_image
    from retrodict.models.protocol import Candidate

    rows = []
    for choice in choices:
        images = [Candidate(read_image(data, choice.id)) for data in (choice.first, choice.second)]
        (row,) = verifier.scores([Pool(read_image(choice.source, choice.id), choice.action, images)])
        rows.append((row[0], row[1]))
    return rows

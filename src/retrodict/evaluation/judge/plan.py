"""How a run is to be judged, and the judge that comes of it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from retrodict.chat.cache import AnswerCache, open_cache
from retrodict.chat.cost import Budget, Prices
from retrodict.chat.parsing import Reason
from retrodict.chat.request import Settings
from retrodict.evaluation import Frames
from retrodict.evaluation.benchmarks import choose_items, items_of_run
from retrodict.evaluation.judge.chat import ChatJudge
from retrodict.evaluation.judge.kinds import JUDGES
from retrodict.evaluation.judge.pairwise import PairJudge
from retrodict.evaluation.judge.protocol import Judge
from retrodict.evaluation.predictions import JUDGEMENTS
from retrodict.prompts.chat import DEFAULT, ChatPrompt, load_chat_prompt
from retrodict.transitions import Transition

AGAIN: tuple[Reason, ...] = ("parse", "range", "refused", "filtered")  # what another try may cure
FOLDER, CACHE = JUDGEMENTS, "answers.sqlite"


@dataclass(frozen=True)
class Plan:
    """How a run is to be judged. `settings` and `prompt` are for judges that are prompted."""

    kind: str = "endpoint"  # one of `JUDGES`
    settings: Settings | None = None
    prompt: str = DEFAULT
    name: str = ""
    data: Path | None = None
    limit: int | None = None  # only the first so many items of each subset
    frames: Frames = "best"
    card_items: int = 50
    force: bool = False
    prices: Prices | None = None
    max_cost: float | None = None
    width: int = 8
    timeout: float = 120.0
    attempts: int = 8
    cache: Path | None = None
    online: bool = True  # False scores from the cache alone
    again: tuple[Reason, ...] = ()  # kept answers that are of no use for these reasons are asked for anew

    def __post_init__(self) -> None:
        if self.kind not in JUDGES:
            raise ValueError(f"No judge {self.kind}: use one of {', '.join(JUDGES)}.")
        if self.max_cost is not None and self.prices is None:
            raise ValueError("--max-cost needs the prices: --price-in and --price-out, per million tokens.")
        if self.card_items < 2:
            raise ValueError("A judge's card needs at least 2 items.")
        if unknown := [reason for reason in self.again if reason not in AGAIN]:
            raise ValueError(f"--again {unknown[0]}: give some of {', '.join(AGAIN)}, with commas between them.")


def judged_items(run: Path, plan: Plan) -> list[Transition]:
    """The items of a run that the judge is asked about. Raises `ValueError` where they cannot be had."""
    return choose_items(items_of_run(run, plan.data), limit=plan.limit)


def cache_of(run: Path, plan: Plan) -> Path:
    """The file in which the judge's answers are kept."""
    return plan.cache or run / FOLDER / CACHE


@contextmanager
def open_judge(run: Path, items: Sequence[Transition], plan: Plan) -> Iterator[Judge | PairJudge]:
    """The judge of a plan, with its cache open. Raises `ValueError` when it cannot be had."""
    kind = JUDGES[plan.kind]
    if kind.knows is not None:
        yield kind.knows(items)
        return
    prompt = load_chat_prompt(plan.prompt)
    with open_cache(cache_of(run, plan)) as cache:
        yield chat_judge(prompt, cache, plan)


def chat_judge(prompt: ChatPrompt, cache: AnswerCache, plan: Plan) -> ChatJudge | PairJudge:
    """The judge that fits the prompt: of single predictions, or of pairs."""
    if plan.settings is None:
        raise ValueError("This judge needs --model.")
    open_model = JUDGES[plan.kind].asks
    assert open_model is not None
    asked = open_model(plan, plan.settings)
    source = asked.source if plan.online else None
    budget = None if plan.max_cost is None or plan.prices is None else Budget(plan.max_cost, plan.prices)
    judge = PairJudge if prompt.answer == "choice" else ChatJudge
    return judge(prompt, asked.settings, cache, plan.kind, source, asked.width, budget, plan.again)


def default_name(plan: Plan) -> str:
    """The model and the prompt, as a file name."""
    if plan.settings is None:
        return plan.kind
    words = f"{Path(plan.settings.model).name}-{Path(plan.prompt).stem}"
    return re.sub(r"[^A-Za-z0-9._-]+", "-", words).strip("-.") or plan.kind

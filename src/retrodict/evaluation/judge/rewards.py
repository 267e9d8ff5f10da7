"""Verifiers that others have published as weights, by `NAME=FOLDER`: CLIP-T, EditReward, and judges such as EditScore.

They score source, action and candidate, and know no likelihoods. Where a model was trained with a prompt in its
authors' words, that prompt is read from the folder: it is theirs to give, and another one would be another measure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from retrodict.chat.cache import IN_MEMORY, open_cache
from retrodict.chat.request import Settings
from retrodict.dynamics.verify import Pool, ScoredBy, Verifier
from retrodict.evaluation.features import Embedder
from retrodict.evaluation.judge.chat import ChatJudge
from retrodict.evaluation.judge.plan import Plan, chat_judge
from retrodict.evaluation.judge.protocol import Question
from retrodict.images import encode_png
from retrodict.models.hub import model_folder
from retrodict.models.protocol import image_of
from retrodict.prompts.chat import load_chat_prompt

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from retrodict.models.vlm import VisionLanguageModel

PROMPTS = ("following.txt", "quality.txt")  # of EditReward, one for each of its heads
REWARD = "<|Reward|>"  # its token, whose hidden state the heads read
PIXELS = 256 * 28 * 28  # to which it scales every image
TOGETHER = 8  # candidates in one forward pass


def open_reward(name: str) -> Verifier:
    """A verifier by `NAME=FOLDER`, where the folder may be a hub id. Raises `ValueError` where it is none."""
    kind, _, folder = name.partition("=")
    if kind not in REWARDS or not folder:
        raise ValueError(f"{name} is no verifier with weights: write {', '.join(f'{k}=FOLDER' for k in REWARDS)}.")
    return REWARDS[kind](folder)


def clip_text(folder: str) -> Verifier:
    """CLIP-T: the cosine of the candidate and the action, by CLIP's weights in `folder`."""
    clip = Embedder("clip", folder)

    def cosine(_: Image.Image, action: str, candidate: Image.Image) -> float:
        return float((clip.images([candidate])[0] * clip.texts([action])[0]).sum())

    return ScoredBy("clip_t", cosine)


class Judged:
    """A judge's scores as a verifier's; NaN where it gave none.

    Args:
        plan: the judge, whose prompt asks for scores of single images.
        name: the verifier's.
    """

    def __init__(self, plan: Plan, name: str) -> None:
        self.name, self._plan = name, plan

    def scores(self, pools: Sequence[Pool]) -> list[list[float]]:
        questions = [
            Question(f"{p}.{k}", encode_png(image_of(pool.source)), pool.action, encode_png(candidate.image))
            for p, pool in enumerate(pools)
            for k, candidate in enumerate(pool.candidates)
        ]
        with open_cache(self._plan.cache or IN_MEMORY) as cache:
            judge = chat_judge(load_chat_prompt(self._plan.prompt), cache, self._plan)
            assert isinstance(judge, ChatJudge), "the prompt asks for scores"
            verdicts = iter(judge.score(questions))
        return [[next(verdicts).score for _ in pool.candidates] for pool in pools]


def edit_score(folder: str) -> Verifier:
    """EditScore (arXiv 2509.23909), or whatever vision-language model lies there, asked in its manner.

    `prompt.yaml` in the folder, with the authors' words, takes the place of our own.
    """
    theirs = Path(folder) / "prompt.yaml"
    settings = Settings(folder, temperature=0.7, max_tokens=512)
    prompt = str(theirs) if theirs.is_file() else "editscore_style_v1"
    return Judged(Plan(kind="local", settings=settings, prompt=prompt), "editscore")


class EditReward:
    """EditReward (arXiv 2509.26346): a vision-language model with one head for following the instruction and one for
    quality; the score is the mean of what the two expect.

    The folder is as published: `config.json`, safetensors weights with `rm_heads.head_<i>.<layer>`, the processor's
    files; beside them `following.txt` and `quality.txt`, the authors' prompts, with `{text_prompt}` and `<|Reward|>`.

    Args:
        folder: it, or a hub id.

    Raises:
        ValueError: prompts, heads or the reward's token are missing.
    """

    name = "editreward"

    def __init__(self, folder: str) -> None:
        self._folder = model_folder(folder)
        files = [self._folder / name for name in PROMPTS]
        if not all(file.is_file() for file in files):
            raise ValueError(
                f"{self._folder} lacks {' or '.join(PROMPTS)}: EditReward is asked in its authors' words. Save both "
                "prompts of their dataset/prompts.py, each with the line that ends in <|Reward|>, under these names."
            )
        self._prompts = [file.read_text(encoding="utf-8") for file in files]
        for file, prompt in zip(files, self._prompts, strict=True):
            if "{text_prompt}" not in prompt or prompt.count(REWARD) != 1:
                raise ValueError(f"{file} must hold {{text_prompt}} and, once, {REWARD}.")

    @cached_property
    def _model(self) -> VisionLanguageModel:
        from retrodict.models.vlm import VisionLanguageModel

        vlm = VisionLanguageModel.load(self._folder)
        if vlm.tokenizer.convert_tokens_to_ids(REWARD) in (None, vlm.tokenizer.unk_token_id):
            raise ValueError(f"The tokenizer of {self._folder} has no token {REWARD}.")
        vlm.processor.image_processor.size = {"shortest_edge": PIXELS, "longest_edge": PIXELS}
        return vlm

    @cached_property
    def _heads(self) -> list[list[tuple[Tensor, Tensor]]]:
        """Weight and bias of each head's layers."""
        from safetensors import safe_open

        tensors: dict[str, Tensor] = {}
        for file in sorted(self._folder.glob("*.safetensors")):
            with safe_open(file, framework="pt") as weights:
                names = [name for name in weights.keys() if name.startswith("rm_heads.")]  # noqa: SIM118  (no mapping)
                tensors |= {name: weights.get_tensor(name) for name in names}
        heads = []
        for i in range(len(PROMPTS)):
            lead = f"rm_heads.head_{i}."
            layers = sorted({int(name.removeprefix(lead).split(".")[0]) for name in tensors if name.startswith(lead)})
            if not layers:
                raise ValueError(
                    f"{self._folder} has no safetensors weights {lead}*: it is no EditReward of two heads."
                )
            pairs = [(tensors[f"{lead}{n}.weight"].float(), tensors[f"{lead}{n}.bias"].float()) for n in layers]
            heads.append([(w.to(self._model.model.device), b.to(self._model.model.device)) for w, b in pairs])
        return heads

    def scores(self, pools: Sequence[Pool]) -> list[list[float]]:
        rows = [(pool.source, pool.action, c) for pool in pools for c in pool.candidates]
        images = [(image_of(source), action, candidate.image) for source, action, candidate in rows]
        parts = [images[i : i + TOGETHER] for i in range(0, len(images), TOGETHER)]
        scored = iter([score for part in parts for score in self._score(part)])
        return [[next(scored) for _ in pool.candidates] for pool in pools]

    def _score(self, rows: Sequence[tuple[Image.Image, str, Image.Image]]) -> list[float]:
        import torch

        with torch.inference_mode():
            each_HN = torch.stack([self._expected(rows, i) for i in range(len(PROMPTS))])
        scores: list[float] = each_HN.mean(0).tolist()
        return scores

    def _expected(self, rows: Sequence[tuple[Image.Image, str, Image.Image]], head: int) -> torch.Tensor:
        """What one head expects of each row [N]; its second output, a spread, is for training alone."""
        from retrodict.models.vlm import message

        vlm = self._model
        chats = [
            [message([source, candidate, self._prompts[head].replace("{text_prompt}", action)])]
            for source, action, candidate in rows
        ]
        inputs = vlm.ask(chats)
        hidden_NTD = vlm.model.model(**inputs).last_hidden_state
        at_NT = inputs["input_ids"] == vlm.tokenizer.convert_tokens_to_ids(REWARD)
        state_ND: Tensor = hidden_NTD[at_NT].float()
        for n, (weight, bias) in enumerate(layers := self._heads[head]):
            state_ND = state_ND @ weight.T + bias
            state_ND = state_ND.relu() if n < len(layers) - 1 else state_ND
        return state_ND[:, 0]


REWARDS: dict[str, Callable[[str], Verifier]] = {
    "clip_t": clip_text,
    "editreward": EditReward,
    "editscore": edit_score,
}

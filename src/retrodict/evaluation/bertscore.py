"""BERTScore (arXiv 1904.09675) with what its numbers depend on printed: model, layer, idf, baseline, versions.

The package of that name has not been released since 2023 and does not run with transformers 5. Only what the IDP tables
need is here: greedy matching of contextual embeddings, no idf weights, rescaled by the published baseline.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

BATCH = 64


@dataclass(frozen=True)
class Setting:
    """A model, the layer whose output is compared, and its baseline: the F of unrelated English sentences."""

    model: str
    layer: int
    baseline: float  # 0 leaves scores as they are


# The defaults of bert_score 0.3.12 and later for English; the baseline is row 17 of its roberta-large.tsv.
ENGLISH = Setting("roberta-large", 17, 0.83122575)


class BertScore:
    """Scores pairs of sentences. Raises `ValueError` when the model cannot be loaded."""

    def __init__(self, setting: Setting = ENGLISH) -> None:
        from transformers import AutoModel, AutoTokenizer

        self.setting = setting
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(setting.model)
            model = AutoModel.from_pretrained(
                setting.model, dtype=torch.float32, attn_implementation="eager", add_pooling_layer=False
            )
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"The BERTScore model {setting.model} could not be loaded: {reason}") from error
        if not 0 < setting.layer <= len(model.encoder.layer):
            raise ValueError(f"{setting.model} has {len(model.encoder.layer)} layers, so there is no {setting.layer}.")
        model.encoder.layer = model.encoder.layer[: setting.layer]
        self._model = model.eval()

    @property
    def signature(self) -> str:
        """Numbers under different signatures are not comparable."""
        import transformers

        name = Path(self.setting.model).name
        rescaled = "-rescaled" if self.setting.baseline else ""
        return f"{name}_L{self.setting.layer}_no-idf_version=retrodict(hug_trans={transformers.__version__}){rescaled}"

    def scores(self, texts: Sequence[str], truths: Sequence[str]) -> list[float]:
        """F of each text against its truth, rescaled; that of an empty text is 0 before."""
        f_scores = []
        for start in range(0, len(texts), BATCH):
            rows = list(zip(texts[start : start + BATCH], truths[start : start + BATCH], strict=True))
            predicted, true = self._embed([t for t, _ in rows]), self._embed([t for _, t in rows])
            f_scores += [_f_score(p, t) for p, t in zip(predicted, true, strict=True)]
        return [(value - self.setting.baseline) / (1 - self.setting.baseline) for value in f_scores]

    @torch.no_grad()
    def _embed(self, texts: Sequence[str]) -> list[Tensor]:
        """Unit vectors [T, D] of each text's tokens, with a special one at either end."""
        limit = self._model.config.max_position_embeddings - 2  # RoBERTa counts positions from 2
        tokens: Any = self._tokenizer(
            [text.strip() for text in texts], padding=True, truncation=True, max_length=limit, return_tensors="pt"
        )
        hidden_BTD = self._model(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
        ).last_hidden_state
        vectors_BTD = torch.nn.functional.normalize(hidden_BTD, dim=-1)
        lengths = tokens["attention_mask"].sum(1).tolist()
        return [vectors_TD[:length] for vectors_TD, length in zip(vectors_BTD, lengths, strict=True)]


def _f_score(predicted_PD: Tensor, true_TD: Tensor) -> float:
    """Harmonic mean of precision and recall under greedy matching; 0 where one side is empty.

    The special tokens at the ends may be matched, but what they match does not count: in the authors' code they have
    the weight 0.
    """
    if len(predicted_PD) <= 2 or len(true_TD) <= 2:
        return 0.0
    similarity_PT = predicted_PD @ true_TD.T
    precision, recall = similarity_PT.max(1).values[1:-1].mean(), similarity_PT.max(0).values[1:-1].mean()
    return float(2 * precision * recall / (precision + recall))

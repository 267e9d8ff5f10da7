"""The small family's transformer: that it is a Llama, and that what it leaves out changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from small_step import library_of
from torch import Tensor

from retrodict.dynamics.batches import collate, example, supervised_logits, token_nll
from retrodict.dynamics.kv_cache import KVCache
from retrodict.dynamics.sequences import build
from retrodict.models.small.family import SmallFamily
from retrodict.models.small.modeling import SIDES
from retrodict.prompts import Direction

MakeFamily = Callable[[], SmallFamily]
LENGTH = 20


def batch_of(family: SmallFamily, direction: Direction, actions: list[str]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    rows = []
    for action in actions:
        source_L, target_L = torch.randint(12, (2, 9), generator=generator).numpy()
        rows.append(build(family, direction, source_L=source_L, target_L=target_L, action=action))
    return collate([example(family, row) for row in rows], family.pad)


@pytest.fixture
def inputs(family: SmallFamily) -> dict[str, Tensor]:
    """Ids and features of three sequences of `LENGTH` tokens."""
    sizes = {"row": 4, "column": 4, "changed": 3}
    generator = torch.Generator().manual_seed(0)
    made = {
        name: torch.randint(sizes.get(name, 13), (3, LENGTH), generator=generator)
        for name in ("row", "column", "aligned", "before", "changed", *SIDES)
    }
    ids = torch.randint(len(family.module.head), (3, LENGTH), generator=generator)
    return {"ids_BT": ids, **made}


def library_hidden(family: SmallFamily, inputs: dict[str, Tensor], mask_BT: Tensor | None = None) -> Tensor:
    """What `transformers.LlamaModel` computes with the same weights, from the same embeddings."""
    model = family.module
    library = library_of(model)
    tables: dict[str, Any] = {name: getattr(model, name) for name in ("row", "column", "aligned", "before", "changed")}
    tables |= dict(model.beside.items())
    embeds_BTD = model.backbone.embed_tokens(inputs["ids_BT"]) + sum(tables[name](inputs[name]) for name in tables)
    hidden_BTD: Tensor = library.eval()(inputs_embeds=embeds_BTD, attention_mask=mask_BT).last_hidden_state
    return hidden_BTD


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@torch.no_grad()
def test_it_is_the_llama_of_transformers(family: SmallFamily, inputs: dict[str, Tensor]) -> None:
    theirs_BTD = library_hidden(family, inputs)
    close(family.hidden(**inputs), theirs_BTD)
    at_BS = torch.tensor([[3, 17], [0, 0], [19, 4]])
    close(family.hidden(**inputs, at_BS=at_BS), theirs_BTD[torch.arange(3)[:, None], at_BS])


@torch.no_grad()
def test_padding_needs_no_mask(family: SmallFamily, inputs: dict[str, Tensor]) -> None:
    real_BT = torch.arange(LENGTH) < torch.tensor([[20], [12], [5]])
    theirs_BTD = library_hidden(family, inputs, real_BT.long())
    close(family.hidden(**inputs)[real_BT], theirs_BTD[real_BT])


@torch.no_grad()
def test_tokens_behind_a_cache(family: SmallFamily, inputs: dict[str, Tensor]) -> None:
    """Rows continue where each of them ends: 12, 9 and 10 tokens, then 3, 2 and 1 more, some of them padding."""
    theirs_BTD = library_hidden(family, inputs)
    cache = KVCache(family, LENGTH)
    features = {name: value for name, value in inputs.items() if name != "ids_BT"}
    first_BTD = cache.prefill(inputs["ids_BT"][:, :12], {name: value[:, :12] for name, value in features.items()})
    close(first_BTD, theirs_BTD[:, :12])
    rows_R = torch.tensor([2, 0, 1])
    position_RS = torch.tensor([[10], [12], [9]]) + torch.arange(3)
    real_RS = torch.arange(3) < torch.tensor([[1], [3], [2]])
    more = {name: value[rows_R[:, None], position_RS] for name, value in inputs.items()}
    ids_RS = more.pop("ids_BT")
    expected_RSD = theirs_BTD[rows_R[:, None], position_RS]
    close(cache.fork(rows_R).extend(ids_RS, more, position_RS, real_RS)[real_RS], expected_RSD[real_RS])
    last_R1 = real_RS.sum(1, keepdim=True) - 1
    found_R1D = cache.fork(rows_R).extend(ids_RS, more, position_RS, real_RS, last_R1)
    close(found_R1D[:, 0], expected_RSD[torch.arange(3), last_R1[:, 0]])


@pytest.mark.parametrize("direction", ["forward", "inverse"])
@pytest.mark.parametrize("recomputed", [False, True])
def test_gradients_are_those_of_the_uncut_computation(
    make_family: MakeFamily, direction: Direction, recomputed: bool
) -> None:
    family, uncut = make_family(), make_family()
    if recomputed:
        family.module.activation_checkpointing_enable()
    batch = batch_of(family, direction, ["push the red ball to the left", "push the ball", "left"])
    assert len(set(batch["labels"].ne(-100).sum(1).tolist())) == (1 if direction == "forward" else 3)
    family.module.train()

    def loss(logits_BSV: Tensor) -> Tensor:
        return (token_nll(logits_BSV, batch["labels"]) * batch["weights"]).sum()

    loss(supervised_logits(family, direction, batch)).backward()
    features = {k: v for k, v in batch.items() if k not in ("input_ids", "positions", "labels", "weights")}
    hidden_BTD = uncut.hidden(batch["input_ids"], **features)
    hidden_BSD = hidden_BTD[torch.arange(3)[:, None], batch["positions"]]
    loss((uncut.image_logits if direction == "forward" else uncut.text_logits)(hidden_BSD)).backward()
    for (name, one), other in zip(family.module.named_parameters(), uncut.module.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None), name
        if one.grad is not None and other.grad is not None:
            assert float((one.grad - other.grad).norm()) <= 1e-6 * float(other.grad.norm()), name
    for module in family.module.modules():
        if isinstance(module, torch.nn.Embedding) and module is not family.module.backbone.embed_tokens:
            assert module.weight.grad is not None and not module.weight.grad[0].any(), "padding has no gradient"

"""The small family's transformer: a Llama with two kinds of input that tell it where image tokens lie.

Source and target show the same scene, so a model of this size learns far faster when it is given the source token at
the same row and column as a target token (`aligned`) and these two (`row`, `column`) than when it must find that out
by attention over one-dimensional positions. All are sums of embeddings; the rest is a Llama (Touvron et al. 2023) in
plain torch: importing the library's takes twenty times as long as a prediction. Weights and settings have the names
that they have there, and a test compares the two.

Shape suffixes: B sequences, T tokens, S of them that are wanted, C keys, H heads, E features of a head, D features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from retrodict.files import JsonObject, write_json
from retrodict.models.registry import read_json
from retrodict.models.token_family import Cache, take

TABLES = ("row", "column", "aligned", "before", "changed")  # embeddings beside that of the token
SIDES = ("left", "right", "above", "below")
ROPE_THETA = 10_000.0
EPSILON = 1e-6
INITIAL_STD = 0.02
# What is the same in every model, under the names of `transformers.LlamaConfig`.
_FIXED: JsonObject = {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "hidden_act": "silu",
    "initializer_range": INITIAL_STD,
    "mlp_bias": False,
    "model_type": "retrodict-small",
    "rms_norm_eps": EPSILON,
    "rope_parameters": {"rope_theta": ROPE_THETA, "rope_type": "default"},
    "tie_word_embeddings": True,
}


_MOST = 1_000_000  # of anything that a small model has


@dataclass
class SmallConfig:
    """Sizes of a model; what its folder's config.json holds."""

    text_vocabulary: int
    image_codes: int
    rows: int
    columns: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    pad_token_id: int = 0
    use_change_mask: bool = True

    def save(self, directory: Path) -> None:
        derived = {
            "num_key_value_heads": self.num_attention_heads,
            "vocab_size": self.text_vocabulary + self.image_codes,
        }
        write_json(directory / "config.json", dict(sorted((_FIXED | asdict(self) | derived).items())))

    @classmethod
    def load(cls, directory: Path) -> SmallConfig:
        """Raises `ValueError` that names the file when it describes another kind of model."""
        file = directory / "config.json"
        stored = read_json(file)
        stored.setdefault("use_change_mask", stored.get("told_changes", True))  # its name in earlier versions
        missing = [field.name for field in fields(cls) if field.name not in stored]
        if missing:
            raise ValueError(f"{file} is damaged, get it again: it has no {missing[0]}.")
        fixed = _FIXED | {"num_key_value_heads": stored["num_attention_heads"]}
        other = [name for name, value in fixed.items() if stored.get(name, value) != value]
        if other:
            raise ValueError(f"{file} describes no small model of this version: {other[0]} is {stored[other[0]]}.")
        config = cls(**{field.name: stored[field.name] for field in fields(cls)})
        for name, value in asdict(config).items():
            least = 0 if name in ("pad_token_id", "use_change_mask") else 1
            if not isinstance(value, int) or not least <= value < _MOST:
                raise ValueError(f"{file} is damaged, get it again: {name} is {value!r}.")
        return config


class SmallModel(nn.Module):
    """Token ids and their rows and columns to hidden states; the head is tied to the token embeddings."""

    def __init__(self, config: SmallConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = _Backbone(config)
        table = partial(nn.Embedding, embedding_dim=config.hidden_size, padding_idx=0)
        self.row = table(config.rows + 1)
        self.column = table(config.columns + 1)
        self.aligned = table(config.image_codes + 1)
        self.before = table(config.image_codes + 1)
        self.changed = table(3)
        self.beside = nn.ModuleDict({side: table(config.image_codes + 1) for side in SIDES})
        self.gradient_checkpointing = False
        for name, part in self.named_children():
            if name != "backbone":  # which has done so itself: the order in which random numbers are drawn
                _initialize(part)

    def forward(
        self,
        ids_BT: Tensor,
        *,
        at_BS: Tensor | None = None,
        positions_BT: Tensor | None = None,
        cache: Cache | None = None,
        **features: Tensor,
    ) -> Tensor:
        """Hidden states, as `TokenFamily.hidden` has it, of token ids and the features of `SmallFamily.features`.

        The last layer computes keys and values of all tokens, and the rest where hidden states are wanted.
        """
        x_BTD = self.embed(ids_BT, features)
        if positions_BT is None:
            positions_BT = torch.arange(ids_BT.shape[1], device=ids_BT.device)[None]
        width = self.config.hidden_size // self.config.num_attention_heads
        every = wanted = _Positions.of(positions_BT, width)
        for index, layer in enumerate(self.backbone.layers):
            at = at_BS if index + 1 == len(self.backbone.layers) else None
            if at is not None:
                wanted = _Positions.of(positions_BT.expand(len(ids_BT), -1).gather(1, at), width)
            update = None if cache is None else partial(cache.update, layer=index)
            if self.gradient_checkpointing and self.training:
                x_BTD = checkpoint(layer, x_BTD, every, wanted, at, update, use_reentrant=False)
            else:
                x_BTD = layer(x_BTD, every, wanted, at, update)
        hidden_BSD: Tensor = self.backbone.norm(x_BTD)
        return hidden_BSD

    def embed(self, ids_BT: Tensor, features: Mapping[str, Tensor]) -> Tensor:
        """Sums of embeddings [B, T, D]."""
        x_BTD: Tensor = self.backbone.embed_tokens(ids_BT)
        for name in TABLES:
            x_BTD = x_BTD + getattr(self, name)(features[name])
        for side, table in self.beside.items():
            x_BTD = x_BTD + table(features[side])
        return x_BTD

    def activation_checkpointing_enable(self, **options: Any) -> None:
        """Compute activations again for the gradient instead of keeping them, under the library's name for it."""
        self.gradient_checkpointing = True

    @property
    def head(self) -> Tensor:
        weight: Tensor = self.backbone.embed_tokens.weight
        return weight


class _Backbone(nn.Module):
    def __init__(self, config: SmallConfig) -> None:
        super().__init__()
        vocabulary = config.text_vocabulary + config.image_codes
        self.embed_tokens = nn.Embedding(vocabulary, config.hidden_size, padding_idx=config.pad_token_id)
        self.layers = nn.ModuleList([_Layer(config) for _ in range(config.num_hidden_layers)])
        self.norm = nn.RMSNorm(config.hidden_size, EPSILON)
        _initialize(self)


@torch.no_grad()
def _initialize(part: nn.Module) -> None:
    for module in part.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            module.weight.normal_(0, INITIAL_STD)
        if isinstance(module, nn.Embedding):
            module.weight[module.padding_idx] = 0


class _Positions(NamedTuple):
    """Positions of tokens, and the rotation of their queries and keys (RoPE: Su et al. 2021)."""

    positions_BT: Tensor
    cos_B1TE: Tensor
    sin_B1TE: Tensor

    @classmethod
    def of(cls, positions_BT: Tensor, width: int) -> _Positions:
        exponent_E = torch.arange(0, width, 2, device=positions_BT.device, dtype=torch.float32) / width
        angle_B1TE = positions_BT[:, None, :, None] * (1 / ROPE_THETA**exponent_E)
        return cls(positions_BT, angle_B1TE.cos(), angle_B1TE.sin())

    def rotate(self, states_BHTE: Tensor) -> Tensor:
        cos, sin = self.cos_B1TE.to(states_BHTE.dtype), self.sin_B1TE.to(states_BHTE.dtype)
        one, other = states_BHTE.chunk(2, -1)
        return torch.cat([one * cos - other * sin, other * cos + one * sin], -1)

    def unseen(self, keys: int) -> Tensor:
        """Which keys lie behind each token, [B, 1, T, C]: the key of a token lies in the slot of its position."""
        slots_C = torch.arange(keys, device=self.positions_BT.device)
        return slots_C > self.positions_BT[:, None, :, None]


class _Layer(nn.Module):
    def __init__(self, config: SmallConfig) -> None:
        super().__init__()
        self.self_attn = _Attention(config.hidden_size, config.num_attention_heads)
        self.mlp = _GatedMLP(config.hidden_size, config.intermediate_size)
        self.input_layernorm = nn.RMSNorm(config.hidden_size, EPSILON)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, EPSILON)

    def forward(
        self, x_BTD: Tensor, every: _Positions, wanted: _Positions, at_BS: Tensor | None, update: Any
    ) -> Tensor:
        normal_BTD = self.input_layernorm(x_BTD)
        x_BSD, normal_BSD = take(x_BTD, at_BS), take(normal_BTD, at_BS)
        x_BSD = x_BSD + self.self_attn(normal_BSD, normal_BTD, wanted, every, update)
        output_BSD: Tensor = x_BSD + self.mlp(self.post_attention_layernorm(x_BSD))
        return output_BSD


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self._heads = heads
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width, bias=False)
        self.o_proj = nn.Linear(width, width, bias=False)

    def forward(self, x_BSD: Tensor, x_BTD: Tensor, wanted: _Positions, every: _Positions, update: Any) -> Tensor:
        query_BHSE = wanted.rotate(self._by_head(self.q_proj(x_BSD)))
        key_BHCE = every.rotate(self._by_head(self.k_proj(x_BTD)))
        value_BHCE = self._by_head(self.v_proj(x_BTD))
        if update is not None:
            key_BHCE, value_BHCE = update(key_BHCE, value_BHCE)
        # Written out: on CPUs the gradient of `scaled_dot_product_attention` takes half as long again.
        scores_BHSC = query_BHSE * query_BHSE.shape[-1] ** -0.5 @ key_BHCE.mT
        scores_BHSC = scores_BHSC.masked_fill_(wanted.unseen(key_BHCE.shape[2]), -torch.inf)
        seen_BHSE = scores_BHSC.softmax(-1).to(value_BHCE.dtype) @ value_BHCE
        output_BSD: Tensor = self.o_proj(seen_BHSE.transpose(1, 2).flatten(2))
        return output_BSD

    def _by_head(self, x_BTD: Tensor) -> Tensor:
        by_head_BHTE: Tensor = x_BTD.unflatten(2, (self._heads, -1)).transpose(1, 2)
        return by_head_BHTE


class _GatedMLP(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, inner, bias=False)
        self.up_proj = nn.Linear(width, inner, bias=False)
        self.down_proj = nn.Linear(inner, width, bias=False)

    def forward(self, x_BSD: Tensor) -> Tensor:
        output_BSD: Tensor = self.down_proj(F.silu(self.gate_proj(x_BSD)) * self.up_proj(x_BSD))
        return output_BSD

"""Token-by-token decoding of image blocks with static shapes, captured as a CUDA graph.

All candidates of some prompts are one batch over a cache of exactly their prefixes and one block. A step samples a
token from the last hidden states, or takes the id that the schedule forces, and runs its forward pass. On CUDA the step
is compiled and captured as a graph; nothing is copied to the host before the end.

Shape suffixes: C candidates, B branches of guidance, R rows (C x B), T positions of the block, K codebook entries.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from retrodict.dynamics.kv_cache import KVCache, PaddedBatch, device_of
from retrodict.dynamics.sampling import probabilities, sample_token
from retrodict.models.protocol import IntArray, TokenFamily, TokenSequence
from retrodict.sampling import Sampling

ROWS = 32  # decoded as one batch: beyond, keys and values weigh more than the weights of a 7B model
ROUNDING = 64  # prompts of nearly equal length share one compiled step
WARM_UP = 3  # steps before a capture, on a stream of their own, as CUDA graphs ask


def decode_stepwise(
    family: TokenFamily,
    sequences: Sequence[TokenSequence],
    uniforms_CL: Tensor | None,
    sampling: Sampling,
    rows: int = ROWS,
) -> tuple[Tensor, Tensor]:
    """Image tokens [C, L] and log-probabilities [C]: what `decode_speculative` gives for the same arguments.

    `rows` are decoded as one batch, at most.
    """
    device = device_of(family)
    n = 1 if uniforms_CL is None else len(uniforms_CL) // max(1, len(sequences))
    codes_CL = torch.zeros(len(sequences) * n, family.spec.tokens, dtype=torch.long, device=device)
    logprob_C = torch.zeros(len(codes_CL), device=device)
    order = np.argsort([len(sequence.ids_T) for sequence in sequences], kind="stable")
    branches = len(family.guidance(sequences[0], sampling.guidance)) if sequences else 1
    size = max(1, rows // (n * branches))
    for start in range(0, len(order), size):
        chunk = order[start : start + size]
        candidate_C = torch.from_numpy((chunk[:, None] * n + np.arange(n)).ravel())
        uniforms = None if uniforms_CL is None else uniforms_CL[candidate_C]
        decoder = StepDecoder(family, [sequences[i] for i in chunk], n, uniforms, sampling)
        tokens_CL, logprobs_C = decoder.run()
        codes_CL[candidate_C.to(device)], logprob_C[candidate_C.to(device)] = tokens_CL, logprobs_C
    return codes_CL, logprob_C


class StepDecoder:
    """One batch. `step` may be called once for each position of the block but the last, then `last`."""

    def __init__(
        self,
        family: TokenFamily,
        sequences: Sequence[TokenSequence],
        n: int,
        uniforms_CL: Tensor | None,
        sampling: Sampling,
    ) -> None:
        branches = [family.guidance(sequence, sampling.guidance) for sequence in sequences]
        batch = PaddedBatch(family, [branch.sequence for row in branches for branch in row])
        self._family, self._sampling, device = family, sampling, batch.device
        self._weight_B = torch.tensor([branch.weight for branch in branches[0]], device=device)
        start_R = torch.tensor([_start(branch.sequence) for row in branches for branch in row], device=device)
        schedule_T: IntArray = family.spec.schedule
        self._schedule_T = torch.from_numpy(schedule_T).to(device)
        cache, hidden_RD = _prefill(family, batch, start_R)
        order_CB = torch.arange(len(start_R), device=device).view(-1, len(self._weight_B)).repeat_interleave(n, 0)
        order_R = order_CB.flatten()
        self._cache, self._hidden_RD = cache.fork(order_R), hidden_RD[order_R]
        self._start_R = start_R[order_R]
        self._inputs = {name: value_RT[order_R] for name, value_RT in batch.inputs.items()}
        candidates = len(order_CB)
        self._uniform_CT: Tensor | None = None
        if uniforms_CL is not None:
            self._uniform_CT = torch.zeros(candidates, len(schedule_T), device=device)
            self._uniform_CT[:, self._schedule_T < 0] = uniforms_CL.to(device)
        self._position = torch.zeros(1, dtype=torch.long, device=device)  # in the block
        self._ids_CT = torch.zeros(candidates, len(schedule_T), dtype=torch.long, device=device)
        self._logprob_C = torch.zeros(candidates, device=device)

    @property
    def row_bytes(self) -> int:
        """Bytes of the keys and values of one row."""
        return self._cache.row_bytes

    def run(self) -> tuple[Tensor, Tensor]:
        step = self.stepper()
        for _ in range(len(self._schedule_T) - 1):
            step()
        self.last()
        return self._ids_CT[:, self._schedule_T < 0] - self._family.spec.first_id, self._logprob_C

    def stepper(self) -> Callable[[], None]:
        """`step` in the form that is fastest on the device."""
        return self._captured() if self._hidden_RD.device.type == "cuda" else self.step

    def step(self) -> None:
        """Sample the id at the current position, and run its forward pass."""
        id_R1 = self._sample().repeat_interleave(len(self._weight_B))[:, None]
        position_R1 = self._start_R[:, None] + self._position
        inputs = {name: value_RT.gather(1, position_R1) for name, value_RT in self._inputs.items()}
        hidden_R1D = self._cache.extend(id_R1, inputs, position_R1, torch.ones_like(id_R1, dtype=torch.bool))
        self._hidden_RD.copy_(hidden_R1D[:, 0])
        self._position += 1

    def last(self) -> None:
        self._sample()

    def _sample(self) -> Tensor:
        logits_CBK = self._family.image_logits(self._hidden_RD).float().unflatten(0, (-1, len(self._weight_B)))
        logits_CK = (logits_CBK * self._weight_B[:, None]).sum(1)
        if self._uniform_CT is None:
            code_C = logits_CK.argmax(-1)
        else:
            uniform_C = self._uniform_CT.index_select(1, self._position)[:, 0]
            code_C = sample_token(probabilities(logits_CK, self._sampling), uniform_C)
        forced = self._schedule_T.index_select(0, self._position)
        logprob_C = logits_CBK[:, 0].log_softmax(-1).gather(-1, code_C[:, None])[:, 0]
        self._logprob_C += torch.where(forced < 0, logprob_C, 0.0)
        id_C = torch.where(forced < 0, code_C + self._family.spec.first_id, forced)
        self._ids_CT.index_copy_(1, self._position, id_C[:, None])
        return id_C

    def _captured(self) -> Callable[[], None]:
        """The step as a CUDA graph. Its trial runs leave no trace: what they wrote is put back or written again."""
        compiled = torch.compile(self.step, dynamic=False)
        before = [(tensor, tensor.clone()) for tensor in (self._position, self._logprob_C, self._hidden_RD)]
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                self._position.zero_()
                compiled()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        self._position.zero_()
        with torch.cuda.graph(graph):
            compiled()
        for tensor, value in before:
            tensor.copy_(value)
        return graph.replay


def _start(sequence: TokenSequence) -> int:
    assert sequence.segments.completion is not None
    return sequence.segments.completion[0]


def _prefill(family: TokenFamily, batch: PaddedBatch, start_R: Tensor) -> tuple[KVCache, Tensor]:
    """Prefill each prefix once; also the hidden states [R, D] that predict the first token of the block."""
    length = int(start_R.max())
    capacity = -(-batch.ids_RT.shape[1] // ROUNDING) * ROUNDING
    cache = KVCache(family, capacity)
    inputs = {name: value_RT[:, :length] for name, value_RT in batch.inputs.items()}
    return cache, cache.prefill(batch.ids_RT[:, :length], inputs, start_R[:, None] - 1)[:, 0]

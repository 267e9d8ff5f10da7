"""Speculative decoding with the source as draft in static shapes, captured as CUDA graphs.

What `speculative.py` does with shapes that follow the drafts, this does with a few widths, each of which a GPU can
replay: all candidates of some prompts are one batch over a cache of exactly their prefixes and one block. A step of
width W samples each candidate's next token and verifies W - 1 drafted ones behind it in the same forward pass; those up
to the first that the model would not have sampled are accepted, and its own samples behind that become the draft. Where
drafts do not hold, steps have width 1. Any widths give the same tokens, as each token's random number is fixed.

Shape suffixes: C candidates, B branches of guidance, R rows (C x B), T positions of the block with room for a width, W
positions of a step, K codebook entries.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from retrodict.dynamics.kv_cache import KVCache, PaddedBatch, device_of
from retrodict.dynamics.sampling import probabilities, sample_token
from retrodict.models.token_family import IntArray, TokenFamily, TokenSequence
from retrodict.sampling import Sampling

ROWS = 32  # decoded as one batch: beyond, keys and values weigh more than the weights of a 7B model
ROUNDING = 64  # prompts of nearly equal length share one compiled step
WARM_UP = 3  # steps before a capture, on a stream of their own, as CUDA graphs ask
WIDTHS = (1, 16, 64)  # of steps; to read 64 tokens of 8 rows takes little longer than to read the weights
LONGEST_PAUSE = 64  # steps of width 1 before drafts are tried again, at most


def decode_stepwise(
    family: TokenFamily,
    sequences: Sequence[TokenSequence],
    uniforms_CL: Tensor | None,
    sampling: Sampling,
    rows: int = ROWS,
    widths: Sequence[int] = WIDTHS,
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
        decoder = StepDecoder(family, [sequences[i] for i in chunk], n, uniforms, sampling, widths)
        tokens_CL, logprobs_C = decoder.run()
        codes_CL[candidate_C.to(device)], logprob_C[candidate_C.to(device)] = tokens_CL, logprobs_C
    return codes_CL, logprob_C


class StepDecoder:
    """One batch. `passes` counts its steps; the completions of its sequences are the first drafts."""

    def __init__(
        self,
        family: TokenFamily,
        sequences: Sequence[TokenSequence],
        n: int,
        uniforms_CL: Tensor | None,
        sampling: Sampling,
        widths: Sequence[int] = WIDTHS,
    ) -> None:
        branches = [family.guidance(sequence, sampling.guidance) for sequence in sequences]
        batch = PaddedBatch(family, [branch.sequence for row in branches for branch in row])
        self._family, self._sampling, device = family, sampling, batch.device
        self._weight_B = torch.tensor([branch.weight for branch in branches[0]], device=device)
        start_R = torch.tensor([_start(branch.sequence) for row in branches for branch in row], device=device)
        schedule: IntArray = family.spec.schedule
        self._length = len(schedule)
        self._widths = sorted({1, *(width for width in widths if width <= self._length)})
        room = self._length + self._widths[-1]
        is_token_T = torch.from_numpy(schedule < 0).to(device)
        self._schedule_T = torch.zeros(room, dtype=torch.long, device=device)  # behind the block everything is forced
        self._schedule_T[: self._length] = torch.from_numpy(schedule).to(device)
        cache, hidden_RD = _prefill(family, batch, start_R)
        order_CB = torch.arange(len(start_R), device=device).view(-1, len(self._weight_B)).repeat_interleave(n, 0)
        order_R = order_CB.flatten()
        self._cache, self._hidden_RD = cache.fork(order_R), hidden_RD[order_R]
        self._start_R = start_R[order_R]
        self._inputs = {name: value_RT[order_R] for name, value_RT in batch.inputs.items()}
        candidates = len(order_CB)
        self._uniform_CT: Tensor | None = None
        if uniforms_CL is not None:
            self._uniform_CT = torch.zeros(candidates, room, device=device)
            self._uniform_CT[:, : self._length][:, is_token_T] = uniforms_CL.to(device)
        self._position_C = torch.zeros(candidates, dtype=torch.long, device=device)  # in the block: all before is final
        self._ids_CT = torch.zeros(candidates, room, dtype=torch.long, device=device)
        drafts = np.stack([sequence.ids_T[_start(sequence) :][: self._length] for sequence in sequences])
        self._ids_CT[:, : self._length] = torch.from_numpy(drafts).to(device).repeat_interleave(n, 0)
        self._logprob_C = torch.zeros(candidates, device=device)
        self.passes = 0

    @property
    def row_bytes(self) -> int:
        """Bytes of the keys and values of one row."""
        return self._cache.row_bytes

    def run(self) -> tuple[Tensor, Tensor]:
        step, widest = self.stepper(), len(self._widths) - 1
        choice, pause, waited, before = widest, 1, 0, 0
        while before < self._length * len(self._position_C):
            width = self._widths[choice]
            step(width)
            done = int(self._position_C.sum())  # the one number that is copied to the host
            accepted, before = (done - before) / len(self._position_C) - 1, done
            waited += 1
            if width > 1 and accepted < 1:  # drafts do not hold here: for a while they are not tried
                choice, waited, pause = 0, 0, min(2 * pause, LONGEST_PAUSE)
            elif width > 1:
                pause = 1
                enough = [i for i, each in enumerate(self._widths) if each > accepted + 1]
                choice = min(enough, default=widest) or min(1, widest)
            elif waited >= pause:
                choice = min(1, widest)
        return self._ids_CT[:, : self._length][:, self._is_token()] - self._family.spec.first_id, self._logprob_C

    def stepper(self) -> Callable[[int], None]:
        """`step` in the form that is fastest on the device."""
        if self._hidden_RD.device.type != "cuda":
            return self._counted(self.step)
        graphs: dict[int, Callable[[], None]] = {}

        def replay(width: int) -> None:
            if width not in graphs:
                graphs[width] = self._captured(width)
            graphs[width]()

        return self._counted(replay)

    def step(self, width: int) -> None:
        """Sample each candidate's next id, verify `width - 1` drafted ones behind it, and go on behind what holds."""
        at_CW = self._position_C[:, None] + torch.arange(width, device=self._position_C.device)
        real_CW = at_CW < self._length
        self._sample(self._hidden_RD[:, None], at_CW[:, :1], real_CW[:, :1])
        branches = len(self._weight_B)
        at_RW, real_RW = (x.repeat_interleave(branches, 0) for x in (at_CW, real_CW))
        position_RW = self._start_R[:, None] + at_RW
        within_RW = position_RW.clamp(max=self._start_R[:, None] + self._length - 1)
        inputs = {name: value_RT.gather(1, within_RW) for name, value_RT in self._inputs.items()}
        ids_RW = self._ids_CT.gather(1, at_CW).repeat_interleave(branches, 0)
        hidden_RWD = self._cache.extend(ids_RW, inputs, within_RW, real_RW)
        accepted_C = torch.zeros_like(self._position_C)
        if width > 1:
            accepted_C = self._sample(hidden_RWD[:, :-1], at_CW[:, 1:], real_CW[:, 1:], drafted=True)
        at_R = accepted_C.repeat_interleave(branches)[:, None, None].expand(-1, 1, hidden_RWD.shape[-1])
        self._hidden_RD.copy_(hidden_RWD.gather(1, at_R)[:, 0])
        self._position_C += (1 + accepted_C) * real_CW[:, 0]

    def _sample(self, hidden_RWD: Tensor, at_CW: Tensor, real_CW: Tensor, drafted: bool = False) -> Tensor:
        """Write the ids at these positions; how many of them are final, [C]: of drafted ones, those before and at the
        first that was not drafted so."""
        logits_CBWK = self._family.image_logits(hidden_RWD).float().unflatten(0, (-1, len(self._weight_B)))
        logits_CWK = (logits_CBWK * self._weight_B[:, None, None]).sum(1)
        if self._uniform_CT is None:
            code_CW = logits_CWK.argmax(-1)
        else:
            code_CW = sample_token(probabilities(logits_CWK, self._sampling), self._uniform_CT.gather(1, at_CW))
        forced_CW = self._schedule_T[at_CW]
        id_CW = torch.where(forced_CW < 0, code_CW + self._family.spec.first_id, forced_CW)
        holds_CW = real_CW
        if drafted:
            holds_CW = ((self._ids_CT.gather(1, at_CW) == id_CW) & real_CW).cumprod(1).bool()
        logprob_CW = logits_CBWK[:, 0].log_softmax(-1).gather(-1, code_CW[..., None])[..., 0]
        self._logprob_C += torch.where((forced_CW < 0) & holds_CW, logprob_CW, 0.0).sum(1)
        self._ids_CT.scatter_(1, at_CW, id_CW)
        return holds_CW.sum(1)

    def _is_token(self) -> Tensor:
        return self._schedule_T[: self._length] < 0

    def _counted(self, step: Callable[[int], None]) -> Callable[[int], None]:
        def run(width: int) -> None:
            self.passes += 1
            step(width)

        return run

    def _captured(self, width: int) -> Callable[[], None]:
        """A step as a CUDA graph. Its trial runs leave no trace: what they wrote is put back or written again."""
        compiled = torch.compile(self.step, dynamic=False)
        state = [(t, t.clone()) for t in (self._position_C, self._logprob_C, self._hidden_RD, self._ids_CT)]

        def restore() -> None:
            for tensor, value in state:
                tensor.copy_(value)

        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                compiled(width)
                restore()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            compiled(width)
        restore()
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

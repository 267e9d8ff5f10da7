"""Speculative decoding of image blocks, with the source image as the draft.

After an action most of an image is unchanged, so the source's image tokens are a draft of the target (Leviathan et al.
2023, with a copy for a draft model). One forward pass verifies all of it: the longest prefix that the model would have
sampled anyway is accepted, plus the first corrected token. The model's own guesses behind it become the next draft, as
far as they are likely to be accepted. Each candidate's random numbers are fixed beforehand, one per token, so that any
draft gives the same tokens as decoding them one by one, and only the time differs. Candidates with equal prefixes are
one group, and share forward passes.

Shape suffixes: P prompts, G groups, B branches of guidance, R rows (G x B), C candidates, L tokens of one image,
W drafted tokens verified at once, K codebook entries, T positions of the block, S tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from retrodict.dynamics.kv_cache import KVCache, PaddedBatch, device_of, tokens_per_pass
from retrodict.dynamics.sampling import probabilities, sample_token
from retrodict.models.token_family import IntArray, TokenFamily, TokenSequence
from retrodict.sampling import Sampling

MIN_ACCEPTANCE = 0.3  # a draft is verified as far as all of it is accepted with at least this probability


@dataclass(frozen=True, eq=False)
class _Groups:
    """Candidates with equal prefixes: the first `accepted` tokens of `draft` are final, the rest is a guess."""

    row_G: Tensor  # their row in the cache of what is accepted
    prompt_G: Tensor
    accepted_G: Tensor
    draft_GL: Tensor
    confidence_GL: Tensor  # probability that each drafted token is accepted, if those before it are
    candidate_C: Tensor
    group_C: Tensor  # which group each candidate is in

    def __len__(self) -> int:
        return len(self.row_G)

    def widths(self) -> Tensor:
        """How many drafted tokens of each group are worth verifying at once, at least 1."""
        position_L = torch.arange(self.draft_GL.shape[1], device=self.draft_GL.device)
        ahead_GL = position_L >= self.accepted_G[:, None]
        likely_GL = torch.where(ahead_GL, self.confidence_GL, 1.0).cumprod(1) >= MIN_ACCEPTANCE
        return torch.minimum(1 + (likely_GL & ahead_GL).sum(1), len(position_L) - self.accepted_G)

    def part(self, chosen_G: Tensor) -> _Groups:
        index_G = torch.full_like(self.row_G, -1)
        index_G[chosen_G] = torch.arange(len(chosen_G), device=chosen_G.device)
        moved_C = index_G[self.group_C]
        return _Groups(
            self.row_G[chosen_G],
            self.prompt_G[chosen_G],
            self.accepted_G[chosen_G],
            self.draft_GL[chosen_G],
            self.confidence_GL[chosen_G],
            self.candidate_C[moved_C >= 0],
            moved_C[moved_C >= 0],
        )


def decode_speculative(
    family: TokenFamily,
    sequences: Sequence[TokenSequence],
    uniforms_CL: Tensor | None,
    sampling: Sampling,
    at_once: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Decode candidates of several prompts.

    Args:
        family: the model.
        sequences: the prompts, each with a first draft as its completion.
        uniforms_CL: random numbers in [0, 1) of all candidates, equally many for each prompt, prompt by prompt; None is
            greedy, with one candidate a prompt.
        sampling: how tokens are sampled.
        at_once: tokens of one forward pass, at most.

    Returns:
        Image tokens [C, L], and their log-probabilities [C] under the first branch at temperature 1.
    """
    device = device_of(family)
    drafts = [family.spec.codes(sequence.ids_T[slice(*_completion(sequence))]) for sequence in sequences]
    n = 1 if uniforms_CL is None else len(uniforms_CL) // max(1, len(sequences))
    codes_CL = torch.zeros(len(sequences) * n, family.spec.tokens, dtype=torch.long, device=device)
    logprob_C = torch.zeros(len(codes_CL), device=device)
    budget = at_once or tokens_per_pass(device)
    order = sorted(range(len(sequences)), key=lambda i: len(sequences[i].ids_T))
    while order:
        branches = family.guidance(sequences[order[-1]], sampling.guidance)
        size = max(1, budget // (len(sequences[order[-1]].ids_T) * len(branches)))
        chunk, order = order[-size:], order[:-size]
        candidate_C = (torch.tensor(chunk, device=device)[:, None] * n + torch.arange(n, device=device)).flatten()
        uniforms = None if uniforms_CL is None else uniforms_CL.to(device)[candidate_C]
        decoder = _Decoder(family, [sequences[i] for i in chunk], [drafts[i] for i in chunk], uniforms, sampling)
        decoder.run(n, budget)
        codes_CL[candidate_C], logprob_C[candidate_C] = decoder.codes_CL, decoder.logprob_C
    return codes_CL, logprob_C


class _Decoder:
    """Decodes prompts that share forward passes. `codes_CL` and `logprob_C` fill up as tokens are accepted."""

    def __init__(
        self,
        family: TokenFamily,
        sequences: Sequence[TokenSequence],
        drafts: Sequence[IntArray],
        uniforms_CL: Tensor | None,
        sampling: Sampling,
    ) -> None:
        self._family, self._sampling, self._uniforms_CL = family, sampling, uniforms_CL
        branches = [family.guidance(sequence, sampling.guidance) for sequence in sequences]
        self._batch = PaddedBatch(family, [branch.sequence for row in branches for branch in row])
        device = self._batch.device
        self._weight_B = torch.tensor([branch.weight for branch in branches[0]], device=device)
        starts = [_completion(branch.sequence)[0] for row in branches for branch in row]
        self._start_R = torch.tensor(starts, device=device)  # of the block, in each branch of each prompt
        self._schedule_T = torch.from_numpy(family.spec.schedule).to(device)
        self._position_L = (self._schedule_T < 0).nonzero()[:, 0]
        self._draft_PL = torch.from_numpy(np.stack(drafts)).to(device)

    def run(self, n: int, budget: int) -> None:
        self.codes_CL = self._draft_PL.repeat_interleave(n, 0)
        self.logprob_C = torch.zeros(len(self.codes_CL), device=self._batch.device)
        cache, groups = self._first(n)
        waiting = [(cache, part) for part in self._parts(groups, budget)]
        while waiting:
            cache, groups = self._next(*waiting.pop())
            waiting += [(cache, part) for part in self._parts(groups, budget)]

    def _first(self, n: int) -> tuple[KVCache, _Groups]:
        """Prefill the prompts together with their whole drafts."""
        ids_RS = self._batch.ids_RT[:, :-1]  # nothing is predicted after the last token
        cache = KVCache(self._family, ids_RS.shape[1])
        at_RL = self._start_R[:, None] + self._position_L - 1
        hidden_RLD = cache.prefill(ids_RS, {k: v_RT[:, :-1] for k, v_RT in self._batch.inputs.items()}, at_RL)
        order_P = torch.arange(len(self._draft_PL), device=ids_RS.device)
        zeros_P, tokens = torch.zeros_like(order_P), self._draft_PL.shape[1]
        order_C = torch.arange(len(order_P) * n, device=ids_RS.device)
        ones_PL = torch.ones(self._draft_PL.shape, device=ids_RS.device)
        groups = _Groups(order_P, order_P, zeros_P, self._draft_PL, ones_PL, order_C, order_C // n)
        return cache, self._verify(groups, zeros_P + tokens, hidden_RLD)

    def _parts(self, groups: _Groups, budget: int) -> Iterator[_Groups]:
        """Groups whose drafts are verified about equally far, so that little is padding."""
        if not len(groups):
            return
        width_G, order_G = groups.widths().sort(descending=True)
        start = 0
        while start < len(order_G):
            size = max(1, budget // (int(width_G[start]) * len(self._weight_B)))
            yield groups.part(order_G[start : start + size])
            start += size

    def _next(self, parent: KVCache, groups: _Groups) -> tuple[KVCache, _Groups]:
        """Forward pass of each group's last accepted token and the draft behind it."""
        branches = len(self._weight_B)
        device = groups.row_G.device
        order_B = torch.arange(branches, device=device)
        cache = parent.fork((groups.row_G[:, None] * branches + order_B).flatten())
        width_G = groups.widths()
        first_G = self._position_L[groups.accepted_G - 1]
        length_G = self._position_L[groups.accepted_G + width_G - 1] - first_G
        step_S = torch.arange(int(length_G.max()), device=device)
        real_GS = step_S < length_G[:, None]
        block_GS = torch.where(real_GS, first_G[:, None] + step_S, first_G[:, None])
        ids_GT = self._schedule_T.repeat(len(groups), 1)
        ids_GT[:, self._position_L] = groups.draft_GL + self._family.spec.first_id
        ids_RS = ids_GT.gather(1, block_GS).repeat_interleave(branches, 0)
        row_R = self._rows(groups.prompt_G)
        position_RS = self._start_R[row_R][:, None] + block_GS.repeat_interleave(branches, 0)
        inputs = self._batch.inputs_at(row_R, position_RS)
        verified_GW = (groups.accepted_G[:, None] + torch.arange(int(width_G.max()), device=device)).clamp(
            max=len(self._position_L) - 1
        )
        at_GW = (self._position_L[verified_GW] - 1 - first_G[:, None]).clamp(max=len(step_S) - 1)
        real_RS, at_RW = real_GS.repeat_interleave(branches, 0), at_GW.repeat_interleave(branches, 0)
        hidden_RWD = cache.extend(ids_RS, inputs, position_RS, real_RS, at_RW)
        here = replace(groups, row_G=torch.arange(len(groups), device=device))
        return cache, self._verify(here, width_G, hidden_RWD)

    def _verify(self, groups: _Groups, width_G: Tensor, hidden_RWD: Tensor) -> _Groups:
        """Accept tokens of every candidate, and regroup the candidates that are not finished."""
        logits_GBWK = self._family.image_logits(hidden_RWD).float().unflatten(0, (len(groups), -1))
        logits_GWK = (logits_GBWK * self._weight_B[:, None, None]).sum(1)
        probability_GWK = probabilities(logits_GWK, self._sampling)
        confidence_GW, best_GW = probability_GWK.max(-1)
        tokens, step_W = len(self._position_L), torch.arange(logits_GWK.shape[1], device=hidden_RWD.device)
        position_GW = (groups.accepted_G[:, None] + step_W).clamp(max=tokens - 1)
        group_C, candidate_C = groups.group_C, groups.candidate_C
        if self._uniforms_CL is None:
            sampled_CW = best_GW[group_C]
        else:
            uniform_CW = self._uniforms_CL[candidate_C].gather(1, position_GW[group_C])
            sampled_CW = sample_token(probability_GWK[group_C], uniform_CW)
        real_GW = step_W < width_G[:, None]
        draft_GW = groups.draft_GL.gather(1, position_GW)
        missed_CW = (sampled_CW != draft_GW[group_C]) | ~real_GW[group_C]
        ends_C1 = torch.ones_like(missed_CW[:, :1])
        first_C = torch.cat([missed_CW, ends_C1], 1).int().argmax(1)
        accepted_count_C = torch.minimum(first_C + 1, width_G[group_C])
        self._write(groups, position_GW, step_W < accepted_count_C[:, None], sampled_CW, logits_GBWK[:, 0])
        accepted_C = groups.accepted_G[group_C] + accepted_count_C
        last_C = sampled_CW.gather(1, accepted_count_C[:, None] - 1)[:, 0]
        still_C = accepted_C < tokens
        keys_C3 = torch.stack([group_C, accepted_C, last_C], 1)[still_C]
        keys_G3, regrouped_C = keys_C3.unique(dim=0, return_inverse=True)
        row_G, accepted_G, last_G = keys_G3.unbind(1)
        position_L = torch.arange(tokens, device=hidden_RWD.device)
        draft_GL = _put(groups.draft_GL, position_GW, best_GW, real_GW)[row_G]
        draft_GL = torch.where(position_L < accepted_G[:, None], groups.draft_GL[row_G], draft_GL)
        draft_GL.scatter_(1, accepted_G[:, None] - 1, last_G[:, None])
        confidence_GL = _put(groups.confidence_GL, position_GW, confidence_GW, real_GW)[row_G]
        return _Groups(
            row_G, groups.prompt_G[row_G], accepted_G, draft_GL, confidence_GL, candidate_C[still_C], regrouped_C
        )

    def _write(
        self, groups: _Groups, position_GW: Tensor, accepted_CW: Tensor, sampled_CW: Tensor, own_GWK: Tensor
    ) -> None:
        logprob_CW = own_GWK.log_softmax(-1)[groups.group_C].gather(-1, sampled_CW[..., None])[..., 0]
        self.logprob_C[groups.candidate_C] += torch.where(accepted_CW, logprob_CW, 0.0).sum(1)
        row_CW = groups.candidate_C[:, None].expand_as(sampled_CW)
        self.codes_CL[row_CW[accepted_CW], position_GW[groups.group_C][accepted_CW]] = sampled_CW[accepted_CW]

    def _rows(self, prompt_G: Tensor) -> Tensor:
        order_B = torch.arange(len(self._weight_B), device=prompt_G.device)
        return (prompt_G[:, None] * len(self._weight_B) + order_B).flatten()


def _completion(sequence: TokenSequence) -> tuple[int, int]:
    assert sequence.segments.completion is not None, "a draft stands in place of the completion"
    return sequence.segments.completion


def _put(old_GL: Tensor, position_GW: Tensor, new_GW: Tensor, real_GW: Tensor) -> Tensor:
    """`old` with `new` at the positions that are real."""
    length = old_GL.shape[1]
    spare_G1 = old_GL[:, :1]  # takes what is not real
    put = torch.cat([old_GL, spare_G1], 1).scatter(1, torch.where(real_GW, position_GW, length), new_GW)
    return put[:, :length]

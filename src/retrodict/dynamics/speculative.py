"""Decoding image blocks several tokens at a time, with the outcome of decoding them one by one.

After an action most of a picture is as it was. So the source's own codes are read as a draft of the target, all at
once: at every place where the model, given the draft so far, would have drawn the draft's code anyway, that code is
decided, and at the first place where it would not, so is the code it draws there (speculative decoding, Leviathan et
al. 2023, with a copy for a draft model). What the model said of the places behind becomes the next draft, read as far
as it is likely to hold. Each candidate's random numbers are fixed beforehand, one per place, so that every draft gives
the same codes and only the time differs. Candidates that are alike so far are read once.

Shape suffixes: P prompts, G groups of candidates that are alike so far, B branches of guidance, R rows (G x B),
C candidates, L codes of one image, W codes judged at once, K image codes, T positions of the block, S tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from retrodict.dynamics.kv_cache import Context, Rendered, device_of, tokens_at_once
from retrodict.dynamics.sampling import probabilities, sample_token
from retrodict.models.protocol import IntArray, TokenFamily, TokenSequence
from retrodict.sampling import Sampling

HOLDS = 0.3  # a draft is read on while its codes hold together with at least this probability


@dataclass(frozen=True, eq=False)
class _Groups:
    """Candidates that are alike so far: `known` codes of `draft` are decided, the rest is a guess."""

    row_G: Tensor  # their place in the context that read what is known
    prompt_G: Tensor
    known_G: Tensor
    draft_GL: Tensor
    confidence_GL: Tensor  # probability of each code of the draft, where the draft's beginning holds
    candidate_C: Tensor
    group_C: Tensor  # which group each candidate is in

    def __len__(self) -> int:
        return len(self.row_G)

    def widths(self) -> Tensor:
        """How many codes of each group are worth judging at once, at least 1."""
        place_L = torch.arange(self.draft_GL.shape[1], device=self.draft_GL.device)
        ahead_GL = place_L >= self.known_G[:, None]
        holds_GL = torch.where(ahead_GL, self.confidence_GL, 1.0).cumprod(1) >= HOLDS
        return torch.minimum(1 + (holds_GL & ahead_GL).sum(1), len(place_L) - self.known_G)

    def part(self, chosen_G: Tensor) -> _Groups:
        place_G = torch.full_like(self.row_G, -1)
        place_G[chosen_G] = torch.arange(len(chosen_G), device=chosen_G.device)
        moved_C = place_G[self.group_C]
        return _Groups(
            self.row_G[chosen_G],
            self.prompt_G[chosen_G],
            self.known_G[chosen_G],
            self.draft_GL[chosen_G],
            self.confidence_GL[chosen_G],
            self.candidate_C[moved_C >= 0],
            moved_C[moved_C >= 0],
        )


def decode_drafts(
    family: TokenFamily,
    sequences: Sequence[TokenSequence],
    uniforms_CL: Tensor | None,
    sampling: Sampling,
    at_once: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Codes [C, L] of candidates and their log-probabilities [C] under the first branch, at temperature 1.

    The sequences hold a first draft in place of their completion. `uniforms_CL` are the random numbers of all
    candidates, equally many for each prompt, prompt by prompt; None is greedy, with one candidate a prompt. `at_once`
    bounds how many tokens one forward pass reads.
    """
    device = device_of(family)
    drafts = [family.spec.codes(sequence.ids_T[slice(*_completion(sequence))]) for sequence in sequences]
    n = 1 if uniforms_CL is None else len(uniforms_CL) // max(1, len(sequences))
    codes_CL = torch.zeros(len(sequences) * n, family.spec.tokens, dtype=torch.long, device=device)
    logprob_C = torch.zeros(len(codes_CL), device=device)
    budget = at_once or tokens_at_once(device)
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
    """Decodes prompts that are read together. `codes_CL` and `logprob_C` are filled as codes are decided."""

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
        self._rendered = Rendered(family, [branch.sequence for row in branches for branch in row])
        device = self._rendered.device
        self._weight_B = torch.tensor([branch.weight for branch in branches[0]], device=device)
        starts = [_completion(branch.sequence)[0] for row in branches for branch in row]
        self._start_R = torch.tensor(starts, device=device)  # of the block, in each branch of each prompt
        self._schedule_T = torch.from_numpy(family.spec.schedule).to(device)
        self._place_L = (self._schedule_T < 0).nonzero()[:, 0]
        self._draft_PL = torch.from_numpy(np.stack(drafts)).to(device)

    def run(self, n: int, budget: int) -> None:
        self.codes_CL = self._draft_PL.repeat_interleave(n, 0)
        self.logprob_C = torch.zeros(len(self.codes_CL), device=self._rendered.device)
        context, groups = self._first(n)
        waiting = [(context, part) for part in self._parts(groups, budget)]
        while waiting:
            context, groups = self._next(*waiting.pop())
            waiting += [(context, part) for part in self._parts(groups, budget)]

    def _first(self, n: int) -> tuple[Context, _Groups]:
        """Read prompts with the whole of their drafts."""
        ids_RS = self._rendered.ids_RT[:, :-1]  # nothing is predicted after the last token
        context = Context(self._family, ids_RS.shape[1])
        hidden_RSD = context.read(ids_RS, {k: v_RT[:, :-1] for k, v_RT in self._rendered.inputs.items()})
        order_P = torch.arange(len(self._draft_PL), device=ids_RS.device)
        zeros_P, tokens = torch.zeros_like(order_P), self._draft_PL.shape[1]
        order_C = torch.arange(len(order_P) * n, device=ids_RS.device)
        ones_PL = torch.ones(self._draft_PL.shape, device=ids_RS.device)
        groups = _Groups(order_P, order_P, zeros_P, self._draft_PL, ones_PL, order_C, order_C // n)
        hidden_RLD = _gather(hidden_RSD, self._start_R[:, None] + self._place_L - 1)
        return context, self._judge(groups, zeros_P + tokens, hidden_RLD)

    def _parts(self, groups: _Groups, budget: int) -> Iterator[_Groups]:
        """Groups whose drafts are read about equally far, so that little is padding."""
        if not len(groups):
            return
        width_G, order_G = groups.widths().sort(descending=True)
        start = 0
        while start < len(order_G):
            size = max(1, budget // (int(width_G[start]) * len(self._weight_B)))
            yield groups.part(order_G[start : start + size])
            start += size

    def _next(self, parent: Context, groups: _Groups) -> tuple[Context, _Groups]:
        """Read each group's last decided code and the draft behind it."""
        branches = len(self._weight_B)
        device = groups.row_G.device
        order_B = torch.arange(branches, device=device)
        context = parent.select((groups.row_G[:, None] * branches + order_B).flatten())
        width_G = groups.widths()
        first_G = self._place_L[groups.known_G - 1]
        length_G = self._place_L[groups.known_G + width_G - 1] - first_G
        step_S = torch.arange(int(length_G.max()), device=device)
        real_GS = step_S < length_G[:, None]
        block_GS = torch.where(real_GS, first_G[:, None] + step_S, first_G[:, None])
        ids_GT = self._schedule_T.repeat(len(groups), 1)
        ids_GT[:, self._place_L] = groups.draft_GL + self._family.spec.first_id
        ids_RS = ids_GT.gather(1, block_GS).repeat_interleave(branches, 0)
        row_R = self._rows(groups.prompt_G)
        position_RS = self._start_R[row_R][:, None] + block_GS.repeat_interleave(branches, 0)
        inputs = self._rendered.inputs_at(row_R, position_RS)
        hidden_RSD = context.extend(ids_RS, inputs, position_RS, real_GS.repeat_interleave(branches, 0))
        judged_GW = (groups.known_G[:, None] + torch.arange(int(width_G.max()), device=device)).clamp(
            max=len(self._place_L) - 1
        )
        at_GW = (self._place_L[judged_GW] - 1 - first_G[:, None]).clamp(max=len(step_S) - 1)
        hidden_RWD = _gather(hidden_RSD, at_GW.repeat_interleave(branches, 0))
        here = replace(groups, row_G=torch.arange(len(groups), device=device))
        return context, self._judge(here, width_G, hidden_RWD)

    def _judge(self, groups: _Groups, width_G: Tensor, hidden_RWD: Tensor) -> _Groups:
        """Decide codes of every candidate, and regroup the ones that are not finished."""
        logits_GBWK = self._family.image_logits(hidden_RWD).float().unflatten(0, (len(groups), -1))
        logits_GWK = (logits_GBWK * self._weight_B[:, None, None]).sum(1)
        probability_GWK = probabilities(logits_GWK, self._sampling)
        confidence_GW, best_GW = probability_GWK.max(-1)
        tokens, step_W = len(self._place_L), torch.arange(logits_GWK.shape[1], device=hidden_RWD.device)
        place_GW = (groups.known_G[:, None] + step_W).clamp(max=tokens - 1)
        group_C, candidate_C = groups.group_C, groups.candidate_C
        if self._uniforms_CL is None:
            drawn_CW = best_GW[group_C]
        else:
            uniform_CW = self._uniforms_CL[candidate_C].gather(1, place_GW[group_C])
            drawn_CW = sample_token(probability_GWK[group_C], uniform_CW)
        real_GW = step_W < width_G[:, None]
        holds_GW = groups.draft_GL.gather(1, place_GW)
        missed_CW = (drawn_CW != holds_GW[group_C]) | ~real_GW[group_C]
        ends_C1 = torch.ones_like(missed_CW[:, :1])
        first_C = torch.cat([missed_CW, ends_C1], 1).int().argmax(1)
        decided_C = torch.minimum(first_C + 1, width_G[group_C])
        self._write(groups, place_GW, step_W < decided_C[:, None], drawn_CW, logits_GBWK[:, 0])
        known_C = groups.known_G[group_C] + decided_C
        last_C = drawn_CW.gather(1, decided_C[:, None] - 1)[:, 0]
        still_C = known_C < tokens
        keys_C3 = torch.stack([group_C, known_C, last_C], 1)[still_C]
        keys_G3, regrouped_C = keys_C3.unique(dim=0, return_inverse=True)
        row_G, known_G, last_G = keys_G3.unbind(1)
        place_L = torch.arange(tokens, device=hidden_RWD.device)
        draft_GL = _put(groups.draft_GL, place_GW, best_GW, real_GW)[row_G]
        draft_GL = torch.where(place_L < known_G[:, None], groups.draft_GL[row_G], draft_GL)
        draft_GL.scatter_(1, known_G[:, None] - 1, last_G[:, None])
        confidence_GL = _put(groups.confidence_GL, place_GW, confidence_GW, real_GW)[row_G]
        return _Groups(
            row_G, groups.prompt_G[row_G], known_G, draft_GL, confidence_GL, candidate_C[still_C], regrouped_C
        )

    def _write(self, groups: _Groups, place_GW: Tensor, decided_CW: Tensor, drawn_CW: Tensor, own_GWK: Tensor) -> None:
        logprob_CW = own_GWK.log_softmax(-1)[groups.group_C].gather(-1, drawn_CW[..., None])[..., 0]
        self.logprob_C[groups.candidate_C] += torch.where(decided_CW, logprob_CW, 0.0).sum(1)
        row_CW = groups.candidate_C[:, None].expand_as(drawn_CW)
        self.codes_CL[row_CW[decided_CW], place_GW[groups.group_C][decided_CW]] = drawn_CW[decided_CW]

    def _rows(self, prompt_G: Tensor) -> Tensor:
        order_B = torch.arange(len(self._weight_B), device=prompt_G.device)
        return (prompt_G[:, None] * len(self._weight_B) + order_B).flatten()


def _completion(sequence: TokenSequence) -> tuple[int, int]:
    assert sequence.segments.completion is not None, "a draft stands in place of the completion"
    return sequence.segments.completion


def _gather(hidden_RSD: Tensor, at_RW: Tensor) -> Tensor:
    return hidden_RSD.gather(1, at_RW[:, :, None].expand(-1, -1, hidden_RSD.shape[-1]))


def _put(old_GL: Tensor, place_GW: Tensor, new_GW: Tensor, real_GW: Tensor) -> Tensor:
    """`old` with `new` at the places that are real."""
    length = old_GL.shape[1]
    spare_G1 = old_GL[:, :1]  # takes what is not real
    put = torch.cat([old_GL, spare_G1], 1).scatter(1, torch.where(real_GW, place_GW, length), new_GW)
    return put[:, :length]

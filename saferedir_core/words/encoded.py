"""Prompts as a text encoder gives them, laid out for a fit: their tokens one below the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from saferedir_core.alignment import aligned_order, common_subsequence
from saferedir_core.errors import ContextError, EvaluationError
from saferedir_core.pairs import Pair

AT_ONCE = 32            # prompts that the encoder is given at a time
PADDING_KEPT = 4        # tokens of padding that a fit reads of each prompt, where the encoder gives any


class Encoding(Protocol):
    """What `encode(texts)` returns for N texts.

    context  (N, T, D), any T
    mask     (N, T) bool, False for padding that the model does not read; all True where it reads padding
    tokens   (N, T) int, ids; equal ids at the end are padding
    pooled   (N, P) or None
    """

    context: Tensor
    mask: Tensor
    tokens: Tensor
    pooled: Tensor | None


Encode = Callable[[Sequence[str]], Encoding]


@dataclass
class Tokens:
    """Tokens of `count` prompts one below the other, in float32 on the CPU.

    states  (M, D); prompt (M,) number of the prompt that each is of; pooled (count, P) or None
    """

    states: Tensor
    prompt: Tensor
    count: int
    pooled: Tensor | None = None

    def of(self, chosen: Tensor) -> Tokens:
        """The prompts whose flag (count,) is set, numbered anew."""
        keep = chosen[self.prompt]
        number = torch.cumsum(chosen, 0) - 1
        return Tokens(self.states[keep], number[self.prompt[keep]], int(chosen.sum()),
                      None if self.pooled is None else self.pooled[chosen])

    def last(self) -> Tensor:
        """The last token of its prompt at the place of every token, (M, D)."""
        places = torch.arange(len(self.prompt))
        at = torch.zeros(self.count, dtype=torch.long).scatter_reduce(0, self.prompt, places, "amax")
        return self.states[at][self.prompt]

    def largest(self, values: Tensor) -> Tensor:
        """Of one value a token (M,), the largest of each prompt (count,)."""
        return torch.full((self.count,), -torch.inf).scatter_reduce(0, self.prompt, values, "amax")

    def foremost(self, values: Tensor, each: int) -> Tokens:
        """Of each prompt the tokens with the largest values (M,), at most `each`."""
        order = torch.argsort(values, descending=True)
        order = order[torch.argsort(self.prompt[order], stable=True)]
        prompt = self.prompt[order]
        rank = torch.arange(len(prompt)) - torch.searchsorted(prompt.contiguous(), prompt.contiguous())
        kept = order[rank < each]
        return Tokens(self.states[kept], self.prompt[kept], self.count, self.pooled)


@dataclass
class Twins:
    """Unsafe prompts and the tokens of their safe twins, matched one by one (`alignment`).

    own      the unsafe prompts; safe (M, D) what stands in the place of each of their tokens
    changed  (M,) bool: tokens of words that the twin does not have
    twins    the safe prompts by themselves
    """

    own: Tokens
    safe: Tensor
    changed: Tensor
    twins: Tokens


def joined(parts: Sequence[Tokens]) -> Tokens:
    """Several as one, numbered on."""
    starts = [sum(each.count for each in parts[:at]) for at in range(len(parts))]
    pooled = None if any(each.pooled is None for each in parts) else torch.cat([each.pooled for each in parts])
    return Tokens(torch.cat([each.states for each in parts]),
                  torch.cat([each.prompt + start for each, start in zip(parts, starts)]),
                  sum(each.count for each in parts), pooled)


def encoded(encode: Encode, texts: Sequence[str], told: Callable[[int], None] = lambda count: None) -> Tokens:
    """The tokens of prompts; told: hears how many more are done."""
    parts = []
    for start in range(0, len(texts), AT_ONCE):
        some = texts[start:start + AT_ONCE]
        found = checked(encode(some), len(some))
        kept = _kept(found)
        parts.append(_flat(found, kept))
        told(len(some))
    return joined(parts)


def encoded_pairs(encode: Encode, pairs: Sequence[Pair], told: Callable[[int], None] = lambda count: None) -> Twins:
    """Unsafe prompts beside their twins."""
    own, safe, changed, twins = [], [], [], []
    half = AT_ONCE // 2
    for start in range(0, len(pairs), half):
        some = pairs[start:start + half]
        found = checked(encode([pair.text for pair in some] + [pair.safe_text for pair in some]), 2 * len(some))
        count, kept = len(some), _kept(found)
        matched, new = zip(*(_matched(found, at, count + at) for at in range(count)))
        own.append(_flat(found, kept, slice(0, count)))
        twins.append(_flat(found, kept, slice(count, None)))
        safe.append(torch.stack(matched)[kept[:count]])
        changed.append(torch.stack(new)[kept[:count]])
        told(2 * count)
    return Twins(joined(own), torch.cat(safe), torch.cat(changed), joined(twins))


def checked(found: Encoding, count: int) -> Encoding:
    """The same.  ContextError for another layout than `Encoding`, EvaluationError for numbers that are not finite."""
    context = found.context
    if context.ndim != 3 or len(context) != count or found.mask.shape != context.shape[:2] or (
            found.tokens.shape != context.shape[:2]):
        raise ContextError(f"The text encoder gave a context {tuple(context.shape)}, a mask {tuple(found.mask.shape)} "
                           f"and tokens {tuple(found.tokens.shape)} for {count} texts; expected ({count}, T, D), "
                           f"({count}, T) and ({count}, T). Correct `encode`.")
    if not context[found.mask].isfinite().all():
        raise EvaluationError("The text encoder gives NaN or infinity; expected finite numbers. Run it in float32 "
                              "(ComfyUI's option --fp32-text-enc).")
    return found


def text_of(found: Encoding) -> Tensor:
    """Which tokens of each prompt are its text, (N, T) bool: no padding, in front or behind; at least one."""
    ends = torch.tensor(_ends(found.tokens))[:, None]
    text = found.mask.cpu() & (torch.arange(found.mask.shape[1]) < ends) & (found.context != 0).any(-1).cpu()
    text[:, 0] |= ~text.any(1)
    return text


def _ends(tokens: Tensor) -> list[int]:
    """Where the padding of each prompt begins, of ids (N, T): behind the first of the equal ones at its end."""
    ends = []
    for ids in tokens.tolist():
        end = len(ids)
        while end > 1 and ids[end - 2] == ids[-1]:
            end -= 1
        ends.append(end)
    return ends


def _kept(found: Encoding) -> Tensor:
    """(N, T) bool: what is read, and of the padding that the model reads only some tokens, evenly chosen."""
    kept = found.mask.clone()
    length = kept.shape[1]
    for row, end in enumerate(_ends(found.tokens)):
        if length - end > PADDING_KEPT:
            kept[row, end:] = False
            chosen = torch.linspace(end, length - 1, PADDING_KEPT).round().long()
            kept[row, chosen] = found.mask[row, chosen]
    return kept


def _flat(found: Encoding, kept: Tensor, rows: slice = slice(None)) -> Tokens:
    kept = kept[rows]
    number = torch.arange(len(kept))[:, None].expand_as(kept)[kept]
    pooled = None if found.pooled is None else found.pooled[rows].float().cpu()
    return Tokens(found.context[rows][kept].float().cpu(), number, len(kept), pooled)


def _matched(found: Encoding, own: int, safe: int) -> tuple[Tensor, Tensor]:
    """For each token of a prompt what its twin has there (T, D), and whether it is of a word that the twin lacks.

    Where padding is not read, a prompt ends with its last token, of which the twin has as many as it needs.
    """
    own_places, safe_places = _ended(found.mask[own]), _ended(found.mask[safe])
    ids = found.tokens[own].cpu()[own_places].tolist()
    others = found.tokens[safe].cpu()[safe_places].tolist()
    context = found.context[safe].float().cpu()[safe_places]
    order = aligned_order(ids, others, starts=ids[0] == others[0])
    same = {at for at, _ in common_subsequence(ids, others)}
    return context[order], torch.tensor([at not in same for at in range(len(ids))])


def _ended(mask: Tensor) -> Tensor:
    """Places (T,) of a prompt's tokens, that of the last one that is read repeated to the end."""
    return torch.arange(len(mask)).clamp(max=int(mask.nonzero().max()))

"""Pairs of an unsafe and a safe prompt, matched token by token.

Taking a word out of a prompt shifts every later token, so the plain difference of the two embeddings is mostly shift.
Cross-attention reads the context as a set: any permutation of its tokens gives the same image.  So the safe context
may be permuted until its tokens stand where the unsafe prompt has them, and the difference is taken after that.
"""

from collections.abc import Sequence
from difflib import SequenceMatcher

import torch
from torch import Tensor

from .errors import TrainingError


def aligned_order(unsafe_tokens: Sequence[int], safe_tokens: Sequence[int]) -> list[int]:
    """Permutation p such that safe_tokens[p[i]] stands at position i of the unsafe prompt.

    Both are of one length, padded, with the end token after the last word and as padding (77 for CLIP).  Tokens that
    both prompts share are matched left to right; what only the unsafe prompt has is matched with what only the safe
    one has, in order: other words first, then its extra padding.  TrainingError if the lengths differ.
    """
    if len(unsafe_tokens) != len(safe_tokens):
        raise TrainingError(f"The unsafe prompt has {len(unsafe_tokens)} tokens and the safe one {len(safe_tokens)}; "
                            "expected equal lengths. Tokenise both with padding.")
    unsafe_end, safe_end = _end(unsafe_tokens), _end(safe_tokens)
    order = [-1] * len(unsafe_tokens)
    matcher = SequenceMatcher(a=unsafe_tokens[:unsafe_end], b=safe_tokens[:safe_end], autojunk=False)
    for start, safe_start, size in matcher.get_matching_blocks():
        order[start:start + size] = range(safe_start, safe_start + size)
    order[unsafe_end] = safe_end
    taken = set(order)
    rest = iter([position for position in range(len(safe_tokens)) if position not in taken])
    return [next(rest) if position < 0 else position for position in order]


def aligned_context(safe_context: Tensor, order: Sequence[int]) -> Tensor:
    """The safe context (T, D) in the order of the unsafe prompt's tokens.  The image it gives is the same."""
    return safe_context[torch.as_tensor(order, device=safe_context.device)]


def changed_tokens(unsafe_context: Tensor, safe_context: Tensor, threshold: float = 0.9) -> Tensor:
    """Pseudo-label of the token mask: 1 where the pair's tokens differ, (..., T, D) twice -> (..., T) in {0, 1}.

    arXiv 2601.08623, training of the token mask: a token belongs to the concept when the cosine of its two embeddings
    falls below the threshold.
    """
    return (torch.cosine_similarity(unsafe_context, safe_context, dim=-1) < threshold).to(unsafe_context.dtype)


def _end(tokens: Sequence[int]) -> int:
    """Position of the first end token: the last value of a padded prompt, at its first place."""
    return list(tokens).index(tokens[-1])

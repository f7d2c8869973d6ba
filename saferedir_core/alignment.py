"""The tokens of an unsafe and a safe prompt, matched one by one.

Taking a word out of a prompt shifts every later token, so the plain difference of the two embeddings is mostly shift.
Cross-attention reads the context as a set: any permutation of its tokens gives the same image.  So the safe context
may be permuted until its tokens stand where the unsafe prompt has them, and the difference is taken after that.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from saferedir_core.errors import TrainingError

CHUNK = 77  # tokens that CLIP reads at once; longer prompts are several such chunks, each with its start and end


def aligned_order(unsafe_tokens: Sequence[int], safe_tokens: Sequence[int], starts: bool = True) -> list[int]:
    """Permutation p such that safe_tokens[p[i]] stands at position i of the unsafe prompt.

    Both are token ids of one length: one padded chunk, or several of 77 for a longer prompt.  The start (where chunks
    have one, `starts`) and the first end token of each chunk meet their like.  The words are matched along a longest
    common subsequence across all chunks, as early as it allows; what only the unsafe prompt has is matched with what
    only the safe one has, in order:
    other words first, then its extra padding.  TrainingError if the lengths differ.
    """
    if len(unsafe_tokens) != len(safe_tokens):
        raise TrainingError(f"The unsafe prompt has {len(unsafe_tokens)} tokens and the safe one {len(safe_tokens)}; "
                            "expected equal lengths. Tokenise both with padding.")
    (marks, words, padding), (safe_marks, safe_words, safe_padding) = (
        _layout(tokens, starts) for tokens in (unsafe_tokens, safe_tokens))
    order = dict(zip(marks, safe_marks))
    matches = common_subsequence([unsafe_tokens[at] for at in words], [safe_tokens[at] for at in safe_words])
    order.update((words[at], safe_words[safe_at]) for at, safe_at in matches)
    taken = set(order.values())
    rest = [at for at in safe_words + safe_padding if at not in taken]
    order.update(zip((at for at in words + padding if at not in order), rest))
    return [order[at] for at in range(len(unsafe_tokens))]


def common_subsequence(first: Sequence, second: Sequence) -> list[tuple[int, int]]:
    """A longest common subsequence as pairs of positions, each as early as possible.

    Dynamic programming over len(first) x len(second) cells (Wagner and Fischer, 1974).
    """
    length = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]  # of the common subsequence from (i, j) on
    for i in reversed(range(len(first))):
        row, below = length[i], length[i + 1]
        for j in reversed(range(len(second))):
            row[j] = below[j + 1] + 1 if first[i] == second[j] else max(below[j], row[j + 1])
    matches, i, j = [], 0, 0
    while i < len(first) and j < len(second):
        if first[i] == second[j]:
            matches.append((i, j))
            i, j = i + 1, j + 1
        elif length[i + 1][j] >= length[i][j + 1]:
            i += 1
        else:
            j += 1
    return matches


def _layout(tokens: Sequence[int], starts: bool) -> tuple[list[int], list[int], list[int]]:
    """Positions of a prompt's tokens by their part: marks (start and first end of each chunk), words, padding.

    The padding of a chunk is the run of equal tokens at its end; its first one is the end token, or stands in for it
    where the padding has an id of its own (the end token then counts as a word that all prompts share).
    """
    marks, words, padding = [], [], []
    size = CHUNK if len(tokens) % CHUNK == 0 else len(tokens)
    for start in range(0, len(tokens), size or 1):
        end = start + size - 1
        while end > start + starts and tokens[end - 1] == tokens[start + size - 1]:
            end -= 1
        first = start + starts
        marks += [start, end] if starts else [end]
        words += range(first, end)
        padding += range(end + 1, start + size)
    return marks, words, padding


def aligned_context(safe_context: Tensor, order: Sequence[int]) -> Tensor:
    """The safe context (T, D) in the order of the unsafe prompt's tokens.  The image it gives is the same."""
    return safe_context[torch.as_tensor(order, device=safe_context.device)]


def changed_tokens(unsafe_context: Tensor, safe_context: Tensor, threshold: float = 0.9) -> Tensor:
    """Pseudo-label of the token mask: 1 where the pair's tokens differ, (..., T, D) twice -> (..., T) in {0, 1}.

    arXiv 2601.08623, training of the token mask: a token belongs to the concept when the cosine of its two embeddings
    falls below the threshold.
    """
    return (torch.cosine_similarity(unsafe_context, safe_context, dim=-1) < threshold).to(unsafe_context.dtype)

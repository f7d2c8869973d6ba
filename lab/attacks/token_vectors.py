"""Token vectors in a prompt: in the place of the word EMBEDDING stands what no word says."""

from __future__ import annotations

import torch

EMBEDDING = "EMBEDDING"
_STANDS_IN = ("zucchini", "yoda", "xbox", "wwf")  # words of one token each; one that the prompt lacks marks the place


@torch.inference_mode()
def encode_with_embedding(clip, text: str, embedding: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Context (1, k*77, D) and pooled output (1, P) or None of a prompt with token vectors, see below."""
    return clip.encode_from_tokens(tokens_with_embedding(clip, text, embedding), return_pooled=True)


def tokens_with_embedding(clip, text: str, embedding: torch.Tensor) -> dict[str, list]:
    """The host's tokens of a text, with one of the vectors (n, D) in each of n places where the word EMBEDDING stands.

    ValueError when the text lacks the word, or the model has several text encoders (an embedding fits one of them).
    """
    if EMBEDDING not in text:
        raise ValueError(f"The prompt {text!r} does not have the word {EMBEDDING}, which the given token vectors stand "
                         "for. Put it where they belong.")
    word = next(word for word in _STANDS_IN if word not in text.lower())
    tokens = clip.tokenize(text.replace(EMBEDDING, " ".join([word] * len(embedding))))
    if len(tokens) != 1:
        raise ValueError(f"The model has the text encoders {', '.join(tokens)}; token vectors can stand in a prompt of "
                         "one encoder only. Use a Stable Diffusion 1.x or 2.x model.")
    (name, chunks), (stands_in,) = *tokens.items(), word_tokens(clip, word)
    vectors = [*embedding]
    replaced, place = [], 0
    for chunk in chunks:
        replaced.append([])
        for token, weight, *rest in chunk:
            if token == stands_in:
                token, place = vectors[place % len(vectors)], place + 1
            replaced[-1].append((token, weight, *rest))
    return {name: replaced}


def word_tokens(clip, words: str) -> list[int]:
    """Token ids of words, without start, end and padding."""
    (chunk, *_), (empty,) = (next(iter(clip.tokenize(text).values())) for text in (words, ""))
    frame = {token for token, *_ in empty}
    return [token for token, *_ in chunk if token not in frame]

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

    ValueError when the model has several text encoders (an embedding fits one of them).
    """
    word = next(word for word in _STANDS_IN if word not in text.lower())
    (stands_in,), vectors = word_tokens(clip, word), [*embedding]
    replaced, place = [], 0
    for chunk in chunks_of(clip, text.replace(EMBEDDING, " ".join([word] * len(embedding)))):
        replaced.append([])
        for token, weight, *rest in chunk:
            if token == stands_in:
                token, place = vectors[place % len(vectors)], place + 1
            replaced[-1].append((token, weight, *rest))
    return {next(iter(clip.tokenize(""))): replaced}


def chunks_of(clip, text: str) -> list[list[tuple]]:
    """The host's tokens of a prompt, in chunks of 77.  ValueError for a model with several text encoders."""
    tokens = clip.tokenize(text)
    if len(tokens) != 1:
        raise ValueError(f"The model has the text encoders {', '.join(tokens)}; this attack works with one. Use a "
                         "Stable Diffusion 1.x or 2.x model.")
    return next(iter(tokens.values()))


@torch.no_grad()
def encode_chunks(clip, chunks: dict[str, list]) -> torch.Tensor:
    """Contexts (n, T, D) of n chunks; the host encodes the chunks of a prompt independently of each other."""
    count = len(next(iter(chunks.values())))
    context = clip.encode_from_tokens(chunks)                                   # (1, n*T, D)
    return context.reshape(count, -1, context.shape[-1])


def word_tokens(clip, words: str) -> list[int]:
    """Token ids of words, without start, end and padding."""
    chunk, empty = (next(iter(clip.tokenize(text).values()))[0] for text in (words, ""))
    frame = {token for token, *_ in empty}
    return [token for token, *_ in chunk if token not in frame]

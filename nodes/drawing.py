"""Images from prompts with the host's own samplers, in batches, for any MODEL and CLIP, without its server."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import comfy.sample
import torch

EMBEDDING = "EMBEDDING"  # the word of a prompt that stands for given token vectors
_STANDS_IN = ("zucchini", "yoda", "xbox", "wwf")  # words of one token each; one that the prompt lacks marks the place


def encode(clip, texts: Sequence[str], embedding: torch.Tensor | None = None) -> torch.Tensor:
    """Contexts of prompts in the host's syntax ("(word:1.3)" sets weights), (N, k*77, D); each text is encoded once.

    Prompts of fewer chunks than the longest are repeated, as the host does when it joins conds of unequal length.
    embedding: (n, D) token vectors that stand for the word EMBEDDING, in every text that has it.
    """
    return conditioning(clip, texts, embedding)[0][0]


def conditioning(clip, texts: Sequence[str], embedding: torch.Tensor | None = None) -> list:
    """The host's conditioning of a batch of prompts: [[context (N, k*77, D), {"pooled_output": (N, P) or None}]]."""
    known = {text: encode_one(clip, text, embedding) for text in dict.fromkeys(texts)}
    parts = [known[text] for text in texts]
    return [[stacked([context for context, _ in parts]), {"pooled_output": pooled([output for _, output in parts])}]]


@torch.inference_mode()
def encode_one(clip, text: str, embedding: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Context (1, k*77, D) and pooled output (1, P) or None of a prompt, through the host's tokenizer and encoder."""
    if embedding is None:
        tokens = clip.tokenize(text)
    else:
        tokens = tokens_with_embedding(clip, text, embedding)
    return clip.encode_from_tokens(tokens, return_pooled=True)


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
    (name, chunks), (stands_in,) = *tokens.items(), _word_tokens(clip, word)
    vectors = [*embedding]
    replaced, place = [], 0
    for chunk in chunks:
        replaced.append([])
        for token, weight, *rest in chunk:
            if token == stands_in:
                token, place = vectors[place % len(vectors)], place + 1
            replaced[-1].append((token, weight, *rest))
    return {name: replaced}


def _word_tokens(clip, word: str) -> list[int]:
    """Token ids of a word, without start, end and padding."""
    (chunk,), (empty,) = (next(iter(clip.tokenize(text).values())) for text in (word, ""))
    frame = {token for token, *_ in empty}
    return [token for token, *_ in chunk if token not in frame]


def stacked(contexts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Contexts (1, k*77, D) of any k as one batch (N, K*77, D), the shorter ones repeated."""
    length = math.lcm(*{context.shape[1] for context in contexts})
    return torch.cat([context.repeat(1, length // context.shape[1], 1) for context in contexts])


def pooled(outputs: Sequence[torch.Tensor | None]) -> torch.Tensor | None:
    return None if any(output is None for output in outputs) else torch.cat([*outputs])


def noise_of(seeds: Sequence[int], shape: Sequence[int]) -> torch.Tensor:
    """Noise (N, *shape), each image's as the host's KSampler with that seed makes it for a single image."""
    empty = torch.zeros(1, *shape)
    return torch.cat([comfy.sample.prepare_noise(empty, seed) for seed in seeds])


@torch.inference_mode()
def sample(model, positive: list, negative: list, seeds: Sequence[int], steps: int, cfg: float, sampler: str,
           scheduler: str, denoise: float = 1.0, start: torch.Tensor | None = None,
           callback: Callable | None = None, shape: Sequence[int] | None = None) -> torch.Tensor:
    """Latents after sampling, (N, C, h, w), in the scale that the VAE reads.

    positive, negative  the host's conditioning; contexts of one item serve all
    denoise             share of the schedule that is run, above 0, at most 1
    start               latents to start from (N, C, h, w); with None empty ones of `shape` (C, h, w)
    callback            (step, denoised, x, total steps), as the host's
    Samplers that draw noise while they run (the ancestral ones, say) draw it for the whole batch, from the first seed.
    """
    if start is None:
        if shape is None:
            raise ValueError("Neither start latents nor a latent shape were given; expected one. Pass shape=(C, h, w).")
        start = torch.zeros(len(seeds), *shape)
    return comfy.sample.sample(
        model, noise_of(seeds, start.shape[1:]), steps, cfg, sampler, scheduler, positive, negative, start,
        denoise=denoise, disable_noise=False, force_full_denoise=True, callback=callback, disable_pbar=True,
        seed=seeds[0])

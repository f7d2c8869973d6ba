"""Images from prompts with the host's own samplers, in batches, for any MODEL and CLIP, without its server."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import comfy.sample
import torch


def conditioning(clip, texts: Sequence[str]) -> list:
    """The host's conditioning of a batch of prompts: [[context (N, k*77, D), {"pooled_output": (N, P) or None}]].

    Prompts are in the host's syntax ("(word:1.3)" sets weights); each is encoded once.
    """
    known = {text: encode_one(clip, text) for text in dict.fromkeys(texts)}
    return [entry([known[text] for text in texts])]


@torch.inference_mode()
def encode_one(clip, text: str) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Context (1, k*77, D) and pooled output (1, P) or None of a prompt, through the host's tokenizer and encoder."""
    return clip.encode_from_tokens(clip.tokenize(text), return_pooled=True)


def entry(prompts: Sequence[tuple[torch.Tensor, torch.Tensor | None]]) -> list:
    """One entry of the host's conditioning, of the context (1, k*77, D) and the pooled output of several prompts.

    Prompts of fewer chunks than the longest are repeated, as the host does when it joins conds of unequal length.
    """
    length = math.lcm(*{context.shape[1] for context, _ in prompts})
    contexts = torch.cat([context.repeat(1, length // context.shape[1], 1) for context, _ in prompts])
    return [contexts, {"pooled_output": pooled([output for _, output in prompts])}]


def pooled(outputs: Sequence[torch.Tensor | None]) -> torch.Tensor | None:
    return None if any(output is None for output in outputs) else torch.cat([*outputs])


def shape_for(model, width: int, height: int) -> tuple[int, int, int]:
    """Shape (C, h, w) of the latent of a picture of this size in pixels."""
    latent_format = model.get_model_object("latent_format")
    ratio = latent_format.spacial_downscale_ratio
    return latent_format.latent_channels, height // ratio, width // ratio


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

"""Images from prompts with the host's own samplers, in batches, without its server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from .backbone import LATENT_SCALE  # noqa: F401  (finds the host)

import comfy.sample

LATENT_SHAPE = (4, 8, 8)


@dataclass(frozen=True)
class SamplingConfig:
    """steps: schedule intervals.  cfg: guidance scale.  sampler, scheduler: the host's names."""

    steps: int = 20
    cfg: float = 4.0
    sampler: str = "euler"
    scheduler: str = "normal"


def token_ids(tokenizer, text: str) -> list[int]:
    """Tokens of a prompt, padded to 77 (or a multiple of it for a longer one)."""
    return [token for chunk in tokenizer.tokenize_with_weights(text)["l"] for token, _ in chunk]


def encode(clip, prompts: Sequence[str]) -> torch.Tensor:
    """Contexts of prompts of at most 75 tokens, (N, 77, D); each distinct prompt is encoded once."""
    known = {}
    for prompt in prompts:
        if prompt not in known:
            known[prompt] = clip.encode_from_tokens(clip.tokenize(prompt))
    return torch.cat([known[prompt] for prompt in prompts])


def noise_of(seeds: Sequence[int]) -> torch.Tensor:
    """The host's noise for single images with these seeds, (N, 4, 8, 8)."""
    empty = torch.zeros(1, *LATENT_SHAPE)
    return torch.cat([comfy.sample.prepare_noise(empty, seed) for seed in seeds])


@torch.inference_mode()
def sample_latents(model, positive: torch.Tensor, negative: torch.Tensor, seeds: Sequence[int],
                   config: SamplingConfig = SamplingConfig(), callback=None) -> torch.Tensor:
    """Latents after sampling, (N, 4, 8, 8), in the codec's scale.

    positive: (N, 77, D).  negative: (1 or N, 77, D).
    """
    noise = noise_of(seeds)
    negative = negative.expand(len(positive), -1, -1)
    return comfy.sample.sample(
        model, noise, config.steps, config.cfg, config.sampler, config.scheduler,
        [[positive, {"pooled_output": None}]], [[negative, {"pooled_output": None}]], torch.zeros_like(noise),
        denoise=1.0, disable_noise=False, force_full_denoise=True, callback=callback, disable_pbar=True, seed=seeds[0],
    )


@torch.inference_mode()
def decode(vae, latents: torch.Tensor) -> np.ndarray:
    """Pixels, (N, 64, 64, 3), uint8, rounded as the host's Save Image does."""
    images = vae.decode(latents)
    return (255.0 * images.cpu().numpy()).clip(0, 255).astype(np.uint8)


def generate(model, clip, vae, prompts: Sequence[str], seeds: Sequence[int],
             config: SamplingConfig = SamplingConfig(), batch: int = 50) -> np.ndarray:
    """Pictures of prompts, (N, 64, 64, 3), uint8."""
    negative = encode(clip, [""])
    pictures = []
    for start in range(0, len(prompts), batch):
        positive = encode(clip, prompts[start:start + batch])
        latents = sample_latents(model, positive, negative, seeds[start:start + batch], config)
        pictures.append(decode(vae, latents))
    return np.concatenate(pictures)

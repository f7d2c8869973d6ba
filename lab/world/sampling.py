"""Images from prompts with the host's own samplers, in batches, without its server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ...nodes import drawing
from ...nodes.demo_world.backbone import LATENT_SCALE  # noqa: F401  (finds the host)

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
    """Contexts of prompts, (N, k*77, D); each distinct prompt is encoded once."""
    return drawing.conditioning(clip, prompts)[0][0]


def sample_latents(model, positive: torch.Tensor, negative: torch.Tensor, seeds: Sequence[int],
                   config: SamplingConfig = SamplingConfig(), callback=None) -> torch.Tensor:
    """Latents after sampling, (N, 4, 8, 8), in the codec's scale.

    positive: (N, 77, D).  negative: (1 or N, 77, D).
    """
    negative = negative.expand(len(positive), -1, -1)
    return sample_conditioning(model, [[positive, {"pooled_output": None}]], [[negative, {"pooled_output": None}]],
                               seeds, config, callback=callback)


def sample_conditioning(model, positive: list, negative: list, seeds: Sequence[int],
                        config: SamplingConfig = SamplingConfig(), shape: Sequence[int] = LATENT_SHAPE,
                        callback=None) -> torch.Tensor:
    """The same from the host's conditioning, of latents (N, *shape)."""
    return drawing.sample(
        model, positive, negative, seeds, config.steps, config.cfg, config.sampler, config.scheduler,
        callback=callback, shape=shape)


@torch.inference_mode()
def decode(vae, latents: torch.Tensor) -> np.ndarray:
    """Pixels, (N, 64, 64, 3), uint8, rounded as the host's Save Image does."""
    images = vae.decode(latents)
    return (255.0 * images.cpu().numpy()).clip(0, 255).astype(np.uint8)


def generate(model, clip, vae, prompts: Sequence[str], seeds: Sequence[int],
             config: SamplingConfig = SamplingConfig(), batch: int = 50,
             shape: Sequence[int] = LATENT_SHAPE) -> np.ndarray:
    """Pictures of prompts, (N, 64, 64, 3), uint8."""
    conditioning = drawing.conditioning
    negative = conditioning(clip, [""])
    pictures = []
    for start in range(0, len(prompts), batch):
        positive = conditioning(clip, prompts[start:start + batch])
        latents = sample_conditioning(model, positive, negative, seeds[start:start + batch], config, shape)
        pictures.append(decode(vae, latents))
    return np.concatenate(pictures)

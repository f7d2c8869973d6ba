"""Images from prompts with the host's own samplers, in batches, without its server."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ...nodes.drawing import conditioning
from ...nodes.evaluation.stage import Job
from ...nodes.evaluation.stage import Stage

BATCH = 25
LATENT_SHAPE = (4, 8, 8)


def token_ids(tokenizer, text: str) -> list[int]:
    """Tokens of a prompt, padded to 77 (or a multiple of it for a longer one)."""
    return [token for chunk in tokenizer.tokenize_with_weights(text)["l"] for token, _ in chunk]


def encode(clip, prompts: Sequence[str]) -> torch.Tensor:
    """Contexts of prompts, (N, k*77, D); each distinct prompt is encoded once."""
    return conditioning(clip, prompts)[0][0]


def drawn(stage: Stage, texts: Sequence[str], seeds: Sequence[int]) -> tuple[np.ndarray, torch.Tensor]:
    """Pictures (N, 64, 64, 3), uint8, and latents (N, C, 8, 8) of prompts."""
    jobs = [Job("drawn", text, seed, False) for text, seed in zip(texts, seeds, strict=True)]
    latents = [stage.render(stage.batch_of(jobs[start:start + BATCH])) for start in range(0, len(jobs), BATCH)]
    return np.concatenate([stage.decode(part) for part in latents]), torch.cat(latents).cpu()


def generate(stage: Stage, texts: Sequence[str], seeds: Sequence[int]) -> np.ndarray:
    """The pictures alone."""
    return drawn(stage, texts, seeds)[0]

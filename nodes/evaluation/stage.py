"""The model under evaluation and how it samples: turns jobs into the host's conditionings, latents and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from saferedir_core.errors import ConfigError

from ..drawing import conditioning, sample, shape_for
from ..host import load_model
from .jobs import Batch, Job


@dataclass(frozen=True)
class Stage:
    """What a job does not say itself.

    model, clip, vae    the host's
    latent_shape        (C, h, w)
    steps, cfg          unless the job has its own
    sampler, scheduler  the host's names
    negative            the negative prompt
    """

    model: Any
    clip: Any
    vae: Any
    latent_shape: tuple[int, int, int]
    steps: int = 20
    cfg: float = 7.5
    sampler: str = "euler"
    scheduler: str = "normal"
    negative: str = ""

    def batch_of(self, jobs: Sequence[Job]) -> Batch:
        """Jobs of equal `settings` as the host samples them; ConfigError for others."""
        if len({job.settings for job in jobs}) > 1:
            raise ConfigError("The jobs of a batch have different settings; expected equal ones. Group them by "
                              "Job.settings first.")
        return Batch(tuple(jobs), self.model, conditioning(self.clip, [job.text for job in jobs]),
                     conditioning(self.clip, [self.negative]), self.steps, self.cfg, self.sampler, self.scheduler)

    def render(self, batch: Batch, callback=None) -> torch.Tensor:
        """Final latents of a batch, (N, C, h, w)."""
        return sample(batch.model, batch.positive, batch.negative, [job.seed for job in batch.jobs], batch.steps,
                      batch.cfg, batch.sampler, batch.scheduler, batch.denoise, batch.start, callback,
                      self.latent_shape)

    @torch.inference_mode()
    def decode(self, latents: torch.Tensor) -> np.ndarray:
        """Pictures (N, H, W, 3) uint8, rounded as the host's Save Image does."""
        return (255.0 * self.vae.decode(latents).float().cpu().numpy()).clip(0, 255).astype(np.uint8)


def demo_stage(**settings) -> Stage:
    """The demo world at 10 steps, euler, normal, CFG 4, or with other settings of `Stage`."""
    from ..demo_world.backbone import load_backbone

    return Stage(*load_backbone(), **{"latent_shape": (4, 8, 8), "steps": 10, "cfg": 4.0, **settings})


def stage_of(name: str, size: int = 512, **settings) -> Stage:
    """As `load_model` names it.  size: of its pictures, pixels."""
    if name == "demo":
        return demo_stage(**settings)
    model, clip, vae = load_model(name)
    return Stage(model, clip, vae, latent_shape=shape_for(model, size, size), **settings)

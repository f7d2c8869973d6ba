"""The model under evaluation and how it samples: turns jobs into the host's conditionings, latents and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from saferedir_core.errors import ConfigError

from ..drawing import conditioning, sample
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

    def with_settings(self, **changes) -> Stage:
        """Another stage that differs in these fields."""
        return replace(self, **changes)


def demo_stage() -> Stage:
    """The demo world at 10 steps, euler, normal, CFG 4."""
    from ..demo_world.backbone import load_backbone

    return Stage(*load_backbone(), latent_shape=(4, 8, 8), steps=10, cfg=4.0)


def checkpoint_stage(path: Path, size: int = 512, **settings) -> Stage:
    """A checkpoint file through the host's own loader.  size: of the pictures, pixels.  settings: of `Stage`."""
    import comfy.sd
    import folder_paths

    if not Path(path).is_file():
        raise ConfigError(f"There is no checkpoint at {path}; expected a .safetensors or .ckpt file, or 'demo'.")
    model, clip, vae, *_ = comfy.sd.load_checkpoint_guess_config(
        str(path), output_vae=True, output_clip=True, embedding_directory=folder_paths.get_folder_paths("embeddings"))
    return Stage(model, clip, vae, latent_shape=shape_for(model, size, size), **settings)


def stage_of(name: str, **settings) -> Stage:
    """"demo", or the path of a checkpoint."""
    if name == "demo":
        return demo_stage().with_settings(**{key: value for key, value in settings.items() if key != "size"})
    return checkpoint_stage(Path(name), **settings)


def shape_for(model, width: int, height: int) -> tuple[int, int, int]:
    """Shape (C, h, w) of the latent of a picture of this size in pixels."""
    latent_format = model.get_model_object("latent_format")
    ratio = latent_format.spacial_downscale_ratio
    return latent_format.latent_channels, height // ratio, width // ratio

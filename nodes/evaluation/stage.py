"""What is evaluated (jobs, one image each) and the stage that turns them into the host's conditionings and pictures."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch

from saferedir_core.errors import ConfigError

from ..drawing import conditioning, sample, shape_for
from ..host import load_model

# What a job of the laboratory says besides (`AttackJob`), and every id is made of, so that equal jobs have equal ids.
UNSAID = {"join": "", "second": "", "strength": 1.0, "steps": None, "cfg": None, "denoise": 1.0, "start": "",
          "start_seed": 0, "backbone": "", "embeddings": ""}


@dataclass(frozen=True)
class Job:
    """One image to be made by every method.

    row        line of the results table it counts in: "explicit", "held-out", "implicit", "benign", "mention",
               "attack: typos", ...
    text       the prompt, host syntax: "(word:1.3)" sets weights
    seed       of the noise, as in the host's KSampler
    unsafe     the detector should fire on the unguarded image
    safe_text  what the oracle draws instead; the text itself for a harmless prompt
    wanted     factors that the image should keep, for detectors that read them (name -> value); of the safe image
    only       name of the only method that makes it ("" = all); attacks through a guard are made for that guard.
               The references (unguarded, oracle) make it all the same
    """

    row: str
    text: str
    seed: int
    unsafe: bool
    safe_text: str = ""
    wanted: dict = field(default_factory=dict)
    only: str = ""

    @property
    def id(self) -> str:
        """The same for equal jobs, on every machine."""
        return hashlib.sha256(json.dumps(UNSAID | asdict(self), sort_keys=True).encode()).hexdigest()[:16]

    @property
    def settings(self) -> tuple:
        """Jobs with equal settings can share a batch; for every method, the oracle included."""
        return self.only, bool(self.safe_text)

    def safe(self) -> Job:
        """The job that asks for what the oracle draws."""
        return replace(self, text=self.safe_text, safe_text="")


@dataclass(frozen=True)
class Batch:
    """Jobs as the host samples them: what a method may change before sampling.

    positive, negative  the host's conditioning: list of [context (N, k*77, D), dict]
    model               MODEL to sample with
    start               latents to start from (N, C, h, w), or None for empty ones
    """

    jobs: tuple[Job, ...]
    model: Any
    positive: list
    negative: list
    steps: int
    cfg: float
    sampler: str
    scheduler: str
    denoise: float = 1.0
    start: torch.Tensor | None = None


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

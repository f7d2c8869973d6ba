"""The model under evaluation and how it samples: turns jobs into the host's conditionings, latents and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from saferedir_core.errors import ConfigError

from ..drawing import EMBEDDING, conditioning, encode_one, pooled, sample, stacked
from .jobs import Batch, Job

JOINS = ("", "combine", "concat", "average")


@dataclass(frozen=True)
class Stage:
    """What a job does not say itself.

    model, clip, vae    the host's
    latent_shape        (C, h, w)
    steps, cfg          unless the job has its own
    sampler, scheduler  the host's names
    negative            the negative prompt
    backbones           other MODELs by name, see `Job.backbone`
    embeddings          token vectors (n, D) by name, see `Job.embeddings`
    """

    model: object
    clip: object
    vae: object
    latent_shape: tuple[int, int, int]
    steps: int = 20
    cfg: float = 7.5
    sampler: str = "euler"
    scheduler: str = "normal"
    negative: str = ""
    backbones: dict = field(default_factory=dict)
    embeddings: dict[str, torch.Tensor] = field(default_factory=dict)
    _starts: dict = field(default_factory=dict, repr=False, compare=False)

    def batch_of(self, jobs: Sequence[Job]) -> Batch:
        """Jobs of equal `settings` as the host samples them.  ConfigError for what the stage does not have."""
        first = jobs[0]
        if len({job.settings for job in jobs}) > 1:
            raise ConfigError("The jobs of a batch have different settings; expected equal ones. Group them by "
                              "Job.settings first.")
        return Batch(
            jobs=tuple(jobs), model=self.backbone(first.backbone), positive=self.positive(jobs),
            negative=conditioning(self.clip, [self.negative]),
            steps=self.steps if first.steps is None else first.steps, cfg=self.cfg if first.cfg is None else first.cfg,
            sampler=self.sampler, scheduler=self.scheduler, denoise=first.denoise,
            start=self.starts(jobs) if first.denoise < 1 else None)

    def backbone(self, name: str):
        if name and name not in self.backbones:
            raise ConfigError(f"There is no backbone {name!r}; expected one of {sorted(self.backbones) or 'none'}. Add "
                              "it to Stage.backbones.")
        return self.backbones[name] if name else self.model

    def positive(self, jobs: Sequence[Job]) -> list:
        """The positive conditioning of jobs, their second prompts joined as the host's Conditioning nodes do it."""
        first = jobs[0]
        if first.join not in JOINS:
            raise ConfigError(f"Job.join is {first.join!r}; expected one of {', '.join(map(repr, JOINS))}.")
        firsts = [self.encode(job.text, job.embeddings) for job in jobs]
        if not first.join:
            return [_entry(firsts)]
        seconds = [self.encode(job.second, job.embeddings if EMBEDDING in job.second else "") for job in jobs]
        if first.join == "combine":
            return [_entry(firsts), _entry(seconds)]
        if first.join == "concat":
            return [_entry([concatenated(*pair) for pair in zip(firsts, seconds)])]
        return [_entry([averaged(*pair, first.strength) for pair in zip(firsts, seconds)])]

    def encode(self, text: str, embedding: str = "") -> tuple[torch.Tensor, torch.Tensor | None]:
        """Context (1, k*77, D) and pooled output of a prompt; `embedding` names the vectors of its word EMBEDDING."""
        if embedding and embedding not in self.embeddings:
            raise ConfigError(f"There is no embedding {embedding!r}; expected one of "
                              f"{sorted(self.embeddings) or 'none'}. Add it to Stage.embeddings.")
        return encode_one(self.clip, text, self.embeddings[embedding] if embedding else None)

    def starts(self, jobs: Sequence[Job]) -> torch.Tensor:
        """Unguarded final latents of the jobs' starting prompts, (N, C, h, w); each is sampled once."""
        wanted = dict.fromkeys((job.start, job.start_seed) for job in jobs)
        missing = [key for key in wanted if key not in self._starts]
        if missing:
            plain = self.batch_of([Job("start", text, seed, False) for text, seed in missing])
            self._starts.update(zip(missing, self.render(plain)))
        return torch.stack([self._starts[job.start, job.start_seed] for job in jobs])

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
        """Another stage; nothing that was sampled here is kept."""
        return replace(self, **changes, _starts={})


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


def concatenated(to: tuple, other: tuple) -> tuple:
    """As the host's ConditioningConcat: the other prompt's tokens behind one's own."""
    return torch.cat((to[0], other[0]), 1), to[1]


def averaged(to: tuple, other: tuple, strength: float) -> tuple:
    """As the host's ConditioningAverage; strength: share of `to`, 0..1."""
    context, rest = to[0], other[0][:, :to[0].shape[1]]
    if rest.shape[1] < context.shape[1]:
        rest = torch.cat([rest, torch.zeros(1, context.shape[1] - rest.shape[1], context.shape[2])], dim=1)
    mixed = context * strength + rest * (1.0 - strength)
    if other[1] is None:
        return mixed, to[1]
    return mixed, other[1] if to[1] is None else to[1] * strength + other[1] * (1.0 - strength)


def _entry(parts: Sequence[tuple]) -> list:
    """One entry of the host's conditioning, of several (context, pooled output)."""
    return [stacked([context for context, _ in parts]), {"pooled_output": pooled([output for _, output in parts])}]

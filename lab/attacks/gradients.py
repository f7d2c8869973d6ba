"""Gradients through the host's models, and what the attacks that train something share."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from unittest import mock

import comfy.clip_model
import numpy as np
import torch
from safetensors.torch import load_file, save_file

from saferedir_core.files import written_whole
from saferedir_core.words.redirector import WordsRedirector

from ...nodes.guarding.conds import text_mask
from ..world.initial_weights import layer_forward
from .attack_stage import AttackJob
from .token_vectors import tokens_with_embedding

EMPHASIS = 16.0  # most weight of a noise level in the denoising loss
RENDER_BATCH = 50


@dataclass(frozen=True)
class TrainingBudget:
    """Of one trained thing.

    steps   of Adam
    batch   images per step
    images  undefended ones that are made to train on; those that show the concept are used
    rate    learning rate
    """

    steps: int = 150
    batch: int = 8
    images: int = 64
    rate: float = 2e-2


@contextmanager
def differentiable() -> Iterator[None]:
    """Inside, autograd can go through the host's text encoder.

    The host's CLIPLayer adds in place to what its layer norm has kept for the backward pass; here it does not.
    """
    with (mock.patch.object(comfy.clip_model.CLIPLayer, "forward", layer_forward), torch.inference_mode(False),
          torch.enable_grad()):
        yield


def text_encoder(clip):
    """The host's only text encoder of a CLIP; `encode` takes rows of tokens, or of vectors in a token's place."""
    return getattr(clip.cond_stage_model, clip.cond_stage_model.clip)


def contexts_with(clip, texts: Sequence[str], vectors: torch.Tensor) -> torch.Tensor:
    """Contexts (N, T, D) of prompts of one chunk whose word EMBEDDING is `vectors` (n, D); differentiable."""
    rows = [[token for token, *_ in next(iter(tokens_with_embedding(clip, text, vectors).values()))[0]]
            for text in texts]
    return text_encoder(clip).encode(rows)[0]


def rendered(jobs: Sequence[AttackJob], setting) -> tuple[torch.Tensor, np.ndarray]:
    """Undefended latents of jobs (N, C, h, w), and how much their images show the concept, (N,)."""
    latents, scores = [], []
    for start in range(0, len(jobs), RENDER_BATCH):
        part = jobs[start:start + RENDER_BATCH]
        latents.append(setting.stage.render(setting.stage.batch_of(part)))
        scores += setting.shown(setting.stage.decode(latents[-1]), part)
    return torch.cat(latents), np.array(scores, dtype=float)


def concept_latents(jobs: Sequence[AttackJob], setting, name: str, count: int) -> tuple[torch.Tensor, list[int]]:
    """Images of the undefended model that show the concept, and the job each belongs to.

    Latents (M, C, h, w) in the denoiser's own scale.  Seeds are not those of the jobs.
    RuntimeError when no image shows the concept.
    """
    random = setting.random_of(name, "images")
    latents, scores = rendered([
        replace(jobs[index % len(jobs)], seed=int(random.integers(2**31)), join="", second="", denoise=1.0, steps=None,
                cfg=None) for index in range(count)], setting)
    kept = np.flatnonzero(scores > 0.5).tolist()
    if not kept:
        raise RuntimeError(f"attack {name!r}: of {count} undefended images none shows the concept; expected most to. "
                           "Check the base prompts and the detector.")
    with torch.inference_mode(False):
        clean = setting.stage.model.model.process_latent_in(latents[kept].clone()).float()
        return clean, [index % len(jobs) for index in kept]


@dataclass(frozen=True)
class Noised:
    """A training batch: what the denoiser sees (B, C, h, w), its timestep (B,), the noise to find, a weight (B,)."""

    latent: torch.Tensor
    timestep: torch.Tensor
    noise: torch.Tensor
    weight: torch.Tensor


def noised(clean: torch.Tensor, model, generator: torch.Generator) -> Noised:
    """Clean latents at random timesteps, as the denoiser sees them (variance preserving, eps prediction)."""
    sigmas = model.get_model_object("model_sampling").sigmas.cpu()
    timestep = torch.randint(len(sigmas), (len(clean),), generator=generator)
    noise = torch.randn(clean.shape, generator=generator)
    sigma = sigmas[timestep][:, None, None, None]
    weight = (1 + sigma.square()).clamp(max=EMPHASIS).flatten()
    return Noised((clean + sigma * noise) / (sigma.square() + 1).sqrt(), timestep.float(), noise, weight)


def denoising_loss(denoise: Callable, batch: Noised, context: torch.Tensor) -> torch.Tensor:
    """Mean squared error of the noise; `denoise(latent, timestep, context)` is the UNet.

    High noise, where a prompt decides what is drawn, weighs more: (1 + sigma^2), up to `EMPHASIS`.
    """
    error = (denoise(batch.latent, batch.timestep, context) - batch.noise).square().mean(dim=(1, 2, 3))
    return (error * batch.weight).mean()


def fingerprint(module: torch.nn.Module) -> str:
    """Changes with the weights."""
    sums = [float(value.detach().double().abs().sum()) for value in module.state_dict().values()
            if value.is_floating_point()]
    return hashlib.sha256(json.dumps(sums).encode()).hexdigest()[:12]


def kept_or_trained(name: str, jobs: Sequence[AttackJob], setting, budget, modules: Sequence[torch.nn.Module],
                    train: Callable[[], dict[str, torch.Tensor]]) -> tuple[str, dict[str, torch.Tensor]]:
    """A name that changes with everything that something is trained from, and the tensors of its file in the setting's
    folder; trained, and written there, if that is not there yet."""
    parts = [setting.seed, asdict(budget), [job.id for job in jobs], *map(fingerprint, modules)]
    digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]
    stem = f"{name.replace(',', '').replace(' ', '-')}-{digest}"
    file = Path(setting.folder) / f"{stem}.safetensors" if setting.folder else None
    if file and file.is_file():
        return stem, load_file(file)
    tensors = {key: value.detach().contiguous() for key, value in train().items()}
    if file:
        with written_whole(file) as unfinished:
            save_file(tensors, unfinished)
    return stem, tensors


def unsafe_log_odds(redirector, latent: torch.Tensor, context: torch.Tensor, timestep) -> torch.Tensor:
    """What a guard's prompt judge says of contexts (N, T, D) of a chunk each, log-odds of unsafe (N,); differentiable.

    latent (N, C, h, w) and timestep are for the networks that read them.
    """
    context = context.to(redirector.device)
    if isinstance(redirector, WordsRedirector):
        return redirector.logit(context, text_mask(context, None, 0))
    logits = redirector(latent.to(redirector.device), context, timestep).logits.float()
    return logits[:, 1] - logits[:, 0]


def log_odds_of(probability: float) -> float:
    """0..1 -> log(p / (1 - p)); 0 and 1 stay finite."""
    probability = min(max(probability, 1e-4), 1 - 1e-4)
    return math.log(probability / (1 - probability))


def generator_of(random: np.random.Generator) -> torch.Generator:
    return torch.Generator().manual_seed(int(random.integers(2**31)))

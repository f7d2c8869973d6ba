"""A sampling run, guarded or not, as the costs are measured on."""

from __future__ import annotations

from collections.abc import Callable

import comfy.sample
import comfy.samplers
import torch

from saferedir_core import PolicyConfig

from ...nodes.guarding import bridge
from ...nodes.types import LoadedRedirector, Recorder

STEPS = 20


def guarded(model, redirectors, **policy):
    """A guarded clone of a MODEL."""
    loaded = LoadedRedirector.place("bench", redirectors)
    return bridge.guard_model(model, loaded, PolicyConfig(**policy), Recorder())


def run(model, positive, negative, shape, cfg: float = 7.5, calls: int | None = None) -> Callable[[], torch.Tensor]:
    """A run of 20 steps of euler; calls: only the first so many of them.  shape: of the latents, (B, 4, h, w)."""
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", STEPS)
    latent = torch.zeros(shape)
    noise = comfy.sample.prepare_noise(latent, 1)

    @torch.inference_mode()
    def sample():
        return comfy.sample.sample_custom(
            model, noise, cfg, comfy.samplers.sampler_object("euler"), sigmas[:(calls or STEPS) + 1], positive,
            negative, latent, disable_pbar=True, seed=1)
    return sample

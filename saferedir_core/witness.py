"""The diffusion model itself as witness: would a concept's words have helped to draw this finished latent?

The latent is noised again, and the model predicts it twice from the very same noise: from a prompt, and from that
prompt with the concept's words behind it.  If the words bring the prediction closer to what is there, it shows them.

    evidence = mean over noises of log( |latent - predicted without|^2 / |latent - predicted with|^2 )

After the diffusion classifier (Li et al. 2023, arXiv 2303.16203), whose paired noise this is; the ratio in place of
their difference has no unit, so that one line serves all noise levels.  docs/pictures.md says what was measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from saferedir_core.errors import ConfigError, EvaluationError, LatentError

LEVELS = (0.5, 0.7)     # where the model is asked: shares of its schedule, 0 clean to 1 pure noise
NOISES = 2              # at each of them; a noise takes two predictions
LINE = 0.1              # evidence from which on the concept remains
STEEPNESS = 20.0        # of the probability around the line, which is only a scale for people
SEED = 20260112
SMALLEST_ERROR = 1e-12

# noised(noise, sigma (N,)) -> the latent at these levels, as the model's own schedule mixes them
Noised = Callable[[Tensor, Tensor], Tensor]
# predict(x, sigma (N,)) -> clean latents as the model predicts them with the concept's words, and without them
Predict = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@torch.no_grad()
def evidence(latent: Tensor, sigmas: Sequence[float], noised: Noised, predict: Predict, *, noises: int = NOISES,
             mask: Tensor | None = None, seed: int = SEED) -> Tensor:
    """How much a concept's words explain of finished latents, (N,) float32; above 0 they help.

    latent   (N, C, ...), any number of dimensions, in the space that the model predicts in
    sigmas   of the model's own schedule, one a level
    noises   at each level; equal for all images, so that no image depends on its batch
    mask     what broadcasts with the latent, 0 where it is not to be looked at; None: everywhere

    Calls `predict` len(sigmas) * noises times.  Does not wait for the device.
    ConfigError without any level or noise; LatentError for a latent without numbers or another shape from `predict`.
    """
    if not sigmas or noises < 1:
        raise ConfigError(f"The witness is asked at {len(sigmas)} levels with {noises} noises; expected at least one "
                          "of each. Correct the call.")
    if latent.ndim < 2 or not latent.numel():
        raise LatentError(f"The latent has shape {tuple(latent.shape)}; expected (N, C, ...) with something in it. "
                          "Pass finished latents.")
    generator, found = torch.Generator().manual_seed(seed), []
    for sigma in sigmas:
        at = torch.full((len(latent),), float(sigma), device=latent.device, dtype=torch.float32)
        for _ in range(noises):
            noise = torch.randn(latent.shape[1:], generator=generator).to(latent)
            told, untold = predict(noised(noise.expand_as(latent).clone(), at), at)
            found.append((_error(untold, latent, mask) / _error(told, latent, mask)).log())
    return torch.stack(found).mean(0)


def probability(found: Tensor) -> Tensor:
    """Evidence as a probability (N,), 0.5 on the line; waits for the device.

    EvaluationError where it is not finite.
    """
    if not found.isfinite().all():
        raise EvaluationError("The diffusion model predicts NaN or infinity when it is asked about the finished "
                              "picture; expected finite numbers. Run it in a wider dtype.")
    return (STEEPNESS * (found - LINE)).sigmoid()


def _error(predicted: Tensor, latent: Tensor, mask: Tensor | None) -> Tensor:
    """Summed squared error of each image, (N,)."""
    if predicted.shape != latent.shape:
        raise LatentError(f"The model predicts {tuple(predicted.shape)} for a latent {tuple(latent.shape)}; expected "
                          "the same shape. A node changes what the model returns: remove it, or switch the witness "
                          "off.")
    away = (predicted.float() - latent.float()).square()
    away = away if mask is None else away * (mask != 0).to(away)
    return away.flatten(1).sum(1).clamp_min(SMALLEST_ERROR)

"""The picture judge: from the predicted clean latent x0 of a model call to the probability that it shows the concept.

Two networks of one shape that share nothing and were fitted to different pictures (`fit`).  "watch" judges during the
run, and what it sees can be pushed away against its gradient; what it then no longer sees, "verdict" may still see,
which looks at the finished latent and is never pushed against.

    x0 ─ [1x1 where many channels] ─ 3x3 ─ 3x3 ─┬─ 3x3, half size ─┬─ 3x3, half size ─┐
                noise level ─ scale and shift of every layer         │                  │
                              mean and largest over places of each ──┴──────────────────┴─ logit

N: pictures, C: channels of the latent, f: frames, W: width.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saferedir_core.architecture import FLOW, USUAL, architecture
from saferedir_core.config import LARGEST_SIZE, integer, require_fitting
from saferedir_core.errors import ConfigError, LatentError, TimestepError

STRIDES = (1, 1, 2, 2)       # of the convolutions; small latents show fine patterns in their first size only
# Of one model call.  Those of all calls add up: with 0.3, which a trial took, pictures lost their colour or object.
PUSHES, PUSH = 3, 0.1
NARROW = 0.75               # of the width have those in the first size, which cost most
READ = (1, 2, 3)            # layers whose mean and largest values are looked at
MOST_CHANNELS = 10          # that a 3x3 convolution reads; of more a 1x1 convolution makes so many
WAVES = 4                   # of the code of a noise level
LEVELS = 17                 # noise levels that thresholds are kept at, from clean to pure noise; between them a line
# Of the watching head in what the verdict head says, in logits: a head that somebody fooled cannot silence the other.
MOST_DOUBT = 2.0
SMALLEST_NORM = 1e-12


@dataclass(frozen=True)
class PictureConfig:
    """Sizes of a picture judge.

    channels      of the latent, C
    architecture  kind of diffusion model whose latents it reads, a name in `architecture.ARCHITECTURES`
    width         channels of its widest convolutions, W
    """

    channels: int
    architecture: str = USUAL
    width: int = 64

    def __post_init__(self) -> None:
        require_fitting(self, channels=integer(self.channels, 1, LARGEST_SIZE),
                        width=integer(self.width, 1, LARGEST_SIZE))
        if not isinstance(self.architecture, str):
            raise ConfigError(f"PictureConfig.architecture is {self.architecture!r}; expected a name. Change the "
                              "setting.")
        architecture(self.architecture)


class PictureJudge(nn.Module):
    """See the module.  In float32 or wider inside, whatever its weights are stored in; works in inference mode.

    x0     (N, C, h, w) or (N, C, f, h, w), the clean latent as the model predicts it, in unit variance; any h, w >= 1.
           Frames are judged one by one, and the one that shows the most counts
    sigma  number, 0-d, (1,) or (N,): noise level of the model call that gave x0, in the model's own schedule; 0 once it
           is finished

    LatentError and TimestepError for shapes that do not fit.  Nothing waits for the device.
    """

    thresholds: Tensor
    verdict_threshold: Tensor

    def __init__(self, config: PictureConfig):
        super().__init__()
        self.config = config
        self.watch = PictureHead(config)
        self.verdict_head = PictureHead(config)
        # Logits from which on a picture is unsafe: of the watching head at LEVELS equally spaced noise angles.
        self.register_buffer("thresholds", torch.zeros(LEVELS))
        self.register_buffer("verdict_threshold", torch.zeros(()))

    def probability(self, x0: Tensor, sigma: Tensor | float) -> Tensor:
        """Of the watching head that a picture shows the concept, (N,) float32, 0 to 1."""
        return self.logit(x0, sigma).sigmoid()

    def unsafe(self, x0: Tensor, sigma: Tensor | float) -> Tensor:
        """Whether the watching head is above its threshold at this noise level, (N,) bool."""
        return self.logit(x0, sigma) >= self.threshold(sigma, x0)

    def logit(self, x0: Tensor, sigma: Tensor | float) -> Tensor:
        """Of `probability`, (N,)."""
        frames = self._frames(x0)
        return self.watch(frames, self._angles(sigma, x0)).unflatten(0, (len(x0), -1)).amax(1)

    def threshold(self, sigma: Tensor | float, x0: Tensor) -> Tensor:
        """Logit from which on each picture of x0 is unsafe, (N,)."""
        place = self.angle(sigma, x0) * (LEVELS - 1)
        below = place.floor().clamp(0, LEVELS - 2)
        index, share = below.long(), place - below
        thresholds = self.thresholds.to(place)
        return thresholds[index] * (1 - share) + thresholds[index + 1] * share

    @torch.inference_mode(False)
    @torch.enable_grad()
    def pushed(self, x0: Tensor, sigma: Tensor | float, steps: int = PUSHES, size: float = PUSH) -> Tensor:
        """x0 moved to where the watching head sees less of the concept; each frame by itself.

        size  length of each of `steps` steps against the gradient, in lengths of the frame

        Same shape, dtype and device.  Moves every picture: which ones to move is the caller's decision.
        """
        frames = pushed(self.watch, self._frames(x0.detach().clone()), self._angles(sigma, x0).clone(), steps, size)
        moved = frames.unflatten(0, (len(x0), -1))                                     # (N, f, C, h, w)
        return (moved[:, 0] if x0.ndim == 4 else moved.movedim(1, 2)).to(x0.dtype)

    def verdict(self, x0: Tensor, mask: Tensor | None = None,
                unsuspected: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Of the finished latent: probability that it shows the concept (N,), and whether that is too much (N,) bool.

        mask         (N, 1, h, w), or what broadcasts with x0: 0 where the start image was kept, which is not judged
        unsuspected  (N,) bool: never pushed, so that the watching head may be asked as well.  How far it lies below its
                     threshold is taken off the other's logit, up to MOST_DOUBT.  None: none is
        """
        logit = self.verdict_logit(x0, mask)
        if unsuspected is not None:
            drawn = x0 if mask is None else x0 * mask.to(x0)
            doubt = (self.threshold(0.0, drawn) - self.logit(drawn, 0.0)).clamp(0, MOST_DOUBT)
            logit = torch.where(unsuspected.to(logit.device), logit - doubt, logit)
        return logit.sigmoid(), logit >= self.verdict_threshold.to(logit)

    def verdict_logit(self, x0: Tensor, mask: Tensor | None = None) -> Tensor:
        """Of the probability that `verdict` gives where nothing is unsuspected, (N,)."""
        if mask is not None:
            x0 = x0 * mask.to(x0)
        return self.verdict_head(self._frames(x0), self._angles(0.0, x0)).unflatten(0, (len(x0), -1)).amax(1)

    def angle(self, sigma: Tensor | float, x0: Tensor) -> Tensor:
        """Share of a quarter turn between clean (0) and pure noise (1), (N,); sigma is the tangent in eps schedules."""
        if not isinstance(sigma, Tensor):       # filled there, because a copy to the device would wait for it
            sigma = torch.full((), float(sigma), device=x0.device)
        sigma = sigma.to(x0.device, torch.float32)
        if sigma.ndim > 1 or sigma.numel() not in (1, len(x0)):
            raise TimestepError(f"The noise level has shape {tuple(sigma.shape)}; expected one number, or one per "
                                f"picture, shape ({len(x0)},).")
        # Of flow matching, x = (1 - sigma) * x0 + sigma * noise.
        clean = 1 - sigma if architecture(self.config.architecture).clock == FLOW else torch.ones_like(sigma)
        return (torch.atan2(sigma, clean.clamp_min(0)) * (2 / math.pi)).expand(len(x0))

    def _angles(self, sigma: Tensor | float, x0: Tensor) -> Tensor:
        """Of every frame."""
        return self.angle(sigma, x0).repeat_interleave(x0.shape[2] if x0.ndim == 5 else 1)

    def _frames(self, x0: Tensor) -> Tensor:
        """(N, C, h, w) or (N, C, f, h, w) -> (N * f, C, h, w), in float32 or wider."""
        if x0.ndim not in (4, 5) or x0.shape[1] != self.config.channels or not x0.numel():
            raise LatentError(f"The latent has shape {tuple(x0.shape)}; this picture judge reads (N, "
                              f"{self.config.channels}, h, w) or (N, {self.config.channels}, f, h, w). Use a "
                              "redirector whose picture judge was trained for this diffusion model.")
        x0 = x0.to(torch.promote_types(x0.dtype, torch.float32))
        return x0 if x0.ndim == 4 else x0.movedim(2, 1).flatten(0, 1)


class PictureHead(nn.Module):
    """One network: frames (N, C, h, w) and their noise angles (N,) -> logits (N,)."""

    def __init__(self, config: PictureConfig):
        super().__init__()
        read = min(config.channels, MOST_CHANNELS)
        self.widths = [config.width if stride > 1 else max(1, round(NARROW * config.width)) for stride in STRIDES]
        self.reduce = nn.Conv2d(config.channels, read, 1) if read < config.channels else None
        self.layers = nn.ModuleList(nn.Conv2d(wide, width, 3, stride, padding=1) for wide, width, stride
                                    in zip([read, *self.widths], self.widths, STRIDES))
        self.level = nn.Linear(2 * WAVES, 2 * sum(self.widths))
        self.read = nn.Linear(2 * sum(self.widths[at] for at in READ), config.width)
        self.evidence = nn.Linear(config.width, 1)

    def forward(self, frames: Tensor, angles: Tensor) -> Tensor:
        waves = math.pi * angles[:, None] * torch.arange(1, WAVES + 1, device=angles.device)
        level = _linear(self.level, torch.cat([waves.sin(), waves.cos()], -1).to(frames))
        scales, shifts = (part.split(self.widths, 1) for part in level[..., None, None].chunk(2, 1))
        x, seen = frames if self.reduce is None else _convolution(self.reduce, frames), []
        for at, layer in enumerate(self.layers):
            x = F.silu(_convolution(layer, x) * (1 + scales[at]) + shifts[at])         # (N, W or less, ., .)
            if at in READ:
                seen += [x.mean((2, 3)), x.amax((2, 3))]
        return _linear(self.evidence, F.silu(_linear(self.read, torch.cat(seen, -1))))[:, 0]


def pushed(head: PictureHead, frames: Tensor, angles: Tensor, steps: int, size: float | Tensor) -> Tensor:
    """Frames (N, C, h, w) at noise angles (N,), moved in so many steps to where a head sees less of the concept.

    size  of a step, in lengths of the frame; of all, or of each (N, 1, 1, 1).  Below 0: to where it sees more.
    """
    length = size * torch.linalg.vector_norm(frames, dim=(1, 2, 3), keepdim=True)
    for _ in range(steps):
        frames = frames.detach().requires_grad_()
        gradient, = torch.autograd.grad(head(frames, angles).sum(), frames)
        norm = torch.linalg.vector_norm(gradient, dim=(1, 2, 3), keepdim=True).clamp_min(SMALLEST_NORM)
        frames = frames - length * gradient / norm
    return frames.detach()


def _convolution(layer: nn.Conv2d, x: Tensor) -> Tensor:
    return layer._conv_forward(x, _usable(layer.weight, x), _usable(layer.bias, x))


def _linear(layer: nn.Linear, x: Tensor) -> Tensor:
    return F.linear(x, _usable(layer.weight, x), _usable(layer.bias, x))


def _usable(weight: Tensor | None, x: Tensor) -> Tensor:
    """A weight as x needs it.  What a host moved in inference mode no gradient goes through, so it is copied."""
    assert weight is not None       # all layers here have a bias
    weight = weight.to(x)
    return weight.clone() if weight.is_inference() and not torch.is_inference_mode_enabled() else weight


class JudgesPictures:
    """What a redirector that may have a picture judge has in common with others."""

    picture: PictureJudge | None

    def judge_picture(self, x0: Tensor, sigma: Tensor | float) -> Tensor:
        """Probability that each picture shows the concept, (N,) float32; see `PictureJudge`.

        ConfigError where there is no picture judge.
        """
        if self.picture is None:
            raise ConfigError("This redirector has no picture judge; expected one. Train it with SafeRedir Train on "
                              "your model.")
        return self.picture.probability(x0, sigma)

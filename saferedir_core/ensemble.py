"""Redirectors that judge together: the prompt is read once, encoders that several share are asked once, and on an
accelerator the heads of redirectors of one shape are evaluated as one.

The arithmetic is that of `Redirector.read` and `judge`, with the batch norms of the latent encoders folded into their
convolutions.  A judgement is the output of every redirector: logits (C, R, 2), delta (C, R, T, D), and so on.
C: redirectors, B: images, R: rows, the chunks of every image; T, D, J: as in `redirector`.
"""

import copy
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import NamedTuple, TypeGuard

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.utils.fusion import fuse_conv_bn_eval

from saferedir_core.architecture import architecture
from saferedir_core.errors import ConfigError
from saferedir_core.redirect import SMALLEST_NORM
from saferedir_core.redirector import PooledRedirectorOutput as Judgement
from saferedir_core.redirector import Reading, Redirector, RedirectorOutput, pooled_latent, together
from saferedir_core.words.redirector import WordsRedirector

AnyRedirector = Redirector | WordsRedirector

# The parts that are asked at every step; what only reads the prompt is not stacked.
ASKED = ("classifier.", "token_proj.", "delta_head.", "cross_attn.fuse.", "token_delta.read.", "token_delta.write.",
         "pooled_delta.")
ASKED_OF_HEADS = (".query.", ".norm.")


class Prompt(NamedTuple):
    """What redirectors are asked about: chunks of prompts and their pooled vectors.

    chunks  (P, T, D), the chunks of one image next to each other; P = R, or of one image that stands for all
    pooled  (P, W) or None
    images  B
    mask    (P, T) bool, which tokens are text; None: all, as far as is known.  For redirectors from words
    """

    chunks: Tensor
    pooled: Tensor | None
    images: int
    mask: Tensor | None = None


class Ensemble:
    """redirectors  by name, in eval mode, for the same kind of model; kept in the order of their names, so that sums of
                    floats do not depend on the order in which concepts were stacked
    as_one       whether the heads of redirectors of one shape are evaluated as one, which takes fewer operations and a
                 copy of their weights; else one after the other, which gives each the bits that it gives alone.
                 None: on an accelerator, where the host has to launch every operation

    Weights are prepared when they are first asked, and kept: make a new ensemble once the redirectors have moved to
    another device.  ConfigError for redirectors that do not go together.
    """

    def __init__(self, redirectors: AnyRedirector | Mapping[str, AnyRedirector], as_one: bool | None = None):
        redirectors = redirectors if isinstance(redirectors, Mapping) else {"": redirectors}
        require_stackable(redirectors)
        for each in redirectors.values():
            if each.training:
                raise ConfigError("The redirector is in training mode, where dropout and batch statistics make "
                                  "decisions random; expected eval mode. Call redirector.eval() first.")
        self.redirectors = {name: redirectors[name] for name in sorted(redirectors)}
        self._as_one = as_one
        self._encoders: dict[nn.Module, nn.Module] = {}     # those without batch norms, by the redirectors' own
        self._judges: list[_Judges | _Whole | _Words] | None = None

    @property
    def first(self) -> AnyRedirector:
        """Its sizes are those of all; a trained one where there is any, because one from words takes every size."""
        trained = (each for each in self.redirectors.values() if isinstance(each, Redirector))
        return next(trained, next(iter(self.redirectors.values())))

    @property
    def pooled_dim(self) -> int:
        """Width of the pooled vector that any of them reads; 0 for none."""
        return max(each.config.pooled_dim for each in self.redirectors.values())

    @property
    def scores_change(self) -> bool:
        """Whether token_mask and alpha may be others at every evaluation of one prompt."""
        return any(isinstance(each, Redirector) and not _has_parts(each) for each in self.redirectors.values())

    def read(self, prompt: Prompt) -> list:
        """What the prompt alone decides, for `judge`."""
        if self._judges is None:
            self._prepare()
        return [each.read(prompt) for each in self._judges]

    def judge(self, readings: list, latent: Tensor, timesteps: Tensor) -> Judgement:
        """latent (B, C, h, w), timesteps (B,)."""
        joints = self._joints(latent, timesteps)
        return _joined([each.judge(reading, joints, latent, timesteps)
                        for each, reading in zip(self._judges, readings, strict=True)], latent.device)

    def judge_whole(self, prompt: Prompt, latent: Tensor, timesteps: Tensor) -> Judgement:
        """Every redirector asked by itself, by its own `forward`."""
        judges = [_Words(each) if isinstance(each, WordsRedirector) else _Whole(each)
                  for each in self.redirectors.values()]
        return _joined([each.judge(each.read(prompt), {}, latent, timesteps) for each in judges], latent.device)

    def _prepare(self) -> None:
        """Redirectors of one shape next to each other become one; a stack of several shapes stays in order."""
        as_one = self.first.device.type != "cpu" if self._as_one is None else self._as_one

        def kind(numbered: tuple[int, AnyRedirector]):
            number, each = numbered
            return (each.config, each.device, each.dtype) if as_one and _has_parts(each) else number
        groups = [[each for _, each in group] for _, group in groupby(enumerate(self.redirectors.values()), kind)]
        self._judges = [_Words(*group) if isinstance(group[0], WordsRedirector) else
                        _Judges(group) if _has_parts(group[0]) else _Whole(*group) for group in groups]
        for each in self.redirectors.values():
            if _has_parts(each) and each.latent_encoder not in self._encoders:
                self._encoders[each.latent_encoder] = fused_encoder(each.latent_encoder)

    def _joints(self, latent: Tensor, timesteps: Tensor) -> dict[Redirector, Tensor]:
        """Joint feature (B, J) of each redirector, the very same tensor for those that share their encoders."""
        features, joints, own = {}, {}, {}
        for each in self.redirectors.values():
            if not _has_parts(each):
                continue
            reads = each.latent_encoder, each.config.latent_pool
            if reads not in features:
                cast = latent.to(each.device, each.dtype)
                features[reads] = self._encoders[each.latent_encoder](pooled_latent(cast, each.config.latent_pool))
            both = reads, each.t_encoder
            if both not in joints:
                joints[both] = torch.cat([features[reads], each.timestep_feature(timesteps.to(each.device))], dim=-1)
            own[each] = joints[both]
        return own


class _Judges(nn.Module):
    """All but the encoders of c redirectors of one shape."""

    def __init__(self, redirectors: Sequence[Redirector]):
        super().__init__()
        self.redirectors, self.first = redirectors, redirectors[0]
        self._stacked = {}
        if len(redirectors) > 1:
            self._stacked = {f"first.{name}": torch.stack([each.get_parameter(name) for each in redirectors])
                             for name, _ in self.first.named_parameters() if _is_asked(name)}

    def forward(self, reading: dict, joint: Tensor) -> RedirectorOutput:
        return self.first.judge_joint(Reading(**reading), joint)

    def read(self, prompt: Prompt) -> Reading:
        """(c, R, ...); without c for one redirector."""
        device = self.first.device
        pooled = None if prompt.pooled is None else prompt.pooled.to(device)
        readings = [each.read(prompt.chunks.to(device), pooled if each.config.pooled_dim else None)
                    .repeated(prompt.images) for each in self.redirectors]
        return readings[0] if len(readings) == 1 else together(readings)

    def judge(self, reading: Reading, joints: dict[Redirector, Tensor], latent: Tensor, timesteps: Tensor) -> Judgement:
        own = [joints[each] for each in self.redirectors]
        shared = all(each is own[0] for each in own)
        joint = own[0] if shared else torch.stack(own)                                       # (B, J) or (c, B, J)
        chunks = reading.mean.shape[-2] // joint.shape[-2]
        joint = joint.repeat_interleave(chunks, -2) if chunks > 1 else joint                 # R for B
        if len(own) == 1:
            return Judgement(*(each[None] for each in self.first.judge_joint(reading, joint)))
        evaluate = vmap(lambda weights, part, joint: functional_call(self, weights, (part, joint)),
                        in_dims=(0, 0, None if shared else 0))
        return Judgement(*evaluate(self._stacked, reading.parts(), joint))


class _Whole:
    """A redirector that is asked by its own `forward`."""

    def __init__(self, redirector: Redirector):
        self.redirector = redirector

    def read(self, prompt: Prompt) -> Prompt:
        return prompt

    def judge(self, prompt: Prompt, joints: dict, latent: Tensor, timesteps: Tensor) -> Judgement:
        each = self.redirector
        context = prompt.chunks.to(each.device).repeat(prompt.images, 1, 1)                  # (R, T, D)
        pooled = None if prompt.pooled is None else prompt.pooled.repeat(prompt.images, 1)
        chunks = len(context) // len(latent)
        extra = {"pooled": pooled.to(each.device)} if each.config.pooled_dim and pooled is not None else {}
        output = each(latent.to(each.device).repeat_interleave(chunks, 0), context,
                      timesteps.to(each.device).repeat_interleave(chunks, 0), **extra)
        return Judgement(*(part[None] for part in output))


class _Words:
    """A redirector from words: what it says of a prompt is said for the whole run."""

    def __init__(self, redirector: WordsRedirector):
        self.redirector = redirector

    def read(self, prompt: Prompt) -> Judgement:
        each, images = self.redirector, prompt.images
        context = prompt.chunks.to(each.device)                                              # (P, T, D)
        mask = None if prompt.mask is None else prompt.mask.to(each.device)
        logit = each.logit(context, mask)
        delta, carries = each.shifts(context, mask)
        # So that the shift, which is made of alpha, mask and direction, is delta itself.
        length = delta.norm(dim=-1) / context.to(delta.dtype).norm(dim=-1).clamp_min(SMALLEST_NORM)
        alpha = length / carries.clamp_min(SMALLEST_NORM)
        pooled = None if prompt.pooled is None or not each.config.pooled_dim else each.pooled_shift(
            prompt.pooled.to(each.device, delta.dtype))
        parts = (torch.stack([torch.zeros_like(logit), logit], -1), delta, carries, alpha[..., None],
                 pooled)
        return Judgement(*(None if part is None else part.repeat(images, *[1] * (part.ndim - 1))[None]
                           for part in parts))

    def judge(self, reading: Judgement, joints: dict, latent: Tensor, timesteps: Tensor) -> Judgement:
        return reading


def fused_encoder(encoder: nn.Sequential) -> nn.Sequential:
    """A latent encoder in eval mode with its batch norms folded into its convolutions, on memory of its own."""
    fused = copy.deepcopy(encoder)
    for block in fused[:3]:
        block.conv = nn.Sequential(_folded(*block.conv[:2]), nn.ReLU(inplace=True), _folded(*block.conv[3:]))
    return fused.to(memory_format=torch.channels_last)


def _folded(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """Folded in float32 or wider, so that half-precision weights are rounded once."""
    dtype = convolution.weight.dtype
    wide = torch.promote_types(dtype, torch.float32)
    return fuse_conv_bn_eval(copy.deepcopy(convolution).to(wide), copy.deepcopy(norm).to(wide)).to(dtype)


def require_stackable(redirectors: Mapping[str, AnyRedirector]) -> None:
    """ConfigError unless there is at least one, and all read latents and contexts of the same sizes.

    One from words goes with all that read contexts of its width.
    """
    if not redirectors:
        raise ConfigError("No redirector was given; expected at least one.")
    widths = {name: each.config.prompt_dim for name, each in redirectors.items()}
    if len({*widths.values()}) > 1:
        raise ConfigError("The redirectors read prompts of other widths: "
                          + "; ".join(f"{name!r} {width}" for name, width in widths.items())
                          + "; expected equal ones. Stack redirectors that are for the same text encoder.")
    redirectors = {name: each for name, each in redirectors.items() if isinstance(each, Redirector)}
    kinds = {name: architecture(each.config.architecture).title for name, each in redirectors.items()}
    if len({*kinds.values()}) > 1:
        raise ConfigError("The redirectors are for other models: "
                          + "; ".join(f"{name!r} for {kind}" for name, kind in kinds.items())
                          + "; expected one kind. Stack redirectors that were trained for the same kind of model.")
    sizes = {name: (each.config.latent_dim, each.config.prompt_dim, each.config.tokens)
             for name, each in redirectors.items()}
    if len({*sizes.values()}) > 1:
        shown = "; ".join(f"{name!r} {size}" for name, size in sizes.items())
        raise ConfigError(f"The redirectors read other sizes (latent channels, prompt width, tokens): {shown}; "
                          "expected equal ones. Stack redirectors that were trained for the same kind of model.")


def _joined(parts: list[Judgement], device: torch.device) -> Judgement:
    """The judgements of groups of redirectors one after the other, (C, R, ...)."""
    if len(parts) == 1:
        return parts[0]
    pooled = next((each.pooled_delta for each in parts if each.pooled_delta is not None), None)
    if pooled is not None:  # redirectors that read none do not move it
        parts = [each if each.pooled_delta is not None else each._replace(
            pooled_delta=torch.zeros(*each.logits.shape[:2], pooled.shape[-1], device=each.logits.device))
            for each in parts]
    return Judgement(*(torch.cat([part.to(device) for part in same]) if same[0] is not None else None
                       for same in zip(*parts, strict=True)))


def _has_parts(redirector: AnyRedirector) -> TypeGuard[Redirector]:
    """Whether it is asked by its parts, as `Redirector.forward` asks them, and not by a forward of its own."""
    return isinstance(redirector, Redirector) and (
        type(redirector).forward is Redirector.forward and "forward" not in vars(redirector))


def _is_asked(name: str) -> bool:
    return name.startswith(ASKED) or (name.startswith("cross_attn.heads.") and any(
        part in name for part in ASKED_OF_HEADS))

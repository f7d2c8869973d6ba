"""The network of SafeRedir (Liu et al., arXiv 2601.08623) in its published layout, and the variant "token" of it.

It is cut where the prompt alone ends: `read(context)` once for a prompt, `judge(reading, latent, timestep)` at every
step, and `forward` is one after the other.  Attribute names and shapes are those of the published checkpoints, so that
their state dicts load as they are.  B: batch, T: tokens, D: prompt_dim, J: width of the joint feature (576).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saferedir_core.config import RedirectorConfig
from saferedir_core.errors import ContextError, LatentError, TimestepError
from saferedir_core.picture.judge import JudgesPictures, PictureJudge
from saferedir_core.words.redirector import WordsConfig

HEADS = 4
LATENT_WIDTH = 512
TIMESTEP_WIDTH = 64
JOINT_WIDTH = LATENT_WIDTH + TIMESTEP_WIDTH
EVIDENCE_WIDTH = 128  # of variant "token"
POOLED_WIDTH = 128  # what the classifier reads of a pooled vector
UNSAFE_CLASS = 1


class RedirectorOutput(NamedTuple):
    """What one evaluation gives.

    logits      (B, 2)     class 1 is unsafe
    delta       (B, T, D)  shift of each token; its direction counts, its length is normalised away
    token_mask  (B, T)     how much a token carries the concept, 0 to 1
    alpha       (B, T, 1)  strength of the shift per token, 0 to 1, in units of the token's norm
    """

    logits: Tensor
    delta: Tensor
    token_mask: Tensor
    alpha: Tensor

    @property
    def unsafe_probability(self) -> Tensor:
        """(B,) float32 or wider, 0 to 1."""
        return unsafe_probability(self.logits)

    @property
    def pooled_delta(self) -> None:
        """There is no pooled vector."""
        return None


class PooledRedirectorOutput(NamedTuple):
    """What one evaluation of a network gives that reads a pooled vector as well; the first four as RedirectorOutput.

    pooled_delta  (B, P)   shift of the pooled vector in units of alpha_scale; None of several that read none
    """

    logits: Tensor
    delta: Tensor
    token_mask: Tensor
    alpha: Tensor
    pooled_delta: Tensor | None = None

    unsafe_probability = RedirectorOutput.unsafe_probability


def unsafe_probability(logits: Tensor) -> Tensor:
    """Softmax probability of the class unsafe: (B, 2) -> (B,), in float32 or wider."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(dim=-1)[..., UNSAFE_CLASS]


class Redirector(JudgesPictures, nn.Module):
    """Reads latent, prompt and timestep; says whether the trajectory is unsafe and where to move the prompt."""

    def __init__(self, config: RedirectorConfig = RedirectorConfig()):
        super().__init__()
        self.config = config
        self.metadata: dict[str, str] = {}
        self.sha256: str | None = None
        d = config.prompt_dim
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, config.tokens, d))
        self.latent_encoder = nn.Sequential(
            ResidualBlock(config.latent_dim, 64), ResidualBlock(64, 128), ResidualBlock(128, 256),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, LATENT_WIDTH), nn.ReLU(), nn.Dropout(0.2))
        self.t_encoder = nn.Sequential(
            nn.Linear(config.timestep_dim, TIMESTEP_WIDTH), nn.SiLU(), nn.LayerNorm(TIMESTEP_WIDTH))
        self.cross_attn = PromptAttention(d)
        per_token = config.variant == "token"
        self.classifier = nn.Sequential(
            nn.Linear(JOINT_WIDTH + 2 * d + (EVIDENCE_WIDTH if per_token else 0)
                      + (POOLED_WIDTH if config.pooled_dim else 0), 256), nn.ReLU(), nn.Dropout(0.2),
            nn.Linear(256, 2))
        self.token_proj = nn.Sequential(nn.Linear(JOINT_WIDTH + d, 512), nn.ReLU(), nn.Linear(512, d))
        self.delta_head = DeltaHead(d, config.rank)
        self.gate_linear = nn.Linear(d, 1)
        self.mask_predictor = MaskPredictor(d)
        self.alpha_predictor = AlphaPredictor(d)
        if per_token:
            self.token_evidence = TokenEvidence(d)
            self.token_delta = TokenDelta(d, 4 * config.rank)
        if config.pooled_dim:
            self.pooled_evidence = PooledEvidence(config.pooled_dim)
            self.pooled_delta = PooledDelta(d, config.pooled_dim)
        self.picture: PictureJudge | None = None

    @property
    def device(self) -> torch.device:
        return self.pos_embed.device

    @property
    def dtype(self) -> torch.dtype:
        return self.pos_embed.dtype

    def forward(self, latent: Tensor, context: Tensor, timestep: Tensor | float,
                pooled: Tensor | None = None) -> RedirectorOutput | PooledRedirectorOutput:
        """One evaluation: judge(read(context, pooled), latent, timestep).

        latent    (B, latent_dim, h, w), scaled to unit variance as the diffusion model sees it; any h, w >= 1
        context   (B, tokens, prompt_dim)
        timestep  number, 0-d, (1,) or (B,) tensor in the units of the training schedule (0 to 999 in SD 1.x)
        pooled    (B, pooled_dim); None where the network reads none, or for zeros

        Inputs are cast to the network's dtype; they must be on its device.
        Raises LatentError, ContextError or TimestepError for a shape that does not fit.
        """
        require_latent(latent, self.config)
        require_chunk(context, latent.shape[0], self.config)
        return self.judge(self.read(context, pooled), latent, timestep)

    def read(self, context: Tensor, pooled: Tensor | None = None) -> "Reading":
        """What P prompts decide alone, whatever is drawn for them.

        context (P, tokens, prompt_dim), pooled (P, pooled_dim) or None, as in `forward`.
        ContextError for a shape that does not fit.
        """
        require_chunk(context, len(context), self.config)
        context = context.to(self.dtype)
        pooled = pooled_per_item(pooled, context, self.config.pooled_dim)
        keys, values, means = zip(*(PromptHead.read(head, context) for head in self.cross_attn.heads), strict=True)
        token_mask = self.mask_predictor(context)                                      # (P, T)
        gate = torch.sigmoid(self.gate_linear(context + self.pos_embed))               # (P, T, 1)
        of_variant = {}
        if self.config.variant == "token":
            towards, token_part = self.token_delta.read_prompt(context + self.pos_embed)
            of_variant = {"evidence": self.token_evidence(context), "towards": towards, "token_part": token_part}
        if pooled is not None:
            of_variant |= {"pooled": pooled, "pooled_evidence": self.pooled_evidence(pooled)}
        return Reading(keys, values, means, context.mean(dim=1), token_mask, self.alpha_predictor(context),
                       gate * token_mask[..., None], **of_variant)

    def judge(self, reading: "Reading", latent: Tensor, timestep: Tensor | float) -> (
            RedirectorOutput | PooledRedirectorOutput):
        """What latent (B, latent_dim, h, w) and timestep, as in `forward`, add to a reading of B prompts.

        Raises LatentError, ContextError or TimestepError for a shape that does not fit.
        """
        require_latent(latent, self.config)
        if len(reading) != len(latent):
            raise ContextError(f"The reading is of {len(reading)} prompts and the latent holds {len(latent)} items; "
                               "expected equal numbers. Repeat the reading: reading.repeated(images).")
        timestep = timestep_per_item(timestep, len(latent), self.device)
        joint = torch.cat([self.latent_feature(latent), self.timestep_feature(timestep)], dim=-1)
        return self.judge_joint(reading, joint)

    def judge_joint(self, reading: "Reading", joint: Tensor) -> RedirectorOutput | PooledRedirectorOutput:
        """The second half of `judge`, from the joint feature of latent and timestep (B, J) on."""
        attended = self.attended(reading, joint)                                       # (B, D)
        # One direction for all tokens (B, D); gate and mask give each token its length.
        direction = self.delta_head(self.token_proj(torch.cat([joint, attended], dim=-1)))[:, None]
        if reading.towards is not None:
            direction = direction + self.token_delta(reading.towards, reading.token_part, attended)
        delta = direction * reading.gate                                               # (B, T, D)
        output = RedirectorOutput(self.logits(reading, joint, attended), delta, reading.token_mask, reading.alpha)
        return output if reading.pooled is None else PooledRedirectorOutput(
            *output, self.pooled_delta(joint, attended, reading.pooled))

    def attended(self, reading: "Reading", joint: Tensor) -> Tensor:
        """The prompt as the joint feature (B, J) sees it: (B, D)."""
        heads = zip(self.cross_attn.heads, reading.keys, reading.values, reading.means, strict=True)
        return self.cross_attn.fuse(torch.cat([head(joint, *prompt) for head, *prompt in heads], dim=-1))

    def logits(self, reading: "Reading", joint: Tensor, attended: Tensor) -> Tensor:
        """Safe and unsafe: (B, J) and (B, D) -> (B, 2)."""
        of_prompt = [each for each in (reading.evidence, reading.pooled_evidence) if each is not None]
        return self.classifier(torch.cat([joint, reading.mean, attended, *of_prompt], dim=-1))

    def latent_feature(self, latent: Tensor) -> Tensor:
        """(B, latent_dim, h, w) -> (B, 512)."""
        return self.latent_encoder(pooled_latent(latent.to(self.dtype), self.config.latent_pool))

    def timestep_feature(self, timestep: Tensor) -> Tensor:
        """(B,) -> (B, 64)."""
        return self.t_encoder(sinusoid(timestep, self.config.timestep_dim).to(self.dtype))


@dataclass(frozen=True)
class Reading:
    """What P prompts decide alone.  All tensors have P first; None where the network has no such part.

    keys, values     of each head, (P, T, D); float32 or wider, because their products overflow half precision
    means            of the values over the tokens, of each head (P, D)
    mean             of the context over the tokens (P, D)
    token_mask       (P, T)
    alpha            (P, T, 1)
    gate             gate times mask, the length of each token's shift (P, T, 1)
    evidence         (P, E) what the most telling token says, variant "token"
    towards          (P, T, D) step towards the padding, variant "token"
    token_part       (P, T, 256) the context's part of the first layer of `TokenDelta`
    pooled           (P, pooled_dim), pooled_evidence (P, E)
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    means: tuple[Tensor, ...]
    mean: Tensor
    token_mask: Tensor
    alpha: Tensor
    gate: Tensor
    evidence: Tensor | None = None
    towards: Tensor | None = None
    token_part: Tensor | None = None
    pooled: Tensor | None = None
    pooled_evidence: Tensor | None = None

    def __len__(self) -> int:
        return len(self.mean)

    def parts(self) -> dict[str, Tensor | tuple[Tensor, ...]]:
        """What there is of it, by name."""
        return {each.name: value for each in fields(self) if (value := getattr(self, each.name)) is not None}

    def repeated(self, images: int) -> "Reading":
        """For so many images of the same prompts, one image's prompts after the other's: (images * P, ...)."""
        return self if images == 1 else together([self], lambda value: value[0].expand(
            images, *value[0].shape).flatten(0, 1))


def together(readings: "list[Reading]", join: Callable[[list[Tensor]], Tensor] = torch.stack) -> "Reading":
    """One reading of several, each tensor joined with those of the same name."""
    parts = [each.parts() for each in readings]
    return Reading(**{name: tuple(map(join, map(list, zip(*(part[name] for part in parts)))))
                      if isinstance(value, tuple) else join([part[name] for part in parts])
                      for name, value in parts[0].items()})


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm around a shortcut; keeps h and w."""

    def __init__(self, channels_in: int, channels_out: int):
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(channels_in, channels_out, 3, padding=1), nn.BatchNorm2d(channels_out), nn.ReLU(),
            nn.Conv2d(channels_out, channels_out, 3, padding=1), nn.BatchNorm2d(channels_out))
        self.downsample = nn.Identity() if channels_in == channels_out else nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).add_(self.downsample(x)).relu_()  # in place: these are the largest tensors there are


class PromptAttention(nn.Module):
    """Four full-width heads in which the joint feature queries the prompt, and what fuses them to one vector."""

    def __init__(self, prompt_dim: int):
        super().__init__()
        self.heads = nn.ModuleList(PromptHead(prompt_dim) for _ in range(HEADS))
        self.fuse = nn.Sequential(nn.Linear(HEADS * prompt_dim, prompt_dim), nn.LayerNorm(prompt_dim))


class PromptHead(nn.Module):
    """One head: the attended value plus the mean value, so that no token is ever out of sight."""

    def __init__(self, prompt_dim: int):
        super().__init__()
        self.query = nn.Linear(JOINT_WIDTH, prompt_dim)
        self.key = nn.Linear(prompt_dim, prompt_dim)
        self.value = nn.Linear(prompt_dim, prompt_dim)
        self.norm = nn.LayerNorm(prompt_dim)

    def read(self, context: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Keys and values (P, T, D) of a context (P, T, D), and the mean value (P, D)."""
        key, value = _widened(self.key(context)), _widened(self.value(context))
        return key, value, value.mean(dim=1)

    def forward(self, joint: Tensor, key: Tensor, value: Tensor, mean: Tensor) -> Tensor:
        query = self.query(joint)[:, None].to(key.dtype)
        weights = (query @ key.mT / math.sqrt(key.shape[-1])).softmax(dim=-1)                # (B, 1, T)
        return self.norm(((weights @ value).squeeze(1) + mean).to(joint.dtype))              # (B, D)


class DeltaHead(nn.Module):
    """Low-rank map (B, D) -> (B, D) with a learned scale."""

    def __init__(self, prompt_dim: int, rank: int):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.down = nn.Linear(prompt_dim, rank, bias=False)
        self.up = nn.Linear(rank, prompt_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.down(x)) * self.scale


class TokenDelta(nn.Module):
    """A direction for each token (B, T, D); variant "token" only.

    The published head gives all tokens of a prompt one direction and never sees the token it moves.  Two parts: a step
    towards the prompt's own padding, which takes a word out whatever the word is, and a low-rank correction that reads
    token and attended prompt.
    """

    def __init__(self, prompt_dim: int, rank: int):
        super().__init__()
        self.to_padding = nn.Linear(prompt_dim, 1)
        self.read = nn.Sequential(nn.Linear(2 * prompt_dim, 256), nn.ReLU(), nn.Dropout(0.1), nn.Linear(256, rank))
        self.write = nn.Linear(rank, prompt_dim, bias=False)

    def read_prompt(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """The step towards the padding (P, T, D), and the first layer's part of the context (P, T, 256)."""
        towards = self.to_padding(context).sigmoid() * (context[:, -1:] - context)
        return towards, F.linear(context, self.read[0].weight[:, :context.shape[-1]], self.read[0].bias)

    def forward(self, towards: Tensor, token_part: Tensor, attended: Tensor) -> Tensor:
        both = token_part + F.linear(attended, self.read[0].weight[:, attended.shape[-1]:])[:, None]
        return towards + self.write(self.read[1:](both))


class TokenEvidence(nn.Module):
    """What the most telling token says, (B, T, D) -> (B, E): the mean of a long prompt dilutes a single word."""

    def __init__(self, prompt_dim: int):
        super().__init__()
        self.read = nn.Sequential(nn.Linear(prompt_dim, 256), nn.ReLU(), nn.Linear(256, EVIDENCE_WIDTH))

    def forward(self, context: Tensor) -> Tensor:
        return self.read(context).amax(dim=1)


class PooledEvidence(nn.Module):
    """What a pooled vector says, (B, P) -> (B, E)."""

    def __init__(self, pooled_dim: int):
        super().__init__()
        self.read = nn.Sequential(nn.LayerNorm(pooled_dim), nn.Linear(pooled_dim, POOLED_WIDTH), nn.ReLU())

    def forward(self, pooled: Tensor) -> Tensor:
        return self.read(pooled)


class PooledDelta(nn.Module):
    """Shift of a pooled vector, (B, J), (B, D), (B, P) -> (B, P), in units of its root mean square."""

    def __init__(self, prompt_dim: int, pooled_dim: int):
        super().__init__()
        self.norm = nn.LayerNorm(pooled_dim)
        self.net = nn.Sequential(nn.Linear(JOINT_WIDTH + prompt_dim + pooled_dim, 512), nn.ReLU(), nn.Dropout(0.1),
                                 nn.Linear(512, pooled_dim))

    def forward(self, joint: Tensor, attended: Tensor, pooled: Tensor) -> Tensor:
        scale = pooled.square().mean(dim=-1, keepdim=True).sqrt()
        return scale * self.net(torch.cat([joint, attended, self.norm(pooled)], dim=-1))


class MaskPredictor(nn.Module):
    """Which tokens carry the concept: (B, T, D) -> (B, T), 0 to 1."""

    def __init__(self, prompt_dim: int):
        super().__init__()
        self.attn = nn.MultiheadAttention(prompt_dim, HEADS, batch_first=True)
        self.predictor = nn.Sequential(nn.Linear(prompt_dim, 128), nn.ReLU(), nn.LayerNorm(128), nn.Linear(128, 1))

    def forward(self, context: Tensor) -> Tensor:
        mixed, _ = self.attn(context, context, context, need_weights=False)
        return torch.sigmoid(self.predictor(mixed)).squeeze(-1)


class AlphaPredictor(nn.Module):
    """How strongly each token is moved: (B, T, D) -> (B, T, 1), 0 to 1."""

    def __init__(self, prompt_dim: int):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(prompt_dim, 256), nn.ReLU(), nn.Linear(256, 1), nn.Sigmoid())

    def forward(self, context: Tensor) -> Tensor:
        return self.net(context)


def pooled_latent(latent: Tensor, side: int) -> Tensor:
    """Means over squares of `side` x `side` cells: (B, C, h, w) -> (B, C, ceil(h / side), ceil(w / side)).

    Squares at the edges may be smaller.
    """
    if side == 1:
        return latent
    return F.avg_pool2d(latent, side, ceil_mode=True, count_include_pad=False)


def _widened(tensor: Tensor) -> Tensor:
    """In float32 or wider."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def sinusoid(timestep: Tensor, width: int) -> Tensor:
    """Code of each timestep, sines then cosines, periods from 2 pi to 20000 pi: (B,) -> (B, width)."""
    half = width // 2
    index = torch.arange(half, device=timestep.device, dtype=timestep.dtype)
    angle = timestep[:, None] * torch.exp(-math.log(10000.0) * index / half)                 # (B, width / 2)
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


def timestep_per_item(timestep: Tensor | float, batch: int, device: torch.device) -> Tensor:
    """Number, 0-d, (1,) or (B,) tensor -> (B,) float32 on `device`.

    float32 whatever the network's dtype is: float16 and bfloat16 cannot tell neighbouring timesteps apart.
    """
    timestep = torch.as_tensor(timestep, device=device)
    if timestep.is_complex() or timestep.ndim > 1 or timestep.numel() not in (1, batch):
        raise TimestepError(f"The timestep has shape {tuple(timestep.shape)} and dtype {timestep.dtype}; expected one "
                            f"real number, or one per item, shape ({batch},).")
    dtype = torch.float64 if timestep.dtype == torch.float64 else torch.float32
    return timestep.to(dtype).reshape(-1).expand(batch)


def require_latent(latent: Tensor, config: RedirectorConfig | WordsConfig) -> None:
    """LatentError unless the latent is (B >= 1, latent_dim, h >= 1, w >= 1), of any other layout where none is read."""
    if config.latent_dim is None and latent.ndim > 1 and latent.numel():
        return
    if latent.ndim != 4 or latent.shape[1] != config.latent_dim or latent.numel() == 0:
        raise LatentError(f"The latent has shape {tuple(latent.shape)}; this redirector reads (B, {config.latent_dim}, "
                          "h, w). Use a redirector trained for this diffusion model, and give images, not videos.")


def pooled_per_item(pooled: Tensor | None, context: Tensor, width: int) -> Tensor | None:
    """The pooled vector as a network reads it, (P, width) in the dtype of the context (P, ...) and on its device.

    None where it reads none (width 0); zeros for None where it does, as diffusion models take it.  ContextError for a
    shape that does not fit.
    """
    if not width:
        return None
    expected = (context.shape[0], width)
    if pooled is None:
        return context.new_zeros(expected)
    if tuple(pooled.shape) != expected:
        raise ContextError(f"The pooled vector has shape {tuple(pooled.shape)}; this redirector and latent expect "
                           f"{expected}. Use the text encoder the redirector was trained for.")
    return pooled.to(context)


def require_chunk(context: Tensor, batch: int, config: RedirectorConfig) -> None:
    """ContextError unless the context is (batch, tokens, prompt_dim)."""
    expected = (batch, config.tokens, config.prompt_dim)
    if tuple(context.shape) != expected:
        raise ContextError(f"The context has shape {tuple(context.shape)}; this redirector and latent expect "
                           f"{expected}. Use the text encoder the redirector was trained for, and RedirectionRun for "
                           "longer prompts.")

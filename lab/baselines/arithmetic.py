"""Training-free ways to unlearn a concept, as published: the methods ours is compared with.

Everything here maps context tensors to context tensors (or noise predictions to a guidance term) and changes no tensor
it is given.  Written from the papers:

    subtract                  plain embedding arithmetic
    trigger_tokens, detoxify  SAFREE: Yoon et al., arXiv 2410.12761
    presence, calibrated      Semantic Surgery: Xiong et al., arXiv 2510.22851
    safety_guidance           Safe Latent Diffusion: Schramowski et al., arXiv 2211.05105
    words_near, replace_by_padding
                              tokens near the concept's become the prompt's own padding

B batch items or chunks, T tokens of a chunk, D width of the context.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

SPAN_TOLERANCE = 1e-4  # singular values below this share of the largest do not span a direction


def subtract(context: Tensor, direction: Tensor) -> Tensor:
    """context - direction for every token but the first, which the text encoder makes the same for any prompt.

    context (B, T, D), direction (D,) or (T, D).
    """
    moved = context - direction.to(context)
    return torch.cat([context[:, :1], moved[:, 1:]], dim=1)


def span_projection(vectors: Tensor, rank: int | None = None) -> Tensor:
    """The orthogonal projection (D, D) onto the span of vectors (n, D).

    rank: only the leading so many singular directions (None: all that are not numerically zero).
    """
    _, sizes, directions = torch.linalg.svd(vectors.double(), full_matrices=False)  # (r,), (r, D)
    basis = directions[sizes > SPAN_TOLERANCE * sizes[0]][:rank]
    return (basis.mT @ basis).float()


def trigger_tokens(left_out: Tensor, concept: Tensor, sensitivity: float = 0.01) -> Tensor:
    """Which tokens of a prompt carry the concept, (n,) bool (arXiv 2410.12761, Sec. 3.1).

    A token does when the prompt without it lies farther from the concept's subspace than the prompts without each of
    the others do on average, by more than the share `sensitivity` (the paper's alpha).

    left_out (n, D): the pooled embedding of the prompt with token i masked.  concept (D, D): `span_projection`.
    """
    count = len(left_out)
    if count < 2:
        return torch.ones(count, dtype=torch.bool, device=left_out.device)
    distance = (left_out - left_out @ concept).norm(dim=1)                      # (n,)
    others = (distance.sum() - distance) / (count - 1)                          # mean over j != i
    return distance > (1 + sensitivity) * others


def detoxify(tokens: Tensor, prompt: Tensor, concept: Tensor) -> Tensor:
    """Tokens taken out of the concept's subspace, within the prompt's own: (I - P_concept) P_prompt e.

    tokens (n, D); prompt, concept (D, D) projections (arXiv 2410.12761, Sec. 3.2).
    """
    within = tokens @ prompt
    return within - within @ concept


def presence(prompt: Tensor, neutral: Tensor, direction: Tensor, offset: float, steepness: float = 0.02) -> Tensor:
    """How present a concept is in prompts, 0..1: sigmoid((cosine - offset) / steepness) (arXiv 2510.22851, Sec. 3).

    prompt (B, D): pooled embeddings.  neutral (D,): the embedding without the concept.  direction (D,): what the
    concept adds to it.  offset: the cosine of presence one half (the paper's -beta, 0.06 to 0.3 on SD 1.4);
    steepness: its gamma, 0.02.  Returns (B,).
    """
    cosine = F.cosine_similarity(prompt - neutral.to(prompt), direction.to(prompt)[None], dim=-1)
    return torch.sigmoid((cosine - offset) / steepness)


def without_direction(vectors: Tensor, neutral: Tensor, direction: Tensor) -> Tensor:
    """Vectors (..., D) with the component along `direction` (D,) set to that of `neutral` (D,)."""
    unit = F.normalize(direction, dim=0).to(vectors)
    return vectors - ((vectors - neutral.to(vectors)) @ unit)[..., None] * unit


def calibrated(context: Tensor, direction: Tensor, present: Tensor, threshold: float = 0.5) -> Tensor:
    """context - present * direction where present reaches the threshold (the paper's tau); elsewhere bit for bit.

    context (B, T, D), direction (B, T, D), (T, D) or (D,), present (B,).
    """
    moved = context - present[:, None, None].to(context) * direction.to(context)
    return torch.where((present >= threshold)[:, None, None].to(context.device), moved, context)


def distinct(tokens: Tensor, neutral: Tensor, threshold: float) -> Tensor:
    """Those of tokens (n, D) that are unlike every neutral one (m, D): cosine below the threshold."""
    return tokens[F.cosine_similarity(tokens[:, None], neutral[None], dim=-1).amax(1) < threshold]


def words_near(context: Tensor, concept: Tensor, ends: Tensor, threshold: float = 0.6) -> Tensor:
    """Which word tokens have a cosine above the threshold to any of the concept's tokens, (B, T) bool.

    context (B, T, D), concept (n, D), ends (B,) position of the end token.  Never the first token, the end or padding.
    """
    places = torch.arange(context.shape[1], device=context.device)
    words = (places > 0) & (places < ends.to(context.device)[:, None])          # (B, T)
    return words & (_highest_cosine(context, concept.to(context)) > threshold)


def replace_by_padding(context: Tensor, places: Tensor) -> Tensor:
    """The context (B, T, D) with the chunk's last token at the places (B, T) bool.

    The last token is padding of this very prompt (the end token where the chunk is full).
    """
    return torch.where(places[..., None], context[:, -1:], context)


@dataclass(frozen=True)
class SafetyGuidance:
    """Settings of Safe Latent Diffusion.

    scale          s_S, 0 or more
    threshold      lambda: noise predictions that differ by less are moved
    warmup         delta, as a share of the schedule (the paper counts steps out of 50)
    momentum       s_m, 0..1
    momentum_kept  beta_m, 0..1
    """

    scale: float
    threshold: float
    warmup: float
    momentum: float
    momentum_kept: float


# arXiv 2211.05105, Sec. 4 (hyper-parameter configurations); warm-up there in steps out of 50.
PRESETS = {
    "weak": SafetyGuidance(200.0, 0.0, 15 / 50, 0.0, 0.0),
    "medium": SafetyGuidance(1000.0, 0.01, 10 / 50, 0.3, 0.4),
    "strong": SafetyGuidance(2000.0, 0.025, 7 / 50, 0.5, 0.7),
    "max": SafetyGuidance(5000.0, 1.0, 0.0, 0.5, 0.7),
}


def safety_guidance(text: Tensor, unconditional: Tensor, concept: Tensor, momentum: Tensor,
                    config: SafetyGuidance) -> tuple[Tensor, Tensor]:
    """The term gamma that is taken off the guidance, and the next momentum nu (arXiv 2211.05105, Eq. 4 to 8).

    text, unconditional, concept: noise predictions (B, C, h, w) for the prompt, the empty prompt and the concept.
    The paper bounds the element-wise scale with "max(1, |phi|)", which would grow it without limit; the authors'
    implementation bounds it from above, by 1, and so does this.  During the warm-up the caller leaves gamma out and
    keeps nu.
    """
    difference = text - concept
    share = (config.scale * difference.abs()).clamp(max=1.0)
    share = torch.where(difference < config.threshold, share, torch.zeros_like(share))
    gamma = share * (concept - unconditional) + config.momentum * momentum
    return gamma, config.momentum_kept * momentum + (1 - config.momentum_kept) * gamma


def _highest_cosine(context: Tensor, tokens: Tensor) -> Tensor:
    """(B, T, D), (n, D) -> (B, T)"""
    return (F.normalize(context.float(), dim=-1) @ F.normalize(tokens.float(), dim=-1).mT).amax(-1)

"""A redirector made from typed words: it judges a prompt by its tokens, and moves those that carry the concept.

It knows a text encoder and nothing of what is drawn, so it is asked once for a prompt, on any model.

    evidence of a token    max over K directions of  weight . token + bias          a cluster of wordings has one each
    of a prompt            the largest of its tokens', which is the logit of the prompt's probability
    shift of a token       up(down(token) + bias), a map of low rank, where the token's gate is open

N: prompts, T: tokens, D: width of a token, P: width of the pooled vector (0: none), r: rank of the shift.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from saferedir_core.architecture import ANY
from saferedir_core.config import LARGEST_SIZE, integer, require_fitting
from saferedir_core.errors import ContextError

# A token moves whole once its gate is this far open, and not at all below; between lies a ramp.
GATE_LOW, GATE_HIGH = 0.25, 0.75


@dataclass(frozen=True)
class WordsConfig:
    """Sizes of a redirector made from words.

    prompt_dim  width of a token embedding, D
    pooled_dim  width of the pooled vector that is moved as well, P; 0: none
    directions  K
    rank        r
    """

    prompt_dim: int
    pooled_dim: int = 0
    directions: int = 1
    rank: int = 32

    variant: ClassVar[str] = "words"
    tokens: ClassVar[None] = None           # a prompt of any length is judged as one
    latent_dim: ClassVar[None] = None       # no latent is read
    architecture: ClassVar[str] = ANY.name

    def __post_init__(self) -> None:
        require_fitting(self, **{name: integer(getattr(self, name), least, LARGEST_SIZE) for name, least in
                                 (("prompt_dim", 1), ("pooled_dim", 0), ("directions", 1), ("rank", 1))})


class WordsRedirector(nn.Module):
    """See the module.  In float32 or wider inside, whatever its weights are stored in."""

    def __init__(self, config: WordsConfig):
        super().__init__()
        self.config = config
        self.metadata: dict[str, str] = {}
        self.sha256: str | None = None
        self.evidence = nn.Linear(config.prompt_dim, config.directions)
        self.gate = nn.Linear(config.prompt_dim, 1)
        self.shift = LowRankShift(config.prompt_dim, config.rank)
        if config.pooled_dim:
            self.pooled_shift = LowRankShift(config.pooled_dim, config.rank)

    @property
    def device(self) -> torch.device:
        return self.evidence.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.evidence.weight.dtype

    def judge_prompt(self, context: Tensor, mask: Tensor | None = None) -> Tensor:
        """Probability that a prompt asks for the concept, (N,) float32, 0 to 1.

        context (N, T, D); mask (N, T) bool, False for tokens that are not to be read (padding); None: all are read.
        ContextError for a shape that does not fit.
        """
        return self.logit(context, mask).sigmoid()

    def redirect_prompt(self, context: Tensor, mask: Tensor | None = None, alpha_scale: float = 1.0) -> Tensor:
        """The context with the tokens moved that carry the concept; the very bits of all others.

        context (N, T, D) and mask as in `judge_prompt`; alpha_scale 1: as far as the safe neighbour.
        Moves whatever the probability is: whether it should is the caller's decision.
        """
        self._require(context, mask)
        wide = _widened(context)
        gate = self.gates(wide, mask)[..., None]
        moved = (wide + alpha_scale * gate * self.shift(wide)).to(context.dtype)
        return torch.where(gate > 0, moved, context)

    def redirect_pooled(self, pooled: Tensor, alpha_scale: float = 1.0) -> Tensor:
        """The pooled vector (N, P) of the safe neighbour."""
        return (_widened(pooled) + alpha_scale * self.pooled_shift(_widened(pooled))).to(pooled.dtype)

    def token_evidence(self, context: Tensor) -> Tensor:
        """(N, T, D) -> (N, T): how much each token speaks for the concept, as a logit."""
        weight, bias = self.evidence.weight.float(), self.evidence.bias.float()
        return nn.functional.linear(_widened(context), weight, bias).amax(-1)

    def logit(self, context: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logit of `judge_prompt`, (N,)."""
        self._require(context, mask)
        evidence = self.token_evidence(context)
        return (evidence if mask is None else evidence.masked_fill(~mask, -torch.inf)).amax(-1)

    def gates(self, context: Tensor, mask: Tensor | None = None) -> Tensor:
        """How far each token is to be moved, (N, T, D) -> (N, T), 0 to 1 and mostly either."""
        carries = nn.functional.linear(_widened(context), self.gate.weight.float(), self.gate.bias.float())[..., 0]
        gate = ((carries.sigmoid() - GATE_LOW) / (GATE_HIGH - GATE_LOW)).clamp(0, 1)
        return gate if mask is None else gate * mask

    def _require(self, context: Tensor, mask: Tensor | None) -> None:
        if context.ndim != 3 or 0 in context.shape or context.shape[2] != self.config.prompt_dim:
            raise ContextError(f"The context has shape {tuple(context.shape)}; this redirector reads (N, T, "
                               f"{self.config.prompt_dim}). Use the text encoder that its words were fitted with, or "
                               "fit them again with this one.")
        if mask is not None and (mask.shape != context.shape[:2] or mask.dtype != torch.bool):
            raise ContextError(f"The mask has shape {tuple(mask.shape)} and dtype {mask.dtype}; expected "
                               f"{tuple(context.shape[:2])} of bool. Give one flag a token, or none.")


class LowRankShift(nn.Module):
    """(..., D) -> (..., D): what is to be added to a vector, a linear map of low rank."""

    def __init__(self, width: int, rank: int):
        super().__init__()
        self.down = nn.Linear(width, rank)
        self.up = nn.Linear(rank, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        inner = nn.functional.linear(x, self.down.weight.to(x.dtype), self.down.bias.to(x.dtype))
        return nn.functional.linear(inner, self.up.weight.to(x.dtype))


def _widened(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))

"""A redirector made from typed words: it judges a prompt by its tokens, and moves those that carry the concept.

It knows a text encoder and nothing of what is drawn, so it is asked once for a prompt, on any model.

    evidence of a token    max over K directions of  weight . token + bias          a cluster of wordings has one each
                           (of pairs, perhaps, of what a layer of H units makes of the token)
    of a prompt            the largest of its tokens', which is the logit of the prompt's probability
    shift of a token       of a word of the concept (its gate is open): up(down([token, last token]) + bias), on top of
                           the last token where the concept is taken out, because that is padding or the end;
                           of all others, which took something of it in: up(down(token) + bias), where that is much

N: prompts, T: tokens, D: width of a token, P: width of the pooled vector (0: none), r: rank of a shift.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from saferedir_core.architecture import ANY
from saferedir_core.config import LARGEST_SIZE, choice, integer, require_fitting
from saferedir_core.errors import ConfigError, ContextError
from saferedir_core.picture.judge import JudgesPictures, PictureJudge

SMALLEST_NORM = 1e-12

# A token moves whole above the second number, and not at all below the first; between lies a ramp.
WORD_GATE = (0.25, 0.75)        # probability that it is a word of the concept
OTHER_GATE = (0.12, 0.18)       # length of the shift of another token, in lengths of the token


@dataclass(frozen=True)
class WordsConfig:
    """Sizes of a redirector made from words.

    prompt_dim  width of a token embedding, D
    pooled_dim  width of the pooled vector that is moved as well, P; 0: none
    directions  K
    rank        r
    takes_out   whether words of the concept go to the last token's place, with nothing drawn instead
    said        tokens of the typed wordings that are kept for the witness (`saferedir_core.witness`); 0: none
    hidden      units of a layer that a token goes through before it is judged, H; 0: no layer
    """

    prompt_dim: int
    pooled_dim: int = 0
    directions: int = 1
    rank: int = 32
    takes_out: bool = False
    said: int = 0
    hidden: int = 0

    variant: ClassVar[str] = "words"
    tokens: ClassVar[None] = None           # a prompt of any length is judged as one
    latent_dim: ClassVar[None] = None       # no latent is read
    architecture: ClassVar[str] = ANY.name

    def __post_init__(self) -> None:
        require_fitting(self, **{name: integer(getattr(self, name), least, LARGEST_SIZE) for name, least in
                                 (("prompt_dim", 1), ("pooled_dim", 0), ("directions", 1), ("rank", 1), ("said", 0),
                                  ("hidden", 0))},
                        takes_out=choice(self.takes_out, (True, False)))


class WordsRedirector(JudgesPictures, nn.Module):
    """See the module.  In float32 or wider inside, whatever its weights are stored in."""

    said: Tensor

    def __init__(self, config: WordsConfig):
        super().__init__()
        self.config = config
        self.metadata: dict[str, str] = {}
        self.sha256: str | None = None
        self.inner = nn.Linear(config.prompt_dim, config.hidden) if config.hidden else None
        self.evidence = nn.Linear(config.hidden or config.prompt_dim, config.directions)
        self.word = nn.Linear(config.prompt_dim, 1)
        self.word_shift = LowRankShift(2 * config.prompt_dim, config.prompt_dim, config.rank)
        self.other_shift = LowRankShift(config.prompt_dim, config.prompt_dim, config.rank)
        if config.pooled_dim:
            self.pooled_shift = LowRankShift(config.pooled_dim, config.pooled_dim, config.rank)
        if config.said:
            # The typed wordings as the text encoder reads them, and an empty prompt, without padding: (2, said, D).
            self.register_buffer("said", torch.zeros(2, config.said, config.prompt_dim, dtype=torch.float16))
        self.picture: PictureJudge | None = None

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
        shift, carries = self.shifts(wide, mask)
        return torch.where(carries[..., None] > 0, (wide + alpha_scale * shift).to(context.dtype), context)

    def redirect_pooled(self, pooled: Tensor, alpha_scale: float = 1.0) -> Tensor:
        """The pooled vector (N, P) of the safe neighbour."""
        return (_widened(pooled) + alpha_scale * self.pooled_shift(_widened(pooled))).to(pooled.dtype)

    def asked_with(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Two prompts to ask the diffusion model with: the given one with the typed wordings behind it, and with none.

        context (N, T, D) -> (N, T + said, D) twice, of its dtype and device.  ConfigError where no wordings are kept.
        """
        if not self.config.said:
            raise ConfigError("This redirector holds no words to ask the diffusion model with, because it was fitted "
                              "by a version before the witness; expected some. Fit it anew with SafeRedir Words.")
        self._require(context, None)
        told, untold = (torch.cat([context, each.to(context).expand(len(context), -1, -1)], 1) for each in self.said)
        return told, untold

    def token_evidence(self, context: Tensor) -> Tensor:
        """(N, T, D) -> (N, T): how much each token speaks for the concept, as a logit."""
        states = _widened(context)
        if self.inner is not None:
            states = nn.functional.silu(_linear(self.inner, states))
        return _linear(self.evidence, states).amax(-1)

    def logit(self, context: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logit of `judge_prompt`, (N,)."""
        self._require(context, mask)
        evidence = self.token_evidence(context)
        return (evidence if mask is None else evidence.masked_fill(~mask, -torch.inf)).amax(-1)

    def shifts(self, context: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(N, T, D) -> what is to be added to each token (N, T, D), and how much it carries the concept (N, T), 0 to 1.

        Zero for a token that does not carry it.
        """
        context = _widened(context)
        word = _ramp(_linear(self.word, context).sigmoid(), *WORD_GATE)                      # (N, T, 1)
        last = _last(context, mask)                                                          # (N, T, D)
        as_word = self.word_shift(torch.cat([context, last], -1))
        if self.config.takes_out:
            as_word = as_word + last - context
        as_other = self.other_shift(context)
        length = as_other.norm(dim=-1, keepdim=True) / context.norm(dim=-1, keepdim=True).clamp_min(SMALLEST_NORM)
        other = _ramp(length, *OTHER_GATE)
        if mask is not None:
            word, other = word * mask[..., None], other * mask[..., None]
        return word * as_word + (1 - word) * other * as_other, torch.maximum(word, other)[..., 0]

    def _require(self, context: Tensor, mask: Tensor | None) -> None:
        if context.ndim != 3 or 0 in context.shape or context.shape[2] != self.config.prompt_dim:
            raise ContextError(f"The context has shape {tuple(context.shape)}; this redirector reads (N, T, "
                               f"{self.config.prompt_dim}). Use the text encoder that its words were fitted with, or "
                               "fit them again with this one.")
        if mask is not None and (mask.shape != context.shape[:2] or mask.dtype != torch.bool):
            raise ContextError(f"The mask has shape {tuple(mask.shape)} and dtype {mask.dtype}; expected "
                               f"{tuple(context.shape[:2])} of bool. Give one flag a token, or none.")


class LowRankShift(nn.Module):
    """(..., I) -> (..., D): what is to be added to a vector, an affine map of low rank of what it is read from."""

    def __init__(self, inputs: int, width: int, rank: int):
        super().__init__()
        self.down = nn.Linear(inputs, rank)
        self.up = nn.Linear(rank, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        inner = nn.functional.linear(x, self.down.weight.to(x.dtype), self.down.bias.to(x.dtype))
        return nn.functional.linear(inner, self.up.weight.to(x.dtype))


def _linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """In float32, whatever the weights are stored in."""
    return nn.functional.linear(x, layer.weight.float(), layer.bias.float())


def _last(context: Tensor, mask: Tensor | None) -> Tensor:
    """The last token that is read of each prompt, at the place of every token, (N, T, D)."""
    if mask is None:
        return context[:, -1:].expand_as(context)
    places = torch.arange(mask.shape[1], device=mask.device)
    last = torch.where(mask, places, 0).amax(1)                                              # (N,)
    return context.take_along_dim(last[:, None, None].to(context.device), 1).expand_as(context)


def _ramp(values: Tensor, low: float, high: float) -> Tensor:
    return ((values - low) / (high - low)).clamp(0, 1)


def _widened(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))

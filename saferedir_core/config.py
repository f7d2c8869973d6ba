"""Settings: what shape the network has, and how its outputs become decisions."""

import math
from dataclasses import dataclass
from numbers import Integral, Real

from saferedir_core.architecture import USUAL, architecture
from saferedir_core.errors import ConfigError

MODES = ("guard", "upstream")
VARIANTS = ("published", "token")
# Far above any known text encoder; keeps a damaged or hostile file from asking for terabytes.
LARGEST_SIZE = 65536
# The paper uses 1.25 to 2; at 10 a token is moved by ten times its own length and no meaning is left.
LARGEST_ALPHA_SCALE = 10.0


@dataclass(frozen=True)
class RedirectorConfig:
    """Shape of the network.  The defaults are those of the published checkpoints (SD 1.x).

    latent_dim    channels of the latent, C
    prompt_dim    width of a token embedding, D; a multiple of 4 (the mask predictor has four heads)
    tokens        tokens in one chunk of the prompt, T
    rank          rank of the low-rank pair that makes the delta
    timestep_dim  width of the sinusoidal timestep code, even
    latent_pool   side of the squares of latent cells that are averaged before the latent encoder, which is most of an
                  evaluation's cost; 1 as published
    variant       "published": the architecture of arXiv 2601.08623 as its inference code has it.
                  "token": the same with a delta that sees each token, and a classifier that sees the most
                  telling one
    architecture  kind of diffusion model, a name in `architecture.ARCHITECTURES`
    pooled_dim    width of the pooled prompt vector that is judged and redirected as well; 0: none, as published
    """

    latent_dim: int = 4
    prompt_dim: int = 768
    tokens: int = 77
    rank: int = 16
    timestep_dim: int = 320
    variant: str = "published"
    latent_pool: int = 1
    architecture: str = USUAL
    pooled_dim: int = 0

    def __post_init__(self):
        sizes = ("latent_dim", "prompt_dim", "tokens", "rank", "timestep_dim", "latent_pool")
        require_fitting(self, **{name: integer(getattr(self, name), 1, LARGEST_SIZE) for name in sizes},
                        variant=choice(self.variant, VARIANTS), pooled_dim=integer(self.pooled_dim, 0, LARGEST_SIZE))
        require_fitting(self, prompt_dim=(self.prompt_dim % 4 == 0, "a multiple of 4"),
                        timestep_dim=(self.timestep_dim % 2 == 0, "a multiple of 2"))
        kind = architecture(self.architecture)
        if self.pooled_dim and (self.variant == "published" or kind.pooled is None):
            raise ConfigError(f"RedirectorConfig.pooled_dim is {self.pooled_dim!r}; expected 0, because "
                              + ("the published network reads no pooled vector." if self.variant == "published" else
                                 f"{kind.title} has no pooled vector.") + " Leave it out.")


@dataclass(frozen=True)
class PolicyConfig:
    """How evaluations become decisions and decisions become contexts.

    mode         "guard": decide before the model call, always on the original context, per item and chunk.
                 "upstream": the published hooks, exactly: decide after the call by argmax, on the context
                 that is in use, and never return.
    alpha_scale  multiplier of the shift, 0 to 10 token norms; published runs use 1.25 to 2
    interval     evaluations skipped after an intervention, 0 or more (upstream calls it replace_steps)
    threshold    guard only: an evaluation is unsafe from this probability on, between 0 and 1, both excluded.
                 None: the redirector's own, as calibrated in its training (metadata "threshold"), else 0.5
    mask_again   multiply the shift by the token mask once more (Eq. 20 of arXiv 2601.08623; without it the
                 normalisation cancels the mask).  None: True in guard mode, False in upstream mode
    sticky       guard only: what was once judged unsafe stays redirected; False lets a later safe
                 evaluation give the original context back
    """

    __pydantic_config__ = {"extra": "forbid"}  # of settings files

    mode: str = "guard"
    alpha_scale: float = 1.25
    interval: int = 0
    threshold: float | None = None
    mask_again: bool | None = None
    sticky: bool = True

    def __post_init__(self):
        threshold = 0.5 if self.threshold is None else self.threshold
        require_fitting(self, mode=choice(self.mode, MODES), alpha_scale=_number(self.alpha_scale),
                        interval=integer(self.interval, 0, None), threshold=_number(threshold),
                        mask_again=choice(self.mask_again, (None, True, False)),
                        sticky=choice(self.sticky, (True, False)))
        require_fitting(
            self, alpha_scale=(0.0 <= self.alpha_scale <= LARGEST_ALPHA_SCALE,
                               f"0 to {LARGEST_ALPHA_SCALE:g}; the paper's settings are 1.25 to 2"),
            threshold=(0.0 < threshold < 1.0, "a probability strictly between 0 and 1, for example 0.5, or None for "
                                              "the redirector's own"))

    @property
    def masks_again(self) -> bool:
        """mask_again with None resolved to the mode's default."""
        return self.mode == "guard" if self.mask_again is None else self.mask_again


def require_fitting(settings, **checks: tuple[bool, str]) -> None:
    """ConfigError for the first setting that does not fit.  checks: whether each does, and what is expected."""
    for name, (fits, expected) in checks.items():
        if not fits:
            raise ConfigError(f"{type(settings).__name__}.{name} is {getattr(settings, name)!r}; expected {expected}. "
                              "Change the setting.")


def integer(value, lowest: int, highest: int | None) -> tuple[bool, str]:
    """Whether it is a whole number in this range, and what is expected; for `require_fitting`."""
    is_integer = isinstance(value, Integral) and not isinstance(value, bool)
    fits = is_integer and value >= lowest and (highest is None or value <= highest)
    return fits, f"an integer of at least {lowest}" if highest is None else f"an integer from {lowest} to {highest}"


def _number(value) -> tuple[bool, str]:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value), "a finite number"


def choice(value, choices: tuple) -> tuple[bool, str]:
    """Likewise of one of these."""
    # Compared by type as well: 1 == True, and a list of flags that accepts 1 accepts the next typo too.
    fits = any(type(value) is type(choice) and value == choice for choice in choices)
    return fits, f"one of {', '.join(map(repr, choices))}"

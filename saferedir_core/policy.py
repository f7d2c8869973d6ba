"""From probabilities to decisions, and when to evaluate at all.  Plain functions, no state of their own."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from saferedir_core.config import PolicyConfig
from saferedir_core.errors import ConfigError
from saferedir_core.redirector import UNSAFE_CLASS, unsafe_probability

THRESHOLD_KEY = "threshold"     # of a redirector's metadata
USUAL_THRESHOLD = 0.5           # of a redirector without a calibrated one


def stored_threshold(metadata: Mapping[str, str]) -> float:
    """The threshold a redirector was calibrated to, else 0.5.  ConfigError unless it is between 0 and 1."""
    text = metadata.get(THRESHOLD_KEY)
    if text is None:
        return USUAL_THRESHOLD
    try:
        threshold = float(text)
    except (TypeError, ValueError):
        threshold = 0.0
    if not 0.0 < threshold < 1.0:
        raise ConfigError(f"The redirector's metadata has the threshold {text!r}; expected a number strictly between 0 "
                          "and 1. Train or download it again, or give PolicyConfig a threshold.")
    return threshold


def resolved(config: PolicyConfig, metadata: Mapping[str, str]) -> PolicyConfig:
    """The config with a threshold in any case: its own, else that of a redirector with this metadata."""
    return config if config.threshold is not None else replace(config, threshold=stored_threshold(metadata))


def decide(logits: Tensor, config: PolicyConfig) -> Tensor:
    """Which rows are unsafe: (B, 2) -> (B,) bool.

    guard: the probability reaches the threshold (a tie counts as unsafe).
    None counts as 0.5 here: `resolved` puts the redirector's own in its place.
    upstream: argmax of the logits, where a tie counts as safe, as in the published code.
    """
    if config.mode == "upstream":
        return logits.argmax(dim=-1) == UNSAFE_CLASS
    return unsafe_probability(logits) >= (USUAL_THRESHOLD if config.threshold is None else config.threshold)


def items_due(countdown: Sequence[int]) -> list[int]:
    """Items to evaluate now: those whose countdown has run out."""
    return [item for item, left in enumerate(countdown) if left == 0]


def next_countdown(countdown: Sequence[int], intervened: Sequence[bool], interval: int) -> tuple[int, ...]:
    """Countdown after one observation: a running one loses one, an intervention starts it at `interval`."""
    return tuple(left - 1 if left else interval * bool(hit) for left, hit in zip(countdown, intervened, strict=True))


def next_redirected(redirected: Sequence[bool], unsafe: Mapping[int, bool], config: PolicyConfig) -> tuple[bool, ...]:
    """Which rows are redirected from now on; `unsafe` holds the rows just evaluated, the others keep their state."""
    stays = config.sticky or config.mode == "upstream"
    return tuple(unsafe.get(row, before) or (stays and before) for row, before in enumerate(redirected))

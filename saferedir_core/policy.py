"""From probabilities to decisions, and when to evaluate at all.  Plain functions, no state of their own."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from .config import PolicyConfig
from .redirector import UNSAFE_CLASS, unsafe_probability


def decide(logits: Tensor, config: PolicyConfig) -> Tensor:
    """Which rows are unsafe: (B, 2) -> (B,) bool.

    guard: the probability reaches the threshold (a tie counts as unsafe).
    upstream: argmax of the logits, where a tie counts as safe, as in the published code.
    """
    if config.mode == "upstream":
        return logits.argmax(dim=-1) == UNSAFE_CLASS
    return unsafe_probability(logits) >= config.threshold


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

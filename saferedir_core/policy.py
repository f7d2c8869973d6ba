"""From probabilities to decisions, and when to evaluate at all.  Nothing here keeps state, or waits for the device."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from saferedir_core.config import PolicyConfig
from saferedir_core.errors import ConfigError
from saferedir_core.redirector import UNSAFE_CLASS

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


class GuardPolicy:
    """The guard's decisions, on the device: before each model call, always on the original context.

    thresholds (C, 1) on the device of the logits.  C: concepts, B: items, R: rows, the chunks of every item.
    """

    reads_original = True

    def __init__(self, config: PolicyConfig, thresholds: Tensor):
        self.config, self._thresholds = config, thresholds

    def unsafe(self, logits: Tensor, probability: Tensor) -> Tensor:
        """(C, R, 2), (C, R) -> (C, R) bool: the probability reaches the threshold; a tie counts as unsafe."""
        return probability >= self._thresholds

    def redirected(self, before: Tensor, unsafe: Tensor, due: Tensor | None) -> Tensor:
        """Which rows are redirected from now on, (C, R) bool each; rows that were not due (None: all were) keep their
        state."""
        if self.config.sticky:
            return unsafe | before
        return unsafe if due is None else unsafe | (before & ~due)


class PublishedPolicy(GuardPolicy):
    """The published hooks' decisions, for parity: after the model call, on the context in use; they never return."""

    reads_original = False

    def unsafe(self, logits: Tensor, probability: Tensor) -> Tensor:
        """By argmax, where a tie counts as safe."""
        return logits.argmax(dim=-1) == UNSAFE_CLASS

    def redirected(self, before: Tensor, unsafe: Tensor, due: Tensor | None) -> Tensor:
        return unsafe | before


def policy_of(config: PolicyConfig, thresholds: Tensor) -> GuardPolicy:
    return (GuardPolicy if config.mode == "guard" else PublishedPolicy)(config, thresholds)


def next_countdown(countdown: Tensor, intervened: Tensor, interval: int) -> Tensor:
    """Evaluations still to be skipped after one observation, integers of any shape: a running countdown loses one, an
    intervention starts it at `interval`."""
    return torch.where(countdown > 0, countdown - 1, interval * intervened.to(countdown.dtype))

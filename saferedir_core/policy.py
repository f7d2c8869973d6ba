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


class Policy:
    """The decisions of a mode, on the device.  thresholds (C, 1), there too.

    "guard": before each model call, always on the original context.  "upstream", for parity with the published hooks:
    after it, on the context in use, and what is redirected stays so.
    C: concepts, B: items, R: rows, the chunks of every item.
    """

    def __init__(self, config: PolicyConfig, thresholds: Tensor):
        self.reads_original = config.mode == "guard"
        self._returns, self._thresholds = self.reads_original and not config.sticky, thresholds

    def unsafe(self, logits: Tensor, probability: Tensor) -> Tensor:
        """(C, R, 2), (C, R) -> (C, R) bool: the probability reaches the threshold, where a tie counts as unsafe;
        upstream by argmax, where a tie counts as safe."""
        return probability >= self._thresholds if self.reads_original else logits.argmax(dim=-1) == UNSAFE_CLASS

    def redirected(self, before: Tensor, unsafe: Tensor, due: Tensor | None) -> Tensor:
        """Which rows are redirected from now on, (C, R) bool each; rows that were not due (None: all were) keep their
        state."""
        if not self._returns:
            return unsafe | before
        return unsafe if due is None else unsafe | (before & ~due)


def next_countdown(countdown: Tensor, intervened: Tensor, interval: int) -> Tensor:
    """Evaluations still to be skipped after one observation, integers of any shape: a running countdown loses one, an
    intervention starts it at `interval`."""
    return torch.where(countdown > 0, countdown - 1, interval * intervened.to(countdown.dtype))

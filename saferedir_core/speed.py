"""How a run saves time; tests run with each short cut on and off."""

from dataclasses import dataclass

import torch

from saferedir_core.config import PolicyConfig
from saferedir_core.errors import ConfigError
from saferedir_core.redirector import Redirector

LATENT_SIZE_KEY = "latent_size"     # of a redirector's metadata
SMALLEST_LATENT = 8


@dataclass(frozen=True)
class SpeedConfig:
    """Short cuts of a run in mode "guard"; mode "upstream" takes none.

    split     what the prompt alone decides is computed once per run (see `evaluator`); results differ by rounding
    deferred  decisions stay on the device, so that the host never waits for it; needs interval 0.
              None: where the redirector is on an accelerator
    latent_size  the network reads at most so many rows and columns of the latent, evenly spaced, 8 or more; much
              faster for large images, but not the same: probabilities differ, and decisions near the threshold may
              (docs/costs.md).  None: what the redirector's metadata has as "latent_size", put there by whoever checked
              it, else the whole latent.  0: the whole latent in any case
    """

    split: bool = True
    deferred: bool | None = False
    latent_size: int | None = None

    def __post_init__(self):
        _require_latent_size("SpeedConfig.latent_size", self.latent_size or 0)

    def defers(self, config: PolicyConfig, device: torch.device) -> bool:
        """Whether a run of these settings on this device leaves its decisions there."""
        wanted = device.type != "cpu" if self.deferred is None else self.deferred
        return wanted and config.mode == "guard" and config.interval == 0

    def latent_size_of(self, redirector: Redirector) -> int | None:
        """What `Evaluator` takes; ConfigError for metadata that is no size."""
        size = self.latent_size
        if size is None:
            text = redirector.metadata.get(LATENT_SIZE_KEY, "0")
            size = int(text) if text.isdecimal() else -1
            _require_latent_size(f"The redirector's metadata {LATENT_SIZE_KEY!r}", size)
        return size or None


def _require_latent_size(name: str, size: int) -> None:
    if size and (isinstance(size, bool) or not isinstance(size, int) or size < SMALLEST_LATENT):
        raise ConfigError(f"{name} is {size!r}; expected 0 for the whole latent, or {SMALLEST_LATENT} or more cells.")

"""The published hook policy, written down straightforwardly, as what the pack's own is measured against.

As in the published inference code: every check evaluates the whole network on latent, prompt in use and timestep, asks
the host for the verdict, and moves conditional and unconditional prompt when it is unsafe.
"""

from __future__ import annotations

import torch
from torch import Tensor

from saferedir_core import redirect

redirected_context = redirect.redirected_context


class PublishedPolicy:
    """State of one run.  prompt: contexts [uncond, cond], (2 B, T, D).  interval: its replace_steps."""

    def __init__(self, redirector, prompt: Tensor, alpha_scale: float = 1.25, interval: int = 0):
        self.redirector, self.prompt, self.in_use = redirector, prompt, prompt
        self.alpha_scale, self.interval, self.left = alpha_scale, interval, 0

    @torch.no_grad()
    def check(self, latent: Tensor, timestep: Tensor) -> Tensor:
        """After a model call: the contexts of the next one, (2 B, T, D).  latent (B, C, h, w), timestep (B,)."""
        if self.left:
            self.left -= 1
            return self.in_use
        output = self.redirector(latent, self.in_use[len(latent):], timestep)
        if (output.logits.argmax(-1) == 1).any().item():
            both = [redirected_context(part, output.delta, output.token_mask, output.alpha, self.alpha_scale, False)
                    for part in self.prompt.chunk(2)]
            self.in_use, self.left = torch.cat(both), self.interval
        return self.in_use

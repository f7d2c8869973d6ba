"""The published hook policy, written down straightforwardly, as what the pack's own is measured against.

As in the published inference code: every check evaluates the whole network on latent, prompt in use and timestep, asks
the host for the verdict, and moves conditional and unconditional prompt when it is unsafe.
"""

from __future__ import annotations

import torch
from torch import Tensor

from saferedir_core.redirect import redirected_context


class PublishedPolicy:
    """State of one run.  prompt: contexts [uncond, cond], (2 B, T, D)."""

    def __init__(self, redirector, prompt: Tensor, alpha_scale: float = 1.25):
        self.redirector, self.prompt, self.in_use, self.alpha_scale = redirector, prompt, prompt, alpha_scale

    @torch.no_grad()
    def check(self, latent: Tensor, timestep: Tensor) -> Tensor:
        """After a model call: the contexts of the next one, (2 B, T, D).  latent (B, C, h, w), timestep (B,)."""
        output = self.redirector(latent, self.in_use[len(latent):], timestep)
        if (output.logits.argmax(-1) == 1).any().item():
            self.in_use = torch.cat([
                redirected_context(part, output.delta, output.token_mask, output.alpha, self.alpha_scale, False)
                for part in self.prompt.chunk(2)])
        return self.in_use

"""What the host's modules need to be trained: it leaves them uninitialised, because it only ever loads them."""

from __future__ import annotations

import torch

from ...nodes.host import prepare

prepare()

import comfy.text_encoders.t5  # noqa: E402

# Last layers of residual branches: at zero, every block starts as the identity.
_ZERO_SUFFIXES = ("proj_out", "out_layers.3", "out.2", "final_layer.linear", "_mod.lin", "modulation.lin",
                  "adaLN_modulation.1")


def initialise(module: torch.nn.Module) -> None:
    """Draws every parameter as torch's own layers would, from torch's global generator, and makes it trainable."""
    for name, part in module.named_modules():
        if isinstance(part, (torch.nn.Linear, torch.nn.Conv2d)):
            kind = torch.nn.Linear if isinstance(part, torch.nn.Linear) else torch.nn.Conv2d
            kind.reset_parameters(part)
            if name.endswith(_ZERO_SUFFIXES):
                torch.nn.init.zeros_(part.weight)
                torch.nn.init.zeros_(part.bias)
        elif isinstance(part, (torch.nn.GroupNorm, torch.nn.LayerNorm)):
            if part.weight is not None:
                torch.nn.init.ones_(part.weight)
                torch.nn.init.zeros_(part.bias)
        elif isinstance(part, (torch.nn.RMSNorm, comfy.text_encoders.t5.T5LayerNorm)):
            torch.nn.init.ones_(part.weight)
        elif isinstance(part, torch.nn.Embedding):
            torch.nn.init.normal_(part.weight, std=0.02)
    for parameter in module.parameters():
        parameter.requires_grad_(True)


def layer_forward(self, x, mask=None, optimized_attention=None):
    """The host's CLIPLayer.forward without its in-place additions, which autograd cannot differentiate."""
    x = x + self.self_attn(self.layer_norm1(x), mask, optimized_attention)
    return x + self.mlp(self.layer_norm2(x))

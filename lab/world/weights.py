"""The file of the demo world's weights: what the trainings here write, and `nodes/demo_world/backbone.py` reads."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from saferedir_core.files import written_whole

from ...nodes.demo_world.backbone import KERNEL_SCALE, TOKEN_TABLE


def save_backbone(path: Path, diffusion: dict, text: dict, codec: dict, trained_tokens: list[int],
                  provenance: dict) -> None:
    """Writes all three state dicts under `diffusion.`, `text.` and `codec.`, in float16; the codec's kernels in 8 bits.

    Only the rows of the token table named in `trained_tokens` are stored; the others come from a seed.
    """
    text = dict(text)
    table = text.pop(TOKEN_TABLE)
    tensors = {f"{part}.{key}": value for part, state in (("diffusion", diffusion), ("text", text), ("codec", codec))
               for key, value in state.items()}
    tensors["text.trained_rows"] = table[torch.tensor(trained_tokens)]
    packed = {"text.trained_tokens": torch.tensor(trained_tokens, dtype=torch.int32)}
    for key, value in tensors.items():
        if key.startswith("codec.") and value.ndim == 4:
            packed |= _pack_kernel(key, value)
        else:
            packed[key] = value.half().contiguous()
    with written_whole(path) as unfinished:
        save_file(packed, unfinished, metadata={"provenance": json.dumps(provenance)})


def _pack_kernel(key: str, kernel: torch.Tensor) -> dict[str, torch.Tensor]:
    """A convolution kernel in 8 bits with one scale per output channel; the codec does not notice."""
    scale = kernel.abs().amax(dim=(1, 2, 3), keepdim=True).clamp_min(1e-12) / 127
    return {key: (kernel / scale).round().to(torch.int8), key + KERNEL_SCALE: scale.float()}


def read_provenance(file: Path) -> dict:
    """How weights were made, as their training wrote it."""
    with safe_open(file, framework="pt") as tensors:
        return json.loads(tensors.metadata()["provenance"])

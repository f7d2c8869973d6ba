"""What kind the host's model is of, and reading and writing what `saferedir_core.architecture` says of that kind."""

from __future__ import annotations

import comfy.supported_models
import torch

from saferedir_core import ContextError
from saferedir_core.architecture import (
    ARCHITECTURES,
    FLOW,
    Architecture,
    architecture,
    of_host_model,
    timestep_of_flow,
)

from ..types import LoadedRedirector, Marker

WIDTHS = ("context_dim", "context_in_dim", "cap_feat_dim", "in_features")  # what the host calls a prompt's width


def host_name(model) -> str:
    """The host's name for the kind of a MODEL, such as "SD15"; that of its own class for a class derived from it."""
    kind = type(getattr(model.model, "model_config", None))
    return next((each.__name__ for each in kind.__mro__ if each.__module__ == comfy.supported_models.__name__),
                kind.__name__)


def require_known(model) -> Architecture:
    """The kind of a MODEL.  ContextError when it is none that is known here."""
    found = of_host_model(host_name(model))
    if found is None:
        known = ", ".join(each.title for each in ARCHITECTURES.values())
        raise ContextError(f"The model is of the kind {host_name(model)!r}, of which SafeRedir does not know where "
                           f"prompts and latents are; expected one of: {known}. Use such a model, or remove SafeRedir.")
    return found


def require_fitting_model(model, loaded: LoadedRedirector) -> None:
    """ContextError when a MODEL is of another kind than the redirector's, or takes prompts of another width."""
    found, wanted = require_known(model), architecture(loaded.redirector.config.architecture)
    if found is not wanted:
        raise ContextError(f"The model is {found.title} ({found.conditioning}) and the redirector {loaded.name!r} was "
                           f"made for {wanted.title} ({wanted.conditioning}); expected the same. Load a redirector for "
                           f"{found.title}, or train one with SafeRedir Train.")
    config, own = model.model.model_config.unet_config, loaded.redirector.config
    embedder = (config.get("context_embedder_config") or {}).get("params", {})
    prompt = next((each[name] for each in (config, embedder) for name in WIDTHS if name in each), None)
    vector = next((config[name] - found.pooled_rest for name in ("adm_in_channels", "vec_in_dim") if config.get(name)),
                  None) if own.pooled_dim else None
    for what, width, expected in (("prompts", prompt, own.prompt_dim), ("pooled vectors", vector, own.pooled_dim)):
        if width not in (None, expected):
            raise ContextError(f"The model takes {what} that are {width} wide and the redirector {loaded.name!r} was "
                               f"made for {expected}; expected equal widths. Load a redirector for this kind of model.")


def timestep_of(kind: Architecture, sampling, sigma: torch.Tensor) -> torch.Tensor:
    """The timestep of a sigma as the redirector reads it: 0 to 999, or 0 to 1000 of a flow-matching model."""
    return timestep_of_flow(sigma) if kind.clock == FLOW else sampling.timestep(sigma)


def pooled_part(y: torch.Tensor | None, kind: Architecture, width: int) -> torch.Tensor | None:
    """The pooled vector (B, width) of a model's input y; None for none, or of a redirector that reads none (width 0).

    ContextError when y is not as wide as the vector and what follows it there.
    """
    if y is None or not width:
        return None
    if y.ndim != 2 or y.shape[1] != width + kind.pooled_rest:
        raise ContextError(f"The model's pooled input has shape {tuple(y.shape)}; expected (batch, "
                           f"{width + kind.pooled_rest}) of {kind.title}. Connect CLIP Text Encode of the model that "
                           "the redirector was trained on.")
    return y[:, :width]


def with_pooled(y: torch.Tensor, pooled: torch.Tensor) -> torch.Tensor:
    """A model's input y (b, W) with another pooled vector (B, width) in front, b a divisor of B: (B, W)."""
    rest = y[:, pooled.shape[1]:]
    return torch.cat([pooled.to(y), rest.repeat(len(pooled) // len(rest), 1)], dim=1)


def restore_pooled(pooled: torch.Tensor, markers: list[Marker]) -> torch.Tensor:
    """Takes back what SafeRedir Conditioning did to a pooled vector; the same tensor if nothing changes."""
    for marker in markers:
        before, after = marker.original_pooled, marker.redirected_pooled
        if before is after or before is None or after is None or after.shape[1:] != pooled.shape[1:]:
            continue
        for original, baked in zip(before.to(pooled), after.to(pooled)):
            same = (pooled == baked).all(1, keepdim=True)
            if same.any():
                pooled = torch.where(same, original, pooled)
    return pooled

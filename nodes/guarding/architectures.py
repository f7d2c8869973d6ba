"""What kind the host's model is of, and reading and writing what is known of that kind.

`saferedir_core.architecture` knows the kinds that redirectors are trained for; `text_inputs` knows every class of
models, for redirectors that were made from words.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import comfy.model_sampling
import comfy.supported_models
import comfy.utils
import torch

from saferedir_core import ContextError, LatentError, Redirector
from saferedir_core.architecture import (
    ANY,
    ARCHITECTURES,
    FLOW,
    LARGEST_TIMESTEP,
    Architecture,
    architecture,
    of_host_model,
    timestep_of_flow,
)
from saferedir_core.picture.judge import PictureConfig

from ..types import LoadedRedirector, Marker
from .text_inputs import POOLED, TRAINED, TextInputs, text_inputs_of

WIDTHS = ("context_dim", "context_in_dim", "cap_feat_dim", "in_features")  # what the host calls a prompt's width
OWN_PICTURES = "Train one on this model with SafeRedir Train, or load a redirector without a picture judge."
# Schedules that count in logarithms of sigma, and such as are derived from a known one and count in something else.
LOGARITHMIC = (comfy.model_sampling.ModelSamplingContinuousEDM, comfy.model_sampling.ModelSamplingDiscreteEDM)
OTHER_SCHEDULES = comfy.model_sampling.StableCascadeSampling, comfy.model_sampling.ModelSamplingCosmosRFlow
MODEL_AS_LORA = "model_as_lora"     # the host's kind of patch that goes to another model's weight
FROM_WORDS = "Make one with a CLIP of this model in SafeRedir Words."


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


def reads_any_model(redirector: Redirector) -> bool:
    """Whether a redirector knows a text encoder only, and no kind of model: one that was made from words."""
    return redirector.config.architecture == ANY.name


def text_inputs(model, redirector: Redirector) -> TextInputs:
    """Where text enters a MODEL, as far as a redirector reads it.

    ContextError when the redirector is for any model and this one cannot be guarded.
    """
    if not reads_any_model(redirector):
        return replace(TRAINED, rest=architecture(redirector.config.architecture).pooled_rest)
    kind = type(model.model)
    found = text_inputs_of(kind)
    if found is None:
        raise ContextError(f"The model is of the class {kind.__name__!r}, which is derived from none of ComfyUI's, so "
                           "SafeRedir does not know where its prompt is; expected one of ComfyUI's classes. Remove "
                           "SafeRedir Guard from it.")
    if found.refused:
        raise ContextError(f"The model ({found.models}, class {kind.__name__!r}) cannot be guarded: {found.refused}. "
                           "Expected a model that reads its prompt as its text encoder made it; docs/models.md lists "
                           "them. Remove SafeRedir Guard from it.")
    return found


def require_fitting_model(model, loaded: LoadedRedirector) -> None:
    """ContextError when a MODEL is of another kind than the redirector's, or takes prompts of another width;
    LatentError when its latents are others than a picture judge's."""
    for concept, redirector in loaded.redirectors.items():
        if redirector.picture is not None:
            _require_pictures_of(model, concept, redirector.picture.config)
    if reads_any_model(loaded.redirector):
        inputs = text_inputs(model, loaded.redirector)
        return _require_widths(model, loaded, inputs.rest if inputs.pooled == POOLED else None, FROM_WORDS)
    found, wanted = require_known(model), architecture(loaded.redirector.config.architecture)
    if found is not wanted:
        raise ContextError(f"The model is {found.title} ({found.conditioning}) and the redirector {loaded.name!r} was "
                           f"made for {wanted.title} ({wanted.conditioning}); expected the same. Load a redirector for "
                           f"{found.title}, or train one with SafeRedir Train.")
    require_known_schedule(wanted, model.get_model_object("model_sampling"))
    return _require_widths(model, loaded, found.pooled_rest, "Load a redirector for this kind of model.")


def require_own_weights(patcher) -> None:
    """ContextError when a node has scaled or replaced weights of a model (the host's ModelPatcher); LoRAs add to them.

    A graph that mixes weights can give a model another language than the one that redirectors judge: with keys and
    values times -1 it reads prompts times -1, and with its first and last layer so it draws latents times -1.
    """
    every = [patcher.patches, *getattr(patcher, "hook_patches", {}).values()]
    for key, patches in ((key, patches) for each in every for key, patches in each.items()):
        # What merges hand over is a list: a weight, and the patches on it; hooks of a whole model name their kind.
        if any(of_model != 1.0 or isinstance(patch, list) or isinstance(patch, tuple) and patch[0] == MODEL_AS_LORA
               for _, patch, of_model, *_ in patches):
            raise ContextError(f"A node has scaled or replaced weights of the model ({key}); expected a model as its "
                               "file has it, or with LoRAs, because this server does not trust graphs. Remove nodes "
                               "that merge models or multiply attention, or ask whoever runs the server to put the "
                               "merged model among its models.")


def _require_pictures_of(model, concept: str, judge: PictureConfig) -> None:
    channels, found = model.model.latent_format.latent_channels, of_host_model(host_name(model))
    if channels != judge.channels:
        raise LatentError(f"The model's latents have {channels} channels and the picture judge of {concept!r} reads "
                          f"{judge.channels}; expected equal numbers. {OWN_PICTURES}")
    if judge.architecture != ANY.name and (found is None or found.name != judge.architecture):
        title = host_name(model) if found is None else found.title
        raise LatentError(f"The model is {title} and the picture judge of {concept!r} was trained on pictures of "
                          f"{architecture(judge.architecture).title}; expected the same. {OWN_PICTURES}")


def _require_widths(model, loaded: LoadedRedirector, rest: int | None, remedy: str) -> None:
    """ContextError when the model's config tells of other widths than the redirector's.

    rest: how many numbers follow the pooled vector; None for a model that reads none.
    """
    config, own = model.model.model_config.unet_config, loaded.redirector.config
    embedder = (config.get("context_embedder_config") or {}).get("params", {})
    prompt = next((each[name] for each in (config, embedder) for name in WIDTHS if name in each), None)
    vector = next((config[name] - rest for name in ("adm_in_channels", "vec_in_dim") if config.get(name)),
                  None) if own.pooled_dim and rest is not None else None
    for what, width, expected in (("prompts", prompt, own.prompt_dim), ("pooled vectors", vector, own.pooled_dim)):
        if width not in (None, expected):
            raise ContextError(f"The model takes {what} that are {width} wide and the redirector {loaded.name!r} was "
                               f"made for {expected}; expected equal widths. {remedy}")


def timestep_of(kind: Architecture, sampling, sigma: torch.Tensor) -> torch.Tensor:
    """The timestep of a sigma as the redirector reads it: 0 to 999, or 0 to 1000 of a flow-matching model.

    An EDM schedule (Playground 2.5, CosXL, the host's node ModelSamplingContinuousEDM) counts in logarithms of sigma:
    its timestep is that of the same ratio of noise to picture in Stable Diffusion's schedule.  ContextError for others.
    """
    if kind.clock == FLOW:
        return timestep_of_flow(sigma)
    require_known_schedule(kind, sampling)
    if not isinstance(sampling, LOGARITHMIC):
        return sampling.timestep(sigma)
    away = ((sigma / sampling.sigma_data).log()[:, None] - _log_sigmas(sigma.device)).abs()  # (B, 1000)
    return away.argmin(1)


def require_known_schedule(kind: Architecture, sampling) -> None:
    """ContextError for a schedule of noise whose timesteps a redirector of this kind cannot read."""
    known = isinstance(sampling, (comfy.model_sampling.ModelSamplingDiscrete, *LOGARITHMIC))
    if kind.clock != FLOW and (not known or isinstance(sampling, OTHER_SCHEDULES)):
        raise ContextError(f"The model's schedule of noise is {type(sampling).__mro__[1].__name__}, whose timesteps a "
                           f"redirector for {kind.title} does not know; expected the one that it was trained on, or an "
                           "EDM schedule. Remove the node that changes the model's sampling, or use a redirector from "
                           "SafeRedir Words.")


@cache
def _log_sigmas(device: torch.device) -> torch.Tensor:
    """Of the 1000 timesteps of Stable Diffusion."""
    return comfy.model_sampling.ModelSamplingDiscrete().log_sigmas.to(device)


def timestep_of_any(sampling, sigma: torch.Tensor) -> torch.Tensor:
    """For the record of a redirector that reads none: the place of a sigma (B,) in its model's own table, 0 to 1000.

    Models' own timesteps are of many kinds: up to 1, up to 1000, negative logarithms.
    """
    if isinstance(sampling, comfy.model_sampling.CONST):
        return timestep_of_flow(sigma)
    table = getattr(sampling, "sigmas", None)
    if table is None:
        return torch.zeros_like(sigma)
    away = (sigma[:, None].log() - table.to(sigma)[None].log()).abs()                        # (B, steps of the table)
    return away.argmin(1) * (LARGEST_TIMESTEP / table.numel())


def pooled_part(y: torch.Tensor | None, rest: int, width: int) -> torch.Tensor | None:
    """The pooled vector (B, width) of a model's input y; None for none, or of a redirector that reads none (width 0).

    ContextError when y is not as wide as the vector and the `rest` that follows it there.
    """
    if y is None or not width:
        return None
    if y.ndim != 2 or y.shape[1] != width + rest:
        raise ContextError(f"The model's pooled input has shape {tuple(y.shape)}; expected (batch, {width + rest}), "
                           f"{width} numbers of the prompt's pooled vector{f' and {rest} of sizes' if rest else ''}. "
                           "Connect CLIP Text Encode of the model that the redirector was made for.")
    return y[:, :width]


def with_pooled(y: torch.Tensor, pooled: torch.Tensor) -> torch.Tensor:
    """A model's input y (b, W), cut or repeated as the host does, with another pooled vector in front: (B, W)."""
    rest = comfy.utils.repeat_to_batch_size(y[:, pooled.shape[1]:], len(pooled))
    return torch.cat([pooled.to(y), rest], dim=1)


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

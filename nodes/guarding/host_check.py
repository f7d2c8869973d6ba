"""What the guard relies on in the host, looked at when the pack is loaded: a newer release may have changed it.

A guard that is called with other arguments, or not at all, stops the run, by an error that nobody understands.  So each
thing is looked at by its name and its arguments, and what is missing is said in one sentence before the first run.
Nothing is refused here: another pack may have put a function of its own into such a place, and a run shows whether it
is guarded.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable

import comfy.conds
import comfy.model_base
import comfy.model_patcher
import comfy.model_sampling
import comfy.patcher_extension
import comfy.sampler_helpers
import comfy.samplers
import comfy.utils
import torch

log = logging.getLogger("saferedir")

# (module, path in it, the arguments that it is called with, or that we call it with, in order)
FUNCTIONS = (
    (comfy.samplers, "CFGGuider.sample", ("self", "noise", "latent_image", "sampler", "sigmas", "denoise_mask",
                                          "callback", "disable_pbar", "seed")),
    (comfy.samplers, "CFGGuider.outer_sample", ("self", "noise", "latent_image", "sampler", "sigmas", "denoise_mask",
                                                "callback", "disable_pbar", "seed")),
    (comfy.samplers, "CFGGuider.predict_noise", ("self", "x", "timestep", "model_options", "seed")),
    (comfy.samplers, "KSAMPLER.sample", ("self", "model_wrap", "sigmas", "extra_args", "callback", "noise",
                                         "latent_image", "denoise_mask", "disable_pbar")),
    (comfy.samplers, "calc_cond_batch", ("model", "conds", "x_in", "timestep", "model_options")),
    (comfy.model_base, "BaseModel.apply_model", ("self", "x", "t", "c_concat", "c_crossattn", "control",
                                                 "transformer_options")),
    (comfy.model_patcher, "ModelPatcher.add_wrapper_with_key", ("self", "wrapper_type", "key", "wrapper")),
    (comfy.model_patcher, "ModelPatcher.add_callback_with_key", ("self", "call_type", "key", "callback")),
    (comfy.model_patcher, "ModelPatcher.set_additional_models", ("self", "key", "models")),
    (comfy.model_patcher, "ModelPatcher.get_model_object", ("self", "name")),
    (comfy.patcher_extension, "add_wrapper_with_key", ("wrapper_type", "key", "wrapper", "transformer_options",
                                                       "is_model_options")),
    (comfy.patcher_extension, "get_all_wrappers", ("wrapper_type", "transformer_options")),
    (comfy.conds, "CONDRegular._copy_with", ("self", "cond")),
    (comfy.conds, "CONDRegular.process_cond", ("self", "batch_size")),
    (comfy.model_sampling, "EPS.calculate_input", ("self", "sigma", "noise")),
    (comfy.model_sampling, "ModelSamplingDiscrete.timestep", ("self", "sigma")),
    (comfy.utils, "repeat_to_batch_size", ("tensor", "batch_size")),
)
KINDS = (("WrappersMP", "OUTER_SAMPLE"), ("WrappersMP", "SAMPLER_SAMPLE"), ("WrappersMP", "PREDICT_NOISE"),
         ("WrappersMP", "CALC_COND_BATCH"), ("WrappersMP", "APPLY_MODEL"), ("WrappersMP", "DIFFUSION_MODEL"),
         ("CallbacksMP", "ON_PRE_RUN"))
CALLED_THROUGH = {"OUTER_SAMPLE": "CFGGuider.sample", "PREDICT_NOISE": "CFGGuider.outer_predict_noise",
                  "SAMPLER_SAMPLE": "CFGGuider.inner_sample", "CALC_COND_BATCH": "_calc_cond_batch_outer"}


def changes() -> list[str]:
    """What the host has changed of what the guard relies on, a few words each."""
    found = [change for module, path, arguments in FUNCTIONS if (change := _of_function(module, path, arguments))]
    for group, name in KINDS:
        if not hasattr(getattr(comfy.patcher_extension, group, None), name):
            found.append(f"{group}.{name} is gone")
    return found + _of_calls() + _of_conds()


def sentence(found: list[str]) -> str:
    return (f"This ComfyUI has changed what SafeRedir relies on, so that a guard could not keep its promise: "
            f"{'; '.join(found)}. Expected it as in the releases that docs/releases.md names: update SafeRedir, or go "
            "back to one of those.")


def tell() -> None:
    """Said in the server's log when the pack is loaded, if there is anything to say."""
    if found := changes():
        log.error("%s", sentence(found))


def _of_function(module, path: str, arguments: tuple[str, ...]) -> str | None:
    function = module
    for part in path.split("."):
        function = getattr(function, part, None)
    name = f"{module.__name__}.{path}"
    if function is None:
        return f"{name} is gone"
    found, takes_any = _arguments(function)
    if found[:len(arguments)] != arguments[:len(found) if takes_any else None]:
        return f"{name} takes ({', '.join(found)}) and not ({', '.join(arguments)})"
    return None


def _arguments(function: Callable) -> tuple[tuple[str, ...], bool]:
    """Names of those that have a place, and whether any others may follow."""
    found = inspect.signature(function).parameters.values()
    kinds = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
    return (tuple(each.name for each in found if each.kind in kinds),
            any(each.kind == inspect.Parameter.VAR_POSITIONAL for each in found))


def _of_calls() -> list[str]:
    """The kinds of wrappers that are no longer called where they were."""
    found = []
    for kind, path in CALLED_THROUGH.items():
        function = comfy.samplers
        for part in path.split("."):
            function = getattr(function, part, None)
        if function is None:
            found.append(f"comfy.samplers.{path} is gone")
        elif kind not in inspect.unwrap(function).__code__.co_names:
            found.append(f"comfy.samplers.{path} calls no wrappers of the kind {kind}")
    return found


def _of_conds() -> list[str]:
    """Whether a conditioning becomes what the guard reads: a dict with an id of its own and its prompt."""
    try:
        text = torch.zeros(1, 1, 1)
        cond, = comfy.sampler_helpers.convert_cond([[text, {"saferedir": 1}]])
        laid_out, = comfy.samplers.encode_model_conds(
            lambda **known: {"c_crossattn": comfy.conds.CONDCrossAttn(known["cross_attn"])}, [dict(cond)],
            torch.zeros(1, 4, 1, 1), torch.device("cpu"), "positive")
        if cond["cross_attn"] is not text or cond["saferedir"] != 1 or "uuid" not in laid_out:
            return ["a conditioning is laid out in another way"]
        if laid_out["model_conds"]["c_crossattn"].cond is not text:
            return ["the inputs of a model lie elsewhere than in a cond's model_conds"]
    except Exception as error:
        return [f"a conditioning is laid out in another way ({type(error).__name__}: {error})"]
    return []

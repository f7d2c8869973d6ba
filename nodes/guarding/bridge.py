"""Between the method and ComfyUI's sampling: puts guards on a MODEL, and judges a conditioning before sampling.

    OUTER_SAMPLE     one `SamplingRun` per sampling run, made here and dropped here; checks conds before models load
    ON_PRE_RUN       notices a run from which the first one was taken away

docs/architecture.md says which module of this room does what.

The wrappers on MODEL hold settings only.  Everything that changes during a run lives in its SamplingRun, which is
reached through wrappers added to the guider's own copy of the model options, so cached nodes, cloned models and a
second sampler share nothing.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import ClassVar

import comfy.utils
import torch
from comfy.patcher_extension import CallbacksMP, WrappersMP, add_wrapper_with_key

from saferedir_core import (
    ContextError,
    EvaluationError,
    LatentError,
    PolicyConfig,
    RedirectionRun,
    Redirector,
    SafeRedirError,
)
from saferedir_core.architecture import LARGEST_TIMESTEP, architecture

from ..types import FinishedRun, LoadedRedirector, Marker, Recorder, RunListener, RunStart, digest
from .architectures import reads_any_model, require_fitting_model
from .conds import (
    CONTROLNET_CONTEXT,
    CONTROLNET_MARKER,
    EMPTIED,
    MARKER,
    POOLED_OUTPUT,
    require_judgeable,
    text_mask,
)
from .door import Door
from .reaction import Reaction, UnsafeStopped, beside_server
from .sampling_run import SamplingRun
from .uncopied import Uncopied

KEY = "saferedir"
PROMPT_NOISE_SEED = 20260112  # of the pure-noise latent that a prompt is judged on before sampling
PROMPT_NOISE_SIZE = 64  # its height and width; the network averages over both

log = logging.getLogger("saferedir")
# The runs under way in this thread, the innermost last: what ON_PRE_RUN is not told.
_under_way: ContextVar[tuple[SamplingRun, ...]] = ContextVar("saferedir_runs", default=())


def redirect_conditioning(conditioning: list, redirectors: Redirector | Mapping[str, Redirector],
                          config: PolicyConfig) -> list:
    """Judges each context at the first timestep on a pure-noise latent, and bakes the redirected one in.

    conditioning: the host's list of [context (B, T, D), dict].  redirectors: one, or several by name.
    Returns a new list; each dict carries a `Marker`, and one more for a ControlNet's own prompt.
    ContextError for an empty conditioning or one that does not fit the redirector.
    """
    if not conditioning:
        raise ContextError("The conditioning is empty; expected at least one prompt. Connect CLIP Text Encode.")
    redirector = next(iter(redirectors.values())) if isinstance(redirectors, Mapping) else redirectors
    out = []
    for context, options in conditioning:
        require_judgeable({**options, "cross_attn": context}, redirector)
        pooled = options.get(POOLED_OUTPUT) if redirector.config.pooled_dim else None
        marker, run = _baked(context, redirectors, redirector, config, pooled)
        options = {**options, MARKER: marker.plain()}
        if pooled is not None:
            options[POOLED_OUTPUT] = marker.redirected_pooled
        if reads_any_model(redirector):
            options |= {name: _emptied(options[name], run) for name in EMPTIED if torch.is_tensor(options.get(name))}
        if options.get(CONTROLNET_CONTEXT) is not None:
            second, _ = _baked(options[CONTROLNET_CONTEXT], redirectors, redirector, config, pooled)
            options |= {CONTROLNET_CONTEXT: second.redirected, CONTROLNET_MARKER: second.plain()}
        out.append([marker.redirected, options])
    return out


def _baked(context: torch.Tensor, redirectors, redirector: Redirector, config: PolicyConfig,
           pooled: torch.Tensor | None = None) -> tuple[Marker, RedirectionRun]:
    if reads_any_model(redirector):
        noise, first = torch.zeros(1, 1, 1, 1), LARGEST_TIMESTEP  # it reads neither
        extra = {"mask": text_mask(context, None, 0)}
    else:
        generator = torch.Generator().manual_seed(PROMPT_NOISE_SEED)
        noise = torch.randn(1, redirector.config.latent_dim, PROMPT_NOISE_SIZE, PROMPT_NOISE_SIZE, generator=generator)
        first, extra = architecture(redirector.config.architecture).first_timestep, {}
    run = RedirectionRun(redirectors, config, context, pooled=pooled, **extra)
    run.observe(noise.expand(len(context), -1, -1, -1).to(redirector.device, redirector.dtype), first)
    return Marker(context, run.redirect(context), pooled, None if pooled is None else run.redirect_pooled(pooled)), run


def _emptied(text: torch.Tensor, run: RedirectionRun) -> torch.Tensor:
    """Text of another encoder, (b, ...), zeros where the prompt is redirected; the same tensor if nothing changes."""
    every = comfy.utils.repeat_to_batch_size(text, run.batch)
    emptied = run.emptied(every)
    return text if emptied is every else emptied


def guard_model(model, loaded: LoadedRedirector, config: PolicyConfig, recorder: Recorder,
                listeners: tuple[RunListener, ...] = (), reaction: Reaction = Reaction()):
    """A clone of a MODEL whose sampling runs are all guarded; finished runs are put into `recorder`.

    listeners hear of each run while it goes on.  ContextError when the model's context is not as wide as the
    redirector's, unless reaction.on_error is "warn".
    """
    guard = Guard(loaded, config, recorder, listeners, reaction)
    try:
        require_fitting_model(model, loaded)
    except (ContextError, LatentError) as error:
        if reaction.on_error == "stop":
            raise
        log.warning("SafeRedir (%s) cannot guard this model: %s", loaded.name, error)
    guarded = model.clone()
    guarded.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, guard.outer_sample)
    # Under another name, so that what takes the wrapper away by its key is noticed.
    guarded.add_callback_with_key(CallbacksMP.ON_PRE_RUN, f"{KEY}.present", guard.require_present)
    guarded.set_additional_models(KEY, [*guarded.get_additional_models_with_key(KEY), *loaded.patchers])
    return guarded


@dataclass(frozen=True, eq=False)
class Guard(Uncopied):
    """Settings of one Guard node, attached to a MODEL."""

    loaded: LoadedRedirector
    config: PolicyConfig
    recorder: Recorder
    listeners: tuple[RunListener, ...] = ()
    reaction: Reaction = Reaction()
    trusts_graph: ClassVar[bool] = True  # see SamplingRun

    def outer_sample(self, executor, noise, latent_image, sampler, sigmas, denoise_mask=None, callback=None,
                     disable_pbar=False, seed=None, **kwargs):
        guider = executor.class_obj
        start = RunStart(uuid.uuid4().hex, self.loaded, self.config, len(sigmas) - 1)
        with _door_of(guider) as door:
            run = SamplingRun(start, guider, door, self.reaction, self.listeners, self.trusts_graph)
            door.join(self, run.refuse)
            for kind, part in ((WrappersMP.SAMPLER_SAMPLE, run.sampler_sample),
                               (WrappersMP.PREDICT_NOISE, run.predict_noise),
                               (WrappersMP.CALC_COND_BATCH, run.calc_cond_batch)):
                add_wrapper_with_key(kind, run.key, part, guider.model_options, True)
            output, under_way = None, _under_way.set((*_under_way.get(), run))
            try:
                for listener in self.listeners:
                    listener.started(start)
                run.check_conds()
                sampled = executor(noise, latent_image, sampler, sigmas, denoise_mask, run.counting(callback),
                                   disable_pbar, seed, **kwargs)
                run.settle()
                run.require_guarded()
                output = run.blanked(sampled)
                return output
            except UnsafeStopped:
                raise
            except SafeRedirError as error:     # of this guard, of another one, or of the door
                run.stopped = str(error)
                raise
            finally:
                _under_way.reset(under_way)
                self._record(run, output)

    def require_present(self, patcher) -> None:
        """The host is about to sample with a model that carries this guard: its run must be under way.

        EvaluationError when it is not: some node has removed the wrapper, or the guarded model only serves the
        negative prompt (Dual Model CFG Guider), where a guard sees nothing.
        """
        mine = {id(redirector) for redirector in self.loaded.redirectors.values()}
        for run in _under_way.get():
            if mine <= {id(redirector) for redirector in run.loaded.redirectors.values()}:
                return
        message = (f"The model that is about to be sampled carries SafeRedir Guard ({self.loaded.name}), but the guard "
                   "is not part of this run; expected it to be. A node has removed or replaced it, or this is the "
                   "model of the negative prompt only: place SafeRedir Guard on the main model, as the last node "
                   "before the sampler.")
        if self.reaction.on_error == "stop":
            raise EvaluationError(message)
        log.warning("%s", message)

    def _record(self, run: SamplingRun, output: torch.Tensor | None) -> None:
        content = run.report()
        if self.trusts_graph:   # a server's guards are around it, and through with their part
            content = beside_server(content, ((each.loaded.name, each.report()) for each in _under_way.get()
                                              if each.door is run.door and not each.trusts_graph))
        self.recorder.runs.append(FinishedRun(content, None if output is None else digest(output)))
        log.info("SafeRedir (%s): %s", self.loaded.name, content["verdict"])
        for listener in self.listeners:
            listener.finished(run.start, content, completed=output is not None)


@contextmanager
def _door_of(guider) -> Iterator[Door]:
    """The door of a guider's run, which all guards of the run share; the first to come takes it down again."""
    door = guider.model_options.get(KEY)
    if isinstance(door, Door):
        yield door
        return
    door = guider.model_options[KEY] = Door()
    try:
        door.watch(guider.model_patcher.model)
        yield door
    finally:
        door.leave()

"""Between the method and ComfyUI's sampling: the only module that knows the host's wrappers and conds.

    OUTER_SAMPLE     one `SamplingRun` per sampling run, made here and dropped here; checks conds before models load
    sampler callback tells the run which step it is in
    PREDICT_NOISE    one evaluation per model call, before it (mode "upstream": after it)
    CALC_COND_BATCH  hands the model copies of the conds with the redirected context

The wrappers on MODEL hold settings only.  Everything that changes during a run lives in its SamplingRun, which is
reached through wrappers added to the guider's own copy of the model options, so cached nodes, cloned models and a
second sampler share nothing.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping
from dataclasses import dataclass

import comfy.utils
import torch
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key

from ..saferedir_core import ContextError, PolicyConfig, RedirectionRun, Redirector, SafeRedirError, Trajectory
from ..saferedir_core.plan import from_chunks, to_chunks
from ..saferedir_core.report import report
from ..saferedir_core.stack import StackedRun
from .listeners import RunListener, RunStart
from .types import FinishedRun, LoadedRedirector, Marker, Recorder, digest

KEY = "saferedir"
FIRST_TIMESTEP = 999.0  # of the 1000-step training schedule
PROMPT_NOISE_SEED = 20260112  # of the pure-noise latent that a prompt is judged on before sampling
PROMPT_NOISE_SIZE = 64  # its height and width; the network averages over both

log = logging.getLogger("saferedir")


def run_of(redirectors: Redirector | Mapping[str, Redirector], config: PolicyConfig,
           original: torch.Tensor) -> RedirectionRun | StackedRun:
    """The run of one redirector, or of several at once."""
    if not isinstance(redirectors, Mapping):
        return RedirectionRun(redirectors, config, original)
    if len(redirectors) == 1:
        return RedirectionRun(*redirectors.values(), config, original)
    return StackedRun(redirectors, config, original)


def redirect_conditioning(conditioning: list, redirectors: Redirector | Mapping[str, Redirector],
                          config: PolicyConfig) -> list:
    """Judges each context at the first timestep on a pure-noise latent, and bakes the redirected one in.

    conditioning: the host's list of [context (B, T, D), dict].  redirectors: one, or several by name.
    Returns a new list; each dict carries a `Marker`.
    ContextError for an empty conditioning or one that does not fit the redirector.
    """
    if not conditioning:
        raise ContextError("The conditioning is empty; expected at least one prompt. Connect CLIP Text Encode.")
    out = []
    redirector = next(iter(redirectors.values())) if isinstance(redirectors, Mapping) else redirectors
    for context, options in conditioning:
        require_fitting_context(context, redirector)
        generator = torch.Generator().manual_seed(PROMPT_NOISE_SEED)
        noise = torch.randn(1, redirector.config.latent_dim, PROMPT_NOISE_SIZE, PROMPT_NOISE_SIZE, generator=generator)
        run = run_of(redirectors, config, context)
        run.observe(noise.expand(len(context), -1, -1, -1).to(redirector.device, redirector.dtype), FIRST_TIMESTEP)
        redirected = run.redirect(context)
        out.append([redirected, {**options, KEY: Marker(original=context, redirected=redirected)}])
    return out


def guard_model(model, loaded: LoadedRedirector, config: PolicyConfig, recorder: Recorder,
                listeners: tuple[RunListener, ...] = ()):
    """A clone of a MODEL whose sampling runs are all guarded; finished runs are put into `recorder`.

    listeners hear of each run while it goes on.  ContextError when the model's context is not as wide as the
    redirector's.
    """
    _require_fitting_model(model, loaded)
    guarded = model.clone()
    guard = Guard(loaded, config, recorder, listeners)
    guarded.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, guard.outer_sample)
    guarded.set_additional_models(KEY, [*guarded.get_additional_models_with_key(KEY), *loaded.patchers])
    return guarded


@dataclass(frozen=True)
class Guard:
    """Settings of one Guard node, attached to a MODEL."""

    loaded: LoadedRedirector
    config: PolicyConfig
    recorder: Recorder
    listeners: tuple[RunListener, ...] = ()

    def outer_sample(self, executor, noise, latent_image, sampler, sigmas, denoise_mask=None, callback=None,
                     disable_pbar=False, seed=None, **kwargs):
        guider = executor.class_obj
        start = RunStart(uuid.uuid4().hex, self.loaded, self.config, len(sigmas) - 1)
        run = SamplingRun(start, guider, self.listeners)
        run.check_conds()
        # A key of its own: wrappers of other guards on the same model stay, and the host's lists are not shared.
        key = f"{KEY}.{start.run_id}"
        add_wrapper_with_key(WrappersMP.PREDICT_NOISE, key, run.predict_noise, guider.model_options, True)
        add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, key, run.calc_cond_batch, guider.model_options, True)
        for listener in self.listeners:
            listener.started(start)
        output = None
        try:
            output = executor(noise, latent_image, sampler, sigmas, denoise_mask, run.counting(callback), disable_pbar,
                              seed, **kwargs)
            return output
        finally:
            self._record(run, output)

    def _record(self, run: SamplingRun, output: torch.Tensor | None) -> None:
        content = run.report()
        self.recorder.runs.append(FinishedRun(content, None if output is None else digest(output)))
        log.info("SafeRedir (%s): %s", self.loaded.name, content["verdict"])
        for listener in self.listeners:
            listener.finished(run.start, content, completed=output is not None)


class SamplingRun:
    """State of one guarded sampling run."""

    def __init__(self, start: RunStart, guider, listeners: tuple[RunListener, ...] = ()) -> None:
        self.start, self.guider, self.listeners = start, guider, listeners
        self.loaded: LoadedRedirector = start.loaded
        self.config: PolicyConfig = start.config
        self.step = 0
        # By the id of the context tensor as found; the tensor is kept with it, so that its id stays its own.
        self._runs: dict[int, RedirectionRun | StackedRun] = {}
        self._originals: dict[int, tuple[torch.Tensor, bool, torch.Tensor]] = {}
        self._markers: list[Marker] = []

    def check_conds(self) -> None:
        """Looks at every protected cond before any model is loaded; ContextError when one cannot be judged."""
        for side, conds in self.guider.conds.items():
            self._markers += [cond[KEY] for cond in conds if isinstance(cond.get(KEY), Marker)]
            if not _is_protected(side):
                continue
            if not conds:
                raise ContextError(f"The {side} conditioning is empty; expected at least one prompt. Connect CLIP Text "
                                   "Encode to the sampler.")
            for cond in conds:
                require_fitting_context(cond.get("cross_attn"), self.loaded.redirector)

    def counting(self, callback):
        """The sampler's callback, which also tells this run how many steps the sampler has reported.

        Samplers that call the model several times a step report it after the first of these calls, so the others are
        recorded under the step they lead to.
        """
        def count(step, denoised, x, total_steps):
            self.step = step + 1
            if callback is not None:
                callback(step, denoised, x, total_steps)
        return count

    def predict_noise(self, executor, x, timestep, model_options={}, seed=None):
        if self.config.mode == "guard":
            self._observe(x, timestep)
            return executor(x, timestep, model_options, seed)
        # The published code evaluates in the scheduler's step, after the UNet has been called.
        self._prepare(x.shape[0])
        prediction = executor(x, timestep, model_options, seed)
        self._observe(x, timestep)
        return prediction

    def calc_cond_batch(self, executor, model, conds, x_in, timestep, model_options):
        with _failing_closed("redirecting the prompt"):
            guarded = [self._redirect_side(side_conds, x_in, timestep) for side_conds in conds]
        return executor(model, guarded, x_in, timestep, model_options)

    def report(self) -> dict:
        """The run's report; with several protected conds that of the first redirected one, the others beside it."""
        reports = [_report(run) for run in self._runs.values()]
        if not reports:  # the run failed before the first model call
            reports = [report(Trajectory(), self.config, self.loaded.redirector)]
        reports.sort(key=lambda content: content["status"] != "redirected")
        return {**reports[0], "other_conditionings": reports[1:]}

    def _prepare(self, batch: int) -> list[RedirectionRun | StackedRun]:
        """The runs of all protected conds, made at the first model call, when the host has laid the conds out."""
        return [self._run_of(_context_of(cond), batch) for side, conds in self.guider.conds.items()
                if _is_protected(side) for cond in conds]

    def _observe(self, x: torch.Tensor, sigma: torch.Tensor) -> None:
        """One evaluation of every protected cond at this model call.  x: sampler space, (B, C, h, w)."""
        with _failing_closed("judging the latent"):
            for run in dict.fromkeys(self._prepare(x.shape[0])):
                self._observe_run(run, x, sigma)

    def _observe_run(self, run: RedirectionRun | StackedRun, x: torch.Tensor, sigma: torch.Tensor) -> None:
        sampling = self.guider.inner_model.model_sampling
        redirector = self.loaded.redirector
        latent = sampling.calculate_input(sigma, x).to(redirector.device, redirector.dtype)
        decision = run.observe(latent, sampling.timestep(sigma), step=self.step, sigma=float(sigma.flatten()[0]))
        number = [*self._runs.values()].index(run)
        for listener in self.listeners:
            listener.decided(self.start, number, decision)

    def _run_of(self, context: torch.Tensor, batch: int) -> RedirectionRun | StackedRun:
        if id(context) not in self._runs:
            require_fitting_context(context, self.loaded.redirector)
            original, _ = self._original_of(context, batch)
            self._runs[id(context)] = run_of(self.loaded.redirectors, self.config, original)
        return self._runs[id(context)]

    def _original_of(self, context: torch.Tensor, batch: int) -> tuple[torch.Tensor, bool]:
        """The original context of every item, (B, n, d), and whether it differs from the one found."""
        if id(context) not in self._originals:
            restored = restore_original(context, self._markers, self.loaded.redirector.config.tokens)
            self._originals[id(context)] = (
                context, restored is not context, comfy.utils.repeat_to_batch_size(restored, batch))
        _, restored, original = self._originals[id(context)]
        return original, restored

    def _redirect_side(self, conds: list[dict] | None, x: torch.Tensor, sigma: torch.Tensor) -> list[dict] | None:
        """The conds of one side as the model may see them: the same list when nothing changes, else copies."""
        if conds is None:
            return None
        protected = self._protects(conds)
        if not protected and self.config.mode == "guard":
            return conds
        redirected = [self._redirect_cond(cond, protected, x, sigma) for cond in conds]
        return redirected if any(new is not old for new, old in zip(redirected, conds)) else conds

    def _protects(self, conds: list[dict]) -> bool:
        """Whether these conds are of a protected side.

        The host hands over the guider's own lists; a node that hands over copies is recognised by the conds' uuids.
        What is not known at all is protected.
        """
        for side, known in self.guider.conds.items():
            if conds is known:
                return _is_protected(side)
        sides = {side for side, known in self.guider.conds.items() for cond in known
                 if cond.get("uuid") in {each.get("uuid") for each in conds}}
        return not sides or any(map(_is_protected, sides))

    def _redirect_cond(self, cond: dict, protected: bool, x: torch.Tensor, sigma: torch.Tensor) -> dict:
        context, batch = _context_of(cond), x.shape[0]
        if protected:
            run = self._run_of(context, batch)
            if not len(run.trajectory) and self.config.mode == "guard":
                self._observe_run(run, x, sigma)  # a cond that some node made in mid-run
        else:
            # The published hooks shift the negative prompt by the positive's delta as well.
            run = next(iter(self._runs.values()))
        if run.batch != batch:
            raise ContextError(f"The model is called with {batch} latents and this run began with {run.batch}; "
                               "expected equal numbers. A node that splits the batch (context windows) cannot be "
                               "guarded yet.")
        original, restored = self._original_of(context, batch)
        length = run.chunks * self.loaded.redirector.config.tokens
        if not protected and length % original.shape[1] == 0:
            # A negative prompt of fewer chunks than the positive one, repeated as the host does for a shared batch.
            original = original.repeat(1, length // original.shape[1], 1) if length > original.shape[1] else original
        redirected = run.redirect(original)
        if redirected is original and not restored:
            return cond
        model_conds = {**cond["model_conds"], "c_crossattn": cond["model_conds"]["c_crossattn"]._copy_with(redirected)}
        return {**cond, "model_conds": model_conds}


def _report(run: RedirectionRun | StackedRun) -> dict:
    """As `report` has it; of several concepts, with a part for each."""
    return run.report() if isinstance(run, StackedRun) else report(run.trajectory, run.config, run.redirector)


def require_fitting_context(context, redirector: Redirector) -> None:
    """ContextError unless this is a finite context (B, k*tokens, D) of the redirector's width."""
    width, tokens = redirector.config.prompt_dim, redirector.config.tokens
    if not torch.is_tensor(context) or context.ndim != 3 or context.shape[1] == 0:
        shape = tuple(context.shape) if torch.is_tensor(context) else context
        raise ContextError(f"A conditioning holds {shape} where a context (batch, tokens, {width}) was expected. "
                           "Connect CLIP Text Encode of the model that the redirector was trained on.")
    if context.shape[2] != width:
        raise ContextError(f"The conditioning is {context.shape[2]} wide and the redirector {width}; expected equal "
                           "widths. Load a redirector that was trained for this kind of model.")
    if context.shape[1] % tokens:
        raise ContextError(f"The conditioning has {context.shape[1]} tokens; expected a multiple of {tokens}. Remove "
                           "nodes that cut or pad the prompt.")
    if not context.isfinite().all():
        raise ContextError("The conditioning holds NaN or infinity; expected finite numbers. Run the text encoder in "
                           "float32.")


def restore_original(context: torch.Tensor, markers: list[Marker], tokens: int) -> torch.Tensor:
    """Takes back what SafeRedir Conditioning did, chunk by chunk.

    A chunk that equals a marker's redirected chunk becomes the original one; whatever another node has changed since
    (Average, say) no longer equals it and stays as found.  So no context is ever corrected twice, and prompts that
    were joined after the Conditioning node (Concat) are still taken over.  Returns the same tensor if nothing changes.
    """
    result = context
    for marker in markers:
        if marker.redirected is marker.original or marker.redirected.shape[2:] != context.shape[2:]:
            continue
        found = to_chunks(result, tokens)  # (B*k, tokens, D)
        baked = to_chunks(marker.redirected, tokens).to(found)
        original = to_chunks(marker.original, tokens).to(found)
        for before, after in zip(original, baked):
            same = (found == after).flatten(1).all(1)
            if same.any():
                found = torch.where(same[:, None, None], before, found)
                result = from_chunks(found, context.shape[0])
    return result


def _is_protected(side: str) -> bool:
    """Every side of a guider but the negative ones ("negative", "empty_negative_prompt")."""
    return "negative" not in side


def _context_of(cond: dict) -> torch.Tensor:
    entry = cond.get("model_conds", {}).get("c_crossattn")
    if entry is None:
        raise ContextError("A conditioning reaches the model without a cross-attention context; expected one. This "
                           "kind of model is not supported: remove SafeRedir Guard from it.")
    return entry.cond


def _require_fitting_model(model, loaded: LoadedRedirector) -> None:
    width = model.model.model_config.unet_config.get("context_dim")
    expected = loaded.redirector.config.prompt_dim
    if width is not None and width != expected:
        raise ContextError(f"The model takes prompts that are {width} wide and the redirector {loaded.name!r} was made "
                           f"for {expected}; expected equal widths. Load a redirector for this kind of model.")


class _failing_closed:
    """Turns any failure of ours into an error that stops sampling and says so: no unguarded image comes out."""

    def __init__(self, doing: str) -> None:
        self._doing = doing

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind, error, trace) -> None:
        if error is None:
            return
        advice = "" if isinstance(error, SafeRedirError) else (
            " Expected no failure here: please report it, and remove SafeRedir Guard to sample unguarded.")
        raise SafeRedirError(f"SafeRedir stopped this run while {self._doing}, so that no unguarded image comes out: "
                             f"{error}{advice}") from error

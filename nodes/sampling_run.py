"""One guarded sampling run: judges before each model call, and hands the model redirected copies of the conds.

    sampler callback tells the run which step it is in
    PREDICT_NOISE    one evaluation per model call, before it (mode "upstream": after it)
    CALC_COND_BATCH  hands the model copies of the conds with the redirected context, through the door

A model call that comes by another way than PREDICT_NOISE, with another batch (context windows) or with conds made in
mid-run, is judged in CALC_COND_BATCH.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import comfy.utils
import torch

from ..saferedir_core import (
    ContextError,
    EvaluationError,
    PolicyConfig,
    RedirectionRun,
    Redirector,
    SafeRedirError,
    Trajectory,
)
from ..saferedir_core.report import report
from ..saferedir_core.speed import SpeedConfig
from ..saferedir_core.stack import StackedRun
from .conds import (
    CONTEXTS,
    CONTROLNET_MARKER,
    ISSUED,
    MARKER,
    PROMPT,
    Issued,
    context_of,
    draws,
    prompt_of,
    require_fitting_context,
    require_judgeable,
    restore_original,
    side_draws,
    with_contexts,
)
from .door import Door
from .listeners import RunListener, RunStart
from .reaction import Reaction, UnsafeStopped
from .types import LoadedRedirector, Marker

SPEED = SpeedConfig(deferred=None)  # no waiting for an accelerator
OTHERS_REPORTED = 16  # conditionings beside the first that a report shows

log = logging.getLogger("saferedir")


def run_of(redirectors, config: PolicyConfig, original: torch.Tensor,
           speed: SpeedConfig = SpeedConfig()) -> RedirectionRun | StackedRun:
    """The run of one redirector, or of several by name."""
    if isinstance(redirectors, Redirector):
        return RedirectionRun(redirectors, config, original, speed)
    if len(redirectors) == 1:
        return RedirectionRun(*redirectors.values(), config, original, speed)
    return StackedRun(redirectors, config, original, speed)


@dataclass
class Prompt:
    """One context that the run met.

    found     the tensor, kept so that its id stays its own
    original  the original context of every item, (B, n, d)
    restored  whether that differs from the one found
    run       None until it is judged
    """

    found: torch.Tensor
    original: torch.Tensor
    restored: bool
    run: RedirectionRun | StackedRun | None = None


class SamplingRun:
    """State of one guarded sampling run."""

    def __init__(self, start: RunStart, guider, door: Door, reaction: Reaction = Reaction(),
                 listeners: tuple[RunListener, ...] = ()) -> None:
        self.start, self.guider, self.door, self.reaction, self.listeners = start, guider, door, reaction, listeners
        self.loaded: LoadedRedirector = start.loaded
        self.config: PolicyConfig = start.config
        # What is done about an unsafe run at once has to be known at once.
        self.speed = SPEED if reaction.on_unsafe in ("redirect", "observe") else replace(SPEED, deferred=False)
        self.step = 0
        self.errors: list[str] = []
        self._prompts: dict[tuple[int, int], Prompt] = {}  # by the id of the context as found, and the batch
        self._markers: list[Marker] = []
        self._judged: list[RedirectionRun | StackedRun] = []  # in the model call that is under way
        self._calling: int | None = None  # batch of the model call that PREDICT_NOISE is in

    # ------------------------------------------------------------------------------ what the host calls

    def check_conds(self) -> None:
        """Looks at every guarded cond before any model is loaded; an error when one cannot be judged."""
        with self._failing_closed("reading the prompts"):
            for side, conds in self.guider.conds.items():
                self._markers += [cond[name] for cond in conds for name in (MARKER, CONTROLNET_MARKER)
                                  if isinstance(cond.get(name), Marker)]
                if not draws(self.guider, side):
                    continue
                if not conds:
                    raise ContextError(f"The {side} conditioning is empty; expected at least one prompt. Connect CLIP "
                                       "Text Encode to the sampler.")
                for cond in conds:
                    require_judgeable(cond, self.loaded.redirector)

    def counting(self, callback):
        """The sampler's callback, which also tells this run how many steps the sampler has reported.

        Samplers that call the model several times a step report it after the first of these calls, so the others are
        recorded under the step they lead to.
        """
        def count(step, denoised, x, total_steps):
            self.step = step + 1
            self.door.settle()
            if callback is not None:
                callback(step, self.blanked(denoised), self.blanked(x), total_steps)
        return count

    def predict_noise(self, executor, x, timestep, model_options={}, seed=None):
        self._calling, self._judged = x.shape[0], []
        try:
            if self.config.mode == "guard":
                self._observe(x, timestep)
                return executor(x, timestep, model_options, seed)
            # The published code evaluates in the scheduler's step, after the UNet has been called.
            with self._failing_closed("reading the prompts"):
                self._prepare(x.shape[0])
            prediction = executor(x, timestep, model_options, seed)
            self._observe(x, timestep)
            return prediction
        finally:
            self._calling = None

    def calc_cond_batch(self, executor, model, conds, x_in, timestep, model_options):
        for each in (model, *(clone.model for clone in model_options.get("multigpu_clones", {}).values())):
            self.door.watch(each)
        self.door.receive(conds)
        guarded = conds
        with self._failing_closed("redirecting the prompt"):
            if self._calling != x_in.shape[0]:
                self._begin_call_of_its_own(x_in.shape[0])
            guarded = [self._redirect_side(side_conds, x_in, timestep) for side_conds in conds]
        with self.door.opened(guarded):
            return executor(model, guarded, x_in, timestep, model_options)

    def _begin_call_of_its_own(self, batch: int) -> None:
        """A model call of a part of the batch (context windows), or one that no PREDICT_NOISE leads to."""
        if self.config.mode == "upstream":
            raise ContextError(f"The model is called with {batch} latents outside of the sampler's own call; expected "
                               "the whole batch, because mode 'upstream' decides after that call. Use mode 'guard'.")
        self._judged = []

    def settle(self) -> None:
        """Waits for decisions that stayed on the device, and raises what went wrong there, before a latent goes out."""
        with self._failing_closed("judging the latent"):
            for run in self._runs:
                run.settle()

    def tell(self) -> None:
        """Tells the listeners what has been decided since."""
        for number, run in enumerate(self._runs):
            for decision in run.arrived():
                for listener in self.listeners:
                    listener.decided(self.start, number, decision)

    def require_guarded(self) -> None:
        """An error unless all that the sampler did came by here and was judged."""
        self.door.settle()
        if not self.start.steps:
            return
        if not self.door.calls:
            self.refuse("the sampler never called the model that this guard watches")
        elif not any(len(run.trajectory) for run in self._runs):
            self.refuse("the model was called and no prompt was ever judged")

    def refuse(self, what: str) -> None:
        """Stops a run that is not guarded, or notes that it was not."""
        with self._failing_closed("watching the sampler"):
            raise EvaluationError(f"{what}. A node replaces or bypasses the guard's part in sampling; place SafeRedir "
                                  "Guard after it, or remove it.")

    def blanked(self, latent: torch.Tensor) -> torch.Tensor:
        """The latent (B, ...) with zeros for every image that was judged unsafe, if unsafe images are to be blank."""
        unsafe = self._unsafe_items(latent.shape[0]) if self.reaction.on_unsafe == "blank" else []
        if not unsafe:
            return latent
        latent = latent.clone()
        latent[unsafe] = 0.0
        return latent

    def report(self) -> dict:
        """The run's report; with several guarded conds that of the first redirected one, the others beside it."""
        reports = [_report(run) for run in self._runs]
        if not reports:  # the run failed before the first model call
            reports = [report(Trajectory(), self.config, self.loaded.redirector)]
        reports.sort(key=lambda content: content["status"] != "redirected")
        first, *others = reports
        content = {**first, "other_conditionings": others[:OTHERS_REPORTED]}
        if len(others) > OTHERS_REPORTED:
            content["conditionings_left_out"] = len(others) - OTHERS_REPORTED
        return self.reaction.told(content, self.errors)

    # ------------------------------------------------------------------------------ judging

    def _prepare(self, batch: int) -> list[RedirectionRun | StackedRun]:
        """The runs of all guarded conds, made at the first model call, when the host has laid the conds out."""
        return [self._run_of(context, batch) for side, conds in self.guider.conds.items() if draws(self.guider, side)
                for cond in conds for context in _contexts(cond)]

    def _observe(self, x: torch.Tensor, sigma: torch.Tensor) -> None:
        """One evaluation of every guarded cond at this model call.  x: sampler space, (B, C, h, w)."""
        with self._failing_closed("judging the latent"):
            for run in dict.fromkeys(self._prepare(x.shape[0])):
                self._observe_run(run, x, sigma)

    def _observe_run(self, run: RedirectionRun | StackedRun, x: torch.Tensor, sigma: torch.Tensor) -> None:
        sampling = self.guider.inner_model.model_sampling
        redirector = self.loaded.redirector
        latent = sampling.calculate_input(sigma, x).to(redirector.device, redirector.dtype)
        run.observe(latent, sampling.timestep(sigma), step=self.step, sigma=sigma)
        self._judged.append(run)
        self.tell()
        if self.reaction.on_unsafe == "stop" and any(run.trajectory[-1].unsafe):
            raise UnsafeStopped(f"SafeRedir ({self.loaded.name}) stopped this run at step {self.step}: it was judged "
                                "unsafe, and on_unsafe is 'stop'. Change the prompt.")

    def _run_of(self, context: torch.Tensor, batch: int) -> RedirectionRun | StackedRun:
        prompt = self._prompt(context, batch)
        if prompt.run is None:
            require_fitting_context(context, self.loaded.redirector)
            prompt.run = run_of(self.loaded.redirectors, self.config, prompt.original, self.speed)
        return prompt.run

    def _prompt(self, context: torch.Tensor, batch: int) -> Prompt:
        key = id(context), batch
        if key not in self._prompts:
            known = self._equal_prompt(context, batch)
            if known is not None:
                return known
            restored = restore_original(context, self._markers, self.loaded.redirector.config.tokens)
            self._prompts[key] = Prompt(context, comfy.utils.repeat_to_batch_size(restored, batch),
                                        restored is not context)
        return self._prompts[key]

    def _equal_prompt(self, context: torch.Tensor, batch: int) -> Prompt | None:
        """The known prompt of the same content, when some node makes its context anew for every model call."""
        for (_, known_batch), prompt in self._prompts.items():
            if known_batch == batch and prompt.found.shape == context.shape and torch.equal(
                    prompt.found.to(context), context):
                return prompt
        return None

    @property
    def _runs(self) -> list[RedirectionRun | StackedRun]:
        return [prompt.run for prompt in self._prompts.values() if prompt.run is not None]

    def _unsafe_items(self, batch: int) -> list[int]:
        """Images that any prompt was judged unsafe for; all of them, if in a model call with another batch."""
        unsafe: set[int] = set()
        for run in self._runs:
            for decision in run.trajectory:
                if any(decision.redirected):
                    unsafe.update(range(batch) if run.batch != batch else
                                  (item for item, flag in enumerate(decision.redirected) if flag))
        return sorted(unsafe)

    # ------------------------------------------------------------------------------ redirecting

    def _redirect_side(self, conds: list[dict] | None, x: torch.Tensor, sigma: torch.Tensor) -> list[dict] | None:
        """The conds of one side as the model may see them: the same list when nothing changes, else copies."""
        if conds is None:
            return None
        guarded = side_draws(self.guider, conds)
        if not guarded and self.config.mode == "guard":
            return conds
        redirected = [self._redirect_cond(cond, guarded, x, sigma) for cond in conds]
        return redirected if any(new is not old for new, old in zip(redirected, conds)) else conds

    def _redirect_cond(self, cond: dict, guarded: bool, x: torch.Tensor, sigma: torch.Tensor) -> dict:
        prompt_of(cond)
        issued = {name: self._redirect_context(cond, name, guarded, x, sigma) for name in CONTEXTS
                  if context_of(cond, name) is not None}
        changed = {name: each for name, each in issued.items() if each is not None}
        return with_contexts(cond, changed) if changed else cond

    def _redirect_context(self, cond: dict, name: str, guarded: bool, x: torch.Tensor,
                          sigma: torch.Tensor) -> Issued | None:
        """What shall stand in the place of one context; None when it stays."""
        found, given, run_ids = self._found(cond, name)
        batch = x.shape[0]
        if guarded:
            run = self._run_of(found, batch)
            if not any(run is each for each in self._judged) and self.config.mode == "guard":
                self._observe_run(run, x, sigma)
        elif name == PROMPT and self._runs:
            # The published hooks shift the negative prompt by the positive's delta as well.
            run = self._runs[0]
        else:
            return None
        if self.reaction.on_unsafe == "observe":
            return None
        prompt = self._prompt(found, batch)
        original, restored = prompt.original, prompt.restored
        if run_ids:  # another guard's shift stays, and this one's is added to it
            original, restored = comfy.utils.repeat_to_batch_size(given, batch), False
        length = run.chunks * self.loaded.redirector.config.tokens
        if not guarded and length % original.shape[1] == 0:
            # A negative prompt of fewer chunks than the positive one, repeated as the host does for a shared batch.
            original = original.repeat(1, length // original.shape[1], 1) if length > original.shape[1] else original
        redirected = run.redirect(original)
        if redirected is original and not restored:
            return None
        return Issued(found, redirected, (*run_ids, self.start.run_id))

    def _found(self, cond: dict, name: str) -> tuple[torch.Tensor, torch.Tensor, tuple[str, ...]]:
        """The context as the host laid it out, as it stands in the cond, and the runs that changed it in between."""
        given = context_of(cond, name)
        issued = cond.get(ISSUED, {}).get(name)
        if issued is None or issued.context is not given:
            return given, given, ()
        if self.start.run_id in issued.run_ids:  # it went through this guard before: start from the beginning
            return issued.found, issued.found, ()
        return issued.found, given, issued.run_ids

    @contextmanager
    def _failing_closed(self, doing: str) -> Iterator[None]:
        """Turns any failure of ours into an error that stops sampling and says so: no unguarded image comes out.

        With on_error "warn" it is logged and kept for the report instead.
        """
        try:
            yield
        except UnsafeStopped:
            raise
        except Exception as error:
            advice = "" if isinstance(error, SafeRedirError) else (
                " Expected no failure here: please report it, and remove SafeRedir Guard to sample unguarded.")
            if self.reaction.on_error == "stop":
                raise SafeRedirError(f"SafeRedir stopped this run while {doing}, so that no unguarded image comes out: "
                                     f"{error}{advice}") from error
            if str(error) not in self.errors:
                self.errors.append(str(error))
                log.warning("SafeRedir (%s) does not guard this run, while %s: %s%s", self.loaded.name, doing, error,
                            advice)


def _contexts(cond: dict) -> list[torch.Tensor]:
    """All contexts of a laid-out cond, its prompt first.  ContextError when it has no prompt."""
    prompt_of(cond)
    return [context for context in (context_of(cond, name) for name in CONTEXTS) if context is not None]


def _report(run: RedirectionRun | StackedRun) -> dict:
    """As `report` has it; of several concepts, with a part for each."""
    return run.report() if isinstance(run, StackedRun) else report(run.trajectory, run.config, run.redirector)

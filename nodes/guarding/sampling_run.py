"""One guarded sampling run: judges before each model call, and hands the model redirected copies of the conds.

    sampler callback tells the run which step it is in
    SAMPLER_SAMPLE   what is finished gets a verdict (`picture_loop`), and may be sampled again
    PREDICT_NOISE    one evaluation per model call, before it (mode "upstream": after it), and a look at its prediction
    CALC_COND_BATCH  hands the model copies of the conds with the redirected context, through the door

No step waits for the device.  What is decided there, and what the door compared, goes to the host in one transfer a
step, and is known at the latest in `settle`, before a latent leaves the sampler; previews are hidden on the device.
Only on_unsafe "stop" has to know at once, and waits.

A model call that comes by another way than PREDICT_NOISE, with another batch (context windows) or with conds made in
mid-run, is judged in CALC_COND_BATCH.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import comfy.utils
import torch
from comfy.patcher_extension import WrappersMP

from saferedir_core import ContextError, Decision, EvaluationError, PolicyConfig, RedirectionRun, SafeRedirError
from saferedir_core.architecture import architecture
from saferedir_core.picture.report import with_picture
from saferedir_core.picture.run import Look
from saferedir_core.picture.verdict import Attempt

from ..types import LoadedRedirector, Marker, RunListener, RunStart
from .architectures import (
    require_fitting_model,
    require_own_weights,
    text_inputs,
    timestep_of,
    timestep_of_any,
    with_pooled,
)
from .conds import (
    CONTROLNET_MARKER,
    ISSUED,
    MARKER,
    Issued,
    context_of,
    contexts_of,
    draws,
    require_judgeable,
    side_draws,
    with_contexts,
)
from .door import Door
from .picture_loop import PictureLoop
from .prompts import Prompt, Prompts
from .reaction import PASSED_ON, Reaction, UnsafeStopped, is_out_of_memory
from .text_inputs import TextInputs
from .uncopied import Uncopied

# From which probability on a prompt that is pushed away from counts as unsafe.  Trained redirectors never saw an empty
# one or a list of faults: they give them 0.50 to 0.52 in the demo world, and "stripes" 0.96.
SURE = 0.75
BYPASSED = "A node replaces or bypasses the guard's part in sampling; place SafeRedir Guard after it, or remove it."

log = logging.getLogger("saferedir")


class SamplingRun(Uncopied):
    """State of one guarded sampling run.

    trusts_graph  False: the graph may be made to get past.  Then prompts that are pushed away from are judged as well,
                  what another guard made of a prompt is judged like a prompt, models have their own weights, and
                  previews wait for the verdict
    """

    def __init__(self, start: RunStart, guider, door: Door, reaction: Reaction = Reaction(),
                 listeners: tuple[RunListener, ...] = (), trusts_graph: bool = True) -> None:
        self.start, self.guider, self.door, self.reaction, self.listeners = start, guider, door, reaction, listeners
        self.loaded: LoadedRedirector = start.loaded
        self.config: PolicyConfig = start.config
        # A key of its own: wrappers of other guards on the same model stay, and the host's lists are not shared.
        self.key = f"saferedir.{start.run_id}"
        self.trusts_graph = trusts_graph
        if not trusts_graph:
            door.of_server.add(start.run_id)
        self.step = 0
        self.errors: list[str] = []
        self.stopped: str | None = None     # the error that ended it, because it could not be guarded
        at_once = reaction.on_unsafe == "stop"
        self.prompts = Prompts(start.loaded.redirectors, start.config, None if at_once else door.readback,
                               self._decided)
        # Of sides that do not draw.  What is unsafe there becomes zeros: away from a neighbour is towards the concept.
        sure = replace(start.config, threshold=max(SURE, start.config.threshold or 0.0))
        self.negatives = Prompts(self.prompts.ensemble, sure, self.prompts.readback, self._decided_negative)
        self.negatives.markers = self.prompts.markers
        self._listener_errors: list[Exception] = []
        self._judged: list[RedirectionRun] = []  # in the model call that is under way
        self._calling: torch.Tensor | None = None  # the latents of the model call that PREDICT_NOISE is in
        self.pictures = PictureLoop(self)

    # ------------------------------------------------------------------------------ what the host calls

    def check_conds(self) -> None:
        """Looks at every guarded cond before any model is loaded; an error when one cannot be judged."""
        with self.failing_closed("reading the prompts"):
            self._look_at_model()
            for side, conds in self.guider.conds.items():
                found = (Marker.read(cond.get(name)) for cond in conds for name in (MARKER, CONTROLNET_MARKER))
                self.prompts.markers += [marker for marker in found if marker is not None]
                if not draws(self.guider, side) and self.trusts_graph:
                    continue
                if not conds and draws(self.guider, side):
                    raise ContextError(f"The {side} conditioning is empty; expected at least one prompt. Connect CLIP "
                                       "Text Encode to the sampler.")
                for cond in conds:
                    if cond.get("cross_attn") is None and not draws(self.guider, side):
                        continue
                    require_judgeable(cond, self.loaded.redirector, self.inputs)

    def _look_at_model(self) -> None:
        """ContextError when it cannot be guarded: a node may have put another one in."""
        require_fitting_model(self.guider.model_patcher, self.loaded)
        if not self.trusts_graph:
            require_own_weights(self.guider.model_patcher)
        self.prompts.inputs = text_inputs(self.guider.model_patcher, self.loaded.redirector)
        self.negatives.inputs = self.prompts.inputs
        self.door.expect(self.inputs)
        if self.inputs.apart:
            log.warning("SafeRedir (%s) judges the prompt of %s by its first text encoder; what the other made of it "
                        "becomes zeros where the prompt is redirected. A text that %s gives to the other encoder alone "
                        "is not judged.", self.loaded.name, self.inputs.models, self.inputs.apart)

    @property
    def inputs(self) -> TextInputs:
        """Where the model's text is."""
        return self.prompts.inputs

    def counting(self, callback):
        """The sampler's callback, which also tells this run how many steps the sampler has reported.

        Samplers that call the model several times a step report it after the first of these calls, so the others are
        recorded under the step they lead to.
        """
        def count(step, denoised, x, total_steps):
            self.step = step + 1
            self.door.readback.send()
            self._look()
            self.pictures.shown(denoised)
            if callback is not None:
                callback(step, self.blanked(denoised), self.blanked(x), total_steps)
        return count

    def sampler_sample(self, executor, guider, sigmas, extra_args, callback, noise, latent_image=None,
                       denoise_mask=None, disable_pbar=False):
        if not self.trusts_graph:
            self._judge_last(extra_args["model_options"])
        return self.pictures.sample(executor, guider, sigmas, extra_args, callback, noise, latent_image, denoise_mask,
                                    disable_pbar)

    def _judge_last(self, model_options: dict) -> None:
        """Conds come here after the guards of the graph, whose wrappers the host has put behind a server's."""
        wrappers = model_options["transformer_options"].get("wrappers", {}).get(WrappersMP.CALC_COND_BATCH, {})
        if self.key in wrappers:    # else a node has taken it away, and the door refuses the run
            wrappers[self.key] = wrappers.pop(self.key)

    def predict_noise(self, executor, x, timestep, model_options={}, seed=None):
        self._calling, self._judged = x, []
        try:
            if self.config.mode == "guard":
                self._observe(x, timestep)
                prediction = executor(x, timestep, model_options, seed)
            else:
                # The published code evaluates in the scheduler's step, after the UNet has been called.
                with self.failing_closed("reading the prompts"):
                    self._prepare(x.shape[0])
                prediction = executor(x, timestep, model_options, seed)
                self._observe(x, timestep)
            with self.failing_closed("looking at the picture"):
                prediction = self.pictures.watch(prediction, timestep, self._judged)
            return prediction
        finally:
            self._calling = None

    def calc_cond_batch(self, executor, model, conds, x_in, timestep, model_options):
        for each in (model, *(clone.model for clone in model_options.get("multigpu_clones", {}).values())):
            self.door.watch(each)
        self.door.receive(conds)
        guarded = conds
        with self.failing_closed("redirecting the prompt"):
            if not self.trusts_graph:       # of another model (Dual Model CFG Guider)
                require_own_weights(model.current_patcher)
            if not self._is_whole(x_in, model_options):
                # A model call of a part of the batch (context windows), or one that no PREDICT_NOISE leads to.
                if self.config.mode == "upstream":
                    raise ContextError(f"The model is called with {x_in.shape[0]} latents outside of the sampler's own "
                                       "call; expected the whole batch, because mode 'upstream' decides after that "
                                       "call. Use mode 'guard'.")
                self._judged = []
            guarded = [self._redirect_side(side_conds, x_in, timestep) for side_conds in conds]
        with self.door.opened(guarded, x_in.shape[0]):
            return executor(model, guarded, x_in, timestep, model_options)

    def _is_whole(self, x: torch.Tensor, model_options: dict) -> bool:
        """Whether these latents are those of the sampler's own call, item by item, though perhaps disturbed (SAG)."""
        if self._calling is None or self._calling.shape[0] != x.shape[0]:
            return False
        return x is self._calling or "context_handler" not in model_options

    def settle(self) -> None:
        """Waits for what is still on the device, and raises what went wrong there, before a latent goes out."""
        self.door.readback.settle()
        self._look()

    def require_guarded(self) -> None:
        """An error unless all that the sampler did came by here and was judged."""
        if not self.start.steps or self.errors:
            return
        if not self.door.calls:
            self.refuse("the sampler never called the model that this guard watches")
        elif not any(run.observations for run in self.prompts.runs):
            self.refuse("the model was called and no prompt was ever judged")
        elif self.pictures.sources and not self.pictures.attempts:
            self.refuse("what was sampled was never looked at")

    def _decided(self, number: int, decision: Decision) -> None:
        """A decision on the prompt of this number has become known."""
        self._tell("decided", number, decision)

    def _decided_negative(self, number: int, decision: Decision) -> None:
        if decision.intervenes:
            self._tell("emptied", number, decision)

    def looked(self, look: Look) -> None:
        """What the picture judges saw in one model call has become known."""
        self._tell("looked", look)

    def attempted(self, attempt: Attempt) -> None:
        """The batch has been sampled once, and has its verdict."""
        self._tell("attempted", attempt)

    def _tell(self, what: str, *said) -> None:
        """Keeps errors, because whatever guard of the run has looked for news hears of this guard's as well."""
        try:
            for listener in self.listeners:
                getattr(listener, what)(self.start, *said)
        except Exception as error:
            self._listener_errors.append(error)

    def _look(self) -> None:
        """Raises what has gone wrong, as far as it is known by now; never waits."""
        self.door.readback.take_arrived()
        for what in self.door.violated:
            self.refuse(*what)
        with self.failing_closed("judging the latent"):
            judged = *self.prompts.runs, *self.negatives.runs
            for error in (*self._listener_errors, *(run.failure for run in judged), self.pictures.failure):
                if error is not None:
                    raise error

    def refuse(self, what: str, remedy: str = BYPASSED) -> None:
        """Stops a run that is not guarded, or notes that it was not."""
        with self.failing_closed("watching the sampler"):
            raise EvaluationError(f"{what}. {remedy}")

    def blanked(self, latent: torch.Tensor) -> torch.Tensor:
        """The latent (B, ...) with zeros for every image that was judged unsafe, if unsafe images are to be blank.

        Also for images that turn out not to have been guarded, if that stops the run: on the device, because the host
        may not know of it yet.
        """
        hidden = self.prompts.items_to_hide(latent.shape[0], self.reaction.on_unsafe == "blank")
        unknown = None
        if self.reaction.on_error == "stop" and self.door.passed is not None:
            unknown = ~self.door.passed.expand(latent.shape[0])
        every = [each.to(latent.device) for each in (hidden, unknown, self.pictures.items_to_hide(latent))
                 if each is not None]
        if not every:
            return latent
        return torch.where(torch.stack(every).any(0).view(-1, *[1] * (latent.ndim - 1)), 0.0, latent)

    def report(self) -> dict:
        """The run's report; with several guarded conds that of the first redirected one, the others beside it."""
        content, picture = self.prompts.report(self.pictures.with_looks), self.pictures.report()
        acted = content["status"] == "redirected" or any(any(look.any_unsafe) for look in self.pictures.pictures.looks)
        if picture is not None:
            content = with_picture(content, picture)
        return self.reaction.added_to(content, self.errors, acted, self.stopped)

    # ------------------------------------------------------------------------------ judging

    def _prepare(self, batch: int) -> list[RedirectionRun]:
        """The runs of all guarded conds, made at the first model call, when the host has laid the conds out."""
        return [self.prompts.run_of(cond, name, context_of, batch)
                for side, conds in self.guider.conds.items() if draws(self.guider, side)
                for cond in conds for name in contexts_of(cond, self.inputs)]

    def _observe(self, x: torch.Tensor, sigma: torch.Tensor) -> None:
        """One evaluation of every guarded cond at this model call.  x: sampler space, (B, C, h, w)."""
        with self.failing_closed("judging the latent"):
            for run in dict.fromkeys(self._prepare(x.shape[0])):
                self._observe_run(run, x, sigma)
        self._look()

    def _observe_run(self, run: RedirectionRun, x: torch.Tensor, sigma: torch.Tensor, drawn: bool = True) -> None:
        """drawn: whether the prompt's side draws; what is done about it is for those alone."""
        sampling = self.guider.inner_model.model_sampling
        redirector = self.loaded.redirector
        if self.prompts.of_any:  # which reads the prompt only
            latent, timestep = x, timestep_of_any(sampling, sigma)
        else:
            latent = sampling.calculate_input(sigma, x)
            timestep = timestep_of(architecture(redirector.config.architecture), sampling, sigma)
        if drawn:
            self.pictures.suspect(run)
        run.observe(latent.to(redirector.device, redirector.dtype), timestep, step=self.step, sigma=sigma)
        self._judged.append(run)
        if drawn and self.reaction.on_unsafe == "stop" and any(run.trajectory[-1].unsafe):
            raise UnsafeStopped(f"SafeRedir ({self.loaded.name}) stopped this run at step {self.step}: it was judged "
                                "unsafe, and on_unsafe is 'stop'. Change the prompt.")

    # ------------------------------------------------------------------------------ redirecting

    def as_the_model_sees(self, conds: list[dict], x: torch.Tensor, sigma: torch.Tensor) -> list[dict]:
        """The conds of one side with the contexts that the run has come to."""
        return self._redirect_side(conds, x, sigma) or []

    def _redirect_side(self, conds: list[dict] | None, x: torch.Tensor, sigma: torch.Tensor) -> list[dict] | None:
        """The conds of one side as the model may see them: the same list when nothing changes, else copies."""
        if conds is None:
            return None
        guarded = side_draws(self.guider, conds)
        if not guarded and self.config.mode == "guard" and self.trusts_graph:
            return conds
        redirected = [self._redirect_cond(cond, guarded, x, sigma) for cond in conds]
        return redirected if any(new is not old for new, old in zip(redirected, conds)) else conds

    def _redirect_cond(self, cond: dict, guarded: bool, x: torch.Tensor, sigma: torch.Tensor) -> dict:
        batch, changed = x.shape[0], {}
        prompts = self.prompts if guarded or self.trusts_graph else self.negatives
        if prompts is self.negatives and context_of(cond, self.inputs.prompt) is None:
            return cond
        for name in contexts_of(cond, self.inputs):
            if guarded or not self.trusts_graph:
                run = prompts.run_of(cond, name, self._as_found, batch)
                if not any(run is each for each in self._judged) and self.config.mode == "guard":
                    self._observe_run(run, x, sigma, guarded)
            elif name == self.inputs.prompt and self.prompts.runs and not self.prompts.of_any:
                # The published hooks shift the negative prompt by the positive's delta as well.
                run = self.prompts.runs[0]
            else:
                continue
            if self.reaction.on_unsafe == "observe":
                continue
            prompt, empties = prompts.prompt(cond, name, self._as_found, batch), prompts is self.negatives
            changed[name] = self._issued(cond, name, run, prompt.original, prompt.restored, empties)
            if name == self.inputs.prompt:
                changed |= self._beside(cond, run, prompt, empties) if guarded or empties else {}
        changed = {name: each for name, each in changed.items() if each is not None}
        made = with_contexts(cond, changed) if changed else cond
        if self._is_the_graphs(cond):
            made = self._redirect_cond({name: each for name, each in made.items() if name != ISSUED}, guarded, x, sigma)
        return made

    def _is_the_graphs(self, cond: dict) -> bool:
        """Whether a guard that a graph brought has changed this cond, and the graph is not trusted."""
        issued = cond.get(ISSUED, {}).values()
        return not self.trusts_graph and any({*each.run_ids} - self.door.of_server for each in issued)

    def _beside(self, cond: dict, run: RedirectionRun, prompt: Prompt, empties: bool) -> dict[str, Issued | None]:
        """What shall stand in the place of the prompt's other inputs."""
        issued = {}
        if prompt.pooled is not None:
            issued[self.inputs.pooled] = self._issued(cond, self.inputs.pooled, run, prompt.pooled,
                                                      prompt.pooled_restored, empties)
        for name in self.inputs.emptied:
            text = self._as_found(cond, name)
            if text is not None:
                every = comfy.utils.repeat_to_batch_size(text, run.batch)
                issued[name] = self._issued(cond, name, run, every, False, True)
        return issued

    def _issued(self, cond: dict, name: str, run: RedirectionRun, original: torch.Tensor, restored: bool,
                empties: bool) -> Issued | None:
        """What shall stand in the place of one input; None when it stays.  empties: zeros where it is unsafe."""
        found, given, run_ids = self._found(cond, name)
        pooled = name == self.inputs.pooled
        if run_ids:  # another guard's shift stays, and this one's is added to it
            given = comfy.utils.repeat_to_batch_size(given, len(original))
            original, restored = given[..., :original.shape[-1]], False
        if empties:
            redirected = run.emptied(original)
        elif pooled:
            redirected = run.redirect_pooled(original)
        else:
            if original.shape[1] < run.length and run.length % original.shape[1] == 0:
                # A negative prompt of fewer chunks than the positive one, repeated as the host does for a shared batch.
                original = original.repeat(1, run.length // original.shape[1], 1)
            redirected = run.redirect(original)
        if redirected is original and not restored:
            return None
        return Issued(found, with_pooled(found, redirected) if pooled else redirected,
                      (*run_ids, self.start.run_id))

    def _as_found(self, cond: dict, name: str) -> torch.Tensor | None:
        return self._found(cond, name)[0]

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
    def failing_closed(self, doing: str) -> Iterator[None]:
        """Turns any failure of ours into an error that stops sampling and says so: no unguarded image comes out.

        With on_error "warn" it is logged and kept for the report instead.
        """
        try:
            yield
        except PASSED_ON:
            raise
        except Exception as error:
            if is_out_of_memory(error):     # the host unloads models when it hears of that, and of nothing else
                raise
            advice = "" if isinstance(error, SafeRedirError) else (
                " Expected no failure here: please report it, and remove SafeRedir Guard to sample unguarded.")
            if self.reaction.on_error == "stop":
                raise SafeRedirError(f"SafeRedir stopped this run while {doing}, so that no unguarded image comes out: "
                                     f"{error}{advice}") from error
            if str(error) not in self.errors:
                self.errors.append(str(error))
                log.warning("SafeRedir (%s) does not guard this run, while %s: %s%s", self.loaded.name, doing, error,
                            advice)

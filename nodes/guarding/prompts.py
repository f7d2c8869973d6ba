"""The prompts that a guarded run meets: each has its original and, once it is judged, its RedirectionRun."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import comfy.utils
import torch

from saferedir_core import Decision, PolicyConfig, RedirectionRun, Redirector, Trajectory
from saferedir_core.ensemble import Ensemble
from saferedir_core.readback import Readback
from saferedir_core.report import report

from ..types import Marker
from .architectures import pooled_part, reads_any_model, restore_pooled
from .conds import mask_of, require_fitting_context, restore_anywhere, restore_original, text_mask
from .text_inputs import TRAINED

Found = Callable[[dict, str], torch.Tensor | None]  # an input of a cond as the host laid it out; None for none
OTHERS_REPORTED = 16  # conditionings beside the first that a report shows


@dataclass
class Prompt:
    """One context and what belongs to it.

    found     the tensor as the host laid it out, kept so that its id stays its own
    original  the original context of every item, (B, n, d)
    restored  whether that differs from the one found
    run       None until it is judged
    y         the model's pooled input as the host laid it out; None for none
    mask      the prompt's mask as the host laid it out, (b, n); None for none that can be relied on
    appended  tokens at the end that the host has added and that are no text
    pooled, pooled_restored  the original pooled vector of every item (B, P), of a redirector that reads one, and
              whether it differs from the one found
    """

    found: torch.Tensor
    original: torch.Tensor
    restored: bool
    run: RedirectionRun | None = None
    y: torch.Tensor | None = None
    mask: torch.Tensor | None = None
    appended: int = 0
    pooled: torch.Tensor | None = None
    pooled_restored: bool = False


class Prompts:
    """All contexts of one sampling run, each with the batches that the model was called with.

    readback     of the sampling run; None where every decision has to be known at once
    on_decision  hears of each decision as soon as it is known, with the number of its prompt in `runs`
    markers      what SafeRedir Conditioning left in the conds
    """

    def __init__(self, redirectors: Mapping[str, Redirector] | Ensemble, config: PolicyConfig,
                 readback: Readback | None, on_decision: Callable[[int, Decision], None]) -> None:
        self.config, self.readback, self._on_decision = config, readback, on_decision
        self.markers: list[Marker] = []
        self._known: dict[tuple, Prompt] = {}  # by the ids of context, y and mask as found, and the batch
        # Prepares the weights at the first model call, when they are in place.
        self.ensemble = Ensemble(redirectors) if isinstance(redirectors, Mapping) else redirectors
        self.inputs = TRAINED  # where the model's text is; known before the first prompt

    @property
    def runs(self) -> list[RedirectionRun]:
        """In the order in which they were first judged."""
        return [prompt.run for prompt in self._known.values() if prompt.run is not None]

    def run_of(self, cond: dict, name: str, found: Found, batch: int) -> RedirectionRun:
        """The run that judges a context of a cond, in model calls of this batch.

        found: tells what stood in the place of an input before a guard had it.  ContextError when the redirectors
        cannot read it.
        """
        prompt = self.prompt(cond, name, found, batch)
        if prompt.run is None:
            require_fitting_context(prompt.found, self.ensemble.first)
            # Only what is for any model asks which tokens are text: others read whole chunks, as they were trained.
            extra = {"mask": text_mask(prompt.original, prompt.mask, prompt.appended)} if self.of_any else {}
            prompt.run = RedirectionRun(self.ensemble, self.config, prompt.original, pooled=prompt.pooled,
                                        readback=self.readback,
                                        on_decision=partial(self._on_decision, len(self.runs)), **extra)
        return prompt.run

    def prompt(self, cond: dict, name: str, found: Found, batch: int) -> Prompt:
        context, is_prompt = found(cond, name), name == self.inputs.prompt
        y = found(cond, self.inputs.pooled) if self.ensemble.pooled_dim and self.inputs.pooled else None
        mask = mask_of(cond, self.inputs, context.shape[1]) if is_prompt and self.of_any else None
        key = id(context), id(y), id(mask), batch
        if key not in self._known:
            for (*_, known_batch), known in self._known.items():
                # Of the same content, when some node makes its context anew for every model call.
                if known_batch == batch and _equal(known.found, context) and _equal(known.y, y) \
                        and _equal(known.mask, mask):
                    return known
            self._known[key] = self._made(context, y, mask, batch, self.inputs.appended if is_prompt else 0)
        return self._known[key]

    def _made(self, context: torch.Tensor, y: torch.Tensor | None, mask: torch.Tensor | None, batch: int,
              appended: int) -> Prompt:
        restored = restore_anywhere(context, self.markers) if self.of_any else restore_original(
            context, self.markers, self.ensemble.first.config.tokens)
        prompt = Prompt(context, comfy.utils.repeat_to_batch_size(restored, batch), restored is not context, y=y,
                        mask=mask, appended=appended)
        vector = pooled_part(y, self.inputs.rest, self.ensemble.pooled_dim)
        if vector is not None:
            original = restore_pooled(vector, self.markers)
            prompt.pooled = comfy.utils.repeat_to_batch_size(original, batch)
            prompt.pooled_restored = original is not vector
        return prompt

    @property
    def of_any(self) -> bool:
        """Whether the redirectors are for any model."""
        return reads_any_model(self.ensemble.first)

    def items_to_hide(self, batch: int, redirected: bool) -> torch.Tensor | None:
        """Images that any prompt could not be judged for, and with `redirected` those it was redirected for, (B,) bool
        on the device; all of them, if in model calls of another batch.  None before the first judgement."""
        found = [run.items_to_hide(redirected) for run in self.runs if run.observations]
        found = [each if len(each) == batch else each.any().expand(batch) for each in found]
        return torch.stack(found).any(0) if found else None

    def report(self, completed: Callable[[RedirectionRun, dict], dict] = lambda run, content: content) -> dict:
        """The report of the first redirected prompt, else of the first one, the others beside it.

        completed: adds to the report of one prompt.

        Adds other_conditionings (reports, at most OTHERS_REPORTED) and, if there are more, conditionings_left_out.
        """
        reports = [completed(run, run.report()) for run in self.runs]
        if not reports:  # the run failed before the first model call
            reports = [report(Trajectory(), self.config, self.ensemble.first)]
        reports.sort(key=lambda content: content["status"] != "redirected")
        first, *others = reports
        content = {**first, "other_conditionings": others[:OTHERS_REPORTED]}
        if len(others) > OTHERS_REPORTED:
            content["conditionings_left_out"] = len(others) - OTHERS_REPORTED
        return content


def _equal(first: torch.Tensor | None, second: torch.Tensor | None) -> bool:
    if first is None or second is None:
        return first is second
    return first.shape == second.shape and torch.equal(first.to(second), second)

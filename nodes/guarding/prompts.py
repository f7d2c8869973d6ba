"""The prompts that a guarded run meets: each has its original and, once it is judged, its RedirectionRun."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import comfy.utils
import torch

from saferedir_core import PolicyConfig, RedirectionRun, Redirector, Trajectory
from saferedir_core.architecture import Architecture, architecture
from saferedir_core.report import report
from saferedir_core.speed import SpeedConfig
from saferedir_core.stack import StackedRun

from ..types import Marker
from .architectures import pooled_part, restore_pooled
from .conds import require_fitting_context, restore_original

OTHERS_REPORTED = 16  # conditionings beside the first that a report shows


def run_of(redirectors: Redirector | Mapping[str, Redirector], config: PolicyConfig,
           original: torch.Tensor, speed: SpeedConfig = SpeedConfig(),
           pooled: torch.Tensor | None = None) -> RedirectionRun | StackedRun:
    """The run of one redirector, or of several at once.  pooled: vectors of the prompts, or None."""
    if not isinstance(redirectors, Mapping):
        return RedirectionRun(redirectors, config, original, speed, pooled)
    if len(redirectors) == 1:
        return RedirectionRun(*redirectors.values(), config, original, speed, pooled)
    return StackedRun(redirectors, config, original, speed, pooled)


@dataclass
class Prompt:
    """One context and what belongs to it.

    found     the tensor as the host laid it out, kept so that its id stays its own
    original  the original context of every item, (B, n, d)
    restored  whether that differs from the one found
    run       None until it is judged
    y         the model's pooled input as the host laid it out; None for none
    pooled, pooled_restored  the original pooled vector of every item (B, P), of a redirector that reads one, and
              whether it differs from the one found
    """

    found: torch.Tensor
    original: torch.Tensor
    restored: bool
    run: RedirectionRun | StackedRun | None = None
    y: torch.Tensor | None = None
    pooled: torch.Tensor | None = None
    pooled_restored: bool = False


class Prompts:
    """All contexts of one sampling run, each with the batches that the model was called with.

    markers  what SafeRedir Conditioning left in the conds
    """

    def __init__(self, redirectors: Mapping[str, Redirector], config: PolicyConfig,
                 speed: SpeedConfig = SpeedConfig()) -> None:
        self.redirectors, self.config, self.speed = redirectors, config, speed
        self.markers: list[Marker] = []
        self._known: dict[tuple[int, int, int], Prompt] = {}  # by the ids of context and y as found, and the batch

    @property
    def runs(self) -> list[RedirectionRun | StackedRun]:
        """In the order in which they were first judged."""
        return [prompt.run for prompt in self._known.values() if prompt.run is not None]

    def run_of(self, context: torch.Tensor, batch: int, y: torch.Tensor | None = None) -> RedirectionRun | StackedRun:
        """The run that judges a context as found, (b, n, d), and a pooled input y, in model calls of this batch.

        ContextError when the redirectors cannot read it.
        """
        prompt = self.prompt(context, batch, y)
        if prompt.run is None:
            require_fitting_context(context, self._first)
            prompt.run = run_of(self.redirectors, self.config, prompt.original, self.speed, prompt.pooled)
        return prompt.run

    def prompt(self, context: torch.Tensor, batch: int, y: torch.Tensor | None = None) -> Prompt:
        y = y if self.pooled_dim else None
        key = id(context), id(y), batch
        if key not in self._known:
            known = self._equal(context, batch, y)
            if known is not None:
                return known
            restored = restore_original(context, self.markers, self._first.config.tokens)
            prompt = Prompt(context, comfy.utils.repeat_to_batch_size(restored, batch), restored is not context, y=y)
            vector = pooled_part(y, self.kind, self.pooled_dim)
            if vector is not None:
                original = restore_pooled(vector, self.markers)
                prompt.pooled = comfy.utils.repeat_to_batch_size(original, batch)
                prompt.pooled_restored = original is not vector
            self._known[key] = prompt
        return self._known[key]

    @property
    def kind(self) -> Architecture:
        """Of the model that the redirectors are for."""
        return architecture(self._first.config.architecture)

    @property
    def pooled_dim(self) -> int:
        """Width of the pooled vector that any of the redirectors reads; 0 for none."""
        return max(redirector.config.pooled_dim for redirector in self.redirectors.values())

    def unsafe_items(self, batch: int) -> list[int]:
        """Images that any prompt was judged unsafe for; all of them, if in model calls of another batch."""
        unsafe: set[int] = set()
        for run in self.runs:
            for decision in run.trajectory:
                if any(decision.redirected):
                    unsafe.update(range(batch) if run.batch != batch else
                                  (item for item, flag in enumerate(decision.redirected) if flag))
        return sorted(unsafe)

    def report(self) -> dict:
        """The report of the first redirected prompt, else of the first one, the others beside it.

        Adds other_conditionings (reports, at most OTHERS_REPORTED) and, if there are more, conditionings_left_out.
        """
        reports = [_report(run) for run in self.runs]
        if not reports:  # the run failed before the first model call
            reports = [report(Trajectory(), self.config, self._first)]
        reports.sort(key=lambda content: content["status"] != "redirected")
        first, *others = reports
        content = {**first, "other_conditionings": others[:OTHERS_REPORTED]}
        if len(others) > OTHERS_REPORTED:
            content["conditionings_left_out"] = len(others) - OTHERS_REPORTED
        return content

    @property
    def _first(self) -> Redirector:
        return next(iter(self.redirectors.values()))

    def _equal(self, context: torch.Tensor, batch: int, y: torch.Tensor | None) -> Prompt | None:
        """The known prompt of the same content, when some node makes its context anew for every model call."""
        for (*_, known_batch), prompt in self._known.items():
            if known_batch == batch and _equal(prompt.found, context) and _equal(prompt.y, y):
                return prompt
        return None


def _equal(first: torch.Tensor | None, second: torch.Tensor | None) -> bool:
    if first is None or second is None:
        return first is second
    return first.shape == second.shape and torch.equal(first.to(second), second)


def _report(run: RedirectionRun | StackedRun) -> dict:
    """As `report` has it; of several concepts, with a part for each."""
    return run.report() if isinstance(run, StackedRun) else report(run.trajectory, run.config, run.redirector)

"""Several concepts in one run: every redirector decides for itself, and their shifts add up.

    run = StackedRun({"stripes": first, "boat": second}, PolicyConfig(), original_context)

All evaluate the original context, so none is misled by what another does, and the order does not matter.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from saferedir_core.architecture import architecture
from saferedir_core.config import PolicyConfig
from saferedir_core.deferred import DeferredObservations
from saferedir_core.errors import ConfigError
from saferedir_core.evaluator import Evaluator, Heads
from saferedir_core.plan import from_chunks, to_chunks
from saferedir_core.redirector import Redirector, timestep_per_item
from saferedir_core.report import report
from saferedir_core.run import RedirectionRun, shifted_context
from saferedir_core.speed import SpeedConfig
from saferedir_core.trajectory import Decision, Trajectory


def require_stackable(redirectors: Mapping[str, Redirector]) -> None:
    """ConfigError unless there is at least one, and all read latents and contexts of the same sizes."""
    if not redirectors:
        raise ConfigError("No redirector was given; expected at least one.")
    kinds = {name: architecture(each.config.architecture).title for name, each in redirectors.items()}
    if len({*kinds.values()}) > 1:
        raise ConfigError("The redirectors are for other models: "
                          + "; ".join(f"{name!r} for {kind}" for name, kind in kinds.items())
                          + "; expected one kind. Stack redirectors that were trained for the same kind of model.")
    sizes = {name: (each.config.latent_dim, each.config.prompt_dim, each.config.tokens)
             for name, each in redirectors.items()}
    if len({*sizes.values()}) > 1:
        shown = "; ".join(f"{name!r} {size}" for name, size in sizes.items())
        raise ConfigError(f"The redirectors read other sizes (latent channels, prompt width, tokens): {shown}; "
                          "expected equal ones. Stack redirectors that were trained for the same kind of model.")


class StackedRun:
    """State of one run under several redirectors; the interface is that of `RedirectionRun`.

    redirectors  by name, in eval mode, for the same kind of model
    runs         the RedirectionRun of each, by name
    trajectory   all of them together: an item is unsafe or redirected when it is for any concept

    Redirectors of one shape are evaluated together, and those that share a latent encoder (load_redirectors of one
    file) ask it once.
    """

    def __init__(self, redirectors: Mapping[str, Redirector], config: PolicyConfig, original_context: Tensor,
                 speed: SpeedConfig = SpeedConfig(), pooled: Tensor | None = None):
        require_stackable(redirectors)
        first = redirectors[min(redirectors)]
        self._defers = speed.defers(config, first.device) and not any(
            each.config.pooled_dim for each in redirectors.values())
        # Sorted, so that sums of floats do not depend on the order in which concepts were stacked.
        self.runs = {name: RedirectionRun(redirectors[name], config, original_context, replace(speed, deferred=False),
                                           pooled)
                     for name in sorted(redirectors)}
        one = next(iter(self.runs.values()))
        self.config, self.redirector, self.batch, self.chunks = config, one.redirector, one.batch, one.chunks
        self._original = original_context.detach().clone()
        self._groups: list[_Group] | None = None
        self._merged = Trajectory()
        self._told = 0

    @property
    def trajectory(self) -> Trajectory:
        """All decisions so far.  Waits for the device where decisions are deferred."""
        self._take_up(wait=True)
        return self._merged

    @property
    def observations(self) -> int:
        """Number of observations made, known without waiting."""
        if self._defers:
            return self._groups[0].deferred.count if self._groups else 0
        return len(self._merged)

    @torch.no_grad()
    def observe(self, latent: Tensor, timestep: Tensor | float, *, step: int | None = None,
                sigma: Tensor | float | None = None) -> Decision | None:
        """One decision of each redirector; returned and kept is what they say together.  See RedirectionRun."""
        if self._groups is None:
            self._groups = self._grouped()
        if self._defers:
            for group in self._groups:
                own, timesteps = group.fitting(latent, timestep)
                group.deferred.observe(own, timesteps, step, sigma)
            return None
        due = sorted({item for run in self.runs.values() for item in run.due})
        for group in self._groups:
            own, timesteps = group.fitting(latent, timestep)
            heads = group.ask(own, timesteps, due) if due else None
            for concept, run in enumerate(group.runs):
                run.decide(heads, concept, own, timesteps, due, step, sigma)
        self._merge()
        return self._merged[-1]

    def redirect(self, context: Tensor) -> Tensor:
        """The context plus the shifts of all redirectors, see RedirectionRun.redirect.

        The very same tensor while none redirects (a deferred run, which does not know, gives a new one); a chunk that
        only one redirector changes is exactly what that one makes of it.
        """
        tokens = self.redirector.config.tokens
        if self._defers:
            next(iter(self.runs.values())).require_context(context)
            return shifted_context(context, tokens, [group.deferred for group in self._groups or ()])
        results = [run.redirect(context) for run in self.runs.values()]
        return summed(context, [result for result in results if result is not context], tokens)

    def redirect_pooled(self, pooled: Tensor) -> Tensor:
        """The pooled vectors plus the shifts of all redirectors, see RedirectionRun.redirect_pooled."""
        results = [result for run in self.runs.values() if (result := run.redirect_pooled(pooled)) is not pooled]
        if len(results) < 2:
            return results[0] if results else pooled
        return pooled + sum(result - pooled for result in results)

    @property
    def length(self) -> int:
        """Tokens of the prompt."""
        return self._original.shape[1]

    def arrived(self) -> list[Decision]:
        """See RedirectionRun.arrived."""
        self._take_up(wait=False)
        new = self._merged[self._told:]
        self._told = len(self._merged)
        return new

    def settle(self) -> None:
        """See RedirectionRun.settle."""
        self._take_up(wait=True)
        for group in self._groups or () if self._defers else ():
            if group.deferred.failure is not None:
                raise group.deferred.failure

    def _grouped(self) -> "list[_Group]":
        """Runs of redirectors that can be evaluated together, in groups, in the order of their names."""
        groups: dict[tuple, list[RedirectionRun]] = {}
        for name, run in self.runs.items():
            each = run.redirector
            alone = () if run.splits else (name,)
            size = run.speed.latent_size_of(each)
            groups.setdefault((each.config, each.device, each.dtype, size, alone), []).append(run)
        return [_Group(runs, self._original, self._defers) for runs in groups.values()]

    def _take_up(self, wait: bool) -> None:
        if self._defers and self._groups:
            for group in self._groups:
                group.deferred.take_up(wait)
            self._merge()

    def _merge(self) -> None:
        """Append what all runs have decided and this has not yet."""
        runs = [*self.runs.values()]
        for index in range(len(self._merged), min(len(run.trajectory) for run in runs)):
            decisions = [run.trajectory[index] for run in runs]
            self._merged.append(merged_decision(decisions))
        if not len(self._merged):
            return
        decisions = [run.trajectory[len(self._merged) - 1] for run in runs]
        for item in range(self.batch):
            # The token scores of the concept that is likeliest now.
            chances = [each.unsafe_probability[item] for each in decisions]
            run = max(zip(chances, runs), key=lambda pair: -1.0 if pair[0] is None else pair[0])[1]
            if item in run.trajectory.tokens:
                self._merged.tokens[item] = run.trajectory.tokens[item]

    def report(self) -> dict:
        """The report of the whole run, see `stacked_report`."""
        return stacked_report(self.runs, self.trajectory, self.config)


class _Group:
    """Runs whose redirectors are evaluated together."""

    def __init__(self, runs: list[RedirectionRun], original: Tensor, defers: bool):
        self.runs = runs
        self._original, self._batch = original, original.shape[0]
        self._evaluator: Evaluator | None = None
        self.deferred = DeferredObservations(runs, self._ask_all) if defers else None

    def fitting(self, latent: Tensor, timestep: Tensor | float) -> tuple[Tensor, Tensor]:
        """Latent and timesteps as this group's redirectors read them; raises as RedirectionRun.observe does."""
        first = self.runs[0].redirector
        latent = latent.to(first.device, first.dtype)
        self.runs[0].require_latent(latent)
        return latent, timestep_per_item(timestep, self._batch, first.device)

    def ask(self, latent: Tensor, timesteps: Tensor, items: list[int], number: int | None = None) -> Heads:
        """Ask the networks about these items; number: of the observation."""
        first = self.runs[0]
        if not first.splits:
            return first.ask(latent, timesteps, items)
        if self._evaluator is None:
            self._evaluator = Evaluator([run.redirector for run in self.runs], self._original,
                                        first.speed.latent_size_of(first.redirector))
        phase = first.observations if number is None else number
        if len(items) == self._batch:
            return self._evaluator.evaluate(latent, timesteps, phase=phase)
        return self._evaluator.evaluate(latent[items], timesteps[items], items, phase)

    def _ask_all(self, latent: Tensor, timesteps: Tensor, number: int) -> Heads:
        return self.ask(latent, timesteps, [*range(self._batch)], number)


def summed(context: Tensor, results: list[Tensor], tokens: int) -> Tensor:
    """context + sum of (result - context), chunk by chunk; all (B, k*tokens, D).

    A chunk that one result alone changes is that result's, bit for bit.
    """
    if len(results) < 2:
        return results[0] if results else context
    original = to_chunks(context, tokens)                                                    # (B*k, T, D)
    changed = [to_chunks(result, tokens) for result in results]
    dtype = torch.promote_types(context.dtype, torch.float32)
    total = original.to(dtype) + sum(each.to(dtype) - original.to(dtype) for each in changed)
    differs = torch.stack([(each != original).flatten(1).any(1) for each in changed])        # (results, B*k)
    count = differs.sum(0)[:, None, None]
    out = torch.where(count > 1, total.to(context.dtype), original)
    for each, differing in zip(changed, differs):
        out = torch.where((count == 1) & differing[:, None, None], each, out)
    return from_chunks(out, *context.shape[:2])


def merged_decision(decisions: list[Decision]) -> Decision:
    """What several redirectors say at one model call, as one decision: the largest probabilities, any of the flags."""
    first = decisions[0]
    return Decision(
        index=first.index, step=first.step, sigma=first.sigma, timesteps=first.timesteps,
        evaluated_items=_any([each.evaluated_items for each in decisions]),
        unsafe_probability=tuple(max((value for value in values if value is not None), default=None)
                                 for values in zip(*(each.unsafe_probability for each in decisions))),
        chunk_probability=tuple(tuple(map(max, zip(*filter(None, chunks))))
                                for chunks in zip(*(each.chunk_probability for each in decisions))),
        unsafe=_any([each.unsafe for each in decisions]),
        redirected=_any([each.redirected for each in decisions]),
        redirected_chunks=tuple(_any(chunks) for chunks in zip(*(each.redirected_chunks for each in decisions))))


def stacked_report(runs: Mapping[str, RedirectionRun], together: Trajectory, config: PolicyConfig) -> dict:
    """A report of all concepts together, version 1 as in `report`, and one of each under `concepts`.

    concepts    list of reports with the key `concept`
    redirector  None: there are several
    verdict     that of every concept
    policy      threshold is the lowest in use
    """
    parts = [{"concept": name, **report(run.trajectory, run.config, run.redirector)} for name, run in runs.items()]
    lowest = min((run.config for run in runs.values()), key=lambda each: each.threshold)
    verdict = " ".join(f"{part['concept']}: {part['verdict']}" for part in parts)
    return {**report(together, lowest), "verdict": verdict, "concepts": parts}


def _any(flags: list[tuple[bool, ...]]) -> tuple[bool, ...]:
    return tuple(map(any, zip(*flags)))

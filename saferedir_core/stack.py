"""Several concepts in one run: every redirector decides for itself, and their shifts add up.

    run = StackedRun({"stripes": first, "boat": second}, PolicyConfig(), original_context)

All evaluate the original context, so none is misled by what another does, and the order does not matter.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from .config import PolicyConfig
from .errors import ConfigError
from .plan import from_chunks, to_chunks
from .redirector import Redirector
from .report import report
from .run import RedirectionRun
from .trajectory import Decision, Trajectory


def require_stackable(redirectors: Mapping[str, Redirector]) -> None:
    """ConfigError unless there is at least one, and all read latents and contexts of the same sizes."""
    if not redirectors:
        raise ConfigError("No redirector was given; expected at least one.")
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
    """

    def __init__(self, redirectors: Mapping[str, Redirector], config: PolicyConfig, original_context: Tensor):
        require_stackable(redirectors)
        # Sorted, so that sums of floats do not depend on the order in which concepts were stacked.
        self.runs = {name: RedirectionRun(redirectors[name], config, original_context) for name in sorted(redirectors)}
        first = next(iter(self.runs.values()))
        self.config, self.redirector, self.batch, self.chunks = config, first.redirector, first.batch, first.chunks
        self.trajectory = Trajectory()

    def observe(self, latent: Tensor, timestep: Tensor | float, *, step: int | None = None,
                sigma: float | None = None) -> Decision:
        """One decision of each redirector; returned and kept is what they say together.  See RedirectionRun."""
        decisions = [run.observe(latent.to(run.redirector.device, run.redirector.dtype), timestep, step=step,
                                 sigma=sigma) for run in self.runs.values()]
        merged = merged_decision(decisions)
        self.trajectory.append(merged)
        for item in range(self.batch):
            # The token scores of the concept that is likeliest now.
            chances = [each.unsafe_probability[item] for each in decisions]
            run = max(zip(chances, self.runs.values()), key=lambda pair: -1.0 if pair[0] is None else pair[0])[1]
            if item in run.trajectory.tokens:
                self.trajectory.tokens[item] = run.trajectory.tokens[item]
        return merged

    def redirect(self, context: Tensor) -> Tensor:
        """The context plus the shifts of all redirectors, see RedirectionRun.redirect.

        The very same tensor while none redirects; a chunk that only one redirects is exactly what that one makes of
        it.
        """
        results = [run.redirect(context) for run in self.runs.values()]
        return summed(context, [result for result in results if result is not context], self.redirector.config.tokens)

    def report(self) -> dict:
        """The report of the whole run, see `stacked_report`."""
        return stacked_report(self.runs, self.trajectory, self.config)


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
    return from_chunks(out, context.shape[0])


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

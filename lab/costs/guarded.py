"""A guarded run beside the same run unguarded."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from unittest import mock

import torch

from saferedir_core import PolicyConfig

from ...nodes.guarding import bridge
from ...nodes.types import LoadedRedirector, Recorder
from .timing import Spread, in_turn, ratio

STEPS = 20


def guarded(model, redirectors, **policy):
    """A guarded clone of a MODEL."""
    loaded = LoadedRedirector.place("bench", redirectors)
    return bridge.guard_model(model, loaded, PolicyConfig(**policy), Recorder())


def run(model, positive, negative, shape, cfg: float = 7.5, calls: int | None = None) -> Callable[[], torch.Tensor]:
    """A run of 20 steps of euler; calls: only the first so many of them.  shape: of the latents, (B, 4, h, w)."""
    import comfy.sample
    import comfy.samplers

    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", STEPS)
    latent = torch.zeros(shape)
    noise = comfy.sample.prepare_noise(latent, 1)

    @torch.inference_mode()
    def sample():
        return comfy.sample.sample_custom(
            model, noise, cfg, comfy.samplers.sampler_object("euler"), sigmas[:(calls or STEPS) + 1], positive,
            negative, latent, disable_pbar=True, seed=1)
    return sample


def compared(model, guards: dict[str, object], positive, negative, shape, *, rounds: int, calls: int | None,
             cfg: float = 7.5) -> dict[str, dict]:
    """For every guard: run time over that of the unguarded run, and over the part of its own time outside the guard.

    guards: guarded models by name.  The second ratio is free of what the machine does between two runs; it is not
    taken on a GPU, which works while the host goes on.
    """
    things = {"unguarded": run(model, positive, negative, shape, cfg, calls)}
    things |= {name: run(each, positive, negative, shape, cfg, calls) for name, each in guards.items()}
    own: dict[str, list[float]] = {name: [] for name in things}

    def watched(name: str) -> Callable[[], None]:
        def thing() -> None:
            started = time.perf_counter()
            with _time_inside() as inside:
                things[name]()
            whole = time.perf_counter() - started
            own[name].append(whole / (whole - inside[0]))
        return thing
    seconds = in_turn({name: watched(name) for name in things}, rounds)
    on_cpu = not torch.cuda.is_available()
    return {name: {"guarded / unguarded": ratio(seconds, name, "unguarded"),
                   "guarded / the rest of the same run": Spread.of(own[name][-rounds:]) if on_cpu else None,
                   "unguarded seconds": Spread.of(seconds["unguarded"])} for name in guards}


@contextlib.contextmanager
def _time_inside() -> Iterator[list[float]]:
    """Seconds spent in the guard's own code: in its wrappers, and not in what they wrap."""
    spent, nested = [0.0], []

    def timing(wrapper):
        def timed(self, executor, *arguments, **keywords):
            nested.append(0.0)

            def watched(*arguments, **keywords):  # the executor, its time taken out of the wrapper's
                started = time.perf_counter()
                try:
                    return executor(*arguments, **keywords)
                finally:
                    nested[-1] += time.perf_counter() - started
            started = time.perf_counter()
            try:
                return wrapper(self, watched, *arguments, **keywords)
            finally:
                spent[0] += time.perf_counter() - started - nested.pop()
        return timed

    def timing_whole(method):
        def timed(self, *arguments):
            started = time.perf_counter()
            try:
                return method(self, *arguments)
            finally:
                spent[0] += time.perf_counter() - started
        return timed
    ways = {"predict_noise": timing, "calc_cond_batch": timing, "check_conds": timing_whole, "settle": timing_whole,
            "report": timing_whole}
    with contextlib.ExitStack() as stack:
        for name, way in ways.items():
            method = getattr(bridge.SamplingRun, name)
            stack.enter_context(mock.patch.object(bridge.SamplingRun, name, way(method)))
        yield spent

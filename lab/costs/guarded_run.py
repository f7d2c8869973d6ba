"""A guarded run, and whose its seconds are: the host's, or the guard's for prompts, for pictures, for the witness.

Every frame of the guard's is timed, and what it calls of the host's is taken off again.  Within one run, and in seconds
of the processor, because two runs on a shared machine differ by more than the guard takes.  On a GPU this is what it
takes to launch what the device then does: `gpu.py` measures there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from unittest import mock

import comfy.model_base

from ...nodes.guarding.bridge import Guard
from ...nodes.guarding.door import Door
from ...nodes.guarding.picture_loop import PictureLoop
from ...nodes.guarding.sampling_run import SamplingRun
from ...nodes.guarding.witness import Witness
from . import subjects

HOST, PROMPT, PICTURE, WITNESS = "host", "prompt", "picture", "witness"
# Methods of the guard's; those that stand around a function of the host's are given it, or what leads there, first.
AROUND = ((Guard, "outer_sample"), (SamplingRun, "sampler_sample"), (SamplingRun, "predict_noise"),
          (SamplingRun, "calc_cond_batch"))
WITHIN = ((Guard, "require_present", PROMPT), (PictureLoop, "watch", PICTURE), (PictureLoop, "_judge", PICTURE),
          (Witness, "__call__", WITNESS))


class Shares:
    """Processor seconds of a run by whose they are."""

    def __init__(self) -> None:
        self._frames = [HOST]
        self.begin()

    def begin(self) -> None:
        """What was before does not count."""
        self.seconds = dict.fromkeys((HOST, PROMPT, PICTURE, WITNESS), 0.0)
        self._since = time.process_time()

    @contextmanager
    def of(self, whose: str) -> Iterator[None]:
        """What happens within is theirs, but for what others do within that; the model calls of the witness are its
        own."""
        self._pass()
        self._frames.append(WITNESS if self._frames[-1] == WITNESS else whose)
        try:
            yield
        finally:
            self._pass()
            self._frames.pop()

    def _pass(self) -> None:
        now = time.process_time()
        self.seconds[self._frames[-1]] += now - self._since
        self._since = now

    @property
    def whole(self) -> float:
        return sum(self.seconds.values())

    @property
    def over(self) -> float:
        """The guarded run over the rest of this very run, without what a witness was asked."""
        return 1 + (self.seconds[PROMPT] + self.seconds[PICTURE]) / self.seconds[HOST]


class _Executor:
    """What a wrapper calls to go on: from there it is the host's time."""

    def __init__(self, executor, shares: Shares) -> None:
        self._executor, self._shares = executor, shares

    def __call__(self, *arguments, **named):
        with self._shares.of(HOST):
            return self._executor(*arguments, **named)

    def __getattr__(self, name: str):
        return getattr(self._executor, name)


@contextmanager
def shared() -> Iterator[Shares]:
    """Within: guards that are made have their time taken, and that of the run around them."""
    with ExitStack() as patches:
        shares = Shares()

        def instead(owner: type, name: str, make: Callable) -> None:
            method = getattr(owner, name)
            patches.enter_context(mock.patch.object(owner, name, wraps(method)(make(method))))

        for owner, name in AROUND:
            instead(owner, name, lambda method: lambda self, executor, *arguments, **named: timed(
                shares, PROMPT, method)(self, _Executor(executor, shares), *arguments, **named))
        for owner, name, whose in WITHIN:
            instead(owner, name, lambda method, whose=whose: timed(shares, whose, method))
        instead(SamplingRun, "counting", lambda method: lambda self, callback: timed(
            shares, PROMPT, method(self, callback)))
        instead(Door, "watch", lambda method: lambda self, model: _watch(shares, method, self, model))
        instead(comfy.model_base.BaseModel, "apply_model", lambda method: timed(shares, HOST, method))
        yield shares


def timed(shares: Shares, whose: str, function: Callable) -> Callable:
    """A function whose time is theirs."""
    @wraps(function)
    def call(*arguments, **named):
        with shares.of(whose):
            return function(*arguments, **named)
    return call


def _watch(shares: Shares, watch: Callable, door: Door, model) -> None:
    """The door stands at the model; what it does there is the guard's."""
    before = vars(model).get("apply_model")
    watch(door, model)
    if vars(model)["apply_model"] is not before:
        model.apply_model = timed(shares, PROMPT, model.apply_model)


def within_run(model, redirectors: dict, size: subjects.Size, shape: tuple[int, ...], calls: int) -> Shares:
    """The first calls of a guarded run of 20 with the node's own settings.  shape: of the latents, (B, C, h, w)."""
    with shared() as shares:
        guarded = subjects.guarded(model, redirectors)
        sample = subjects.run(guarded, size.conditioning(1), size.conditioning(2), shape, calls=calls)
        shares.begin()
        with shares.of(HOST):
            sample()
    return shares

"""Counts how often a sampling run waits for the device, in the host's own sampler.

Where there is no accelerator one is pretended: every way to read a tensor's value is counted, and what the guard sends
to the host arrives only when somebody waits for it.  What cannot be told apart on a CPU is `tensor.to(device)`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from saferedir_core import readback

from .counting import READING, waits_for_values

PACK = Path(__file__).resolve().parents[2]
OURS = (str(PACK / "nodes"), str(PACK / "saferedir_core"))


class WaitCount(TorchDispatchMode):
    """`with counted_waits(model) as waits:` around a sampling run.

    calls  denoiser calls so far
    every  for each wait how many calls had been made by then
    ours   of these, the waits that the pack's own code asked for, as "file:line"
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.every: list[int] = []
        self.ours: list[tuple[int, str]] = []

    def between_calls(self) -> int:
        """Waits after the first denoiser call and before the last one."""
        return sum(0 < calls < self.calls for calls in self.every)

    def ours_between_calls(self) -> list[str]:
        return [where for calls, where in self.ours if 0 < calls < self.calls]

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        if waits_for_values(function._schema.name, arguments, keywords or {}, result):
            self.note()
        return result

    def note(self) -> None:
        """A value is asked for here.  Ours is what our code asks for itself, not what the sampler does within it."""
        self.every.append(self.calls)
        frame = sys._getframe(1)
        while frame and (frame.f_code.co_filename in (__file__, mock.__file__)
                         or "site-packages" in frame.f_code.co_filename):
            frame = frame.f_back
        if frame and frame.f_code.co_filename.startswith(OURS):
            self.ours.append((self.calls, f"{frame.f_code.co_filename}:{frame.f_lineno}"))


def late_arrivals():
    """Within: what is sent to the host arrives when somebody waits for it and not before."""
    return mock.patch.object(readback._Transfer, "arrived", lambda self: False)


@contextmanager
def counted_waits(model) -> Iterator[WaitCount]:
    """model: a MODEL of the host whose denoiser calls are counted; other MODELs of the same weights count as well."""
    waits = WaitCount()
    forward = model.model.diffusion_model.forward

    def counting(*arguments, **keywords):
        waits.calls += 1
        return forward(*arguments, **keywords)

    def reading(original: Callable) -> Callable:
        def read(tensor, *arguments, **keywords):
            waits.note()
            return original(tensor, *arguments, **keywords)
        return read

    with ExitStack() as patches:
        patches.enter_context(mock.patch.object(model.model.diffusion_model, "forward", counting))
        patches.enter_context(late_arrivals())
        for name in READING:
            patches.enter_context(mock.patch.object(torch.Tensor, name, reading(getattr(torch.Tensor, name))))
        with waits:
            yield waits

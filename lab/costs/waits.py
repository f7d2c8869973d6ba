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
from torch.utils._pytree import tree_leaves

from saferedir_core import readback

# Operations whose result the host needs before it can go on.
WAITING = ("aten::_local_scalar_dense", "aten::item", "aten::is_nonzero", "aten::nonzero", "aten::masked_select",
           "aten::equal", "aten::_unique2", "aten::unique_dim", "aten::unique_consecutive")
# Tensor methods that read values without an operation that a dispatch mode sees, at least on a CPU.
READING = ("tolist", "numpy", "__array__", "cpu")
PACK = Path(__file__).resolve().parents[2]
OURS = (str(PACK / "nodes"), str(PACK / "saferedir_core"))


class WaitCount(TorchDispatchMode):
    """`with counted_waits(model) as waits:` around a sampling run; `with WaitCount() as waits:` around anything else.

    calls  denoiser calls so far
    every  for each wait how many calls had been made by then
    ours   of these, the waits that the pack's own code asked for, as "file:line"
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.every: list[int] = []
        self.ours: list[tuple[int, str]] = []
        self._patches = ExitStack()

    def __enter__(self):
        for name in READING:
            reading = self._reading(getattr(torch.Tensor, name))
            self._patches.enter_context(mock.patch.object(torch.Tensor, name, reading))
        return super().__enter__()

    def __exit__(self, *error):
        self._patches.close()
        return super().__exit__(*error)

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

    def _reading(self, original: Callable) -> Callable:
        def read(tensor, *arguments, **keywords):
            self.note()
            return original(tensor, *arguments, **keywords)
        return read


@contextmanager
def counted_waits(model) -> Iterator[WaitCount]:
    """model: a MODEL of the host whose denoiser calls are counted; other MODELs of the same weights count as well."""
    waits = WaitCount()
    forward = model.model.diffusion_model.forward

    def counting(*arguments, **keywords):
        waits.calls += 1
        return forward(*arguments, **keywords)

    late = mock.patch.object(readback._Transfer, "arrived", lambda self: False)  # not before somebody waits for it
    with mock.patch.object(model.model.diffusion_model, "forward", counting), late, waits:
        yield waits


def waits_for_values(name: str, arguments, keywords, result) -> bool:
    """Whether the host waits for an operation of this name ("aten::item"): for a value, or a copy between devices."""
    if name.startswith("aten::index"):
        return any(isinstance(leaf, torch.Tensor) and leaf.dtype == torch.bool for leaf in tree_leaves(arguments[1:2]))
    if name == "aten::_to_copy":
        return result.device != arguments[0].device and not keywords.get("non_blocking")
    if name == "aten::copy_":
        waits = not (keywords.get("non_blocking") or (len(arguments) > 2 and arguments[2]))
        return waits and arguments[0].device != arguments[1].device
    return name in WAITING

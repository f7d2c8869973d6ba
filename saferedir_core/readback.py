"""Numbers on their way from the device to the host, without the host waiting for them.

    readback.add({"probability": probability}, take)    as often as there is something
    readback.send()                                     once a step: all of it leaves the device in one transfer
    readback.take_arrived()                             hands over what is here by now, in order; never waits
    readback.settle()                                   hands over all there is; waits for the device
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Take = Callable[[dict[str, list]], None]


class Readback:
    """What was added and not taken yet, in the order in which it was added.

    An error that a `take` raises comes out of `take_arrived` or `settle`; what was added after it stays for the next.
    """

    def __init__(self) -> None:
        self._added: list[_Added] = []
        self._sent: deque[_Transfer] = deque()
        self._here: deque[tuple[Take, dict[str, list]]] = deque()

    def add(self, tensors: Mapping[str, Tensor], take: Take) -> None:
        """take hears the values of these tensors of any shape and device, as nested lists; numbers in float32."""
        self._added.append(_Added(dict(tensors), take))

    def send(self) -> None:
        """Everything added since the last time leaves the device."""
        if self._added:
            self._sent.append(_Transfer(self._added))
            self._added = []

    def take_arrived(self) -> None:
        if all(tensor.device.type == "cpu" for each in self._added for tensor in each.tensors.values()):
            self.send()     # it has nowhere to go
        self._take(wait=False)

    def settle(self) -> None:
        self.send()
        self._take(wait=True)

    def _take(self, wait: bool) -> None:
        while self._sent and (wait or self._sent[0].arrived()):
            self._here += self._sent.popleft().values()
        while self._here:
            take, values = self._here.popleft()
            take(values)


@dataclass(frozen=True)
class _Added:
    tensors: dict[str, Tensor]
    take: Take


class _Transfer:
    """One copy of many tensors to the host."""

    def __init__(self, added: list[_Added]) -> None:
        self._added = [(each.take, {name: (tensor.shape, tensor.dtype) for name, tensor in each.tensors.items()})
                       for each in added]
        tensors = [tensor for each in added for tensor in each.tensors.values()]
        device = next((each.device for each in tensors if each.device.type != "cpu"), torch.device("cpu"))
        self._packed = torch.cat([each.to(device, torch.float32, non_blocking=True).reshape(-1) for each in tensors])
        self._copied = None
        if self._packed.is_cuda:
            # Into pinned memory, or the copy would wait for the device.
            pinned = torch.empty(self._packed.shape, pin_memory=True)
            self._packed = pinned.copy_(self._packed, non_blocking=True)
            self._copied = torch.cuda.current_stream(device).record_event()

    def arrived(self) -> bool:
        """Whether `values` would not have to wait."""
        return self._packed.device.type == "cpu" if self._copied is None else self._copied.query()

    def values(self) -> Iterator[tuple[Take, dict[str, list]]]:
        if self._copied is not None:
            self._copied.synchronize()
        parts = iter(self._packed.cpu().split([shape.numel() for _, layout in self._added
                                               for shape, _ in layout.values()]))
        for take, layout in self._added:
            yield take, {name: (part.bool() if dtype == torch.bool else part).view(shape).tolist()
                         for (name, (shape, dtype)), part in zip(layout.items(), parts)}

"""Counts what does not depend on the machine's mood: operations, waits for the device, bytes."""

from __future__ import annotations

from dataclasses import dataclass
from unittest import mock

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Operations whose result the host needs before it can go on.
WAITING = ("aten::_local_scalar_dense", "aten::item", "aten::is_nonzero", "aten::nonzero", "aten::masked_select",
           "aten::equal", "aten::_unique2", "aten::unique_dim", "aten::unique_consecutive")
# Tensor methods that read values without an operation that a dispatch mode sees, at least on a CPU.
READING = ("tolist", "numpy", "__array__", "cpu")
# Operations that launch nothing.
FREE = ("aten::empty", "aten::detach", "aten::_unsafe_view", "aten::lift_fresh", "aten::sym_size", "aten::set_",
        "aten::promote_types", "aten::scalar_tensor", "aten::as_strided_")


@dataclass
class Counts:
    """operations  that compute or copy something, one kernel launch each or more
    waits        times the host needed a value from the device, or moved a tensor between devices without non_blocking
    peak_bytes   most bytes alive at a time of what was allocated inside
    """

    operations: int = 0
    waits: int = 0
    peak_bytes: int = 0


class Counting(TorchDispatchMode):
    """`with Counting() as counts:` counts everything torch is asked to do inside."""

    def __init__(self):
        super().__init__()
        self.counts = Counts()
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self._patches = [mock.patch.object(torch.Tensor, name, self._reading(getattr(torch.Tensor, name)))
                         for name in READING]

    def __enter__(self) -> Counts:
        for patch in self._patches:
            patch.start()
        super().__enter__()
        return self.counts

    def __exit__(self, *error):
        for patch in self._patches:
            patch.stop()
        return super().__exit__(*error)

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        keywords = keywords or {}
        result = function(*arguments, **keywords)
        name = function._schema.name
        self.counts.waits += waits_for_values(name, arguments, keywords, result)
        is_view = any(each.alias_info is not None and not each.alias_info.is_write
                      for each in function._schema.returns)
        self.counts.operations += not is_view and not name.startswith(FREE)
        self._allocated(result, arguments)
        return result

    def alive_bytes(self) -> int:
        """Of what was allocated inside, how much is alive now."""
        return sum(size for reference, size in self._alive.values() if not reference.expired())

    def _allocated(self, result, arguments) -> None:
        for key in [key for key, (reference, _) in self._alive.items() if reference.expired()]:
            del self._alive[key]
        given = {leaf.untyped_storage()._cdata for leaf in tree_leaves(arguments) if isinstance(leaf, torch.Tensor)}
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and (storage := leaf.untyped_storage())._cdata not in given:
                self._alive.setdefault(storage._cdata, (StorageWeakRef(storage), storage.nbytes()))
        self.counts.peak_bytes = max(self.counts.peak_bytes, sum(size for _, size in self._alive.values()))

    def _reading(self, original):
        def read(tensor, *arguments, **keywords):
            self.counts.waits += 1
            return original(tensor, *arguments, **keywords)
        return read


def waits_for_values(name: str, arguments, keywords, result) -> bool:
    """Whether the host waits for an operation of this name ("aten::item")."""
    return name in WAITING or _indexes_by_mask(name, arguments) or _moves(name, arguments, keywords, result)


def _indexes_by_mask(name: str, arguments) -> bool:
    return name.startswith("aten::index") and any(
        isinstance(leaf, torch.Tensor) and leaf.dtype == torch.bool for leaf in tree_leaves(arguments[1:2]))


def _moves(name: str, arguments, keywords, result) -> bool:
    """Whether this copies between devices and waits for it."""
    if name == "aten::_to_copy":
        return result.device != arguments[0].device and not keywords.get("non_blocking")
    if name == "aten::copy_":
        waits = not (keywords.get("non_blocking") or (len(arguments) > 2 and arguments[2]))
        return waits and arguments[0].device != arguments[1].device
    return False

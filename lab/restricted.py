"""A mode that refuses the operations which Macs and DirectML lack, where this project's code asks for them."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode

LACKING = ("linalg_eig", "_linalg_eigh", "svd", "cholesky", "linalg_qr", "geqrf", "lstsq", "linalg_inv", "linalg_solve",
           "linalg_lu", "_fft", "complex")
LACKING_LONG = ("cumsum", "cumprod", "sort", "topk", "median", "bincount", "histc", "unique")  # of int64
TORCH = str(Path(torch.__file__).parent)
DTYPES = (torch.float64, torch.complex64, torch.complex128)
PACK = Path(__file__).resolve().parents[1]
OURS = tuple(str(PACK / folder) for folder in ("nodes", "saferedir_core"))


class Lacking(RuntimeError):
    pass


class AsOnAMac(TorchDispatchMode):
    """Raises `Lacking` for what such a device would refuse, if a file in one of these folders asks for it."""

    def __init__(self, *folders: str) -> None:
        super().__init__()
        self.folders = folders

    def __torch_dispatch__(self, function, kinds, args=(), kwargs=None):
        output = function(*args, **(kwargs or {}))
        name = function._schema.name.removeprefix("aten::")
        tensors = [each for each in (*_flat(args), *_flat(output)) if torch.is_tensor(each)]
        long = any(each.dtype == torch.int64 for each in tensors[:1])
        lacking = any(part in name for part in LACKING) or long and name.startswith(LACKING_LONG)
        types = [each.dtype for each in tensors if each.dtype in DTYPES]
        if (lacking or types) and self._is_ours():
            raise Lacking(f"{name} of {types}")
        return output

    def _is_ours(self) -> bool:
        frame = sys._getframe(2)
        while frame is not None:
            file = frame.f_code.co_filename
            if not file.startswith(TORCH) and file != __file__ and "<" not in file:
                return file.startswith(self.folders)
            frame = frame.f_back
        return False


def _flat(values):
    for each in values if isinstance(values, (list, tuple)) else [values]:
        if isinstance(each, (list, tuple)):
            yield from _flat(each)
        else:
            yield each

"""The machine that figures were measured on, in words."""

from __future__ import annotations

import platform
from pathlib import Path

import torch


def machine() -> str:
    """Processor, device, system, Python and torch."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} threads, no GPU"
    return f"{name}, {device}, {platform.system()}, Python {platform.python_version()}, torch {torch.__version__}"

"""Files that are there whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`, with its ending, to write to; it becomes `path` if nothing fails meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"unfinished-{os.getpid()}-{path.name}")
    try:
        yield unfinished
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def read_provenance(file: Path) -> dict:
    """How weights were made, as `demo.backbone.save_backbone` wrote it."""
    from safetensors import safe_open

    with safe_open(file, framework="pt") as tensors:
        return json.loads(tensors.metadata()["provenance"])


def sha256(file: Path) -> str:
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()

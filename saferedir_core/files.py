"""Files that are there whole or not at all.  Standard library only, because quickstart.py begins with nothing else."""

from __future__ import annotations

import contextlib
import hashlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def written_whole(path: Path, make_folder: bool = True) -> Iterator[Path]:
    """A temporary name beside `path`, with its ending, to write to; it becomes `path` if nothing fails meanwhile.

    The content is on the disk before the name is: not even a power cut leaves half a file.  OSError as the system says.
    """
    if make_folder:
        path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".unfinished-{uuid.uuid4().hex[:12]}-{path.name}")
    try:
        yield unfinished
        with open(unfinished, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        with contextlib.suppress(OSError):      # what went wrong is the error to see
            unfinished.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes | str, make_folder: bool = True) -> Path:
    """Writes bytes, or a text as UTF-8 with its line ends as they are."""
    with written_whole(path, make_folder) as unfinished:
        unfinished.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def sha256(file: Path) -> str:
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()

"""Results as JSON lines, one per image: appended as they come, resumed after a kill, merged from shards."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from saferedir_core.errors import SafeRedirError
from saferedir_core.files import write_whole


class ResultsError(SafeRedirError):
    """A results file cannot be read or written."""


class Results:
    """A results file to append to; what it holds already is known by (method, job id).

    A last line that a kill or a full disk cut off is removed.  ResultsError when the file is not ours or not writable.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.touch()
            content = self.path.read_bytes()
            os.truncate(self.path, content.rfind(b"\n") + 1)
        except OSError as error:
            raise ResultsError(f"The results cannot be written to {self.path} ({error}). Choose a folder that you may "
                               "write to with --out.") from error
        self.done = {(line["method"], line["job"]) for line in read_lines(self.path)}

    def append(self, lines: Iterable[dict]) -> None:
        """Writes lines so that a kill cannot take them back; ResultsError when the disk is full."""
        lines = list(lines)
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.writelines(json.dumps(line, allow_nan=False) + "\n" for line in lines)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise ResultsError(f"{len(lines)} results could not be written to {self.path} ({error}); the "
                               f"{len(self.done)} before them are intact. Free some space and run the same command "
                               "again: it goes on from there.") from error
        self.done |= {(line["method"], line["job"]) for line in lines}


def read_lines(path: Path) -> list[dict]:
    """The lines of a results file, a torn last one left out.  ResultsError with file and line for a damaged one."""
    try:
        text = Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise ResultsError(f"There are no results to read at {path} ({error}); expected a results.jsonl that "
                           "'saferedir.py evaluate' wrote.") from error
    lines = []
    for number, line in enumerate(text.split("\n")[:-1], 1):
        try:
            lines.append(json.loads(line))
            lines[-1]["method"], lines[-1]["job"]
        except (ValueError, TypeError, KeyError) as error:
            raise ResultsError(f"{path}, line {number} is not a result: {line[:80]!r}. Delete the line; the image is "
                               "made again.") from error
    return lines


def merge(files: Iterable[Path], out: Path) -> int:
    """Writes the lines of all shards to one file, each (method, job) once; returns how many there are."""
    known = {(line["method"], line["job"]): line for file in files for line in read_lines(file)}
    write(out, "".join(json.dumps(line) + "\n" for line in known.values()))
    return len(known)


def write(path: Path, text: str) -> None:
    """A file that is there whole or not at all; ResultsError when it cannot be written."""
    try:
        write_whole(Path(path), text)
    except OSError as error:
        raise ResultsError(f"{path} cannot be written ({error}). Free some space, or choose a folder that you may "
                           "write to with --out.") from error


def embedded(vector: np.ndarray) -> str:
    """A vector (P,) as a short text: 16-bit floats in base64."""
    return base64.b64encode(np.asarray(vector, "<f2").tobytes()).decode()


def vector_of(text: str) -> np.ndarray:
    """The vector (P,) that `embedded` wrote."""
    return np.frombuffer(base64.b64decode(text), "<f2").astype(np.float32)

"""How a program speaks to a person who watches it: steps that tick, and failures with a cause and a remedy.

Standard library only, because quickstart.py begins with nothing else.
"""

from __future__ import annotations

import shutil
import sys
import threading
import time
from pathlib import Path


class StepFailed(Exception):
    """A step that could not be done: which, why, and what the person can do about it."""

    def __init__(self, step: str, cause: str, remedy: str, log: Path | None = None):
        super().__init__(f"{step}: {cause}")
        self.step, self.cause, self.remedy, self.log = step, cause, remedy, log

    def report(self) -> str:
        lines = [f"FAILED  {self.step}", f"cause   {self.cause}", f"remedy  {self.remedy}"]
        if self.log:
            lines.append(f"log     {self.log}")
        return "\n".join(lines)


def elapsed(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"


class Progress:
    """One step on the console: a line that ticks on a terminal, a line now and then in a log."""

    def __init__(self, step: str, stream=None, quiet_seconds: float = 15.0):
        self.step, self.detail = step, ""
        self._stream = stream or sys.stderr
        self._terminal = self._stream.isatty()
        self._every = 0.5 if self._terminal else quiet_seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._tick, daemon=True)

    def __enter__(self) -> Progress:
        self._start = time.monotonic()
        if not self._terminal:
            self._line(f"{self.step} ...")
        self._thread.start()
        return self

    def __exit__(self, kind, *_):
        self._stop.set()
        self._thread.join()
        outcome = "done" if kind is None else "stopped"
        self._line(f"{self.step}: {outcome} ({elapsed(time.monotonic() - self._start)})", last=True)

    def _tick(self):
        while not self._stop.wait(self._every):
            detail = f" {self.detail}" if self.detail else ""
            self._line(f"{self.step} ...{detail} ({elapsed(time.monotonic() - self._start)})")

    def _line(self, text: str, last: bool = False):
        if self._terminal:
            width = max(20, shutil.get_terminal_size().columns - 1)
            text = "\r" + text[:width].ljust(width) + ("\n" if last else "")
        else:
            text += "\n"
        self._stream.write(text)
        self._stream.flush()


def say(text: str = ""):
    print(text, file=sys.stderr, flush=True)

"""What several commands share: values that they read from the command line, and how they speak to a person."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable
from pathlib import Path

from saferedir_core.errors import ConfigError, SafeRedirError


def shard(text: str) -> tuple[int, int]:
    """"I/N" -> (I, N); for argparse."""
    index, _, count = text.partition("/")
    with contextlib.suppress(ValueError):
        if 0 <= int(index) < int(count):
            return int(index), int(count)
    raise argparse.ArgumentTypeError(f"{text!r} is no part; expected I/N with I from 0 to N - 1, such as 0/4")


def exit_code(run: Callable[[], int], resumes: bool = True) -> int:
    """What a command that can be repeated ends with: run's own, 1 when it could not be done, 130 interrupted.

    resumes: whether a repetition goes on where the command was.
    """
    try:
        return run()
    except (SafeRedirError, FileNotFoundError) as error:
        say(f"FAILED  {error}")
        return 1
    except KeyboardInterrupt:
        say("\nInterrupted. The same command goes on where it was." if resumes else
            "\nInterrupted. Nothing is written.")
        return 130


def require_writable_names(out: Path | None) -> None:
    """ConfigError for a file that cannot be written as a redirector; makes its folder.  None: nothing is written."""
    if out and out.suffix != ".safetensors":
        raise ConfigError(f"--out is {out}; expected a name that ends in .safetensors. Change it.")
    if out:
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"--out is {out} and its folder cannot be made ({error.strerror}); expected a folder "
                              "that can be written. Choose another.") from error


def say(text: str) -> None:
    """To standard error: standard output is for results."""
    print(text, file=sys.stderr, flush=True)


class ConsoleProgress:
    """A bar on standard error that is told how far things are; a line now and then where that is no terminal.

    what: on the line; unit: of what is counted, such as "image".
    """

    def __init__(self, what: str, unit: str):
        self.what, self.unit = what, unit
        self._bar = None

    def __call__(self, done: int, total: int, said: str = "") -> None:
        from tqdm import tqdm

        if self._bar is None or total != self._bar.total or done < self._bar.n:
            # From what is there already, so that the rate is that of this run.
            self._bar = tqdm(desc=self.what, total=total, initial=done, unit=self.unit,
                             mininterval=0.2 if sys.stderr.isatty() else 5.0)
        self._bar.set_postfix_str(said, refresh=False)
        self._bar.update(done - self._bar.n)
        if done == total:
            self._bar.close()

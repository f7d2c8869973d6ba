"""What several commands share: values that they read from the command line, and how they speak to a person."""

from __future__ import annotations

import argparse
import contextlib
import sys


def shard(text: str) -> tuple[int, int]:
    """"I/N" -> (I, N); for argparse."""
    index, _, count = text.partition("/")
    with contextlib.suppress(ValueError):
        if 0 <= int(index) < int(count):
            return int(index), int(count)
    raise argparse.ArgumentTypeError(f"{text!r} is no part; expected I/N with I from 0 to N - 1, such as 0/4")


def say(text: str) -> None:
    """To standard error: standard output is for results."""
    print(text, file=sys.stderr, flush=True)

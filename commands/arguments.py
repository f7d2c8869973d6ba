"""Values that several commands read from the command line."""

from __future__ import annotations

import argparse
import contextlib


def shard(text: str) -> tuple[int, int]:
    """"I/N" -> (I, N); for argparse."""
    index, _, count = text.partition("/")
    with contextlib.suppress(ValueError):
        if 0 <= int(index) < int(count):
            return int(index), int(count)
    raise argparse.ArgumentTypeError(f"{text!r} is no part; expected I/N with I from 0 to N - 1, such as 0/4")

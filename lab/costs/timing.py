"""Times of several things, taken in turn in one process, so that a machine that slows down slows all of them."""

from __future__ import annotations

import statistics
import timeit
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch.utils.benchmark.utils.timer import timer


@dataclass(frozen=True)
class Spread:
    """Of several rounds: median and quartiles, in the unit of the values."""

    median: float
    low: float
    high: float
    rounds: int

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        low, _, high = statistics.quantiles(values, method="inclusive") if len(values) > 1 else values * 3
        return cls(statistics.median(values), low, high, len(values))

    def __str__(self) -> str:
        if self.rounds == 1:
            return f"{self.median:.4g} (one round)"
        return f"{self.median:.4g} ({self.low:.4g} to {self.high:.4g}, {self.rounds} rounds)"


def in_turn(things: Mapping[str, Callable[[], object]], rounds: int, warm: int = 1) -> dict[str, list[float]]:
    """Seconds of each thing, `rounds` of them, the things one after the other in every round.

    warm: rounds before these, which do not count.  torch's clock waits for a GPU before and after.
    """
    timers = {name: timeit.Timer(thing, timer=timer) for name, thing in things.items()}
    seconds: dict[str, list[float]] = {name: [] for name in things}
    for number in range(warm + rounds):
        for name, each in timers.items():
            taken = each.timeit(1)
            if number >= warm:
                seconds[name].append(taken)
    return seconds


def ratio(seconds: Mapping[str, list[float]], one: str, other: str) -> Spread:
    """one / other, round by round."""
    return Spread.of([a / b for a, b in zip(seconds[one], seconds[other], strict=True)])

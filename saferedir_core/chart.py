"""Curves as pixels, drawn with Pillow: how a run and a training are shown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

# Told apart by colour-blind readers as well (Okabe and Ito's palette).
COLOURS = ((0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (230, 159, 0), (86, 180, 233))
WHITE, INK, GREY, PALE = (255, 255, 255), (32, 32, 32), (120, 120, 120), (228, 228, 228)
MARGIN = 8  # pixels, of the title and of what is said at the left


def in_ascii(text: str) -> str:
    """Pillow's own font has no other characters."""
    return text.encode("ascii", "replace").decode()


def colour_of(number: int) -> tuple[int, int, int]:
    return COLOURS[number % len(COLOURS)]


class Chart:
    """A white picture with a title; positions are pixels from its upper left corner."""

    def __init__(self, title: str, width: int, height: int) -> None:
        from PIL import Image, ImageDraw, ImageFont

        self.image = Image.new("RGB", (width, height), WHITE)
        self.draw, self._font = ImageDraw.Draw(self.image), ImageFont.load_default()
        self.text(MARGIN, MARGIN, title, INK)

    def text(self, x: float, y: float, words: str, colour: tuple[int, int, int] = GREY) -> None:
        self.draw.text((x, y), in_ascii(words), colour, self._font)

    def pixels(self) -> torch.Tensor:
        """(height, width, 3) uint8."""
        import numpy

        return torch.from_numpy(numpy.array(self.image))


@dataclass(frozen=True)
class Panel:
    """A plot area of a chart.

    left, top, right, bottom  its edges, pixels
    across, upwards           the values at its left and right edge, and at its lower and upper one
    """

    chart: Chart
    left: float
    top: float
    right: float
    bottom: float
    across: tuple[float, float] = (0.0, 1.0)
    upwards: tuple[float, float] = (0.0, 1.0)

    def x(self, value: float) -> float:
        first, last = self.across
        return self.left + (value - first) / (last - first) * (self.right - self.left)

    def y(self, value: float) -> float:
        lowest, highest = self.upwards
        return self.bottom - (value - lowest) / (highest - lowest) * (self.bottom - self.top)

    def grid(self, ticks: Iterable[tuple[float, str]]) -> None:
        """A pale line at each height, and what stands at its left."""
        for value, label in ticks:
            self.chart.draw.line((self.left, self.y(value), self.right, self.y(value)), PALE)
            self.chart.text(MARGIN, self.y(value) - 6, label)

    def quarters(self) -> None:
        """The grid of a share."""
        self.grid((tick, f"{tick:.2f}") for tick in (0.0, 0.25, 0.5, 0.75, 1.0))

    def curve(self, points: Sequence[tuple[float, float]], colour: tuple[int, int, int], radius: int = 2,
              thin: bool = False) -> None:
        """Points (x, y) joined by a line; a thin one has hollow points."""
        placed = [(self.x(x), self.y(y)) for x, y in points]
        if len(placed) > 1:
            self.chart.draw.line(placed, colour, width=1 if thin else 2)
        for x, y in placed:
            box = (x - radius, y - radius, x + radius, y + radius)
            self.chart.draw.ellipse(box, WHITE if thin else colour, colour)

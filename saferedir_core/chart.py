"""Curves over a grid, drawn with Pillow: what the pictures of runs, trainings and evaluations have in common."""

from collections.abc import Sequence

import torch
from torch import Tensor

from saferedir_core.errors import ConfigError

# Told apart by colour-blind readers as well (Okabe and Ito's palette).
COLOURS = ((0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (230, 159, 0), (86, 180, 233))
WHITE, INK, GREY, PALE = (255, 255, 255), (32, 32, 32), (120, 120, 120), (228, 228, 228)


class Canvas:
    """A white picture with a title.  ConfigError for one smaller than `least` (width, height), in pixels."""

    def __init__(self, width: int, height: int, title: str, least: tuple[int, int]):
        from PIL import Image, ImageDraw, ImageFont

        if width < least[0] or height < least[1]:
            raise ConfigError(f"The plot is {width} x {height} pixels; expected at least {least[0]} x {least[1]}. Make "
                              "it larger.")
        self.image = Image.new("RGB", (width, height), WHITE)
        self.draw, self._font = ImageDraw.Draw(self.image), ImageFont.load_default()
        self.text(8, 8, title, INK)

    def text(self, x: float, y: float, text: str, colour=GREY) -> None:
        self.draw.text((x, y), text, colour, self._font)

    def pixels(self) -> Tensor:
        """(height, width, 3) uint8."""
        import numpy

        return torch.from_numpy(numpy.array(self.image))


class Panel:
    """A plot area on a canvas: heights 0 to 1 over values from `first` to `last`.

    box  left, top, right and bottom, pixels
    """

    def __init__(self, canvas: Canvas, box: tuple[int, int, int, int], first: float, last: float):
        self.canvas, self.first, self.last = canvas, first, last
        self.left, self.top, self.right, self.bottom = box

    def x(self, value: float) -> float:
        return self.left + (self.right - self.left) * (value - self.first) / (self.last - self.first)

    def y(self, share: float) -> float:
        return self.bottom - min(max(share, 0.0), 1.0) * (self.bottom - self.top)

    def grid(self, ticks: Sequence[tuple[str, float]]) -> None:
        """A line and a label at each height."""
        for label, share in ticks:
            self.canvas.draw.line((self.left, self.y(share), self.right, self.y(share)), PALE)
            self.canvas.text(8, self.y(share) - 6, label)

    def curve(self, points: Sequence[tuple[float, float]], colour) -> None:
        """A line through (value, share), with a dot at each."""
        places = [(self.x(value), self.y(share)) for value, share in points]
        if len(places) > 1:
            self.canvas.draw.line(places, colour, width=2)
        for x, y in places:
            self.canvas.draw.ellipse((x - 2, y - 2, x + 2, y + 2), colour)


QUARTERS = tuple((f"{tick:.2f}", tick) for tick in (0.0, 0.25, 0.5, 0.75, 1.0))  # ticks of shares

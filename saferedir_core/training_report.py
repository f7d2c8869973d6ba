"""A training as JSON and as a picture, in the look of `report`."""

import json
import math

import torch
from torch import Tensor

from saferedir_core.errors import ConfigError
from saferedir_core.report import COLOURS, GREY, INK, PALE, WHITE

LOSSES = ("classification", "delta", "direction", "mask", "alpha")
SCORES = ("score", "unsafe_recall", "safe_recall", "redirection")
LEFT, RIGHT, TOP, BETWEEN, BOTTOM = 52, 118, 30, 30, 34
DECADES = 8  # at most, below the largest loss


def training_json(log: list[dict], scores: dict[str, float], metadata: dict[str, str]) -> str:
    """The whole training as strict JSON: metadata, the final validation scores, and one entry per validation."""
    return json.dumps({"version": 1, "metadata": metadata, "validation": scores, "log": log}, indent=1, allow_nan=False)


def training_plot(log: list[dict], title: str = "", width: int = 640, height: int = 400) -> Tensor:
    """Picture of a training's log: (height, width, 3) uint8.

    Above the validation scores, 0 to 1; below the losses, on a logarithmic axis.  At least 320 x 240 pixels.
    """
    import numpy
    from PIL import Image, ImageDraw, ImageFont

    if width < 320 or height < 240:
        raise ConfigError(f"The plot is {width} x {height} pixels; expected at least 320 x 240. Make it larger.")
    image = Image.new("RGB", (width, height), WHITE)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default()
    half = (height - TOP - BETWEEN - BOTTOM) // 2
    steps = [entry["step"] for entry in log]
    draw.text((8, 8), title or _title(log), INK, font)
    scores = {name: [entry[f"validation_{name}"] for entry in log] for name in SCORES}
    losses = {name: [entry[name] for entry in log] for name in LOSSES}
    upper = _Panel(draw, font, LEFT, width - RIGHT, TOP, TOP + half, steps)
    upper.axis([(f"{tick:.2f}", tick) for tick in (0.0, 0.25, 0.5, 0.75, 1.0)])
    upper.curves(scores)
    lower = _Panel(draw, font, LEFT, width - RIGHT, TOP + half + BETWEEN, TOP + 2 * half + BETWEEN, steps)
    lowest, highest = _decades(losses)
    span = highest - lowest
    lower.axis([(f"1e{lowest + tick}", tick / span) for tick in range(span + 1)])
    lower.curves({name: [(math.log10(max(value, 10.0 ** lowest)) - lowest) / span for value in values]
                  for name, values in losses.items()})
    lower.steps()
    return torch.from_numpy(numpy.array(image))


def _title(log: list[dict]) -> str:
    if not log:
        return "No validation yet"
    last = log[-1]
    return f"Step {last['step']}: validation score {last['validation_score']:.3f} (above), losses (below)"


def _decades(losses: dict[str, list[float]]) -> tuple[int, int]:
    """Powers of ten that enclose the losses, at least one apart."""
    values = [value for each in losses.values() for value in each if value > 0]
    highest = math.ceil(math.log10(max(values, default=1.0)))
    lowest = max(math.floor(math.log10(min(values, default=0.1))), highest - DECADES)
    return min(lowest, highest - 1), highest


class _Panel:
    """One plot area: heights 0 to 1 over optimiser steps."""

    def __init__(self, draw, font, left, right, top, bottom, steps: list[int]):
        self.draw, self.font, self.values = draw, font, steps
        self.left, self.right, self.top, self.bottom = left, right, top, bottom

    def x(self, step: int) -> float:
        return self.left + (self.right - self.left) * step / max(self.values[-1], 1)

    def y(self, share: float) -> float:
        return self.bottom - min(max(share, 0.0), 1.0) * (self.bottom - self.top)

    def axis(self, ticks: list[tuple[str, float]]) -> None:
        for label, share in ticks:
            self.draw.line((self.left, self.y(share), self.right, self.y(share)), PALE)
            self.draw.text((8, self.y(share) - 6), label, GREY, self.font)

    def curves(self, named: dict[str, list[float]]) -> None:
        for number, (name, shares) in enumerate(named.items()):
            colour = COLOURS[number % len(COLOURS)]
            points = [(self.x(step), self.y(share)) for step, share in zip(self.values, shares)]
            if len(points) > 1:
                self.draw.line(points, colour, width=2)
            for x, y in points:
                self.draw.ellipse((x - 2, y - 2, x + 2, y + 2), colour)
            self.draw.text((self.right + 10, self.top + 14 * number), name.replace("_", " "), colour, self.font)

    def steps(self) -> None:
        for step in self.values[:: max(1, len(self.values) // 8)]:
            self.draw.text((self.x(step) - 8, self.bottom + 8), str(step), GREY, self.font)
        self.draw.text((self.right + 10, self.bottom + 8), "step", GREY, self.font)

"""A training as JSON and as a picture, in the look of `report`."""

import json
import math

from torch import Tensor

from saferedir_core.chart import Chart, Panel, colour_of

LOSSES = ("classification", "delta", "direction", "mask", "alpha")
SCORES = ("score", "unsafe_recall", "safe_recall", "redirection")
LEFT, RIGHT, TOP, BETWEEN, BOTTOM = 52, 118, 30, 30, 34
WIDTH, HEIGHT = 640, 400
DECADES = 8  # at most, below the largest loss


def training_json(log: list[dict], scores: dict[str, float], metadata: dict[str, str]) -> str:
    """The whole training as strict JSON: metadata, the final validation scores, and one entry per validation."""
    return json.dumps({"version": 1, "metadata": metadata, "validation": scores, "log": log}, indent=1, allow_nan=False)


def training_plot(log: list[dict]) -> Tensor:
    """Picture of a training's log: (400, 640, 3) uint8.

    Above the validation scores, 0 to 1; below the losses, on a logarithmic axis.
    """
    chart = Chart(f"Step {log[-1]['step']}: validation score {log[-1]['validation_score']:.3f} (above), losses (below)"
                  if log else "No validation yet", WIDTH, HEIGHT)
    half = (HEIGHT - TOP - BETWEEN - BOTTOM) // 2
    steps = [entry["step"] for entry in log]
    across = (0, max(steps[-1:] + [1]))
    upper = Panel(chart, LEFT, TOP, WIDTH - RIGHT, TOP + half, across)
    upper.quarters()
    _draw_curves(upper, steps, {name: [entry[f"validation_{name}"] for entry in log] for name in SCORES})
    losses = {name: [entry[name] for entry in log] for name in LOSSES}
    lowest, highest = _decades(losses)
    lower = Panel(chart, LEFT, upper.bottom + BETWEEN, WIDTH - RIGHT, upper.bottom + BETWEEN + half, across,
                  (lowest, highest))
    lower.grid((power, f"1e{power}") for power in range(lowest, highest + 1))
    _draw_curves(lower, steps, {name: [math.log10(max(value, 10.0 ** lowest)) for value in values]
                                for name, values in losses.items()})
    for step in steps[::max(1, len(steps) // 8)]:
        chart.text(lower.x(step) - 8, lower.bottom + 8, str(step))
    chart.text(lower.right + 10, lower.bottom + 8, "step")
    return chart.pixels()


def _draw_curves(panel: Panel, steps: list[int], named: dict[str, list[float]]) -> None:
    """Curves over the steps, their names at the right."""
    for number, (name, values) in enumerate(named.items()):
        panel.curve([*zip(steps, values)], colour_of(number))
        panel.chart.text(panel.right + 10, panel.top + 14 * number, name.replace("_", " "), colour_of(number))


def _decades(losses: dict[str, list[float]]) -> tuple[int, int]:
    """Powers of ten that enclose the losses, at least one apart."""
    values = [value for each in losses.values() for value in each if value > 0]
    highest = math.ceil(math.log10(max(values, default=1.0)))
    lowest = max(math.floor(math.log10(min(values, default=0.1))), highest - DECADES)
    return min(lowest, highest - 1), highest

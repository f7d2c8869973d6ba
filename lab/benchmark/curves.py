"""The plot of shares against shares, in the look of the reports."""

from __future__ import annotations

from PIL import Image

from saferedir_core.chart import PALE, Chart, Panel, colour_of


def plot_curves(curves: dict[str, list[tuple[float, float, str]]], title: str, across: str, upwards: str,
                width: int = 640, height: int = 400) -> Image.Image:
    """Curves of shares against shares.

    curves: name -> points (x, y, label), x and y 0..1.  across, upwards: what x and y are.  The axes begin where the
    points do, so that the upper right corner, the best place, can be read.
    """
    chart = Chart(title, width, height)
    points = [point for curve in curves.values() for point in curve]
    left, bottom = 64, height - 64
    panel = Panel(chart, left, 34, width - 90, bottom, *(
        (max(0.0, min((point[axis] for point in points), default=0.0) - 0.02), 1.0) for axis in (0, 1)))
    panel.grid((share, f"{100 * share:.1f} %") for share in _fifths(panel.upwards))
    for share in _fifths(panel.across):
        chart.draw.line((panel.x(share), panel.top, panel.x(share), bottom), PALE)
        chart.text(panel.x(share) - 14, bottom + 6, f"{100 * share:.1f} %")
    chart.text(left, bottom + 22, f"across: {across}   upwards: {upwards}")
    for number, (name, curve) in enumerate(curves.items()):
        panel.curve([(x, y) for x, y, _ in curve], colour_of(number), radius=3)
        for x, y, label in curve:
            chart.text(panel.x(x) + 5, panel.y(y) + 2, label, colour_of(number))
        chart.text(left + number * 150, height - 20, name, colour_of(number))
    return chart.image


def _fifths(ends: tuple[float, float]) -> list[float]:
    """Five values from one end to the other."""
    return [ends[0] + tick * (ends[1] - ends[0]) / 4 for tick in range(5)]

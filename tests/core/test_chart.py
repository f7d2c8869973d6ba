import pytest
import torch

from saferedir_core import ConfigError
from saferedir_core.chart import COLOURS, WHITE, Chart, Panel


@pytest.fixture
def panel():
    return Panel(Chart("", 200, 100, smallest=(100, 100)), 50, 20, 150, 80, across=(0, 10), upwards=(-1, 1))


def test_values_become_pixels(panel):
    assert (panel.x(0), panel.x(5), panel.x(10)) == (50, 100, 150)
    assert (panel.y(-1), panel.y(0), panel.y(1)) == (80, 50, 20)


def test_a_curve_is_a_line_with_a_dot_at_each_point(panel):
    panel.curve([(0, 0), (10, 0)], COLOURS[0])
    line = panel.chart.pixels()[50]
    assert (line[50:151] == torch.tensor(COLOURS[0])).all() and (line[:45] == torch.tensor(WHITE)).all()


def test_a_single_point_is_a_dot(panel):
    panel.curve([(5, 0)], COLOURS[0])
    assert (panel.chart.pixels()[50, 100] == torch.tensor(COLOURS[0])).all()


def test_too_small_a_picture_is_refused():
    with pytest.raises(ConfigError, match="plot is 99 x 100 pixels; expected at least 100 x 100. Make it larger"):
        Chart("", 99, 100, smallest=(100, 100))

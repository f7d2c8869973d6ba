import numpy as np

from saferedir.lab.benchmark.curves import plot_curves
from saferedir_core.chart import COLOURS


def test_curves_are_drawn_within_the_picture():
    curve = [(0.9, 0.5, "0.5"), (0.98, 1.0, "2")]
    image = np.asarray(plot_curves({"ours": curve}, "title", "kept", "FSR"))
    assert image.shape == (400, 640, 3) and (image == COLOURS[0]).all(-1).sum() > 100
    assert np.asarray(plot_curves({}, "nothing", "kept", "FSR")).shape == (400, 640, 3)

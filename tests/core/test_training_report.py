import json

import pytest

from saferedir_core.chart import COLOURS
from saferedir_core.training_report import LOSSES, SCORES, training_json, training_plot


def log_of(steps):
    return [{"step": step, "seconds": 1.0 * step, **{name: 1 / step for name in LOSSES},
             **{f"validation_{name}": 1 - 1 / step for name in SCORES}} for step in steps]


def test_the_json_has_settings_scores_and_every_validation():
    content = json.loads(training_json(log_of([10, 20]), {"score": 0.9}, {"concept": "stripes"}))
    assert content["metadata"] == {"concept": "stripes"} and content["validation"] == {"score": 0.9}
    assert [entry["step"] for entry in content["log"]] == [10, 20]


@pytest.mark.parametrize("steps", [[], [1], [100, 200], range(1, 60)])
def test_a_plot_of_any_length_is_drawn(steps):
    picture = training_plot(log_of(steps))
    assert picture.shape == (400, 640, 3)
    found = {tuple(colour) for colour in picture.reshape(-1, 3).tolist()}
    assert not steps or {COLOURS[3], COLOURS[4]} <= found      # the last curve of each panel


def test_a_loss_of_zero_is_drawn_at_the_bottom():
    assert training_plot([{**log_of([5])[0], "mask": 0.0}]).shape == (400, 640, 3)

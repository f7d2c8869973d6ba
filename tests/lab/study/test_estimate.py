from dataclasses import replace

import pytest

from saferedir.lab.study.estimate import Estimate, measured
from saferedir.nodes.evaluation.detectors import NoDetector
from saferedir.nodes.evaluation.methods import Oracle, Unguarded
from saferedir.nodes.evaluation.results import read_lines
from saferedir.nodes.evaluation.stage import Job, demo_stage
from saferedir.nodes.evaluation.study import Study


def test_hours_and_money_are_seconds_times_images_left():
    estimate = Estimate({"unguarded": 1.0, "words": 2.0}, 0.5, {"unguarded": 600, "words": 1080}, 8)
    assert estimate.total == 600 * 1.5 + 1080 * 2.5 == 3600
    told = estimate.in_words(2.5)
    assert "| words | 1080 | 2.00 | 0.75 |" in told and "from 8 images: 1.00 hours, 2.50 at 2.5 an hour" in told
    assert "an hour" not in estimate.in_words(None)


@pytest.fixture
def study(comfyui, tmp_path):
    jobs = [Job(row, f"a {colour} fish", 1, False) for row in ("first", "second")
            for colour in ("red", "blue", "green")]
    return Study(demo_stage(steps=1), [Unguarded(), Oracle()], jobs, NoDetector(), tmp_path, {}, batch=2)


def test_it_is_measured_on_images_of_every_row_which_are_results(study):
    estimate = measured(study)
    lines = read_lines(study.results)
    assert {line["row"] for line in lines} == {"first", "second"} and len(lines) == 8
    assert estimate.left == {"unguarded": 2, "oracle": 2} and estimate.measured == 4 and estimate.total > 0


def test_a_study_that_goes_on_counts_what_is_left_and_makes_nothing_anew(study):
    first = measured(study)
    study.evaluate()
    again = measured(replace(study))
    assert again.left == {"unguarded": 0, "oracle": 0} and again.total == 0 and again.seconds == first.seconds

import math

import numpy
import pytest

from saferedir_core import metrics


def test_zero_failures_prove_99_per_cent_from_381_on():
    assert metrics.Share(381, 381).interval[0] >= 0.99 > metrics.Share(380, 380).interval[0]
    assert metrics.Share(0, 0).interval == (0.0, 1.0)


def test_the_interval_holds_the_share_and_narrows():
    low, high = metrics.Share(45, 50).interval
    assert 0 <= low < 0.9 < high <= 1
    wider, narrower = metrics.Share(9, 10).interval, metrics.Share(900, 1000).interval
    assert narrower[1] - narrower[0] < wider[1] - wider[0]


def test_a_share_says_count_total_and_interval():
    assert str(metrics.share([True, True, False, True])) == "75.0 % (3 of 4; 30.1 to 95.4)"
    assert metrics.Share(0, 0).value is None and metrics.Share(1, 4).value == 0.25


def test_csdr_is_the_mean_relative_change_where_there_is_something_to_relate_to():
    assert metrics.csdr([0.4, 0.9, 0.3], [0.8, 0.9, 0.0]) == pytest.approx(-0.25)
    assert metrics.csdr([0.4], [0.0]) is None


def test_a_table_has_a_line_for_its_head_one_of_dashes_and_one_for_each_row():
    assert metrics.table(("what", "how many"), [("fish", 3)]) == "| what | how many |\n| --- | --- |\n| fish | 3 |"


def test_a_bar_does_not_end_its_cell():
    assert metrics.table(("a",), [("b|c",)]).endswith("| b/c |")


def unit_vectors(count, width=8, seed=0):
    made = numpy.random.default_rng(seed).normal(size=(count, width))
    return made / numpy.linalg.norm(made, axis=1, keepdims=True)


def test_cmmd_is_that_of_its_paper_for_two_pictures_and_nothing_between_the_same():
    # exp(-2/200) between unit vectors at a right angle, 1 to themselves.
    assert metrics.cmmd([[1.0, 0.0]], [[0.0, 1.0]]) == pytest.approx(1000 * (2 - 2 * math.exp(-0.01)))
    vectors = unit_vectors(20)
    assert metrics.cmmd(vectors, vectors[::-1]) == pytest.approx(0, abs=1e-9)
    assert metrics.cmmd([], vectors) is None and metrics.cmmd(vectors, []) is None


def test_cmmd_of_more_pictures_than_fit_at_once_is_the_mean_over_all_pairs():
    one, other = unit_vectors(2100, 2), unit_vectors(3, 2, seed=1) + [1, 0]
    kernel = [numpy.exp(-((a[:, None] - b[None]) ** 2).sum(-1) / 200).mean()
              for a, b in ((one, one), (other, other), (one, other))]
    assert metrics.cmmd(one, other) == pytest.approx(1000 * (kernel[0] + kernel[1] - 2 * kernel[2]))


def test_what_misses_its_target_is_marked():
    assert [metrics.marked(3, met) for met in (True, False, None)] == ["3", "3 **missed**", "3"]

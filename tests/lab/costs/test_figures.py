"""The quick form of the benchmark, and what of it is not noise: waits and memory."""

import pytest

from saferedir.lab.costs import costs_page, figures, subjects
from saferedir.lab.costs.timing import Spread, in_turn, ratio


def test_no_step_of_the_hosts_sampler_waits_for_the_guard():
    unguarded, guarded = figures.waits("full", True)
    assert guarded.calls == unguarded.calls == 20
    assert guarded.between_calls() == unguarded.between_calls() and guarded.ours_between_calls() == []


def test_the_witness_is_asked_where_nobody_else_looks_at_pictures():
    words, full = (measure() for _, measure in figures.witness_calls(figures.Plan.quick()))
    assert words == {"predictions, unguarded": 40, "guarded": 48, "guarded / unguarded": 1.2}
    assert full["guarded"] == full["predictions, unguarded"] == 40


def halves(kind):
    return {name: each.half() for name, each in subjects.redirectors(kind, True).items()}


def test_one_concept_in_half_precision_needs_no_more_than_8_mb_and_eight_little_more_than_their_weights():
    one, eight = (figures.memory(halves(kind), 512) for kind in ("full", "eight full"))
    assert one["weights"] < one["all at most"] <= 8e6
    assert eight["weights"] == 8 * one["weights"]
    assert eight["all at most"] - eight["weights"] <= 2 * (one["all at most"] - one["weights"])


def test_times_are_taken_in_turn():
    order = []
    seconds = in_turn({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=2, warm=1)
    assert order == ["a", "b"] * 3 and {name: len(each) for name, each in seconds.items()} == {"a": 2, "b": 2}
    assert ratio({"a": [2.0, 3.0, 8.0], "b": [1.0, 1.0, 2.0]}, "a", "b") == Spread(3.0, 2.5, 3.5, 3)


@pytest.mark.parametrize("name", ["evaluation", "memory", "run"])
def test_the_quick_form_of_a_figure_gives_its_rows(name):
    content = costs_page.Content(True)
    rows = content.begin(name, "bench.py --quick", keep=False)
    rows += [{**what, **costs_page.plain(measure())} for what, measure in figures.FIGURES[name](figures.Plan.quick())]
    text = costs_page.page(content)
    assert rows and costs_page.SECTIONS[name][0] in text and "quick form" in text
    assert "\n\n".join((*costs_page.SECTIONS["start"], "not measured.")) in text


def test_every_figure_has_its_section():
    assert {*costs_page.SECTIONS} == {*figures.FIGURES}


def test_what_the_first_run_of_a_size_takes_is_what_its_full_form_promises():
    cases = {(case.model, case.pixels, case.batch) for case in figures.Plan.full().runs}
    assert cases == {("SD 1.5", 512, 1), ("SD 1.5", 512, 4), ("SD 1.5", 1024, 1), ("SD 1.5", 1024, 4),
                     ("SDXL", 1024, 1)}
    assert all({("full", state) for state in subjects.STATES} <= {*case.guards} for case in figures.Plan.full().runs)

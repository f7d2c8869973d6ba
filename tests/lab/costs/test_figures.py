"""The quick form of the benchmark, and what of it is not noise: waits and memory."""

import pytest

from saferedir.lab.costs import costs_page, figures, subjects
from saferedir.lab.costs.timing import Spread, in_turn, ratio


def test_no_step_of_the_hosts_sampler_waits_for_the_guard():
    unguarded, guarded = figures.waits(2)
    assert guarded.calls == unguarded.calls == 20
    assert guarded.between_calls() == unguarded.between_calls() and guarded.ours_between_calls() == []


def test_one_concept_in_half_precision_needs_no_more_than_40_mb():
    made = figures.memory({"one": subjects.redirector().half()}, 512)
    assert made["weights"] < made["all at most"] <= 40e6


def test_eight_concepts_keep_a_copy_of_their_heads_and_evaluate_in_little_more_memory():
    one, eight = (figures.memory({name: each.half() for name, each in subjects.sharing(count).items()}, 512)
                  for count in (1, 8))
    assert eight["an evaluation"] <= 1.2 * one["an evaluation"]
    assert eight["kept for the run"] <= 125e6


def test_times_are_taken_in_turn():
    order = []
    seconds = in_turn({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=2, warm=1)
    assert order == ["a", "b"] * 3 and {name: len(each) for name, each in seconds.items()} == {"a": 2, "b": 2}
    assert ratio({"a": [2.0, 3.0, 8.0], "b": [1.0, 1.0, 2.0]}, "a", "b") == Spread(3.0, 2.5, 3.5, 3)


@pytest.mark.parametrize("name", ["evaluation", "waits", "memory"])
def test_the_quick_form_of_a_figure_gives_its_rows(name):
    rows = figures.FIGURES[name](figures.Plan.quick())
    content = costs_page.content_of({name: costs_page.taken(rows, "0.1", "bench.py --quick")}, True)
    text = costs_page.page(content)
    assert rows and costs_page.SECTIONS[name][0] in text and "quick form" in text
    assert "\n\n".join((*costs_page.SECTIONS["run"], "not measured.")) in text


def test_every_figure_has_its_section():
    assert tuple(costs_page.SECTIONS) == tuple(figures.FIGURES)


def test_a_figure_taken_alone_leaves_the_others_of_this_machine(tmp_path):
    one, other = (costs_page.taken([{"what": name, "value": Spread(1.0, 1.0, 1.0, 1)}], "0.1", "command")
                  for name in ("import", "images"))
    costs_page.write({"start": one}, False, tmp_path)
    costs_page.write(costs_page.earlier(tmp_path, False) | {"training": other}, False, tmp_path)
    text = (tmp_path / "costs.md").read_text(encoding="utf-8")
    assert "| import | 1 (one round) |" in text and "| images | 1 (one round) |" in text
    assert costs_page.earlier(tmp_path, True) == {}
    assert set(costs_page.earlier(tmp_path, False)) == {"start", "training"}


def test_what_was_to_be_reached_stands_first_and_misses_are_named():
    rows = [{"image": "512 x 512", "batch": 1, "times faster than published": Spread(1.5, 1.4, 1.6, 7)},
            {"image": "1024 x 1024", "batch": 1, "times faster than published": Spread(12.0, 1.4, 1.6, 7)}]
    told = {what: measured for what, _, measured in costs_page.reached(
        {"evaluation": costs_page.taken(rows, "0.1", "command")})}
    assert told["one evaluation against the published policy, 512 x 512"] == "1.5 **missed**"
    assert told["one evaluation against the published policy, 1024 x 1024"] == "12"
    assert told["the demo concept trained"] == "not measured"

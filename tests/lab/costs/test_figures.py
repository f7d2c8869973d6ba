"""The quick form of the benchmark, and what of it is not noise: waits, operations, memory."""

import pytest

import saferedir_core as core
from saferedir.lab.costs import costs_page as results
from saferedir.lab.costs import figures, subjects
from saferedir.lab.costs.bench import parser
from saferedir.lab.costs.timing import Spread, in_turn, ratio


@pytest.fixture(scope="module")
def counted():
    return {count: figures.counted(subjects.sharing(count), 512) for count in (1, 8)}


def test_no_step_waits_for_the_device(counted):
    assert not any(made[name].every for made in counted.values() for name in ("second", "step"))


def test_no_step_of_the_hosts_sampler_waits_for_the_guard():
    unguarded, guarded = figures.waits(2)
    assert guarded.calls == unguarded.calls == 20
    assert guarded.between_calls() == unguarded.between_calls() and guarded.ours_between_calls() == []


def test_an_evaluation_and_its_redirection_stay_within_their_operations(counted):
    """Measured: see docs/costs.md; the published network alone takes more."""
    assert counted[1]["step"].operations <= 100
    assert counted[8]["step"].operations <= counted[1]["step"].operations + 40


def test_eight_concepts_keep_and_use_little_more_memory(counted):
    one, eight = counted[1], figures.counted(subjects.sharing(8), 512, as_one=False)
    assert one["kept"] <= 8e6 and eight["kept"] <= 60e6
    assert one["step"].peak_bytes <= 12e6 and eight["step"].peak_bytes <= 24e6


def test_heads_that_are_evaluated_as_one_take_a_copy_of_their_weights_and_few_operations(counted):
    apart = figures.counted(subjects.sharing(8), 512, as_one=False)
    assert counted[8]["kept"] <= apart["kept"] + 190e6 and counted[8]["step"].peak_bytes <= 24e6
    assert 3 * counted[8]["step"].operations < apart["step"].operations


def test_one_concept_in_half_precision_needs_no_more_than_40_mb():
    made = figures.memory({"one": subjects.redirector().half()}, 512)
    assert made["weights"] < made["all at most"] <= 40e6


def test_a_network_asked_as_a_whole_takes_more(counted):
    class Whole(core.Redirector):
        def forward(self, *given):
            return super().forward(*given)
    redirector = subjects.redirector()
    redirector.__class__ = Whole
    made = figures.counted({"one": redirector}, 512)
    assert made["step"].operations > 1.2 * counted[1]["step"].operations
    assert made["step"].peak_bytes > counted[1]["step"].peak_bytes


def test_times_are_taken_in_turn():
    order = []
    seconds = in_turn({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=2, warm=1)
    assert order == ["a", "b"] * 3 and {name: len(each) for name, each in seconds.items()} == {"a": 2, "b": 2}
    assert ratio({"a": [2.0, 3.0, 8.0], "b": [1.0, 1.0, 2.0]}, "a", "b") == Spread(3.0, 2.5, 3.5, 3)


@pytest.mark.parametrize("name", ["evaluation", "counts", "growth"])
def test_the_quick_form_of_a_figure_gives_its_rows(name):
    rows = figures.FIGURES[name](figures.Plan.quick())
    content = results.as_json({name: results.Figure.taken(rows, "0.1", "bench.py --quick")}, True)
    text = results.as_markdown(content)
    assert rows and results.TITLES[name] in text and "quick form" in text
    assert f"{results.TITLES['run']}\n\n{results.NOTES['run']}\n\nnot measured." in text


def test_the_command_knows_every_figure():
    assert parser().parse_args([]).only == tuple(figures.FIGURES)


def test_a_figure_taken_alone_leaves_the_others_of_this_machine(tmp_path):
    one, other = (results.Figure.taken([{"what": name, "value": Spread(1.0, 1.0, 1.0, 1)}], "0.1", "command")
                  for name in ("import", "images"))
    results.write(results.as_json({"start": one}, False), tmp_path)
    figures = results.earlier(tmp_path, False) | {"training": other}
    results.write(results.as_json(figures, False), tmp_path)
    text = (tmp_path / "costs.md").read_text(encoding="utf-8")
    assert "| import | 1 (one round) |" in text and "| images | 1 (one round) |" in text
    assert results.earlier(tmp_path, True) == {} and set(results.earlier(tmp_path, False)) == {"start", "training"}


def test_what_was_to_be_reached_stands_first_and_misses_are_named():
    rows = [{"image": "512 x 512", "batch": 1, "way": "default",
             "times faster than published": Spread(1.5, 1.4, 1.6, 7)},
            {"image": "1024 x 1024", "batch": 1, "way": "default",
             "times faster than published": Spread(12.0, 1.4, 1.6, 7)}]
    figures = results.as_json({"evaluation": results.Figure.taken(rows, "0.1", "command")}, False)["figures"]
    told = {what: measured for what, _, measured in results.reached(figures)}
    assert told["one evaluation against the published policy, 512 x 512"] == "1.5 **missed**"
    assert told["one evaluation against the published policy, 1024 x 1024"] == "12"
    assert told["the demo concept trained"] == "not measured"

import pytest
import torch

from saferedir_core import ConfigError, PolicyConfig, RedirectionRun, Redirector, RedirectorConfig
from saferedir_core.report import plot, report_json
from saferedir_core.stack import StackedRun, require_stackable, summed


def redirector(seed: int, unsafe: bool, threshold: str | None = None) -> Redirector:
    """A real network with random weights that always or never says unsafe."""
    torch.manual_seed(seed)
    made = Redirector(RedirectorConfig(latent_dim=4, prompt_dim=8, tokens=5, rank=2, timestep_dim=8))
    with torch.no_grad():
        made.classifier[3].weight.zero_()
        made.classifier[3].bias.copy_(torch.tensor([0.0, 2.0 if unsafe else -2.0]))
    if threshold:
        made.metadata = {"threshold": threshold}
    return made.eval().requires_grad_(False)


@pytest.fixture
def context():
    return torch.randn(2, 10, 8, generator=torch.Generator().manual_seed(0))


def observed(redirectors, context, **policy) -> StackedRun:
    run = StackedRun(redirectors, PolicyConfig(**policy), context)
    run.observe(torch.ones(2, 4, 2, 2), 500.0, step=0, sigma=1.0)
    return run


def alone(each, context) -> torch.Tensor:
    run = RedirectionRun(each, PolicyConfig(), context)
    run.observe(torch.ones(2, 4, 2, 2), 500.0)
    return run.redirect(context)


def test_while_none_redirects_the_very_same_tensor_comes_back(context):
    run = observed({"a": redirector(0, False), "b": redirector(1, False)}, context)
    assert run.redirect(context) is context
    assert run.report()["status"] == "safe"


def test_what_only_one_redirects_is_exactly_what_it_gives_alone(context):
    hit = redirector(0, True)
    run = observed({"a": redirector(1, False), "b": hit}, context)
    assert torch.equal(run.redirect(context), alone(hit, context))


def test_two_shifts_add_up(context):
    first, second = redirector(0, True), redirector(1, True)
    run = observed({"a": first, "b": second}, context)
    expected = alone(first, context) + alone(second, context) - context
    torch.testing.assert_close(run.redirect(context), expected)
    assert not torch.allclose(run.redirect(context), alone(first, context))


def test_the_order_does_not_matter_to_the_last_bit(context):
    parts = {name: redirector(seed, True) for seed, name in enumerate("abc")}
    turned = dict(reversed(parts.items()))
    assert torch.equal(observed(parts, context).redirect(context), observed(turned, context).redirect(context))


def test_a_chunk_that_one_alone_changes_is_its_own_even_when_another_changes_others(context):
    first, second = context.clone(), context.clone()
    first[0, :5] += 1.25
    second[0, :5] += 0.5
    second[1, 5:] *= 1.1
    result = summed(context, [first, second], tokens=5)
    torch.testing.assert_close(result[0, :5], context[0, :5] + 1.75)
    assert torch.equal(result[1, 5:], second[1, 5:])
    assert torch.equal(result[0, 5:], context[0, 5:]) and torch.equal(result[1, :5], context[1, :5])


def test_half_precision_comes_back_as_it_came(context):
    run = observed({"a": redirector(0, True), "b": redirector(1, True)}, context.half())
    assert run.redirect(context.half()).dtype == torch.float16


def test_every_redirector_keeps_its_own_threshold(context):
    parts = {"low": redirector(0, True, "0.2"), "high": redirector(0, True, "0.95")}     # both say 0.88
    report = observed(parts, context).report()
    assert {part["concept"]: (part["status"], part["policy"]["threshold"]) for part in report["concepts"]} == {
        "low": ("redirected", 0.2), "high": ("safe", 0.95)}


def test_the_report_has_a_part_for_each_concept_and_says_it_all_together(context):
    report = observed({"boat": redirector(0, True), "stripes": redirector(1, False)}, context).report()
    assert report["status"] == "redirected" and report["redirector"] is None
    assert [part["concept"] for part in report["concepts"]] == ["boat", "stripes"]
    assert report["verdict"].startswith("boat: Redirected") and "stripes: Safe" in report["verdict"]
    assert report["items"][0]["highest_unsafe_probability"] == pytest.approx(0.880797)
    assert report_json(report) and plot(report).shape == (320, 640, 3)


def test_an_interval_counts_for_each_redirector_by_itself(context):
    run = observed({"a": redirector(0, True), "b": redirector(1, False)}, context, interval=1)
    decision = run.observe(torch.ones(2, 4, 2, 2), 400.0)
    assert decision.evaluated_items == (True, True)     # by b
    assert decision.redirected == (True, True) and not any(decision.unsafe)
    assert decision.unsafe_probability == pytest.approx((0.119203, 0.119203))


def test_redirectors_of_other_sizes_are_refused():
    with pytest.raises(ConfigError, match="'b'.*expected equal ones"):
        require_stackable({"a": redirector(0, True), "b": Redirector(RedirectorConfig(prompt_dim=16))})
    with pytest.raises(ConfigError, match="at least one"):
        require_stackable({})

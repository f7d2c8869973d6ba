import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from saferedir_core import ConfigError, PolicyConfig
from saferedir_core.policy import Policy, next_countdown, resolved, stored_threshold
from saferedir_core.redirector import unsafe_probability

TIE = torch.tensor([[1.0, 1.0]])


def decide(logits, config):
    """Of one concept: (R, 2) -> (R,)."""
    policy = Policy(config, torch.tensor([[0.5 if config.threshold is None else config.threshold]]))
    return policy.unsafe(logits[None], unsafe_probability(logits[None]))[0]


def test_guard_compares_the_probability_with_the_threshold():
    logits = torch.tensor([[0.0, math.log(0.6 / 0.4)], [0.0, math.log(0.8 / 0.2)]])
    assert decide(logits, PolicyConfig(threshold=0.5)).tolist() == [True, True]
    assert decide(logits, PolicyConfig(threshold=0.7)).tolist() == [False, True]


def test_a_tie_is_unsafe_for_the_guard_and_safe_upstream():
    assert decide(TIE, PolicyConfig()).tolist() == [True]
    assert decide(TIE, PolicyConfig(mode="upstream")).tolist() == [False]


def test_without_a_threshold_the_redirectors_own_counts_and_else_one_half():
    assert resolved(PolicyConfig(), {}).threshold == 0.5
    assert resolved(PolicyConfig(), {"threshold": "0.125"}).threshold == 0.125
    assert resolved(PolicyConfig(threshold=0.7), {"threshold": "0.125"}).threshold == 0.7


@pytest.mark.parametrize("text", ["0", "1", "-0.5", "nan", "inf", "high", ""])
def test_a_stored_threshold_that_is_no_probability_is_refused(text):
    with pytest.raises(ConfigError, match="strictly between 0 and 1"):
        stored_threshold({"threshold": text})


def test_upstream_knows_no_threshold():
    assert decide(torch.tensor([[0.0, 0.1]]), PolicyConfig(mode="upstream", threshold=0.99)).tolist() == [True]


@given(st.lists(st.floats(-20, 20), min_size=1, max_size=5), st.floats(0.01, 0.98), st.floats(0.001, 0.01))
def test_a_higher_threshold_never_finds_more(scores, threshold, more):
    logits = torch.stack([torch.zeros(len(scores)), torch.tensor(scores)], dim=1)
    low, high = (decide(logits, PolicyConfig(threshold=value)) for value in (threshold, threshold + more))
    assert not (high & ~low).any()


def test_each_concept_has_its_own_threshold():
    policy = Policy(PolicyConfig(), torch.tensor([[0.5], [0.7]]))
    logits = torch.tensor([[0.0, math.log(0.6 / 0.4)]]).expand(2, 1, 2)
    assert policy.unsafe(logits, unsafe_probability(logits)).tolist() == [[True], [False]]


@given(st.integers(0, 6), st.integers(1, 30))
def test_interval_evaluations_pass_between_two_interventions(interval, length):
    countdown, evaluated = torch.zeros(1, dtype=torch.int32), []
    for step in range(length):
        due = countdown == 0
        evaluated += [step] if due else []
        countdown = next_countdown(countdown, due, interval)          # every evaluation intervenes
    assert evaluated == list(range(0, length, interval + 1))


def test_items_count_down_on_their_own():
    countdown = next_countdown(torch.tensor([[0, 2, 0]]), torch.tensor([[True, False, False]]), 3)
    assert countdown.tolist() == [[3, 1, 0]]


@pytest.mark.parametrize(("config", "expected"), [
    (PolicyConfig(), [True, True, True]),
    (PolicyConfig(sticky=False), [False, True, True]),
    (PolicyConfig(mode="upstream", sticky=False), [True, True, True]),
])
def test_only_a_policy_that_is_not_sticky_returns_and_rows_not_evaluated_keep_their_state(config, expected):
    policy = Policy(config, torch.tensor([[0.5]]))
    before, unsafe, due = torch.tensor([[[True, False, True]], [[False, True, False]], [[True, True, False]]])
    assert policy.redirected(before, unsafe, due).tolist() == [expected]


def test_where_all_rows_were_due_nothing_has_to_say_so():
    policy = Policy(PolicyConfig(sticky=False), torch.tensor([[0.5]]))
    assert policy.redirected(torch.tensor([[True, False]]), torch.tensor([[False, True]]), None).tolist() == [
        [False, True]]

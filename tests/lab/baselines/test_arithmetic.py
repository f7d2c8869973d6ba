"""The mathematics of the training-free baselines, on tensors small enough to follow."""

import pytest
import torch

from saferedir.lab.baselines import arithmetic as baselines

WIDTH = 6


def axis(*places):
    """The sum of these axes of the context space, (D,)."""
    return sum(torch.eye(WIDTH)[place] for place in places)


@pytest.fixture
def context():
    torch.manual_seed(0)
    return torch.randn(2, 5, WIDTH)


def test_subtraction_moves_every_token_but_the_first_and_leaves_what_it_was_given(context):
    before = context.clone()
    moved = baselines.subtract(context, 2 * axis(0))
    assert torch.equal(context, before)
    assert torch.equal(moved[:, 0], context[:, 0])
    torch.testing.assert_close(moved[:, 1:], context[:, 1:] - 2 * axis(0))


def test_span_projection_keeps_the_span_and_nothing_else():
    projection = baselines.span_projection(torch.stack([axis(0), axis(0, 1), axis(1)]))
    torch.testing.assert_close(axis(1) @ projection, axis(1))
    torch.testing.assert_close(axis(2) @ projection, torch.zeros(WIDTH))
    torch.testing.assert_close(projection @ projection, projection)


def test_span_projection_of_rank_one_keeps_the_strongest_direction():
    projection = baselines.span_projection(torch.stack([5 * axis(0), axis(1)]), rank=1)
    torch.testing.assert_close(axis(0, 1) @ projection, axis(0))


def test_the_token_without_which_the_prompt_is_farther_from_the_concept_is_a_trigger():
    concept = baselines.span_projection(axis(0)[None])
    left_out = torch.stack([axis(0, 1), axis(0, 1), 2 * axis(1)])  # only without token 2 is it far from axis 0
    assert baselines.trigger_tokens(left_out, concept).tolist() == [False, False, True]


def test_no_token_is_a_trigger_when_all_are_alike():
    concept = baselines.span_projection(axis(0)[None])
    assert not baselines.trigger_tokens(axis(0, 1).expand(4, -1), concept).any()


def test_a_prompt_of_one_word_is_its_own_trigger():
    concept = baselines.span_projection(axis(0)[None])
    assert baselines.trigger_tokens(axis(1)[None], concept).tolist() == [True]


def test_detoxified_tokens_are_orthogonal_to_the_concept(context):
    concept = baselines.span_projection(axis(0)[None])
    tokens = context[0]
    clean = baselines.detoxify(tokens, torch.eye(WIDTH), concept)
    torch.testing.assert_close(clean[:, 0], torch.zeros(5))
    torch.testing.assert_close(clean[:, 1:], tokens[:, 1:])


def test_presence_is_one_half_at_the_offset():
    neutral, direction = axis(1), axis(0)
    at = torch.stack([neutral + 0.6 * axis(0) + 0.8 * axis(2), neutral + axis(0), neutral + axis(2)])
    present = baselines.presence(at, neutral, direction, offset=0.6)
    assert present[0] == pytest.approx(0.5)
    assert present[1] > 0.999 and present[2] < 0.001


def test_a_vector_without_a_direction_has_there_what_the_neutral_one_has():
    vector = baselines.without_direction(axis(0, 1, 2), 3 * axis(0), 2 * axis(0))
    torch.testing.assert_close(vector, 3 * axis(0) + axis(1, 2))


def test_calibrated_subtraction_leaves_items_below_the_threshold_bit_for_bit(context):
    moved = baselines.calibrated(context, axis(0).expand(5, -1), torch.tensor([0.49, 0.9]))
    assert torch.equal(moved[0], context[0])
    torch.testing.assert_close(moved[1], context[1] - 0.9 * axis(0))


def test_distinct_tokens_are_those_unlike_the_neutral_ones():
    kept = baselines.distinct(torch.stack([axis(0), axis(1)]), axis(1)[None], 0.7)
    assert torch.equal(kept, axis(0)[None])


def test_words_near_the_concept_become_the_prompts_own_padding(context):
    context = context.clone()
    context[..., 0] = 0
    context[1, 2] = 7 * axis(0)
    near = baselines.words_near(context, axis(0)[None], torch.tensor([3, 3]))
    assert near.nonzero().tolist() == [[1, 2]]
    replaced = baselines.replace_by_padding(context, near)
    assert torch.equal(replaced[0], context[0])
    assert torch.equal(replaced[1, 2], context[1, 4])
    assert torch.equal(replaced[1, [0, 1, 3, 4]], context[1, [0, 1, 3, 4]])


def test_the_first_token_and_the_padding_are_no_words():
    assert not baselines.words_near(axis(0).expand(1, 5, -1), axis(0)[None], torch.tensor([1])).any()


def test_safety_guidance_points_from_the_empty_prompt_to_the_concept():
    text, nothing, concept = torch.zeros(1, 1, 1, 2), torch.zeros(1, 1, 1, 2), torch.tensor([[[[1.0, -1.0]]]])
    gamma, momentum = baselines.safety_guidance(text, nothing, concept, torch.zeros_like(text),
                                                baselines.PRESETS["strong"])
    # text - concept is -1, below the threshold, and 1, above it
    torch.testing.assert_close(gamma, torch.tensor([[[[1.0, 0.0]]]]))
    torch.testing.assert_close(momentum, 0.3 * gamma)


def test_momentum_adds_to_the_next_safety_guidance():
    zero, concept, config = torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1), baselines.PRESETS["strong"]
    _, momentum = baselines.safety_guidance(zero, zero, concept, zero, config)
    gamma, _ = baselines.safety_guidance(zero, zero, concept, momentum, config)
    torch.testing.assert_close(gamma, concept + 0.5 * momentum)


def test_safety_guidance_is_bounded_by_the_difference_itself():
    zero, concept = torch.zeros(1, 1, 1, 1), torch.full((1, 1, 1, 1), 100.0)
    gamma, _ = baselines.safety_guidance(zero, zero, concept, zero, baselines.PRESETS["max"])
    torch.testing.assert_close(gamma, concept)

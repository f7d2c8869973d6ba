import pytest
import torch

from saferedir_core import EvaluationError, LatentError, TimestepError
from saferedir_core.record import Record, merged_decision


def values(probability=((0.2, 0.9),), due=None, **other):
    """Of C concepts, two items of one chunk each; unsafe from one half on."""
    unsafe = [[[each >= 0.5] for each in concept] for concept in probability]
    made = {"timesteps": [500.0, 499.0], "redirected": unsafe, "latent_sum": [0.0, 0.0],
            "output_sum": [[[0.0], [0.0]] for _ in probability], "unsafe": unsafe,
            "token_mask": [[[0.5] * 6] * 2] * len(probability), "alpha": [[[0.5] * 6] * 2] * len(probability),
            "probability": [[[each] for each in concept] for concept in probability]}
    return made | ({} if due is None else {"due": due}) | other


def record(concepts=("stripes",)):
    return Record(concepts, [torch.float32] * len(concepts), 4)


def test_a_decision_says_what_was_observed():
    made = record()
    decision = made.add(values(), 3, 1.5)
    assert (decision.index, decision.step, decision.sigma) == (0, 3, 1.5)
    assert decision.timesteps == (500.0, 499.0) and decision.evaluated_items == (True, True)
    assert decision.unsafe_probability == (0.2, 0.9) and decision.chunk_probability == ((0.2,), (0.9,))
    assert decision.unsafe == decision.redirected == (False, True)
    assert made.together is made.trajectories["stripes"] and made.together[0] is decision


def test_items_that_were_not_due_have_no_probability():
    decision = record().add(values(due=[[True, False]]), None, None)
    assert decision.evaluated_items == (True, False) and decision.unsafe_probability == (0.2, None)
    assert decision.unsafe == (False, False) and decision.redirected == (False, True)


def test_a_step_that_was_skipped_evaluates_nothing():
    decision = record().add({"timesteps": [500.0], "redirected": [[[True]]]}, None, None)
    assert not decision.evaluated and decision.redirected == (True,)


def test_a_sigma_that_came_from_the_device_counts():
    assert record().add(values(sigma=[2.0]), None, None).sigma == 2.0


def test_several_concepts_are_recorded_each_and_together():
    made = record(("boat", "stripes"))
    together = made.add(values(((0.2, 0.3), (0.1, 0.9))), None, None)
    assert together.unsafe_probability == (0.2, 0.9) and together.unsafe == (False, True)
    assert made.trajectories["boat"][0].unsafe == (False, False)
    assert together == merged_decision([each[0] for each in made.trajectories.values()])


def test_token_scores_stay_until_there_are_new_ones_and_together_they_are_the_likeliest_concepts():
    made = record(("boat", "stripes"))
    masks = {"token_mask": [[[0.1] * 6, [0.2] * 6], [[0.3] * 6, [0.4] * 6]],
             "alpha": [[[0.5] * 6, [0.6] * 6], [[0.7] * 6, [0.8] * 6]]}
    made.add(values(((0.2, 0.3), (0.1, 0.9)), **masks), None, None)
    later = values(((0.2, 0.9), (0.3, 0.1)), due=[[True, True], [True, False]])
    del later["token_mask"], later["alpha"]
    made.add(later, None, None)
    boat, stripes = made.trajectories.values()
    assert boat.tokens[0].token_mask == (0.1,) * 4 and boat.tokens[0].decision_index == 1
    assert (stripes.tokens[0].decision_index, stripes.tokens[1].decision_index) == (1, 0)
    assert made.together.tokens[0].alpha == (0.7,) * 4 and made.together.tokens[1].alpha == (0.6,) * 4


@pytest.mark.parametrize(("wrong", "error", "message"), [
    ({"timesteps": [500.0, float("nan")]}, TimestepError, "timestep is nan"),
    ({"latent_sum": [0.0, float("inf")]}, LatentError, "latent of item 1"),
    ({"output_sum": [[[0.0], [float("nan")]]]}, EvaluationError, "NaN or infinity for item 1 in torch.float32"),
])
def test_what_is_not_finite_is_refused_and_not_recorded(wrong, error, message):
    made = record()
    with pytest.raises(error, match=message):
        made.add(values(**wrong), None, None)
    assert len(made.together) == 0


def test_what_was_not_due_may_hold_anything():
    made = record()
    made.add(values(due=[[True, False]], latent_sum=[0.0, float("nan")]), None, None)
    assert len(made.together) == 1

import dataclasses

import pytest

from saferedir_core import Decision, Trajectory


def _decision(**changes):
    decision = Decision(index=0, step=None, sigma=None, timesteps=(500.0, 400.0), evaluated_items=(True, False),
                        unsafe_probability=(0.3, None), chunk_probability=((0.3,), ()), unsafe=(False, False),
                        redirected=(False, True), redirected_chunks=((False,), (True,)))
    return dataclasses.replace(decision, **changes)


def test_decisions_are_kept_in_order():
    first, second = _decision(), _decision(index=1)
    trajectory = Trajectory()
    trajectory.append(first)
    trajectory.append(second)
    assert list(trajectory) == [first, second]
    assert len(trajectory) == 2 and trajectory[-1] is second


def test_a_new_trajectory_is_empty():
    assert len(Trajectory()) == 0 and Trajectory().tokens == {}


def test_a_decision_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        _decision().index = 1


def test_a_decision_answers_for_the_whole_batch():
    assert _decision().evaluated and _decision().intervenes and _decision().timestep == 500.0
    assert not _decision(evaluated_items=(False, False)).evaluated
    assert not _decision(redirected=(False, False)).intervenes

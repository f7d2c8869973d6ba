import pytest
import torch

from saferedir_core.readback import Readback


def test_values_come_back_in_order_with_their_shapes_and_names():
    readback, seen = Readback(), []
    readback.add({"flags": torch.tensor([[True, False]]), "number": torch.tensor(2.5)}, seen.append)
    readback.add({"half": torch.ones(2, 0, 3, dtype=torch.float16), "whole": torch.tensor([7])}, seen.append)
    assert seen == []
    readback.send()
    readback.take_arrived()
    assert seen == [{"flags": [[True, False]], "number": 2.5}, {"half": [[], []], "whole": [7]}]
    readback.settle()
    assert len(seen) == 2


def test_a_bool_is_a_bool_again():
    readback, seen = Readback(), []
    readback.add({"flag": torch.tensor(True)}, seen.append)
    readback.settle()
    assert seen[0]["flag"] is True


def test_what_is_not_finite_comes_back_as_it_is():
    readback, seen = Readback(), []
    readback.add({"values": torch.tensor([float("inf"), -float("inf")])}, seen.append)
    readback.settle()
    assert seen == [{"values": [float("inf"), -float("inf")]}]


def test_nothing_is_taken_before_it_has_arrived_and_all_of_it_at_the_end(never_arriving):
    readback, seen = Readback(), []
    for number in range(3):
        readback.add({"number": torch.tensor(number)}, seen.append)
        readback.send()
        readback.take_arrived()
        assert seen == []
    readback.add({"number": torch.tensor(3)}, seen.append)      # not sent yet
    readback.settle()
    assert [each["number"] for each in seen] == [0, 1, 2, 3]


def test_everything_of_a_step_leaves_in_one_transfer(monkeypatch):
    packed, cat = [], torch.cat
    monkeypatch.setattr(torch, "cat", lambda tensors: packed.append(len(tensors)) or cat(tensors))
    readback = Readback()
    for _ in range(3):
        readback.add({"one": torch.ones(2), "other": torch.ones(3)}, lambda values: None)
    readback.send()
    readback.send()
    assert packed == [6]


def test_an_error_comes_out_and_what_was_added_after_it_stays():
    readback, seen = Readback(), []

    def fails(values):
        raise ValueError("not so")
    readback.add({"number": torch.tensor(1)}, fails)
    readback.add({"number": torch.tensor(2)}, seen.append)
    readback.send()
    with pytest.raises(ValueError, match="not so"):
        readback.take_arrived()
    assert seen == []
    readback.settle()
    assert seen == [{"number": 2}]


def test_what_lies_on_the_host_already_has_arrived():
    readback, seen = Readback(), []
    readback.add({"number": torch.tensor(1)}, seen.append)
    readback.take_arrived()
    assert seen == [{"number": 1}]


def test_what_a_tensor_becomes_after_sending_does_not_matter():
    readback, seen, tensor = Readback(), [], torch.ones(2)
    readback.add({"values": tensor}, seen.append)
    readback.send()
    tensor.zero_()
    readback.settle()
    assert seen == [{"values": [1.0, 1.0]}]

import torch

from saferedir.lab.costs.counting import Counting


def test_operations_are_counted_and_views_are_not():
    x = torch.ones(4, 4)
    with Counting() as counts:
        (x.view(16)[None].mT + 1).relu_()
    assert (counts.operations, counts.every) == (2, [])


def test_every_way_of_asking_for_a_value_counts_as_a_wait():
    x = torch.ones(4)
    for ask in (lambda: x.sum().item(), lambda: bool(x.any()), lambda: float(x[0]), lambda: x.tolist(),
                lambda: x.numpy(), lambda: x[x > 0], lambda: x.nonzero(), lambda: x.to("meta")):
        with Counting() as counts:
            ask()
        assert counts.every, ask


def test_the_peak_is_what_was_alive_at_a_time():
    x = torch.ones(1000)
    with Counting() as counts:
        for _ in range(5):
            y = x + 1
            del y
    assert counts.peak_bytes in (4000, 8000)     # a loop may hold one result while the next is made

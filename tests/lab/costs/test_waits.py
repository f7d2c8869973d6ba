import torch

from saferedir.lab.costs.waits import WaitCount


def test_what_asks_for_no_value_is_no_wait():
    x = torch.ones(4, 4)
    with WaitCount() as counts:
        (x.view(16)[None].mT + 1).relu_()
    assert counts.every == []


def test_every_way_of_asking_for_a_value_counts_as_a_wait():
    x = torch.ones(4)
    for ask in (lambda: x.sum().item(), lambda: bool(x.any()), lambda: float(x[0]), lambda: x.tolist(),
                lambda: x.numpy(), lambda: x[x > 0], lambda: x.nonzero(), lambda: x.to("meta")):
        with WaitCount() as counts:
            ask()
        assert counts.every, ask

import torch

from saferedir.lab.costs.memory import MemoryCount


def test_the_peak_is_what_was_alive_at_a_time():
    x = torch.ones(1000)
    with MemoryCount() as count:
        for _ in range(5):
            y = x + 1
            del y
    assert count.peak_bytes in (4000, 8000)     # a loop may hold one result while the next is made
    assert count.alive_bytes() == 0

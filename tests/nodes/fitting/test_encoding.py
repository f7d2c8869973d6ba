"""What a fit is given of the host's text encoders."""

import pytest
import torch

from saferedir.nodes.fitting.encoding import encoder_of


@pytest.mark.parametrize(("value", "read"), [(1.0, True), (float("nan"), False), (3e38, False)])
def test_a_pooled_vector_that_only_the_memory_made_is_not_read(demo_world, value, read):
    """The host leaves a projection that a file does not have as the memory was."""
    clip = demo_world[1].clone()
    clip.encode_from_tokens = lambda tokens, **named: {"cond": torch.zeros(1, 77, 128),
                                                       "pooled_output": torch.full((1, 128), value)}
    found = encoder_of(clip)(["a fish", "a boat"])
    assert found.context.shape == (2, 77, 128) and (found.pooled is not None) == read

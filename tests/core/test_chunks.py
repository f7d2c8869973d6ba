import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from saferedir_core import ContextError, RedirectorConfig
from saferedir_core.chunks import chunks_per_item, from_chunks, to_chunks

CONFIG = RedirectorConfig(prompt_dim=4, tokens=3)


@given(st.integers(1, 4), st.integers(1, 4))
def test_chunking_round_trips(batch, chunks):
    context = torch.arange(batch * chunks * 12.0).reshape(batch, chunks * 3, 4)
    assert chunks_per_item(context, CONFIG) == chunks
    assert to_chunks(context, 3).shape == (batch * chunks, 3, 4)
    assert torch.equal(from_chunks(to_chunks(context, 3), batch), context)


def test_the_chunks_of_an_item_stay_next_to_each_other():
    context = torch.randn(2, 6, 4)
    assert torch.equal(to_chunks(context, 3)[2], context[1, :3])
    assert torch.equal(to_chunks(context, 3)[3], context[1, 3:])


@pytest.mark.parametrize("shape", [(1, 4, 4), (1, 0, 4), (0, 3, 4), (1, 3, 8), (3, 4)])
def test_a_context_that_is_not_whole_chunks_is_refused(shape):
    with pytest.raises(ContextError, match=r"reads \(B, k\*3, 4\)") as caught:
        chunks_per_item(torch.zeros(shape), CONFIG)
    assert str(shape) in str(caught.value)

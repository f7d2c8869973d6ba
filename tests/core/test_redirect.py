import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from saferedir_core import ContextError, RedirectorConfig
from saferedir_core.redirect import (
    chunks_per_item,
    from_chunks,
    redirected_context,
    shift_in_norms,
    shifted_context,
    to_chunks,
)


def _parts(seed=0, batch=2, tokens=3, width=4):
    generator = torch.Generator().manual_seed(seed)
    context, delta = torch.randn(2, batch, tokens, width, generator=generator)
    token_mask, alpha = torch.rand(2, batch, tokens, generator=generator)
    return context, delta, token_mask, alpha[..., None]


def test_a_token_moves_along_delta_by_its_own_length():
    context, delta = torch.tensor([[[3.0, 4.0]]]), torch.tensor([[[0.0, 9.0]]])
    half = torch.full((1, 1), 0.5)
    assert redirected_context(context, delta, half, half[..., None], 2.0, False).tolist() == [[[3.0, 9.0]]]
    assert redirected_context(context, delta, half, half[..., None], 2.0, True).tolist() == [[[3.0, 6.5]]]


def test_a_shift_is_in_units_of_each_tokens_norm():
    context = torch.tensor([[[3.0, 4.0], [0.0, 2.0]]])
    assert shifted_context(context, torch.tensor([[[1.0, 0.0], [0.0, 0.5]]])).tolist() == [[[8.0, 4.0], [0.0, 3.0]]]
    shift = shift_in_norms(torch.tensor([[[0.0, 9.0]]]), torch.full((1, 1), 0.5), torch.full((1, 1, 1), 0.5), 2.0, True)
    assert shift.tolist() == [[[0.0, 0.5]]]


@given(st.integers(0, 1000), st.floats(0, 10), st.booleans())
def test_the_shift_is_never_longer_than_alpha_scale_token_norms(seed, alpha_scale, mask_again):
    context, delta, token_mask, alpha = _parts(seed)
    shift = redirected_context(context, delta, token_mask, alpha, alpha_scale, mask_again) - context
    assert (shift.norm(dim=-1) <= alpha_scale * context.norm(dim=-1) + 1e-4).all()


@given(st.integers(0, 1000), st.floats(0.01, 100))
def test_the_length_of_delta_does_not_matter(seed, factor):
    context, delta, token_mask, alpha = _parts(seed)
    torch.testing.assert_close(redirected_context(context, factor * delta, token_mask, alpha, 1.25, False),
                               redirected_context(context, delta, token_mask, alpha, 1.25, False))


@pytest.mark.parametrize("zero", ["delta", "alpha", "alpha_scale"])
def test_no_delta_no_alpha_or_no_scale_is_no_shift(zero):
    context, delta, token_mask, alpha = _parts()
    delta = torch.zeros_like(delta) if zero == "delta" else delta
    alpha = torch.zeros_like(alpha) if zero == "alpha" else alpha
    scale = 0.0 if zero == "alpha_scale" else 1.25
    assert torch.equal(redirected_context(context, delta, token_mask, alpha, scale, False), context)


def test_the_context_given_is_not_written_to():
    context, *outputs = _parts()
    before = context.clone()
    redirected_context(context, *outputs, 1.25, True)
    assert torch.equal(context, before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_type_of_the_context_is_kept(dtype):
    context, *outputs = _parts()
    assert redirected_context(context.to(dtype), *outputs, 1.25, True).dtype == dtype


def test_half_precision_does_not_overflow_in_the_norms():
    context = torch.full((1, 1, 4), 1000.0, dtype=torch.float16)         # squares exceed float16's 65504
    shifted = redirected_context(context, context, torch.ones(1, 1), torch.ones(1, 1, 1), 1.0, False)
    assert shifted.flatten().tolist() == [2000.0] * 4


# ------------------------------------------------------------------------------------------------ chunks

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


@pytest.mark.parametrize("shape", [(1, 0, 4), (0, 3, 4), (1, 3, 8), (3, 4)])
def test_a_context_of_no_tokens_or_another_width_is_refused(shape):
    with pytest.raises(ContextError, match=r"reads \(B, n, 4\), in chunks of 3") as caught:
        chunks_per_item(torch.zeros(shape), CONFIG)
    assert str(shape) in str(caught.value)

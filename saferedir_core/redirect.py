"""The redirected context and pooled vector, pure functions of what the network gave."""

import torch
import torch.nn.functional as F
from torch import Tensor

# A delta shorter than this is divided by it instead of by its length, so that no delta gives no shift.
SMALLEST_NORM = 1e-12


def redirected_context(context: Tensor, delta: Tensor, token_mask: Tensor, alpha: Tensor,
                       alpha_scale: float, mask_again: bool) -> Tensor:
    """context + alpha_scale * [token_mask] * alpha * delta/|delta| * |context|, norms per token.

    arXiv 2601.08623: the redirection of the token embeddings; with mask_again Eq. 20.

    context (B, T, D), delta (B, T, D), token_mask (B, T), alpha (B, T, 1); B of the last three may be 1.
    Computed in float32 or wider (squares overflow in half precision), returned in context.dtype.
    """
    return shifted_context(context, shift_in_norms(delta, token_mask, alpha, alpha_scale, mask_again))


def shift_in_norms(delta: Tensor, token_mask: Tensor, alpha: Tensor, alpha_scale: float, mask_again: bool) -> Tensor:
    """Shift of each token in units of the token's norm, (..., T, D) in float32 or wider.  See redirected_context."""
    dtype = torch.promote_types(delta.dtype, torch.float32)
    strength = alpha_scale * alpha.to(dtype)                                                 # (..., T, 1)
    if mask_again:
        strength = strength * token_mask.to(dtype)[..., None]
    return strength * F.normalize(delta.to(dtype), dim=-1, eps=SMALLEST_NORM)


def shifted_context(context: Tensor, shift: Tensor) -> Tensor:
    """context + shift * |context|, both (B, T, D); returned in context.dtype."""
    original = context.to(torch.promote_types(context.dtype, shift.dtype))
    return (original + shift * original.norm(dim=-1, keepdim=True)).to(context.dtype)


def redirected_pooled(pooled: Tensor, delta: Tensor, alpha_scale: float) -> Tensor:
    """pooled + alpha_scale * delta, both (B, P); computed in float32 or wider, returned in pooled.dtype.

    Not in the paper, whose model has no pooled vector.
    """
    dtype = torch.promote_types(torch.promote_types(pooled.dtype, delta.dtype), torch.float32)
    return (pooled.to(dtype) + alpha_scale * delta.to(dtype)).to(pooled.dtype)

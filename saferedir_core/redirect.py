"""The redirected context and pooled vector, pure functions of what the network gave; and long prompts as chunks.

Chunks: (B, n, D) <-> (B*k, T, D), k = ceil(n / T).  The chunks of one item stay next to each other.  A prompt may have
any number n of tokens (T5, language models, longer CLIPs, image prompts of a ControlNet): copies of its last token fill
the last chunk, as the padding of a text encoder does.  Redirectors from words read a prompt as one chunk, whatever its
length (T None).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from saferedir_core.config import RedirectorConfig
from saferedir_core.errors import ContextError
from saferedir_core.words.redirector import WordsConfig

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


def chunks_per_item(context: Tensor, config: RedirectorConfig | WordsConfig) -> int:
    """Number k of chunks in a context (B, n, D), the last one perhaps not full.

    Raises ContextError for any other shape.
    """
    fits = (context.ndim == 3 and context.shape[0] > 0 and context.shape[1] > 0
            and context.shape[2] == config.prompt_dim)
    if not fits:
        if config.tokens is None:
            raise ContextError(f"The context has shape {tuple(context.shape)}; this redirector reads (B, n, "
                               f"{config.prompt_dim}). Fit its words with the text encoder of this model.")
        raise ContextError(f"The context has shape {tuple(context.shape)}; this redirector reads (B, n, "
                           f"{config.prompt_dim}), in chunks of {config.tokens} tokens. Use the text encoder the "
                           "redirector was trained for.")
    return 1 if config.tokens is None else -(-context.shape[1] // config.tokens)


def to_chunks(context: Tensor, tokens: int | None) -> Tensor:
    """(B, n, D) -> (B*k, tokens, D); row b*k + c is chunk c of item b.  tokens None: one chunk an item."""
    if tokens is None:
        return context
    short = -context.shape[1] % tokens
    if short:
        context = torch.cat([context, context[:, -1:].expand(-1, short, -1)], dim=1)
    return context.reshape(-1, tokens, context.shape[-1])


def from_chunks(chunks: Tensor, batch: int, length: int | None = None) -> Tensor:
    """(B*k, tokens, D) -> (B, length, D), the inverse of to_chunks.  length: None: no chunk was padded."""
    whole = chunks.reshape(batch, -1, chunks.shape[-1])
    return whole if length is None or length == whole.shape[1] else whole[:, :length]

"""Long prompts as chunks: (B, k*T, D) <-> (B*k, T, D).  The chunks of one item stay next to each other."""

from torch import Tensor

from .config import RedirectorConfig
from .errors import ContextError


def chunks_per_item(context: Tensor, config: RedirectorConfig) -> int:
    """Number k of chunks in a context (B, k*tokens, D).  Raises ContextError for any other shape."""
    fits = (context.ndim == 3 and context.shape[0] > 0 and context.shape[1] > 0
            and context.shape[1] % config.tokens == 0 and context.shape[2] == config.prompt_dim)
    if not fits:
        raise ContextError(f"The context has shape {tuple(context.shape)}; this redirector reads (B, "
                           f"k*{config.tokens}, {config.prompt_dim}) with k = 1, 2, ... Use the text encoder the "
                           f"redirector was trained for, and pad the prompt to a multiple of {config.tokens} tokens.")
    return context.shape[1] // config.tokens


def to_chunks(context: Tensor, tokens: int) -> Tensor:
    """(B, k*tokens, D) -> (B*k, tokens, D); row b*k + c is chunk c of item b."""
    return context.reshape(-1, tokens, context.shape[-1])


def from_chunks(chunks: Tensor, batch: int) -> Tensor:
    """(B*k, tokens, D) -> (B, k*tokens, D), the inverse of to_chunks."""
    return chunks.reshape(batch, -1, chunks.shape[-1])


def token_norms(context: Tensor) -> Tensor:
    """Euclidean norm of each token: (B, T, D) -> (B, T, 1)."""
    return context.norm(dim=-1, keepdim=True)

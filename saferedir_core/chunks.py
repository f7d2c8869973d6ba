"""Long prompts as chunks: (B, n, D) <-> (B*k, T, D), k = ceil(n / T).  The chunks of one item stay next to each other.

Where a prompt may have any number n of tokens (T5, language models), copies of its last token fill the last chunk.
Redirectors from words read a prompt as one chunk, whatever its length (T None).
"""

import torch
from torch import Tensor

from saferedir_core.architecture import architecture
from saferedir_core.config import RedirectorConfig
from saferedir_core.errors import ContextError
from saferedir_core.words.redirector import WordsConfig


def chunks_per_item(context: Tensor, config: RedirectorConfig | WordsConfig) -> int:
    """Number k of chunks in a context (B, k*tokens, D); of any length where the architecture's prompts have any.

    Raises ContextError for any other shape.
    """
    fits = (context.ndim == 3 and context.shape[0] > 0 and context.shape[1] > 0
            and fits_in_chunks(context.shape[1], config) and context.shape[2] == config.prompt_dim)
    if not fits:
        if config.tokens is None:
            raise ContextError(f"The context has shape {tuple(context.shape)}; this redirector reads (B, n, "
                               f"{config.prompt_dim}). Fit its words with the text encoder of this model.")
        raise ContextError(f"The context has shape {tuple(context.shape)}; this redirector reads (B, "
                           f"k*{config.tokens}, {config.prompt_dim}) with k = 1, 2, ... Use the text encoder the "
                           f"redirector was trained for, and pad the prompt to a multiple of {config.tokens} tokens.")
    return 1 if config.tokens is None else -(-context.shape[1] // config.tokens)


def fits_in_chunks(length: int, config: RedirectorConfig | WordsConfig) -> bool:
    """Whether a prompt of so many tokens can be judged."""
    return length > 0 and (config.tokens is None or architecture(config.architecture).ragged
                           or length % config.tokens == 0)


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

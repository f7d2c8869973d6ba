"""A host's CLIP as the core's fit of words asks for it: texts in; contexts, ids and pooled vectors out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import comfy.model_management
import torch

from saferedir_core import ConfigError, ContextError

LARGEST_POOLED = 1e6        # no text encoder gives larger numbers
STREAMS_BESIDE = ("g",)     # its tokens stand beside those of another stream, not behind them (SDXL)


@dataclass(frozen=True)
class Encoded:
    """See saferedir_core.words.encoded.Encoding.  On the CPU, in float32."""

    context: torch.Tensor
    mask: torch.Tensor
    tokens: torch.Tensor
    pooled: torch.Tensor | None


def encoder_of(clip) -> Callable[[Sequence[str]], Encoded]:
    """`encode(texts)` of a host's CLIP, through its own tokenizer, as CLIP Text Encode asks it.

    ConfigError for None, which a checkpoint without text encoder gives.
    """
    if clip is None:
        raise ConfigError("The CLIP input is empty; expected a text encoder. This checkpoint has none: connect Load "
                          "CLIP or DualCLIPLoader.")

    def encode(texts: Sequence[str]) -> Encoded:
        return together([encode_text(clip, text) for text in texts])

    return encode


@torch.inference_mode()
def encode_text(clip, text: str) -> Encoded:
    """One text: context (1, n, D), mask and ids (1, n), pooled (1, P) or None."""
    comfy.model_management.throw_exception_if_processing_interrupted()
    streams = clip.tokenize(text)
    found = clip.encode_from_tokens(streams, return_pooled=True, return_dict=True)
    context, pooled = found["cond"], found.get("pooled_output")
    if not torch.is_tensor(context) or context.ndim != 3:
        raise ContextError(f"The text encoder gives {type(context).__name__}"
                           f"{tuple(getattr(context, 'shape', ()))}; expected a context (1, tokens, width). SafeRedir "
                           "does not know this kind of text encoder.")
    length, mask = context.shape[1], found.get("attention_mask")
    fits = torch.is_tensor(mask) and mask.numel() == length
    mask = mask.reshape(1, length).cpu() > 0 if fits else torch.ones(1, length, dtype=torch.bool)
    return Encoded(context.float().cpu(), mask, torch.tensor([ids_of(streams, length)]),
                   pooled.float().cpu() if torch.is_tensor(pooled) and pooled.ndim == 2 and usable(pooled) else None)


def usable(pooled: torch.Tensor) -> bool:
    """Whether a pooled vector is one: where a file has no projection, the host takes what the memory holds."""
    return bool(pooled.isfinite().all()) and float(pooled.abs().max()) < LARGEST_POOLED


def ids_of(streams: dict, length: int) -> list[int]:
    """An id for each of so many tokens of a context.

    Encoders may cut a template off in front and fill up behind; where there are other numbers of ids than of tokens,
    the last ids count, and the last of them is repeated.
    """
    flat = {name: [_number(token[0]) for chunk in chunks for token in chunk] for name, chunks in streams.items()}
    behind = [each for name, each in flat.items() if name not in STREAMS_BESIDE] or [*flat.values()]
    for ids in (*behind, [number for each in behind for number in each]):
        if len(ids) == length:
            return ids
    ids = max(behind, key=len)[-length:]
    return [*ids, *ids[-1:] * (length - len(ids))]


def together(parts: Sequence[Encoded]) -> Encoded:
    """Several texts as one; shorter ones are filled up with tokens that no mask shows."""
    length = max(each.context.shape[1] for each in parts)

    def filled(tensor: torch.Tensor) -> torch.Tensor:
        short = length - tensor.shape[1]
        return tensor if not short else torch.cat([tensor, tensor[:, -1:].expand(-1, short, *tensor.shape[2:])], 1)

    shown = torch.arange(length)[None] < torch.tensor([[each.context.shape[1]] for each in parts])
    pooled = [each.pooled for each in parts]
    return Encoded(torch.cat([filled(each.context) for each in parts]),
                   torch.cat([filled(each.mask) for each in parts]) & shown,
                   torch.cat([filled(each.tokens) for each in parts]),
                   None if any(each is None for each in pooled) else torch.cat(pooled))


def _number(token) -> int:
    """Ids are numbers; an embedding that stands in a prompt (textual inversion, an image) is none."""
    return int(token) if isinstance(token, int) or (torch.is_tensor(token) and token.ndim == 0) else -1

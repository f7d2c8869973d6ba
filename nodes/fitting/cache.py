"""Fitted concepts kept in memory, so that queueing a graph again with the same words costs nothing.

A fit is found again by its text encoder, its concept and `fit.VERSION`.  A text encoder is known by what decides what
it gives: classes, a sample of the numbers of every weight, the patches on them (a LoRA, a merge), the layer, and what
its tokenizer was told.  The same file loaded again is the same one; where something lies on a text encoder that cannot
be looked into, it is only the same as long as the host says so.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import astuple
from typing import Any

import torch

from saferedir_core.words.concept import Concept

from ..types import LoadedRedirector

MOST_KEPT = 8
SAMPLE = 64            # numbers of a tensor that are looked at, evenly spread
DEEPEST = 12
# Weights that the host leaves as the memory was where a file has none.  No two encoders differ in these alone.
PERHAPS_EMPTY = (".text_projection.weight", ".logit_scale")
BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}   # by the size of a number

_kept: OrderedDict[str, LoadedRedirector] = OrderedDict()
_one_at_a_time = threading.Lock()


def kept_or(clip, concept: Concept, fit: Callable[[], LoadedRedirector]) -> LoadedRedirector:
    """What was fitted to the same words with the same text encoder, else what `fit()` gives."""
    key = key_of(clip, concept)
    with _one_at_a_time:
        found = _kept.get(key)
        if found is not None:
            _kept.move_to_end(key)
            return found
    made = fit()
    with _one_at_a_time:
        _kept[key] = made
        while len(_kept) > MOST_KEPT:
            _kept.popitem(last=False)
    return made


def key_of(clip, concept: Concept) -> str:
    """Names the fit of a concept with a host's CLIP."""
    from saferedir_core.words.fit import VERSION

    return hashlib.sha256(repr((encoder_digest(clip), astuple(concept), VERSION)).encode()).hexdigest()


def encoder_digest(clip) -> str:
    """The same for text encoders that give the same, see the module; hex."""
    content = _Content()
    patcher = clip.patcher
    for each in (clip.cond_stage_model, clip.tokenizer):
        content.add(_named(type(each)))
    content.add([clip.layer_idx, clip.tokenizer_options, _plain(clip.tokenizer)])
    # The host's own view of weights below patches, wherever they lie now: (weight, how it is read), then its patches.
    for name, (weight, *patches) in sorted(clip.get_key_patches().items()):
        weight = weight[0] if isinstance(weight, tuple) else weight
        content.add([name, None if name.endswith(PERHAPS_EMPTY) else weight, patches])
    content.add([patcher.object_patches, patcher.model_options.get("transformer_options", {})])
    hooked = [patcher.hook_patches, patcher.weight_wrapper_patches, getattr(patcher, "injections", None),
              patcher.forced_hooks, clip.apply_hooks_to_conds]
    if content.opaque or any(hooked):
        content.add(str(patcher.patches_uuid))
    return content.hexdigest()


def _plain(owner) -> dict[str, Any]:
    """What an object says of itself in numbers and texts, and so do the tokenizers in a tokenizer."""
    said = {name: value for name, value in vars(owner).items() if isinstance(value, (bool, int, float, str))}
    inner = {name: _plain(value) for name, value in vars(owner).items()
             if hasattr(value, "tokenize_with_weights") and value is not owner}
    return {**said, **inner}


def _named(kind) -> str:
    return f"{getattr(kind, '__module__', '')}.{getattr(kind, '__qualname__', '')}"


class _Content:
    """A digest of nested values.  opaque: something was among them that only its kind is known of."""

    def __init__(self) -> None:
        self.opaque = False
        self._hash = hashlib.sha256()

    def hexdigest(self) -> str:
        return self._hash.hexdigest()

    def add(self, value: Any, depth: int = 0) -> None:
        if value is None or isinstance(value, (bool, int, float, str, bytes, torch.dtype, torch.device)):
            self._say(f"{type(value).__name__} {value!r}")
        elif torch.is_tensor(value):
            self._say(f"tensor {tuple(value.shape)} {value.dtype}")
            self._hash.update(_sampled(value))
        elif depth > DEEPEST:
            self._unknown(value)
        elif isinstance(value, Mapping):
            self._say(f"mapping {len(value)}")
            for key in sorted(value, key=repr):
                self.add(key, depth + 1)
                self.add(value[key], depth + 1)
        elif isinstance(value, (set, frozenset)):
            self.add(sorted(value, key=repr), depth + 1)
        elif isinstance(value, (list, tuple)):
            self._say(f"list {len(value)}")
            for each in value:
                self.add(each, depth + 1)
        elif callable(value) and hasattr(value, "__qualname__"):
            self._say(_named(value))
            self.opaque = self.opaque or getattr(value, "__closure__", None) is not None
        elif type(value).__module__.startswith("comfy.weight_adapter"):      # a LoRA and its like
            self._say(_named(type(value)))
            self.add(vars(value), depth + 1)
        else:
            self._unknown(value)

    def _say(self, text: str) -> None:
        self._hash.update(text.encode() + b"\0")

    def _unknown(self, value: Any) -> None:
        self._say(_named(type(value)))
        self.opaque = True


def _sampled(tensor: torch.Tensor) -> bytes:
    """The bits of numbers of a tensor, evenly spread."""
    with torch.inference_mode():
        # Of a quantised one the numbers as they are stored; what they are multiplied by is among the weights too.
        flat = getattr(tensor, "_qdata", tensor).detach().reshape(-1)
        if flat.element_size() in BITS:
            flat = flat.view(BITS[flat.element_size()])
        if len(flat) > SAMPLE:
            flat = flat[torch.linspace(0, len(flat) - 1, SAMPLE, dtype=torch.float64).long().to(flat.device)]
        return flat.cpu().contiguous().numpy().tobytes()

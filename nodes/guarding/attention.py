"""Text that reaches a model beside its context: what patches of other nodes give to the cross-attention.

Attention couple and its relatives carry the texts of regions in an `attn2` patch, or bring them in by a cond's hooks.
Whatever way they take, text becomes keys and values by the model's own two projections.  So where a call carries
anything of that kind, what arrives at these projections is compared, token by token, with the contexts that the guards
handed over: a patch may choose, repeat, join and drop tokens (NegPip), and bring in none of its own.  Image prompts
(IP-Adapter) have projections of their own and do not come by.

Nothing is hooked in a call that carries no such thing, and nobody waits for the comparison.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from comfy.ldm.cosmos.predict2 import MiniTrainDIT
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.patcher_extension import WrappersMP, get_all_wrappers

# Where the context, as the host hands it over, meets the weights.  Other models have worked it over before.
PROJECTIONS = {UNetModel: re.compile(r"\battn2\.to_[kv]$"), MiniTrainDIT: re.compile(r"\bcross_attn\.[kv]_proj$")}
HOSTS_OWN = re.compile(r"(comfy|comfy_extras|saferedir)(\.|$)")     # modules whose patches bring no text of their own
BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
REMEDY = ("Remove that node, or give its text to the sampler as a prompt: Conditioning (Set Mask) and Conditioning "
          "(Combine) draw regions that SafeRedir Guard judges.")


class Arrivals:
    """What arrives at the projections in one model call.

    contexts   those that may pass, (b, m, D) each
    known      whether all tokens so far were among theirs, a 0-d bool on the device; None before the first comparison
    """

    def __init__(self, contexts: Iterable[torch.Tensor]) -> None:
        self.contexts = [*contexts]
        self.known: torch.Tensor | None = None
        self._seen: dict[int, torch.Tensor] = {}    # kept, so that an id stays its own
        self._marks: dict[tuple, torch.Tensor] = {}

    def __call__(self, projection: torch.nn.Module, args: tuple) -> None:
        text = args[0]
        width = self.contexts[0].shape[-1]
        if id(text) in self._seen or text.shape[-1] != width:   # attn2 without a context attends to the image
            return
        self._seen[id(text)] = text
        kind = text.dtype, text.device
        if kind not in self._marks:
            self._marks[kind] = torch.cat([_marks_of(each.to(text)) for each in self.contexts])
        found = all_tokens_known(text, self._marks[kind])
        self.known = found if self.known is None else self.known & found.to(self.known.device)


@contextmanager
def watched(model, transformer_options: dict, contexts: Iterable[torch.Tensor]) -> Iterator[Arrivals | None]:
    """Within: what arrives at the text projections of a model (the host's BaseModel) is compared.

    None where the call carries nothing that could bring text in, or the kind of model has no such projections.
    """
    network = model.diffusion_model
    named = next((pattern for kind, pattern in PROJECTIONS.items() if isinstance(network, kind)), None)
    contexts = [each for each in contexts if torch.is_tensor(each) and each.ndim == 3]
    if named is None or not contexts or not carriers(model, transformer_options):
        yield None
        return
    arrivals = Arrivals(contexts)
    hooks = [module.register_forward_pre_hook(arrivals) for name, module in network.named_modules()
             if named.search(name)]
    try:
        yield arrivals
    finally:
        for hook in hooks:
            hook.remove()


def carriers(model, transformer_options: dict) -> list[str]:
    """Names of what other nodes have put where it could bring text to the attention of this call."""
    patches = transformer_options.get("patches", {}).get("attn2_patch", [])
    replaced = transformer_options.get("patches_replace", {})
    found = [("attn2 patch", each) for each in patches]
    found += [(f"{kind} replacement", each) for kind in ("attn2", "dit") for each in replaced.get(kind, {}).values()]
    found += [("wrapper of the model", each) for kind in (WrappersMP.APPLY_MODEL, WrappersMP.DIFFUSION_MODEL)
              for each in get_all_wrappers(kind, transformer_options)]
    patcher = getattr(model, "current_patcher", None)
    found += [("object patch", each) for name, each in getattr(patcher, "object_patches", {}).items()
              if "attn2" in name or "cross_attn" in name]
    return [*dict.fromkeys(f"the {what} {_name(each)}" for what, each in found if not _is_hosts_own(each))]


def sentence(names: list[str]) -> str:
    return (f"a text that this guard has neither judged nor issued reached the attention of the model, beside its "
            f"prompts, by {' or '.join(names)}")


def all_tokens_known(text: torch.Tensor, marks: torch.Tensor) -> torch.Tensor:
    """Whether each token of (..., D) has one of these marks (K, 2) or is zeros, a 0-d bool on the same device."""
    own = _marks_of(text)
    same = (own[:, None, 0] == marks[None, :, 0]) & (own[:, None, 1] == marks[None, :, 1])   # (A, K)
    return (same.any(1) | (text.reshape(-1, text.shape[-1]) == 0).all(-1)).all()


def _marks_of(context: torch.Tensor) -> torch.Tensor:
    """Two numbers (tokens, 2) that tokens of equal bits share: exact, whatever the order of the sum."""
    bits = (context.contiguous() + 0.0).view(BITS[context.element_size()]).to(torch.int32)   # -0.0 becomes 0.0
    bits = bits.reshape(-1, bits.shape[-1])
    return torch.stack([(bits * _factors(bits, start)).sum(-1, dtype=torch.int32) for start in (1, 2**20)], -1)


def _factors(bits: torch.Tensor, start: int) -> torch.Tensor:
    """As random as multiplication makes them, modulo 2**32; odd, so that no bit of a number is lost."""
    mixed = torch.arange(start, start + bits.shape[-1], device=bits.device, dtype=torch.int32) * 1640531527
    return ((mixed ^ (mixed >> 15)) * 1013904223) | 1


def _is_hosts_own(patch: Callable) -> bool:
    return bool(HOSTS_OWN.match(_module(patch)))


def _module(patch: Callable) -> str:
    patch = getattr(patch, "__func__", patch)
    return getattr(patch, "__module__", None) or type(patch).__module__


def _name(patch: Callable) -> str:
    called = getattr(patch, "__qualname__", None) or type(patch).__qualname__
    # The host names a pack's modules by the path of its folder: who reads this is told the folder, not where it lies.
    module = re.split(r"[\\/]", _module(patch))[-1]
    return f"{called.split('.<locals>')[0]!r} of {module!r}"

"""What the guard reads in the host's conds: which sides draw, what contexts they carry, and what it cannot judge.

A cond is a dict; after the host has laid it out, `model_conds` holds its tensors.  Nothing here writes into one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from saferedir_core import ContextError, Redirector
from saferedir_core.architecture import architecture, titles_of_width
from saferedir_core.redirect import fits_in_chunks, from_chunks, to_chunks

from ..types import Marker

MARKER = "saferedir"  # in a conditioning's dict: a Marker, left by SafeRedir Conditioning
CONTROLNET_MARKER = "saferedir.controlnet"  # the same of the ControlNet's prompt
ISSUED = "saferedir.issued"  # in a cond's dict: {name of a context: Issued}, left by a guard for a second one
CONTROLNET_CONTEXT = "cross_attn_controlnet"  # there too: a prompt of its own that a ControlNet reads instead
PROMPT = "c_crossattn"  # among a laid-out cond's model_conds
CONTROLNET_PROMPT = "crossattn_controlnet"
CONTEXTS = (PROMPT, CONTROLNET_PROMPT)
POOLED = "y"  # there too: the pooled vector, in some architectures with something else behind it


@dataclass(frozen=True)
class Issued:
    """A context that guards put in the place of another.

    found    the tensor as the host laid it out
    context  what stands there now
    run_ids  the guarded runs that have changed it, in order
    """

    found: torch.Tensor
    context: torch.Tensor
    run_ids: tuple[str, ...]


def draws(guider, side: str) -> bool:
    """Whether the prompts of this side can pull the image towards themselves, so that they must be guarded.

    Every side but "negative" does.  The prediction is negative + cfg * (positive - negative), so below a guidance of
    1 the negative prompt is drawn as well, and at 0 it alone.  Perp-Neg's "empty" prompt is pushed towards at any
    guidance, and its negative one never.
    """
    if "negative" not in side or side.startswith("empty"):
        return True
    if "empty_negative_prompt" in guider.conds:
        return False
    return any(_below_one(getattr(guider, name, 1.0)) for name in ("cfg", "cfg2"))


def side_draws(guider, conds: list[dict]) -> bool:
    """The same for a list of conds on its way to the model.

    The host hands over the guider's own lists; a node that hands over copies is recognised by the conds' uuids.
    What is not known at all counts as drawn.
    """
    for side, known in guider.conds.items():
        if conds is known:
            return draws(guider, side)
    ids = {cond.get("uuid") for cond in conds}
    sides = [side for side, known in guider.conds.items() if ids <= {cond.get("uuid") for cond in known}]
    return not sides or any(draws(guider, side) for side in sides)


def require_judgeable(cond: dict, redirector: Redirector) -> None:
    """ContextError when a cond, as the guider got it, carries a prompt that a redirector cannot read."""
    require_fitting_context(cond.get("cross_attn"), redirector)
    if cond.get(CONTROLNET_CONTEXT) is not None:
        require_fitting_context(cond[CONTROLNET_CONTEXT], redirector)
    if cond.get("gligen") is not None:
        raise ContextError("A conditioning carries GLIGEN phrases, which reach the model as single vectors that the "
                           "redirector cannot read; expected prompts only. Remove GLIGEN from the guarded sampler.")


def require_fitting_context(context, redirector: Redirector) -> None:
    """ContextError unless this is a finite context (B, k*tokens, D) of the redirector's width."""
    width, tokens = redirector.config.prompt_dim, redirector.config.tokens
    if not torch.is_tensor(context) or context.ndim != 3 or context.shape[1] == 0:
        shape = tuple(context.shape) if torch.is_tensor(context) else context
        raise ContextError(f"A conditioning holds {shape} where a context (batch, tokens, {width}) was expected. "
                           "Connect CLIP Text Encode of the model that the redirector was trained on.")
    if context.shape[2] != width:
        kind, found = architecture(redirector.config.architecture), titles_of_width(context.shape[2])
        raise ContextError(f"The conditioning is {context.shape[2]} wide and the redirector {width}, for {kind.title}; "
                           f"expected equal widths. {f'Prompts of {found} are that wide. ' if found else ''}Load a "
                           "redirector that was trained for this kind of model.")
    if not fits_in_chunks(context.shape[1], redirector.config):
        raise ContextError(f"The conditioning has {context.shape[1]} tokens; expected a multiple of {tokens}. Remove "
                           "nodes that cut or pad the prompt.")
    if not context.isfinite().all():
        raise ContextError("The conditioning holds NaN or infinity; expected finite numbers. Run the text encoder in "
                           "float32.")


def context_of(cond: dict, name: str) -> torch.Tensor | None:
    """A context of a laid-out cond, (B, n, D); None when it has none of this name."""
    entry = cond.get("model_conds", {}).get(name)
    return None if entry is None else entry.cond


def contexts_of(cond: dict) -> dict[str, torch.Tensor]:
    """All contexts of a laid-out cond by name, its prompt first.  ContextError when it has no prompt."""
    found = {name: context for name in CONTEXTS if (context := context_of(cond, name)) is not None}
    if PROMPT not in found:
        raise ContextError("A conditioning reaches the model without a cross-attention context; expected one. This "
                           "kind of model is not supported: remove SafeRedir Guard from it.")
    return found


def with_contexts(cond: dict, issued: dict[str, Issued]) -> dict:
    """A copy of a cond with other contexts in it."""
    entries = {name: cond["model_conds"][name]._copy_with(each.context) for name, each in issued.items()}
    return {**cond, "model_conds": {**cond["model_conds"], **entries}, ISSUED: {**cond.get(ISSUED, {}), **issued}}


def restore_original(context: torch.Tensor, markers: list[Marker], tokens: int) -> torch.Tensor:
    """Takes back what SafeRedir Conditioning did, chunk by chunk.

    A chunk that equals a marker's redirected chunk becomes the original one; whatever another node has changed since
    (Average, say) no longer equals it and stays as found.  So no context is ever corrected twice, and prompts that
    were joined after the Conditioning node (Concat) are still taken over.  Returns the same tensor if nothing changes.
    """
    result = context
    for marker in markers:
        if marker.redirected is marker.original or marker.redirected.shape[2:] != context.shape[2:]:
            continue
        found = to_chunks(result, tokens)  # (B*k, tokens, D)
        # Padding differs when a prompt of any length was joined with another: such a chunk stays as it was found.
        baked = to_chunks(marker.redirected, tokens).to(found)
        original = to_chunks(marker.original, tokens).to(found)
        for before, after in zip(original, baked):
            same = (found == after).flatten(1).all(1)
            if same.any():
                found = torch.where(same[:, None, None], before, found)
                result = from_chunks(found, *context.shape[:2])
    return result


def _below_one(scale) -> bool:
    """Also for a scale that is no number: what is not known to push the negative prompt away counts as drawing it."""
    try:
        return not float(scale) >= 1.0 and not math.isclose(float(scale), 1.0)
    except (TypeError, ValueError):
        return True

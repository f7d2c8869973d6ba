"""What the guard reads in the host's conds: which sides draw, what contexts they carry, and what it cannot judge.

A cond is a dict; after the host has laid it out, `model_conds` holds its tensors.  Nothing here writes into one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import comfy.utils
import torch

from saferedir_core import ContextError, Redirector
from saferedir_core.architecture import architecture, titles_of_width
from saferedir_core.redirect import from_chunks, to_chunks

from ..types import Marker
from .architectures import FROM_WORDS, reads_any_model
from .text_inputs import TRAINED, TextInputs

MARKER = "saferedir"  # in a conditioning's dict: a Marker as plain tensors, left by SafeRedir Conditioning
CONTROLNET_MARKER = "saferedir.controlnet"  # the same of the ControlNet's prompt
ISSUED = "saferedir.issued"  # in a cond's dict: {name of a context: Issued}, left by a guard for a second one
CONTROLNET_CONTEXT = "cross_attn_controlnet"  # there too: a prompt of its own that a ControlNet reads instead
POOLED_OUTPUT = "pooled_output"  # there too: the prompt's pooled vector
# There too: text of other encoders, which becomes zeros where its prompt is redirected, and text that stops a run.
EMPTIED = ("conditioning_llama3", "conditioning_mt5xl", "conditioning_byt5small")
UNREADABLE = {"conditioning_lyrics": "lyrics", "t5xxl_ids": "the prompt as numbers of tokens",
              "text_input_ids": "the prompt as numbers of tokens",
              "reference_latents_text_embeds": "prompts of its own for reference images"}


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


def require_judgeable(cond: dict, redirector: Redirector, inputs: TextInputs = TRAINED) -> None:
    """ContextError when a cond, as the guider got it, carries a prompt that a redirector cannot read."""
    require_fitting_context(cond.get("cross_attn"), redirector)
    if cond.get(CONTROLNET_CONTEXT) is not None:
        require_fitting_context(cond[CONTROLNET_CONTEXT], redirector)
    if reads_any_model(redirector):
        for name, what in UNREADABLE.items():
            if cond.get(name) is not None:
                raise unreadable(name, what)
        if inputs.pooled:
            require_fitting_pooled(cond.get(POOLED_OUTPUT), redirector)
    if cond.get("gligen") is not None:
        raise ContextError("A conditioning carries GLIGEN phrases, which reach the model as single vectors that the "
                           "redirector cannot read; expected prompts only. Remove GLIGEN from the guarded sampler.")


def require_fitting_context(context, redirector: Redirector) -> None:
    """ContextError unless this is a finite context (B, n, D) of the redirector's width, of any n."""
    width, of_any = redirector.config.prompt_dim, reads_any_model(redirector)
    if not torch.is_tensor(context) or context.ndim != 3 or context.shape[1] == 0:
        shape = tuple(context.shape) if torch.is_tensor(context) else context
        raise ContextError(f"A conditioning holds {shape} where a context (batch, tokens, {width}) was expected. "
                           f"Connect CLIP Text Encode of the model that the redirector was "
                           f"{'made for' if of_any else 'trained on'}.")
    require_width(context.shape[2], redirector)
    if not context.isfinite().all():
        raise ContextError("The conditioning holds NaN or infinity; expected finite numbers. Run the text encoder in "
                           "float32.")


def require_width(found: int, redirector: Redirector) -> None:
    """ContextError unless prompts that are so wide are a redirector's."""
    width = redirector.config.prompt_dim
    if found == width:
        return
    if reads_any_model(redirector):
        raise ContextError(f"The conditioning is {found} wide and the redirector {width}, of another text encoder; "
                           f"expected equal widths. {FROM_WORDS}")
    kind, kinds = architecture(redirector.config.architecture), titles_of_width(found)
    raise ContextError(f"The conditioning is {found} wide and the redirector {width}, for {kind.title}; expected equal "
                       f"widths. {f'Prompts of {kinds} are that wide. ' if kinds else ''}Load a redirector that was "
                       "trained for this kind of model.")


def require_fitting_pooled(pooled, redirector: Redirector) -> None:
    """ContextError when a prompt's pooled vector says something that a redirector for any model does not read."""
    width = redirector.config.pooled_dim
    if pooled is None or (torch.is_tensor(pooled) and pooled.shape[-1] == width):
        return
    if not torch.is_tensor(pooled) or width or pooled.any():
        found = f"{pooled.shape[-1]} numbers" if torch.is_tensor(pooled) else repr(pooled)
        raise ContextError(f"The conditioning has a pooled vector of {found}, which the model reads, and the "
                           f"redirector reads {width or 'none'}; expected the same. {FROM_WORDS}")


def unreadable(name: str, what: str) -> ContextError:
    """The error for a text input that a redirector cannot judge."""
    return ContextError(f"The conditioning carries {name!r} ({what}), which a redirector cannot read; expected prompts "
                        "that come as tokens of the text encoder. Use CLIP Text Encode, or remove SafeRedir Guard.")


def require_known_inputs(cond: dict, inputs: TextInputs) -> None:
    """ContextError when a laid-out cond carries an input that might be text and that nobody reads.

    Only where all inputs are known by name; a release of the host may bring a new one.
    """
    if not inputs.strict:
        return
    present = {name for name, entry in cond.get("model_conds", {}).items() if entry is not None}
    for name, what in inputs.unreadable:
        if name in present:
            raise unreadable(name, what)
    unknown = sorted(present - inputs.names)
    if unknown:
        raise ContextError(f"The model has an input {unknown[0]!r}, of which SafeRedir does not know whether it is "
                           f"text; expected only {', '.join(sorted(inputs.names))}. Update the pack, or remove "
                           "SafeRedir Guard from this model.")


def context_of(cond: dict, name: str) -> torch.Tensor | None:
    """A context of a laid-out cond, (B, n, D); None when it has none of this name."""
    entry = cond.get("model_conds", {}).get(name)
    return None if entry is None else entry.cond


def contexts_of(cond: dict, inputs: TextInputs = TRAINED) -> dict[str, torch.Tensor]:
    """All contexts of a laid-out cond by name, its prompt first.  ContextError when it has no prompt."""
    require_known_inputs(cond, inputs)
    found = {name: context for name in inputs.contexts if (context := context_of(cond, name)) is not None}
    if inputs.prompt not in found:
        raise ContextError("A conditioning reaches the model without a cross-attention context; expected one. This "
                           "kind of model is not supported: remove SafeRedir Guard from it.")
    return found


def mask_of(cond: dict, inputs: TextInputs, length: int) -> torch.Tensor | None:
    """The prompt's mask as the host laid it out, (b, length) integers; None where there is none that can be relied on.

    Of other types the host makes numbers that it adds to attention, where 0 means that a token is read.
    """
    mask = context_of(cond, inputs.mask) if inputs.mask else None
    whole = torch.is_tensor(mask) and mask.dtype in (torch.int32, torch.int64)
    return mask if whole and mask.ndim == 2 and mask.shape[1] == length else None


def text_mask(context: torch.Tensor, mask: torch.Tensor | None, appended: int) -> torch.Tensor:
    """Which tokens of a context (B, n, D) are text, (B, n) bool: neither padding nor appended by the host.

    mask: (b, n) with b a divisor of B, see `mask_of`.  Tokens of zeros say nothing (Flux.2 pads with them).
    """
    text = (context != 0).any(-1)
    if mask is not None:
        text &= comfy.utils.repeat_to_batch_size(mask.to(text.device) != 0, len(context))
    if appended:
        text[:, -appended:] = False
    return text | ~text.any(1, keepdim=True)  # of a prompt that is nothing else all is read


def with_contexts(cond: dict, issued: dict[str, Issued]) -> dict:
    """A copy of a cond with other contexts in it."""
    entries = {name: cond["model_conds"][name]._copy_with(each.context) for name, each in issued.items()}
    return {**cond, "model_conds": {**cond["model_conds"], **entries}, ISSUED: {**cond.get(ISSUED, {}), **issued}}


def restore_anywhere(context: torch.Tensor, markers: list[Marker]) -> torch.Tensor:
    """The same as `restore_original` for prompts that are judged as a whole, (B, n, D) of any n.

    The redirected prompt is looked for wherever it may stand: the host pads in front (Flux.2) and appends tokens
    (Stable Audio), and other nodes join prompts.
    """
    result = context
    for marker in markers:
        length = marker.redirected.shape[1]
        fits = marker.redirected.shape[2:] == context.shape[2:] and length <= context.shape[1]
        if marker.redirected is marker.original or not fits:
            continue
        for before, after in zip(marker.original.to(context), marker.redirected.to(context)):        # (m, D)
            starts = (result[:, :result.shape[1] - length + 1] == after[0]).all(-1).any(0).nonzero()
            for start in starts[:, 0].tolist():
                part = slice(start, start + length)
                same = (result[:, part] == after).flatten(1).all(1)
                if same.any():
                    changed = torch.where(same[:, None, None], before, result[:, part])
                    result = torch.cat([result[:, :start], changed, result[:, part.stop:]], dim=1)
    return result


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

"""One evaluation in two parts: what the prompt alone decides, once per run, and what latent and timestep add to it.

The function is that of `Redirector.forward` in eval mode, on the same weights, in another order of arithmetic, so that
results differ by rounding only.  Batch norm is folded into the convolutions.  The four attention heads are multiplied
through the prompt: with keys K, values V and query W q of a head,

    scores          = (K W) q                       K W depends on the prompt
    norm(w V) F     = w (V - mean V) F / deviation  (V - mean V) F depends on the prompt, F is the fusing layer
    deviation^2     = w (V - mean V)(V - mean V)' w'

so that no evaluation reads the large matrices again.  Several redirectors of one shape are evaluated together, and
those that share a latent encoder or timestep encoder share its result.

C: redirectors, B: items, k: chunks of each, R: rows = B*k, T, D, J: as in `redirector`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saferedir_core.plan import to_chunks
from saferedir_core.redirector import (
    HEADS,
    JOINT_WIDTH,
    MaskPredictor,
    PooledRedirectorOutput,
    Redirector,
    RedirectorOutput,
    pooled_latent,
)


@dataclass(frozen=True)
class Heads:
    """What one evaluation gives; rows are the chunks of the items asked about, in order.

    logits      (C, R, 2)
    token_mask  (C, R, T), alpha (C, R, T, 1)
    finite      (C, R) bool: everything but the delta is finite
    delta       delta(concept) -> (R, T, D), delta(None) -> (C, R, T, D); computed when asked for
    constant    token_mask and alpha are the same at every evaluation of these items
    pooled_delta  (C, R, P), of redirectors that read a pooled vector
    """

    logits: Tensor
    token_mask: Tensor
    alpha: Tensor
    finite: Tensor
    delta: Callable[[int | None], Tensor]
    constant: bool
    pooled_delta: Tensor | None = None


def whole_output(output: RedirectorOutput | PooledRedirectorOutput) -> Heads:
    """Heads of a network that was asked as a whole."""
    delta = output.delta[None]
    pooled = () if output.pooled_delta is None else (output.pooled_delta,)
    finite = finite_rows(output.logits, output.delta, output.token_mask, output.alpha, *pooled)
    return Heads(output.logits[None], output.token_mask[None], output.alpha[None], finite[None],
                 lambda concept: delta if concept is None else delta[concept], constant=False,
                 pooled_delta=pooled[0][None] if pooled else None)


def finite_rows(*tensors: Tensor) -> Tensor:
    """Whether all tensors are finite, per row: (B,) bool."""
    return torch.stack([tensor.isfinite().flatten(1).all(dim=1) for tensor in tensors]).all(dim=0)


def can_split(redirector: Redirector) -> bool:
    """Whether the network evaluates as `Redirector.forward` does; one with a forward of its own is asked as a whole.

    So is one that reads a pooled vector.
    """
    own = type(redirector).forward is not Redirector.forward or "forward" in vars(redirector)
    return not own and not redirector.config.pooled_dim


def thinned(latent: Tensor, size: int | None, phase: int = 0) -> Tensor:
    """Every n-th row and column of a latent (B, C, h, w), so that at most `size` of each are left; None: all.

    Picked and not averaged, because noise keeps its strength that way and the network judges by it.
    phase: 0, 1, 2, ... begins elsewhere each time, so that in the course of a run every cell is read.
    """
    if size is None:
        return latent
    down, across = (math.ceil(length / size) for length in latent.shape[-2:])
    if down == across == 1:
        return latent
    return latent[..., phase % down::down, phase // down % across::across]


class Evaluator:
    """Redirectors of one shape on the prompts of one run.

    redirectors  in eval mode, equal in config, device and dtype, each of which `can_split`
    original     (B, k*T, D), the prompt of each item
    latent_size  see `thinned`; None reads the whole latent
    large_dtype  of the convolutions and of the large matrices that every evaluation multiplies with; None: the
                 redirectors' own, but on a CPU float32, which is faster there than half precision

    All else is computed in float32 (float64 for such a network).  Large matrices in the dtype they have are not copied.
    """

    def __init__(self, redirectors: Sequence[Redirector], original: Tensor, latent_size: int | None = None,
                 large_dtype: torch.dtype | None = None):
        first = redirectors[0]
        self.latent_size = latent_size
        self.dtype = torch.promote_types(first.dtype, torch.float32)
        self._config = first.config
        if large_dtype is None:
            large_dtype = self.dtype if first.device.type == "cpu" else first.dtype
        self._large_dtype = large_dtype
        self._encoders = _distinct([each.latent_encoder for each in redirectors],
                                   lambda encoder: _FoldedEncoder(encoder, large_dtype, self.dtype))
        self._clocks = _distinct([each.t_encoder for each in redirectors], lambda encoder: _wide(encoder, self.dtype))
        half = first.config.timestep_dim // 2
        index = torch.arange(half, device=first.device, dtype=torch.float32)
        self._frequencies = torch.exp(-math.log(10000.0) * index / half)
        self._batch, chunks = original.shape[0], to_chunks(original, first.config.tokens)
        self._per_item = len(chunks) // self._batch
        # Images of one prompt are the usual batch: its part is then computed once.
        self._shared = self._batch == 1 or bool((original == original[:1]).all())
        prompts = chunks[:self._per_item] if self._shared else chunks
        prompts = prompts.to(first.device, self.dtype)
        self._prompt = _together(_PromptPart, [_prompt_part(each, prompts) for each in redirectors]).map(
            lambda part: part.unflatten(1, (-1, self._per_item)))                            # (C, G, k, ...)
        self._weights = _together(_HeadWeights, [_head_weights(each, self.dtype, large_dtype)
                                                 for each in redirectors])
        self._head_eps = first.cross_attn.heads[0].norm.eps
        self._fuse_eps = first.cross_attn.fuse[1].eps

    def evaluate(self, latent: Tensor, timesteps: Tensor, items: list[int] | None = None, phase: int = 0) -> Heads:
        """One evaluation of the items of these numbers (None: all).

        latent (n, C, h, w), timesteps (n,): of these items.  phase: see `thinned`.
        """
        prompt, weights = self._prompt, self._weights
        if items is not None and not self._shared and len(items) < self._batch:
            prompt = prompt.map(lambda part: part[:, items])
        concepts, groups, chunks, rows, _ = prompt.key.shape                                 # rows: 4 T
        count = latent.shape[0] // groups                                                    # items of each group
        tokens, width = rows // HEADS, prompt.value.shape[-1]
        latent = pooled_latent(latent.to(self.dtype), self._config.latent_pool)
        joint = self._joint(thinned(latent, self.latent_size, phase), timesteps)             # (C, n, J)
        # Z = C*G*k prompts, each with `count` queries.
        query = joint.view(concepts, groups, 1, count, JOINT_WIDTH).expand(-1, -1, chunks, -1, -1).reshape(
            -1, count, JOINT_WIDTH)                                                          # (Z, n, J)
        scores = torch.baddbmm(prompt.key_bias.reshape(-1, 1, rows), query,
                               prompt.key.reshape(-1, rows, JOINT_WIDTH).mT)                 # (Z, n, 4 T)
        attention = scores.unflatten(-1, (HEADS, tokens)).softmax(-1) + 1 / tokens           # the mean value as well
        by_head = attention.transpose(1, 2)                                                  # (Z, 4, n, T)
        variance = (by_head @ prompt.gram.reshape(-1, HEADS, tokens, tokens) * by_head).sum(-1, keepdim=True)
        scaled = by_head * (variance + self._head_eps).rsqrt()
        attended = scaled.transpose(1, 2).reshape(-1, count, rows) @ prompt.value.reshape(-1, rows, width)
        attended = attended.view(concepts, -1, width) + weights.value_bias                   # (C, Z/C * n, D)
        attended = F.layer_norm(attended, (width,), eps=self._fuse_eps)
        attended = torch.addcmul(weights.norm_bias, attended, weights.norm_weight)
        read = torch.cat([query.reshape(concepts, -1, JOINT_WIDTH), attended], dim=-1)
        read = read.view(concepts, groups, chunks, count, -1).transpose(2, 3).flatten(1, 3)  # (C, R, J + D)
        read = read.to(self._large_dtype)
        hidden = torch.baddbmm(read[..., :JOINT_WIDTH] @ weights.classify_joint.mT,
                               read[..., JOINT_WIDTH:], weights.classify_attended.mT).to(self.dtype)
        hidden = hidden.view(concepts, groups, count, chunks, -1) + prompt.classified[:, :, None]
        logits = torch.baddbmm(weights.classify_bias, hidden.flatten(1, 3).relu_(), weights.classify_out.mT)

        def of_rows(part: Tensor) -> Tensor:
            """(C, G, k, ...) -> (C, R, ...)"""
            return part[:, :, None].expand(-1, -1, count, *part.shape[2:]).flatten(1, 3)

        return Heads(logits, of_rows(prompt.token_mask), of_rows(prompt.alpha),
                     of_rows(prompt.finite) & logits.isfinite().all(-1),
                     lambda concept: self._delta(read, prompt, concept), constant=True)

    def _joint(self, latent: Tensor, timesteps: Tensor) -> Tensor:
        """Feature of latent and timestep together, of every redirector: (C, B, J)."""
        features = [encoder(latent) for encoder in self._encoders.made]
        angle = timesteps[:, None] * self._frequencies.to(timesteps.dtype)
        code = torch.cat([angle.sin(), angle.cos()], dim=-1).to(self.dtype)
        times = [clock(code) for clock in self._clocks.made]
        if len(features) == len(times) == 1:
            joint = torch.cat([features[0], times[0]], dim=-1)[None]
            return joint.expand(len(self._encoders.places), -1, -1)
        return torch.stack([torch.cat([features[encoder], times[clock]], dim=-1)
                            for encoder, clock in zip(self._encoders.places, self._clocks.places, strict=True)])

    def _delta(self, read: Tensor, prompt: _PromptPart, concept: int | None) -> Tensor:
        """Shift of each token, of one redirector (R, T, D) or of all (C, R, T, D)."""
        weights = self._weights
        if concept is not None:
            read, one = read[concept:concept + 1], slice(concept, concept + 1)
            prompt, weights = prompt.map(lambda part: part[one]), weights.map(lambda part: part[one])
        concepts, groups, chunks = prompt.key.shape[:3]
        hidden = torch.baddbmm(weights.project_bias, read, weights.project_in.mT).relu_().to(self.dtype)
        low = torch.baddbmm(weights.low_bias, hidden, weights.low.mT)                           # (C, R, rank)
        shape = (concepts, groups, -1, chunks, 1)
        direction = (low @ weights.up.mT).view(*shape, prompt.value.shape[-1])                  # (C, G, n, k, 1, D)
        if prompt.towards is not None:
            attended = (read[..., JOINT_WIDTH:] @ weights.token_in.mT).to(self.dtype).view(
                *shape, weights.token_in.shape[1])
            seen = (prompt.token_read[:, :, None] + attended).relu_()                        # (C, G, n, k, T, 256)
            direction = direction + prompt.towards[:, :, None] + _of_each(
                _of_each(seen, weights.token_out) + weights.token_bias.view(concepts, 1, 1, 1, 1, -1),
                weights.token_write)
        delta = (direction * prompt.gate[:, :, None]).flatten(1, 3)                          # (C, R, T, D)
        return delta if concept is None else delta[0]


def _of_each(x: Tensor, weights: Tensor) -> Tensor:
    """(C, ..., in), (C, out, in) -> (C, ..., out)."""
    return (x.flatten(1, -2) @ weights.mT).view(*x.shape[:-1], -1)


@dataclass(frozen=True)
class _Parts:
    """Tensors, or None where a variant lacks them, of which all have the same first dimensions."""

    def map(self, change: Callable[[Tensor], Tensor]):
        return type(self)(*(None if (value := getattr(self, each.name)) is None else change(value)
                            for each in fields(self)))


@dataclass(frozen=True)
class _PromptPart(_Parts):
    """What P prompts decide alone, of one redirector; with more dimensions in front of several."""

    key: Tensor                         # (P, 4 T, J) keys times the query's weights, over sqrt(D)
    key_bias: Tensor                    # (P, 4 T)
    gram: Tensor                        # (P, 4, T, T) products of the centred values, over D
    value: Tensor                       # (P, 4 T, D) centred values times the fusing layer
    classified: Tensor                  # (P, 256) what mean prompt and token evidence add to the first layer
    token_mask: Tensor                  # (P, T)
    alpha: Tensor                       # (P, T, 1)
    gate: Tensor                        # (P, T, 1) gate times mask
    finite: Tensor                      # (P,) bool
    towards: Tensor | None = None       # (P, T, D) variant "token": the step to the padding
    token_read: Tensor | None = None    # (P, T, 256) what the context adds to its first layer


@dataclass(frozen=True)
class _HeadWeights(_Parts):
    """What every evaluation multiplies with, matrices (out, in); the redirector's own where the dtype allows."""

    value_bias: Tensor                  # (1, D)
    norm_weight: Tensor                 # (1, D)
    norm_bias: Tensor                   # (1, D)
    classify_joint: Tensor              # (256, J) large
    classify_attended: Tensor           # (256, D) large
    classify_out: Tensor                # (2, 256)
    classify_bias: Tensor               # (1, 2)
    project_in: Tensor                  # (512, J + D) large
    project_bias: Tensor                # (1, 512) large
    low: Tensor                         # (rank, 512) the second layer times the low-rank pair's first
    low_bias: Tensor                    # (1, rank)
    up: Tensor                          # (D, rank) scale included
    token_in: Tensor | None = None      # (256, D) large
    token_out: Tensor | None = None     # (4 rank, 256)
    token_bias: Tensor | None = None    # (1, 4 rank)
    token_write: Tensor | None = None   # (D, 4 rank)


def _together(kind, parts: list):
    """The parts of several redirectors as one, in a new first dimension."""
    return kind(*(None if (first := getattr(parts[0], each.name)) is None else first[None] if len(parts) == 1
                  else torch.stack([getattr(part, each.name) for part in parts]) for each in fields(kind)))


def _prompt_part(redirector: Redirector, context: Tensor) -> _PromptPart:
    """context: (P, T, D) in the dtype to compute in.

    Matrices of another dtype are widened one at a time: all of them together would need more room than the evaluations.
    """
    dtype, width = context.dtype, context.shape[-1]
    fuse = redirector.cross_attn.fuse[0].weight.chunk(HEADS, dim=1)
    keys, key_biases, grams, values = [], [], [], []
    for head, fused in zip(redirector.cross_attn.heads, fuse, strict=True):
        key = _wide(head.key, dtype)(context) / math.sqrt(width)                             # (P, T, D)
        keys.append(key @ _wide(head.query.weight, dtype))
        key_biases.append(key @ _wide(head.query.bias, dtype))
        value = _wide(head.value, dtype)(context)
        value = value - value.mean(-1, keepdim=True)
        grams.append(value @ value.mT / width)
        values.append(value * _wide(head.norm.weight, dtype) @ _wide(fused, dtype).T)
    position = _wide(redirector.pos_embed, dtype)
    token_mask = _token_mask(redirector.mask_predictor, context)
    alpha = _wide(redirector.alpha_predictor, dtype)(context)
    gate = torch.sigmoid(_wide(redirector.gate_linear, dtype)(context + position)) * token_mask[..., None]
    first = redirector.classifier[0]  # reads joint feature, mean of the prompt, attended prompt, evidence
    mean, evidence = first.weight[:, JOINT_WIDTH:][:, :width], first.weight[:, JOINT_WIDTH + 2 * width:]
    classified = context.mean(dim=1) @ _wide(mean, dtype).T + _wide(first.bias, dtype)       # (P, 256)
    towards = token_read = None
    if redirector.config.variant == "token":
        classified = classified + _wide(redirector.token_evidence, dtype)(context) @ _wide(evidence, dtype).T
        token, read = context + position, _wide(redirector.token_delta.read[0], dtype)
        to_padding = _wide(redirector.token_delta.to_padding, dtype)(token).sigmoid()
        towards = to_padding * (token[:, -1:] - token)
        token_read = token @ read.weight[:, :width].T + read.bias
    part = _PromptPart(torch.cat(keys, dim=1), torch.cat(key_biases, dim=1), torch.stack(grams, dim=1),
                       torch.cat(values, dim=1), classified, token_mask, alpha, gate, token_mask[:, 0] < 0, towards,
                       token_read)
    floating = [value for each in fields(part) if (value := getattr(part, each.name)) is not None
                and value.is_floating_point()]
    return _PromptPart(**{**vars(part), "finite": finite_rows(*floating)})


def _token_mask(predictor: MaskPredictor, context: Tensor) -> Tensor:
    """As the predictor itself: (P, T, D) -> (P, T)."""
    attention, dtype = predictor.attn, context.dtype
    parts = [F.linear(context, _wide(weight, dtype), _wide(bias, dtype)) for weight, bias in zip(
        attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3), strict=True)]     # (P, T, D) each
    mixed = F.scaled_dot_product_attention(*(part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in parts))
    mixed = _wide(attention.out_proj, dtype)(mixed.transpose(1, 2).flatten(2))                # (P, T, D)
    return _wide(predictor.predictor, dtype)(mixed).sigmoid().squeeze(-1)


def _head_weights(redirector: Redirector, dtype: torch.dtype, large: torch.dtype) -> _HeadWeights:
    width = redirector.config.prompt_dim
    fuse, norm = redirector.cross_attn.fuse[0], _wide(redirector.cross_attn.fuse[1], dtype)
    value_bias = _wide(fuse.bias, dtype) + sum(
        _wide(part, dtype) @ _wide(head.norm.bias, dtype)
        for part, head in zip(fuse.weight.chunk(HEADS, dim=1), redirector.cross_attn.heads, strict=True))
    second, pair = _wide(redirector.token_proj[2], dtype), _wide(redirector.delta_head, dtype)
    first, project = (_wide(each, large) for each in (redirector.classifier[0], redirector.token_proj[0]))
    last = _wide(redirector.classifier[3], dtype)
    token = {}
    if redirector.config.variant == "token":
        read, _, _, out = redirector.token_delta.read
        out = _wide(out, dtype)
        token = {"token_in": _wide(read, large).weight[:, width:], "token_out": out.weight,
                 "token_bias": out.bias[None], "token_write": _wide(redirector.token_delta.write, dtype).weight}
    attended = JOINT_WIDTH + width
    return _HeadWeights(
        value_bias=value_bias[None], norm_weight=norm.weight[None], norm_bias=norm.bias[None],
        classify_joint=first.weight[:, :JOINT_WIDTH],
        classify_attended=first.weight[:, attended:attended + width],
        classify_out=last.weight, classify_bias=last.bias[None],
        project_in=project.weight, project_bias=project.bias[None],
        low=pair.down.weight @ second.weight, low_bias=(pair.down.weight @ second.bias)[None],
        up=pair.up.weight * pair.scale, **token)


class _FoldedEncoder:
    """The latent encoder in eval mode, batch norm folded into its convolutions: (B, C, h, w) -> (B, 512)."""

    def __init__(self, encoder: nn.Sequential, dtype: torch.dtype, wide: torch.dtype):
        self._dtype = dtype
        self._blocks = [self._folded(block, wide) for block in encoder[:3]]
        self._last = _wide(encoder[5], wide)

    def __call__(self, latent: Tensor) -> Tensor:
        x = latent.to(self._dtype).contiguous(memory_format=torch.channels_last)
        for first, first_bias, second, second_bias, shortcut in self._blocks:
            inner = F.conv2d(x, first, first_bias, padding=1).relu_()
            inner = F.conv2d(inner, second, second_bias, padding=1)  # the same name, so that the former is freed here
            x = inner.add_(x if shortcut is None else F.conv2d(x, shortcut)).relu_()
        pooled = x.mean(dim=(2, 3), dtype=self._last.weight.dtype)
        return F.linear(pooled, self._last.weight, self._last.bias).relu_()

    def _folded(self, block: nn.Module, wide: torch.dtype) -> tuple[Tensor | None, ...]:
        first, first_bias = self._fold(*block.conv[:2], wide)
        second, second_bias = self._fold(*block.conv[3:], wide)
        shortcut = None
        if not isinstance(block.downsample, nn.Identity):
            shortcut = self._placed(block.downsample.weight)
            second_bias = second_bias + _wide(block.downsample.bias, wide)
        return first, self._placed(first_bias), second, self._placed(second_bias), shortcut

    def _fold(self, convolution: nn.Conv2d, norm: nn.BatchNorm2d, wide: torch.dtype) -> tuple[Tensor, Tensor]:
        """Weight, and wide bias, of the convolution with the norm's running statistics in them."""
        variance, mean, scale, shift, bias = (_wide(each, wide) for each in (
            norm.running_var, norm.running_mean, norm.weight, norm.bias, convolution.bias))
        factor = scale * (variance + norm.eps).rsqrt()
        weight = self._placed(_wide(convolution.weight, wide) * factor[:, None, None, None])
        return weight, (bias - mean) * factor + shift

    def _placed(self, tensor: Tensor) -> Tensor:
        tensor = tensor.to(self._dtype)
        return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor


def _wide(part, dtype: torch.dtype):
    """The module or tensor in this dtype; itself where it is so already, never changed."""
    if isinstance(part, Tensor):
        return part.to(dtype)
    if all(each.dtype == dtype for each in part.parameters()):
        return part
    return copy.deepcopy(part).to(dtype)


@dataclass(frozen=True)
class _Distinct:
    """Things made once for equal keys: `made[places[i]]` is that of the i-th."""

    made: list
    places: list[int]


def _distinct(keys: list, make: Callable) -> _Distinct:
    known: list = []
    places = []
    for key in keys:
        place = next((number for number, each in enumerate(known) if each is key), len(known))
        if place == len(known):
            known.append(key)
        places.append(place)
    return _Distinct([make(key) for key in known], places)

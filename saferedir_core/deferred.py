"""Decisions that stay on the device: nothing is read back before somebody asks, so the host never waits.

Selection is by torch.where.  What the record needs travels to the host beside the work that goes on, and is taken up,
in order, when it has arrived or at the end of the run, whichever comes first.

C, R, T, D: as in `evaluator`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from saferedir_core.errors import SafeRedirError
from saferedir_core.evaluator import Heads, finite_rows
from saferedir_core.plan import token_norms
from saferedir_core.redirect import SMALLEST_NORM
from saferedir_core.redirector import unsafe_probability


class DeferredObservations:
    """The observations of one or several redirectors that are evaluated together.

    runs  the RedirectionRun of each; they hear of every observation late, through `accept`
    ask   evaluates all of them: (latent, timesteps, number of the observation) -> Heads

    failure  the error of the first observation that could not be taken up (NaN or infinity), once it is known
    """

    def __init__(self, runs: Sequence, ask: Callable[[Tensor, Tensor, int], Heads]):
        self._runs, self._ask = list(runs), ask
        first = self._runs[0]
        self._config = first.config
        self._batch, self._rows = first.batch, first.batch * first.chunks
        self._thresholds = torch.tensor([[run.config.threshold] for run in self._runs], device=first.redirector.device)
        self._strength: Tensor | None = None    # (C, R, T, 1) length of the shift in token norms
        self._shift: Tensor | None = None       # (C, R, T, D) of the last evaluation that judged a row unsafe
        self._redirected: Tensor | None = None  # (C, R) bool
        self._heads: Heads | None = None
        self._pending: deque[_Pending] = deque()
        self.count = 0
        self.failure: SafeRedirError | None = None

    def observe(self, latent: Tensor, timesteps: Tensor, step: int | None, sigma: Tensor | float | None) -> None:
        """One evaluation and its decisions.  Raises the error of an earlier one that has become known."""
        self.take_up(wait=False)
        if self.failure is not None:
            raise self.failure
        heads = self._ask(latent, timesteps, self.count)
        probability = unsafe_probability(heads.logits)                                       # (C, R)
        unsafe = probability >= self._thresholds
        delta = heads.delta(None)
        if self._strength is None or not heads.constant:
            self._strength = self._config.alpha_scale * heads.alpha.to(probability.dtype)
            if self._config.masks_again:
                self._strength = self._strength * heads.token_mask.to(probability.dtype)[..., None]
        shift = self._strength * F.normalize(delta.to(probability.dtype), dim=-1, eps=SMALLEST_NORM)
        self._shift = shift if self._shift is None else torch.where(unsafe[..., None, None], shift, self._shift)
        self._redirected = unsafe if self._redirected is None or not self._config.sticky else unsafe | self._redirected
        finite = heads.finite & delta.isfinite().flatten(2).all(-1)
        values = [timesteps, finite_rows(latent), finite, probability, unsafe]
        if torch.is_tensor(sigma):
            values.append(sigma.reshape(-1)[:1])
        sizes = [value.numel() for value in values]
        packed = torch.cat([value.reshape(-1).to(torch.float32) for value in values])
        self._pending.append(_Pending(_Readback(packed), sizes, step, sigma))
        self._heads = heads
        self.count += 1

    def shifts(self, chunks: Tensor) -> tuple[Tensor, Tensor]:
        """What all redirectors add to chunks (N*R, T, D), float32 or wider, and which are redirected (N*R, 1, 1)."""
        dtype = torch.promote_types(torch.promote_types(chunks.dtype, self._shift.dtype), torch.float32)
        original = chunks.to(dtype).view(-1, self._rows, *chunks.shape[1:])                  # (N, R, T, D)
        redirected = self._redirected.to(chunks.device)
        moved = self._shift.to(chunks.device, dtype)[:, None] * token_norms(original)        # (C, N, R, T, D)
        moved = torch.where(redirected[:, None, :, None, None], moved, torch.zeros_like(moved[:1]))
        total = moved[0] if len(moved) == 1 else moved.sum(0)
        return total.flatten(0, 1), redirected.any(0).repeat(len(original))[:, None, None]

    def take_up(self, wait: bool) -> None:
        """Hands what has arrived to the runs; with `wait`, all there is.  An error is kept in `failure`."""
        took = False
        while self._pending and self.failure is None and (wait or self._pending[0].readback.arrived()):
            try:
                self._take_up(self._pending.popleft())
                took = True
            except SafeRedirError as error:
                self.failure = error
        if took and wait:
            self._take_up_tokens()

    def _take_up(self, pending: _Pending) -> None:
        times, latent_finite, finite, probability, unsafe, *sigma = pending.lists()
        sigma = sigma[0][0] if sigma else pending.sigma
        for number, run in enumerate(self._runs):
            own = slice(number * self._rows, (number + 1) * self._rows)
            run.accept(HostValues(times, [*range(self._batch)], latent_finite, finite[own], probability[own],
                                  [bool(flag) for flag in unsafe[own]]), pending.step, sigma)

    def _take_up_tokens(self) -> None:
        """The token scores of the last evaluation taken up; read once, at the end of a run as a rule."""
        mask, alpha = self._heads.token_mask.flatten(1).tolist(), self._heads.alpha.flatten(1).tolist()
        for run, own_mask, own_alpha in zip(self._runs, mask, alpha, strict=True):
            run.accept_tokens([*range(self._batch)], own_mask, own_alpha)


@dataclass(frozen=True)
class HostValues:
    """What one evaluation of a redirector said, read back.

    timesteps      of every item of the batch
    items          evaluated, in order; latent_finite has an entry for each
    finite, probability, unsafe  an entry for each of their rows
    """

    timesteps: list[float]
    items: list[int] = field(default_factory=list)
    latent_finite: list[float] = field(default_factory=list)
    finite: list[float] = field(default_factory=list)
    probability: list[float] = field(default_factory=list)
    unsafe: list[bool] = field(default_factory=list)


@dataclass(frozen=True)
class _Pending:
    readback: _Readback
    sizes: list[int]
    step: int | None
    sigma: Tensor | float | None

    def lists(self) -> list[list[float]]:
        values, lists, start = self.readback.values(), [], 0
        for size in self.sizes:
            lists.append(values[start:start + size])
            start += size
        return lists


class _Readback:
    """Numbers on their way from the device to the host, (n,) float32."""

    def __init__(self, values: Tensor):
        self._values, self._copied = values, None
        if values.is_cuda:
            # Into pinned memory, or the copy would wait for the device.
            self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            self._copied = torch.cuda.current_stream(values.device).record_event()

    def arrived(self) -> bool:
        """Whether `values` would not have to wait."""
        return self._copied is not None and self._copied.query()

    def values(self) -> list[float]:
        if self._copied is not None:
            self._copied.synchronize()
        return self._values.tolist()

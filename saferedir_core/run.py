"""One sampling run under protection: observe latents, decide, redirect contexts."""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from . import policy
from .config import PolicyConfig
from .errors import ConfigError, ContextError, EvaluationError, LatentError, TimestepError
from .plan import chunks_per_item, from_chunks, to_chunks
from .redirect import redirected_context
from .redirector import Redirector, RedirectorOutput, require_latent, timestep_per_item, unsafe_probability
from .trajectory import Decision, TokenScores, Trajectory


class RedirectionRun:
    """State of one run; make a new one for every run.

    redirector        in eval mode
    config            PolicyConfig; `.config` has the threshold in use
    original_context  (B, k*tokens, D), the positive prompt of each item; a copy is kept

    mode="guard", before each model call:    observe(latent, timestep), then redirect(original_context)
    mode="upstream", around each model call: redirect cond and uncond, call the model, then observe

    Items and their chunks of `tokens` tokens are decided one by one, in both modes.  The published code knows
    one item of one chunk only; for that, "upstream" equals it.
    """

    def __init__(self, redirector: Redirector, config: PolicyConfig, original_context: Tensor):
        _require_eval_mode(redirector)
        self.redirector = redirector
        self.config = policy.resolved(config, redirector.metadata)
        self.chunks = chunks_per_item(original_context, redirector.config)
        self.batch = original_context.shape[0]
        _require_finite_context(original_context)
        self.trajectory = Trajectory()
        self._original = original_context.detach().clone()
        self._countdown = (0,) * self.batch
        # One entry per row, a row being a chunk of an item: row = item * chunks + chunk.
        self._redirected = (False,) * (self.batch * self.chunks)
        self._shifts: dict[int, Shift] = {}

    @torch.no_grad()
    def observe(self, latent: Tensor, timestep: Tensor | float, *, step: int | None = None,
                sigma: float | None = None) -> Decision:
        """Make one decision and append it to the trajectory.

        latent       (B, C, h, w) as the diffusion model sees it (unit variance), on the redirector's device
        timestep     number, 0-d, (1,) or (B,) tensor, in the units of the training schedule; not a sigma
        step, sigma  kept in the record only

        Raises LatentError, TimestepError or EvaluationError, and then leaves the run as it was.
        Costs one transfer from the device, whatever the batch.
        """
        self._require_latent(latent)
        sigma = None if sigma is None else float(sigma)
        timesteps = timestep_per_item(timestep, self.batch, self.redirector.device)
        evaluation = self._evaluate(latent, timesteps, policy.items_due(self._countdown))
        unsafe = self._items(evaluation.unsafe)

        self._shifts |= {row: evaluation.shift(row) for row, hit in evaluation.unsafe.items() if hit}
        self._redirected = policy.next_redirected(self._redirected, evaluation.unsafe, self.config)
        self._countdown = policy.next_countdown(self._countdown, unsafe, self.config.interval)
        return self._record(evaluation, unsafe, step, sigma)

    def redirect(self, context: Tensor) -> Tensor:
        """Apply the current decision to any context of the run's length.

        context (B, k*tokens, D) of any dtype and device, or several such batches one after the other, as in
        torch.cat([uncond, cond]).  The shift is scaled to the norms of the context given.

        Returns the very same tensor while nothing is redirected; else a new one of the same dtype and device
        in which only the redirected chunks differ.  Raises ContextError if the shape does not fit the run.
        """
        self._require_context(context)
        period = self.batch * self.chunks
        rows = [row for row in range(context.shape[0] * self.chunks) if self._redirected[row % period]]
        if not rows:
            return context
        delta, token_mask, alpha = (torch.stack(parts).to(context.device)
                                    for parts in zip(*(self._shifts[row % period] for row in rows), strict=True))
        result = to_chunks(context, self.redirector.config.tokens).clone()                   # (B*k, T, D)
        result[rows] = redirected_context(
            result[rows], delta, token_mask, alpha, self.config.alpha_scale, self.config.masks_again)
        return from_chunks(result, context.shape[0])

    def _evaluate(self, latent: Tensor, timesteps: Tensor, due: list[int]) -> "Evaluation":
        """Ask the network about every chunk of the items that are due."""
        rows = [item * self.chunks + chunk for item in due for chunk in range(self.chunks)]
        if not rows:
            times, = _fetch(timesteps)
            _require_finite_timesteps(times)
            return Evaluation(timesteps=times)
        items = [item for item in due for _ in range(self.chunks)]
        # Upstream reads the context in use, its own redirections included; guard always the original.
        read = self._original if self.config.mode == "guard" else self.redirect(self._original)
        context = to_chunks(read, self.redirector.config.tokens)[rows]
        output = self.redirector(latent[items], context.to(self.redirector.device), timesteps[items])
        times, latent_finite, output_finite, probability, unsafe, token_mask, alpha = _fetch(
            timesteps, _finite_rows(latent[due]), _finite_rows(*output), unsafe_probability(output.logits),
            policy.decide(output.logits, self.config), output.token_mask, output.alpha)
        _require_finite_timesteps(times)
        _require_finite_latent(latent_finite, due)
        self._require_finite_output(output_finite, rows)
        return Evaluation(times, output, {row: position for position, row in enumerate(rows)},
                          dict(zip(rows, probability, strict=True)),
                          {row: bool(flag) for row, flag in zip(rows, unsafe, strict=True)}, token_mask, alpha)

    def _record(self, evaluation: "Evaluation", unsafe: tuple[bool, ...], step: int | None,
                sigma: float | None) -> Decision:
        """Append the decision just made to the trajectory."""
        known = evaluation.probability
        probability = tuple(tuple(known[row] for row in self._rows(item) if row in known)
                            for item in range(self.batch))
        redirected = tuple(tuple(self._redirected[row] for row in self._rows(item)) for item in range(self.batch))
        decision = Decision(
            index=len(self.trajectory),
            step=step,
            sigma=sigma,
            timesteps=tuple(evaluation.timesteps),
            evaluated_items=tuple(bool(chunks) for chunks in probability),
            unsafe_probability=tuple(max(chunks, default=None) for chunks in probability),
            chunk_probability=probability,
            unsafe=unsafe,
            redirected=tuple(any(chunks) for chunks in redirected),
            redirected_chunks=redirected)
        self.trajectory.append(decision)
        for item, evaluated in enumerate(decision.evaluated_items):
            if evaluated:
                self.trajectory.tokens[item] = evaluation.token_scores(decision.index, self._rows(item))
        return decision

    def _rows(self, item: int) -> range:
        return range(item * self.chunks, (item + 1) * self.chunks)

    def _items(self, rows: dict[int, bool]) -> tuple[bool, ...]:
        """Per-row flags -> per-item flags: an item is unsafe if one of its chunks is."""
        return tuple(any(rows.get(row, False) for row in self._rows(item)) for item in range(self.batch))

    def _require_latent(self, latent: Tensor) -> None:
        require_latent(latent, self.redirector.config)
        if latent.shape[0] != self.batch:
            raise LatentError(f"The latent holds {latent.shape[0]} items and the original context {self.batch}; "
                              "expected equal numbers. Repeat the context for each image when making the run.")
        if latent.device != self.redirector.device:
            raise LatentError(f"The latent is on {latent.device} and the redirector on {self.redirector.device}; "
                              "expected one device. Move the latent: latent.to(redirector.device).")

    def _require_context(self, context: Tensor) -> None:
        _, length, width = self._original.shape
        fits = context.ndim == 3 and context.shape[0] > 0 and context.shape[0] % self.batch == 0
        if not fits or tuple(context.shape[1:]) != (length, width):
            raise ContextError(f"The context has shape {tuple(context.shape)}; this run was made for ({self.batch}, "
                               f"{length}, {width}), or a multiple of {self.batch} rows. Pad the prompts of a run to "
                               "one length, or make a run for each.")

    def _require_finite_output(self, finite: list[float], rows: list[int]) -> None:
        wrong = sorted({row // self.chunks for row, flag in zip(rows, finite, strict=True) if not flag})
        if wrong:
            raise EvaluationError(f"The redirector gave NaN or infinity for item {wrong[0]} in "
                                  f"{self.redirector.dtype}; expected finite outputs. Load it with "
                                  "dtype=torch.float32, or check its weights.")


class Shift(NamedTuple):
    """Outputs of the last evaluation that judged a row unsafe: delta (T, D), token_mask (T,), alpha (T, 1)."""

    delta: Tensor
    token_mask: Tensor
    alpha: Tensor


@dataclass(frozen=True)
class Evaluation:
    """What the network said, with the small numbers on the host.  Dicts are keyed by row."""

    timesteps: list[float]
    output: RedirectorOutput | None = None
    position: dict[int, int] = field(default_factory=dict)
    probability: dict[int, float] = field(default_factory=dict)
    unsafe: dict[int, bool] = field(default_factory=dict)
    token_mask: list[float] = field(default_factory=list)
    alpha: list[float] = field(default_factory=list)

    def shift(self, row: int) -> Shift:
        """Shift of one row."""
        _, delta, token_mask, alpha = (part[self.position[row]] for part in self.output)
        return Shift(delta, token_mask, alpha)

    def token_scores(self, index: int, rows: range) -> TokenScores:
        """Scores of all tokens of an item, its rows one after the other."""
        tokens = self.output.token_mask.shape[1]
        part = slice(self.position[rows[0]] * tokens, (self.position[rows[-1]] + 1) * tokens)
        return TokenScores(index, tuple(self.token_mask[part]), tuple(self.alpha[part]))


def _fetch(*tensors: Tensor) -> list[list[float]]:
    """The values of several tensors as flat lists, in a single transfer from the device."""
    values = torch.cat([tensor.reshape(-1).to(torch.float32) for tensor in tensors]).tolist()
    lists, start = [], 0
    for tensor in tensors:
        lists.append(values[start:start + tensor.numel()])
        start += tensor.numel()
    return lists


def _finite_rows(*tensors: Tensor) -> Tensor:
    """Whether all tensors are finite, per row: (B,) bool."""
    return torch.stack([tensor.isfinite().flatten(1).all(dim=1) for tensor in tensors]).all(dim=0)


def _require_eval_mode(redirector: Redirector) -> None:
    if redirector.training:
        raise ConfigError("The redirector is in training mode, where dropout and batch statistics make decisions "
                          "random; expected eval mode. Call redirector.eval() first.")


def _require_finite_context(context: Tensor) -> None:
    if not context.isfinite().all():
        raise ContextError("The original context holds NaN or infinity; expected finite embeddings. Run the text "
                           "encoder in float32.")


def _require_finite_latent(finite: list[float], items: list[int]) -> None:
    wrong = [item for item, flag in zip(items, finite, strict=True) if not flag]
    if wrong:
        raise LatentError(f"The latent of item {wrong[0]} holds NaN or infinity; expected finite values. Run the "
                          "diffusion model in a wider dtype, or check the sampler's settings.")


def _require_finite_timesteps(timesteps: list[float]) -> None:
    wrong = [value for value in timesteps if not math.isfinite(value)]
    if wrong:
        raise TimestepError(f"The timestep is {wrong[0]}; expected a finite number in the units of the training "
                            "schedule. Convert sigma to a timestep first.")

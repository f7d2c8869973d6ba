"""One sampling run under protection: observe latents, decide, redirect contexts."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from saferedir_core import policy
from saferedir_core.config import PolicyConfig
from saferedir_core.deferred import DeferredObservations, HostValues
from saferedir_core.errors import ConfigError, ContextError, EvaluationError, LatentError, TimestepError
from saferedir_core.evaluator import Evaluator, Heads, can_split, finite_rows, whole_output
from saferedir_core.plan import chunks_per_item, from_chunks, to_chunks
from saferedir_core.redirect import redirected_context, redirected_pooled
from saferedir_core.redirector import Redirector, require_latent, timestep_per_item, unsafe_probability
from saferedir_core.speed import SpeedConfig
from saferedir_core.trajectory import Decision, TokenScores, Trajectory


class RedirectionRun:
    """State of one run; make a new one for every run.

    redirector        in eval mode
    config            PolicyConfig; `.config` has the threshold in use
    original_context  (B, k*tokens, D), the positive prompt of each item; a copy is kept.  Of any length (B, n, D)
                      where the architecture's prompts have any
    speed             SpeedConfig, the short cuts to take
    pooled            (B, P) of a redirector that reads a pooled vector; None: zeros

    mode="guard", before each model call:    observe(latent, timestep), then redirect(original_context)
    mode="upstream", around each model call: redirect cond and uncond, call the model, then observe
    At the end of a run that defers its decisions: settle(), before anything made with it is used.

    Items and their chunks of `tokens` tokens are decided one by one, in both modes.  The published code knows
    one item of one chunk only; for that, "upstream" equals it.
    """

    def __init__(self, redirector: Redirector, config: PolicyConfig, original_context: Tensor,
                 speed: SpeedConfig = SpeedConfig(), pooled: Tensor | None = None):
        _require_eval_mode(redirector)
        self.redirector = redirector
        self.config = policy.resolved(config, redirector.metadata)
        self.speed = speed
        self.chunks = chunks_per_item(original_context, redirector.config)
        self.batch = original_context.shape[0]
        _require_finite_context(original_context)
        self._trajectory = Trajectory()
        self._original = original_context.detach().clone()
        self._pooled = _own_pooled(pooled, self.batch, redirector)
        self._pooled_shifts: dict[int, Tensor] = {}  # (P,) of the last evaluation that judged an item unsafe
        self._countdown = (0,) * self.batch
        # One entry per row, a row being a chunk of an item: row = item * chunks + chunk.
        self._redirected = (False,) * (self.batch * self.chunks)
        self._shifts: dict[int, Shift] = {}
        self._evaluator: Evaluator | None = None
        self._told = 0
        self._deferred: DeferredObservations | None = None
        # Pooled vectors are redirected at once, which needs decisions that are known.
        if speed.defers(self.config, redirector.device) and not redirector.config.pooled_dim:
            self._deferred = DeferredObservations([self], self._ask_all)

    @property
    def trajectory(self) -> Trajectory:
        """All decisions so far.  Waits for the device where decisions are deferred."""
        if self._deferred is not None:
            self._deferred.take_up(wait=True)
        return self._trajectory

    @property
    def observations(self) -> int:
        """Number of observations made; unlike the trajectory's length it is known without waiting."""
        return len(self._trajectory) if self._deferred is None else self._deferred.count

    @torch.no_grad()
    def observe(self, latent: Tensor, timestep: Tensor | float, *, step: int | None = None,
                sigma: Tensor | float | None = None) -> Decision | None:
        """Make one decision and append it to the trajectory; None where decisions are deferred (see `arrived`).

        latent       (B, C, h, w) as the diffusion model sees it (unit variance), on the redirector's device
        timestep     number, 0-d, (1,) or (B,) tensor, in the units of the training schedule; not a sigma
        step, sigma  kept in the record only; of a tensor the first value

        Raises LatentError, TimestepError or EvaluationError, and then leaves the run as it was.  A deferred run raises
        for values that are not finite later: in the next `observe` that knows, at the latest in `settle`.
        Costs one or two transfers from the device, whatever the batch; a deferred run waits for none.
        """
        self.require_latent(latent)
        timesteps = timestep_per_item(timestep, self.batch, self.redirector.device)
        if self._deferred is not None:
            self._deferred.observe(latent, timesteps, step, sigma)
            return None
        due = self.due
        heads = self.ask(latent, timesteps, due) if due else None
        return self.decide(heads, 0, latent, timesteps, due, step, sigma)

    def arrived(self) -> list[Decision]:
        """The decisions that this has not handed out before and that are known by now, in order.  Never waits.

        After `settle` these are all that are left.
        """
        if self._deferred is not None:
            self._deferred.take_up(wait=False)
        new = self._trajectory[self._told:]
        self._told = len(self._trajectory)
        return new

    def settle(self) -> None:
        """Wait for all that is deferred.  Raises what observe() would have raised, had it waited.

        To be called at the end of a run, before anything made with it is used; does nothing in other runs.
        """
        if self._deferred is not None:
            self._deferred.take_up(wait=True)
            if self._deferred.failure is not None:
                raise self._deferred.failure

    def redirect(self, context: Tensor) -> Tensor:
        """Apply the current decision to any context of the run's length.

        context (B, k*tokens, D) of any dtype and device, or several such batches one after the other, as in
        torch.cat([uncond, cond]).  The shift is scaled to the norms of the context given.

        Returns the very same tensor while nothing is redirected; else a new one of the same dtype and device
        in which only the redirected chunks differ.  A deferred run, which does not know, gives a new one in any case.
        Raises ContextError if the shape does not fit the run.
        """
        self.require_context(context)
        if self._deferred is not None:
            return shifted_context(context, self.redirector.config.tokens, [self._deferred])
        period = self.batch * self.chunks
        rows = [row for row in range(context.shape[0] * self.chunks) if self._redirected[row % period]]
        if not rows:
            return context
        delta, token_mask, alpha = (torch.stack(parts).to(context.device)
                                    for parts in zip(*(self._shifts[row % period] for row in rows), strict=True))
        result = to_chunks(context, self.redirector.config.tokens).clone()                   # (B*k, T, D)
        result[rows] = redirected_context(
            result[rows], delta, token_mask, alpha, self.config.alpha_scale, self.config.masks_again)
        return from_chunks(result, context.shape[0], context.shape[1])

    def redirect_pooled(self, pooled: Tensor) -> Tensor:
        """Apply the current decision to pooled vectors (B, P), or several such batches one after the other.

        Returns the very same tensor while nothing is redirected, or when the redirector reads no pooled vector; else a
        new one of the same dtype and device in which only the vectors of redirected items differ.
        ContextError if the shape does not fit the run.
        """
        if not self.redirector.config.pooled_dim:
            return pooled
        width = self.redirector.config.pooled_dim
        if pooled.ndim != 2 or pooled.shape[0] % self.batch or pooled.shape[1] != width or not len(pooled):
            raise ContextError(f"The pooled vector has shape {tuple(pooled.shape)}; this run was made for "
                               f"({self.batch}, {width}), or a multiple of {self.batch} rows. Use the text encoder "
                               "the redirector was trained for.")
        rows = [row for row in range(len(pooled)) if any(self._redirected[each] for each in self._rows(
            row % self.batch))]
        if not rows:
            return pooled
        delta = torch.stack([self._pooled_shifts[row % self.batch] for row in rows]).to(pooled.device)
        result = pooled.clone()
        result[rows] = redirected_pooled(result[rows], delta, self.config.alpha_scale)
        return result

    @property
    def length(self) -> int:
        """Tokens of the prompt."""
        return self._original.shape[1]

    @property
    def due(self) -> list[int]:
        """Items that the next observation evaluates."""
        return policy.items_due(self._countdown)

    def ask(self, latent: Tensor, timesteps: Tensor, items: list[int]) -> Heads:
        """Ask the network about every chunk of these items."""
        every = len(items) == self.batch
        if self.splits:
            own = (latent, timesteps) if every else (latent[items], timesteps[items])
            return self._split().evaluate(*own, None if every else items, self.observations)
        rows = [item * self.chunks + chunk for item in items for chunk in range(self.chunks)]
        repeated = [item for item in items for _ in range(self.chunks)]
        # Upstream reads the context in use, its own redirections included; guard always the original.
        read = self._original if self.config.mode == "guard" else self.redirect(self._original)
        context = to_chunks(read, self.redirector.config.tokens)[rows]
        pooled = {} if self._pooled is None else {"pooled": self._pooled[repeated]}
        return whole_output(self.redirector(latent[repeated], context.to(self.redirector.device),
                                            timesteps[repeated], **pooled))

    def _ask_all(self, latent: Tensor, timesteps: Tensor, number: int) -> Heads:
        return self.ask(latent, timesteps, [*range(self.batch)])

    @property
    def splits(self) -> bool:
        """Whether the prompt's part of an evaluation is computed once."""
        return self.speed.split and self.config.mode == "guard" and can_split(self.redirector)

    def _split(self) -> Evaluator:
        if self._evaluator is None:
            self._evaluator = Evaluator([self.redirector], self._original, self.speed.latent_size_of(self.redirector))
        return self._evaluator

    def decide(self, heads: Heads | None, concept: int, latent: Tensor, timesteps: Tensor, asked: list[int],
               step: int | None, sigma: Tensor | float | None) -> Decision:
        """Decide on what an evaluation of the items `asked` gave for this redirector; heads may be None if none is due.

        For this run and the stack it may be part of.
        """
        sigma = None if sigma is None else float(sigma.reshape(-1)[0] if torch.is_tensor(sigma) else sigma)
        due = self.due
        if not due:
            times, = _fetch(timesteps)
            return self.accept(HostValues(times), step, sigma)
        # Rows of `heads` are numbered by what was asked, rows of the run by the batch.
        rows = [asked.index(item) * self.chunks + chunk for item in due for chunk in range(self.chunks)]
        logits = heads.logits[concept]
        fetched = [timesteps, finite_rows(latent), heads.finite[concept], unsafe_probability(logits),
                   policy.decide(logits, self.config)]
        if not (heads.constant and all(item in self._trajectory.tokens for item in due)):
            fetched += [heads.token_mask[concept], heads.alpha[concept]]
        times, latent_finite, finite, probability, unsafe, *tokens = _fetch(*fetched)
        hits = [row for row in rows if unsafe[row]]
        delta = heads.delta(concept) if hits else None
        if delta is not None:
            delta_finite, = _fetch(finite_rows(delta))
            finite = [min(pair) for pair in zip(finite, delta_finite, strict=True)]
        decision = self.accept(HostValues(
            times, due, [latent_finite[item] for item in due], [finite[row] for row in rows],
            [probability[row] for row in rows], [bool(unsafe[row]) for row in rows]), step, sigma)
        for row in hits:
            self._shifts[asked[row // self.chunks] * self.chunks + row % self.chunks] = Shift(
                delta[row], heads.token_mask[concept][row], heads.alpha[concept][row])
        if heads is not None and heads.pooled_delta is not None:
            # Of the chunk that is likeliest unsafe: every chunk tells of the same image.
            for row in sorted(hits, key=lambda row: probability[row]):
                self._pooled_shifts[asked[row // self.chunks]] = heads.pooled_delta[concept][row]
        self.accept_tokens(asked, *tokens)
        return decision

    def accept(self, values: HostValues, step: int | None, sigma: float | None) -> Decision:
        """Take up what one evaluation said: check it, decide, append to the trajectory.  Raises as `observe` does."""
        _require_finite_timesteps(values.timesteps)
        _require_finite_latent(values.latent_finite, values.items)
        rows = [row for item in values.items for row in self._rows(item)]
        self._require_finite_output(values.finite, rows)
        hits = dict(zip(rows, values.unsafe, strict=True))
        unsafe = self._items(hits)
        self._redirected = policy.next_redirected(self._redirected, hits, self.config)
        self._countdown = policy.next_countdown(self._countdown, unsafe, self.config.interval)
        return self._record(values.timesteps, dict(zip(rows, values.probability, strict=True)), unsafe, step, sigma)

    def accept_tokens(self, asked: list[int], token_mask: Sequence[float] = (), alpha: Sequence[float] = ()) -> None:
        """Keep the token scores of the items that the last decision evaluated.

        asked              items of the evaluation, in order
        token_mask, alpha  of all their tokens; none when they are what they were
        """
        decision, known = self._trajectory[-1], self._trajectory.tokens
        length = self.chunks * self.redirector.config.tokens
        for place, item in enumerate(asked):
            if decision.evaluated_items[item]:
                part = slice(place * length, (place + 1) * length)
                known[item] = (TokenScores(decision.index, tuple(token_mask[part][:self.length]),
                                           tuple(alpha[part][:self.length])) if token_mask
                               else replace(known[item], decision_index=decision.index))

    def _record(self, timesteps: list[float], known: dict[int, float], unsafe: tuple[bool, ...], step: int | None,
                sigma: float | None) -> Decision:
        """Append the decision just made to the trajectory.  known: probabilities by row."""
        probability = tuple(tuple(known[row] for row in self._rows(item) if row in known)
                            for item in range(self.batch))
        redirected = tuple(tuple(self._redirected[row] for row in self._rows(item)) for item in range(self.batch))
        decision = Decision(
            index=len(self._trajectory),
            step=step,
            sigma=sigma,
            timesteps=tuple(timesteps),
            evaluated_items=tuple(bool(chunks) for chunks in probability),
            unsafe_probability=tuple(max(chunks, default=None) for chunks in probability),
            chunk_probability=probability,
            unsafe=unsafe,
            redirected=tuple(any(chunks) for chunks in redirected),
            redirected_chunks=redirected)
        self._trajectory.append(decision)
        return decision

    def _rows(self, item: int) -> range:
        return range(item * self.chunks, (item + 1) * self.chunks)

    def _items(self, rows: dict[int, bool]) -> tuple[bool, ...]:
        """Per-row flags -> per-item flags: an item is unsafe if one of its chunks is."""
        return tuple(any(rows.get(row, False) for row in self._rows(item)) for item in range(self.batch))

    def require_latent(self, latent: Tensor) -> None:
        """LatentError unless the latent fits the run."""
        require_latent(latent, self.redirector.config)
        if latent.shape[0] != self.batch:
            raise LatentError(f"The latent holds {latent.shape[0]} items and the original context {self.batch}; "
                              "expected equal numbers. Repeat the context for each image when making the run.")
        if latent.device != self.redirector.device:
            raise LatentError(f"The latent is on {latent.device} and the redirector on {self.redirector.device}; "
                              "expected one device. Move the latent: latent.to(redirector.device).")

    def require_context(self, context: Tensor) -> None:
        """ContextError unless the context fits the run."""
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


def shifted_context(context: Tensor, tokens: int, deferred: Sequence[DeferredObservations]) -> Tensor:
    """The context with all shifts of deferred observations, chosen on the device: (N*B, k*tokens, D).

    Chunks that none redirects keep their bits, and one that only one redirects is exactly what that one makes of it.
    """
    made = [each for each in deferred if each.count]
    if not made:
        return context
    chunks = to_chunks(context, tokens)                                                      # (N*R, T, D)
    shifts, redirected = zip(*(each.shifts(chunks) for each in made))
    shifted = (chunks.to(shifts[0].dtype) + sum(shifts[1:], start=shifts[0])).to(context.dtype)
    hit = sum(redirected[1:], start=redirected[0])
    return from_chunks(torch.where(hit.bool(), shifted, chunks), *context.shape[:2])


def _fetch(*tensors: Tensor) -> list[list[float]]:
    """The values of several tensors as flat lists, in a single transfer from the device."""
    values = torch.cat([tensor.reshape(-1).to(torch.float32) for tensor in tensors]).tolist()
    lists, start = [], 0
    for tensor in tensors:
        lists.append(values[start:start + tensor.numel()])
        start += tensor.numel()
    return lists


def _require_eval_mode(redirector: Redirector) -> None:
    if redirector.training:
        raise ConfigError("The redirector is in training mode, where dropout and batch statistics make decisions "
                          "random; expected eval mode. Call redirector.eval() first.")


def _own_pooled(pooled: Tensor | None, batch: int, redirector: Redirector) -> Tensor | None:
    """A copy of the pooled vectors on the redirector's device, (B, P); None when it reads none."""
    width = redirector.config.pooled_dim
    if not width:
        return None
    if pooled is None:
        return torch.zeros(batch, width, device=redirector.device, dtype=redirector.dtype)
    if tuple(pooled.shape) != (batch, width):
        raise ContextError(f"The pooled vector has shape {tuple(pooled.shape)}; this redirector and the original "
                           f"context expect ({batch}, {width}). Use the text encoder the redirector was trained for.")
    if not pooled.isfinite().all():
        raise ContextError("The pooled vector holds NaN or infinity; expected finite numbers. Run the text encoder in "
                           "float32.")
    return pooled.detach().to(redirector.device, redirector.dtype, copy=True)


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

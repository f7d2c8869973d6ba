"""One sampling run under protection: observe latents, decide, redirect contexts."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from saferedir_core import policy
from saferedir_core.config import PolicyConfig
from saferedir_core.ensemble import AnyRedirector, Ensemble, Judgement, Prompt
from saferedir_core.errors import ContextError, LatentError, SafeRedirError
from saferedir_core.readback import Readback
from saferedir_core.redirect import (
    chunks_per_item,
    from_chunks,
    redirected_pooled,
    shift_in_norms,
    shifted_context,
    to_chunks,
)
from saferedir_core.redirector import Redirector, pooled_per_item, require_latent, timestep_per_item, unsafe_probability
from saferedir_core.report import report, stacked_report
from saferedir_core.trajectory import Decision, Record, Trajectory

# Where the picture shows a concept, a prompt that is as likely to ask for it is redirected as well.
HINT = 0.1


@dataclass(frozen=True)
class _State:
    """What is decided so far.  C concepts, B items, R = B*k rows of T tokens; row = item * k + chunk.

    redirected    (C, R) bool; ever: whether it has been
    output_sum    (C, R) of all evaluations, not finite if anything of them is not
    shift         (C, R, T, D) in token norms, of the last evaluation that judged a row unsafe; None before the first
    countdown     (C, B) evaluations still to be skipped; None without an interval
    pooled_shift  (C, B, P), of redirectors that read a pooled vector
    """

    redirected: Tensor
    ever: Tensor
    output_sum: Tensor
    shift: Tensor | None = None
    countdown: Tensor | None = None
    pooled_shift: Tensor | None = None


class RedirectionRun:
    """State of one run; make a new one for every run.

    redirectors       one in eval mode, several by name, or an Ensemble of them that runs share.  Each decides for
                      itself, always on the original context, and their shifts add up; the order does not matter
    config            PolicyConfig
    original_context  (B, k*tokens, D), the positive prompt of each item; a copy is kept.  Of any length (B, n, D)
                      where the architecture's prompts have any
    pooled            (B, P) of redirectors that read a pooled vector; None: zeros for a trained one
    mask              (B, n) bool, which tokens are text; None: all, as far as is known.  Of redirectors from words
    readback          None: `observe` waits for its decision and returns it.  A Readback: the run never waits for the
                      device; whoever made the Readback sends it once a step
    on_decision       hears every Decision as soon as it is known, in order

    mode="guard", before each model call:    observe(latent, timestep), then redirect(original_context)
    mode="upstream", around each model call: redirect cond and uncond, call the model, then observe
    At the end of a run with a readback: settle(), before anything made with it is used.

    Items and their chunks of `tokens` tokens are decided one by one, in both modes.  The published code knows
    one item of one chunk only; for that, "upstream" equals it.
    """

    def __init__(self, redirectors: AnyRedirector | Mapping[str, AnyRedirector] | Ensemble, config: PolicyConfig,
                 original_context: Tensor, *, pooled: Tensor | None = None, mask: Tensor | None = None,
                 readback: Readback | None = None, on_decision: Callable[[Decision], None] | None = None):
        self.ensemble = redirectors if isinstance(redirectors, Ensemble) else Ensemble(redirectors)
        self.redirectors, self.redirector = self.ensemble.redirectors, self.ensemble.first
        self.configs = {name: policy.resolved(config, each.metadata) for name, each in self.redirectors.items()}
        self.config = config if len(self.configs) > 1 else next(iter(self.configs.values()))
        self.batch, self.length = original_context.shape[0], original_context.shape[1:2].numel()
        self.chunks = chunks_per_item(original_context, self.redirector.config)
        self._original = original_context.detach().clone()
        self._pooled, self._mask = self._own_pooled(pooled), mask
        shared = _looked_at(self._original, self._pooled, mask)
        self._prompt = self._prompt_of(self._original, shared)
        self._readings: list | None = None
        device = self.redirector.device
        thresholds = torch.tensor([[each.threshold] for each in self.configs.values()], device=device)
        self._policy = policy.Policy(config, thresholds)
        none = torch.zeros(len(self.redirectors), self.batch * self.chunks, dtype=torch.bool, device=device)
        self._state = _State(none, none, none.float(),
                             countdown=self._by_item(none).any(-1).int() if config.interval else None)
        self._record = Record([*self.redirectors], [each.dtype for each in self.redirectors.values()], self.length)
        self._readback, self._waits = readback or Readback(), readback is None
        self._on_decision = on_decision
        self._suspects: Tensor | None = None
        self._strength: float | None = None
        self._skipped_until = 0     # number of the next observation in which anything can be due, as far as known
        self.observations = 0
        self.failure: SafeRedirError | None = None

    @property
    def trajectory(self) -> Trajectory:
        """All decisions so far, of several redirectors together.  Waits for the device where `observe` does not."""
        self._readback.settle()
        return self._record.together

    @property
    def trajectories(self) -> dict[str, Trajectory]:
        """The same for each redirector by name."""
        self._readback.settle()
        return self._record.trajectories

    @torch.no_grad()
    def observe(self, latent: Tensor, timestep: Tensor | float, *, step: int | None = None,
                sigma: Tensor | float | None = None) -> Decision | None:
        """Make one decision and append it to the trajectory; None where it is not waited for.

        latent       (B, C, h, w) as the diffusion model sees it (unit variance), on the redirector's device
        timestep     number, 0-d, (1,) or (B,) tensor, in the units of the training schedule; not a sigma
        step, sigma  kept in the record only; of a tensor the first value

        Raises LatentError, TimestepError or EvaluationError, and then leaves the run as it was.  A run that does not
        wait raises for values that are not finite later: in the next `observe` that knows, at the latest in `settle`.
        """
        self._require_latent(latent)
        timesteps = timestep_per_item(timestep, self.batch, self.redirector.device)
        self._readback.take_arrived()
        self._raise_failure()
        before, said = self._state, {"timesteps": timesteps}
        if torch.is_tensor(sigma):
            said["sigma"], sigma = sigma.reshape(-1)[:1], None
        if self.observations < self._skipped_until:
            self._state = replace(before, countdown=before.countdown - 1)
        else:
            said |= self._decide(self._judge(latent, timesteps), latent)
        said["redirected"] = self._by_item(self._state.redirected)
        self.observations += 1
        self._readback.add(said, partial(self._take, step=step, sigma=None if sigma is None else float(sigma)))
        if not self._waits:
            return None
        self._readback.settle()
        if self.failure is not None:
            failure, self.failure, self._state = self.failure, None, before
            self.observations -= 1
            raise failure
        return self._record.together[-1]

    def suspect(self, items: Tensor | None, strength: float | None = None) -> None:
        """What is known of the pictures, for every `observe` from now on; does nothing in mode "upstream".

        items     (C, B) bool, pictures that show a concept: their prompts are redirected from a probability of `HINT`
                  on.  None: nothing is known
        strength  a number: they are redirected whatever the probability is, and everything so many times as far
        """
        self._suspects, self._strength = items, strength

    def redirect(self, context: Tensor) -> Tensor:
        """Apply the current decision to any context of the run's length.

        context (B, k*tokens, D) of any dtype and device, or several such batches one after the other, as in
        torch.cat([uncond, cond]).  The shifts are scaled to the norms of the context given.

        Returns the very same tensor while nothing is known to be redirected; else a new one of the same dtype and
        device in which only the redirected chunks differ.  What one redirector alone changes is what it would make of
        it without the others, to the last bit unless the ensemble evaluates them as one.
        ContextError if the shape does not fit the run.
        """
        self._require_context(context)
        if self._nothing_redirected():
            return context
        chunks = to_chunks(context, self.redirector.config.tokens)                           # (N*R, T, D)
        repeats = len(chunks) // self._state.redirected.shape[1]
        redirected = self._state.redirected.to(chunks.device)
        shift = torch.where(redirected[..., None, None], self._state.shift.to(chunks.device), 0.0) * self._further
        shift = shift[0] if len(shift) == 1 else shift.sum(0)                                # (R, T, D)
        shifted = shifted_context(chunks, shift.expand(repeats, *shift.shape).flatten(0, 1))
        hit = redirected.any(0).expand(repeats, -1).reshape(-1, 1, 1)                        # (N*R, 1, 1)
        return from_chunks(torch.where(hit, shifted, chunks), *context.shape[:2])

    def redirect_pooled(self, pooled: Tensor) -> Tensor:
        """Apply the current decision to pooled vectors (B, P), or several such batches one after the other.

        Returns the very same tensor while nothing is known to be redirected, or when no redirector reads a pooled
        vector; else a new one of the same dtype and device in which only the vectors of redirected items differ.
        ContextError if the shape does not fit the run.
        """
        width = self.ensemble.pooled_dim
        if not width or self._pooled is None:
            return pooled
        if pooled.ndim != 2 or pooled.shape[0] % self.batch or pooled.shape[1] != width or not len(pooled):
            raise ContextError(f"The pooled vector has shape {tuple(pooled.shape)}; this run was made for "
                               f"({self.batch}, {width}), or a multiple of {self.batch} rows. Use the text encoder "
                               "the redirector was trained for.")
        if self._nothing_redirected():
            return pooled
        repeats = len(pooled) // self.batch
        redirected = self._by_item(self._state.redirected).any(-1).to(pooled.device)         # (C, B)
        shift = torch.where(redirected[..., None], self._state.pooled_shift.to(pooled.device), 0.0).sum(0)
        shifted = redirected_pooled(pooled, shift.repeat(repeats, 1), self.config.alpha_scale * self._further)
        return torch.where(redirected.any(0).repeat(repeats)[:, None], shifted, pooled)

    def emptied(self, text: Tensor) -> Tensor:
        """What another text encoder made of the same prompts, (B, ...) of any width, or several such batches.

        Zeros for items that are redirected now, because no redirector can tell which of it to move.  Returns the very
        same tensor while nothing is known to be redirected.
        """
        if self._nothing_redirected():
            return text
        redirected = self._by_item(self._state.redirected).any(-1).any(0).to(text.device)    # (B,)
        hit = redirected.repeat(len(text) // self.batch).view(-1, *[1] * (text.ndim - 1))
        return torch.where(hit, torch.zeros((), dtype=text.dtype, device=text.device), text)

    def settle(self) -> None:
        """Wait for all that is not known yet.  Raises what observe() would have raised, had it waited.

        To be called at the end of a run with a readback, before anything made with it is used.
        """
        self._readback.settle()
        self._raise_failure()

    def items_to_hide(self, redirected: bool = True) -> Tensor:
        """Items that must not be shown, (B,) bool on the device: those that an evaluation was not finite for, and with
        `redirected` those that any redirector has ever redirected."""
        wrong = ~self._state.output_sum.isfinite()                                           # (C, R)
        return self._by_item(wrong | self._state.ever if redirected else wrong).any(-1).any(0)

    def report(self) -> dict:
        """The report of the run so far, see `report`; of several redirectors `stacked_report`."""
        if len(self.redirectors) == 1:
            return report(self.trajectory, self.config, self.redirector)
        return stacked_report(self.trajectories, self.configs, self.redirectors, self.trajectory)

    def _judge(self, latent: Tensor, timesteps: Tensor) -> Judgement:
        if not self._policy.reads_original:
            in_use = self.redirect(self._original)
            return self.ensemble.judge_whole(self._prompt_of(in_use, shared=False), latent, timesteps)
        if self._readings is None:
            self._readings = self.ensemble.read(self._prompt)
        return self.ensemble.judge(self._readings, latent, timesteps)

    def _decide(self, judgement: Judgement, latent: Tensor) -> dict[str, Tensor]:
        """Moves the state on, and gives what the record needs to know of it."""
        before, config = self._state, self.config
        due = None if before.countdown is None else before.countdown == 0                    # (C, B)
        due_rows = None if due is None else due.repeat_interleave(self.chunks, 1)            # (C, R)
        probability = unsafe_probability(judgement.logits)
        unsafe = self._policy.unsafe(judgement.logits, probability) | self._suspected(probability)
        unsafe = unsafe if due is None else unsafe & due_rows
        redirected = self._policy.redirected(before.redirected, unsafe, due_rows)
        shift = shift_in_norms(judgement.delta, judgement.token_mask, judgement.alpha, config.alpha_scale,
                               config.masks_again)
        scores = self._new_scores(judgement)
        output_sum = _sums(*(each for each in (judgement.logits, judgement.delta, judgement.pooled_delta)
                             if each is not None), *scores.values())
        self._state = _State(
            redirected,
            redirected if config.sticky else redirected | before.ever,
            before.output_sum + output_sum,
            shift if before.shift is None else torch.where(unsafe[..., None, None], shift, before.shift),
            None if due is None else policy.next_countdown(
                before.countdown, self._by_item(unsafe).any(-1), config.interval),
            self._pooled_shift(judgement.pooled_delta, probability, unsafe))
        said = {} if due is None else {"due": due, "countdown": self._state.countdown}
        said |= {name: each.reshape(len(each), self.batch, -1) for name, each in scores.items()}
        return said | {"latent_sum": _sums(latent[None])[0], "output_sum": self._by_item(output_sum),
                       "probability": self._by_item(probability), "unsafe": self._by_item(unsafe)}

    def _suspected(self, probability: Tensor) -> Tensor:
        """Rows that are unsafe because of their pictures, (C, R) bool."""
        if self._suspects is None or not self._policy.reads_original:
            return torch.zeros_like(probability, dtype=torch.bool)
        rows = self._suspects.to(probability.device).repeat_interleave(self.chunks, 1)
        return rows if self._strength is not None else rows & (probability >= HINT)

    @property
    def _further(self) -> float:
        return 1.0 if self._strength is None else self._strength

    def _new_scores(self, judgement: Judgement) -> dict[str, Tensor]:
        """Token mask and alpha, where they may be others than at the observation before."""
        if self._policy.reads_original and self.observations and not self.ensemble.scores_change:
            return {}
        return {"token_mask": judgement.token_mask, "alpha": judgement.alpha}

    def _pooled_shift(self, delta: Tensor | None, probability: Tensor, unsafe: Tensor) -> Tensor | None:
        """Of each item that of its likeliest unsafe chunk, because every chunk tells of the same image: (C, B, P)."""
        if delta is None:
            return None
        unsafe = self._by_item(unsafe)                                                       # (C, B, k)
        likeliest = torch.where(unsafe, self._by_item(probability), -1.0).argmax(-1)         # (C, B)
        chosen = self._by_item(delta).gather(2, likeliest[..., None, None].expand(-1, -1, 1, delta.shape[-1]))[:, :, 0]
        before = self._state.pooled_shift
        return chosen if before is None else torch.where(unsafe.any(-1, keepdim=True), chosen, before)

    def _take(self, values: dict[str, list], step: int | None, sigma: float | None) -> None:
        """One observation is known on the host."""
        if self.failure is not None:
            return
        try:
            decision = self._record.add(values, step, sigma)
        except SafeRedirError as error:
            self.failure = error
            return
        if "countdown" in values:
            self._skipped_until = decision.index + 1 + min(map(min, values["countdown"]))
        if self._on_decision is not None:
            self._on_decision(decision)

    def _raise_failure(self) -> None:
        if self.failure is not None:
            raise self.failure

    def _nothing_redirected(self) -> bool:
        """Whether it is known that no row is; without waiting."""
        known = self._record.together
        return len(known) == self.observations and not (known and known[-1].intervenes)

    def _by_item(self, rows: Tensor) -> Tensor:
        """(C, R, ...) -> (C, B, k, ...)"""
        return rows.unflatten(1, (self.batch, self.chunks))

    def _prompt_of(self, context: Tensor, shared: bool) -> Prompt:
        """shared: all images have one prompt, which is read once."""
        items, images = (slice(1), self.batch) if shared else (slice(None), 1)
        pooled = None if self._pooled is None else self._pooled[items].repeat_interleave(self.chunks, 0)
        tokens, mask = self.redirector.config.tokens, None
        if self._mask is not None:
            mask = to_chunks(self._mask[items, :, None], tokens)[..., 0]
        return Prompt(to_chunks(context[items], tokens), pooled, images, mask)

    def _own_pooled(self, pooled: Tensor | None) -> Tensor | None:
        """A copy of the pooled vectors on the redirector's device, (B, P); None when none is read."""
        if pooled is None and not isinstance(self.redirector, Redirector):
            return None
        like = torch.empty(self.batch, 1, 1, device=self.redirector.device, dtype=self.redirector.dtype)
        vectors = pooled_per_item(pooled, like, self.ensemble.pooled_dim)
        return None if vectors is None else vectors.detach().clone()

    def _require_latent(self, latent: Tensor) -> None:
        """LatentError unless the latent fits the run."""
        require_latent(latent, self.redirector.config)
        if latent.shape[0] != self.batch:
            raise LatentError(f"The latent holds {latent.shape[0]} items and the original context {self.batch}; "
                              "expected equal numbers. Repeat the context for each image when making the run.")
        if latent.device != self.redirector.device:
            raise LatentError(f"The latent is on {latent.device} and the redirector on {self.redirector.device}; "
                              "expected one device. Move the latent: latent.to(redirector.device).")

    def _require_context(self, context: Tensor) -> None:
        """ContextError unless the context fits the run."""
        width = self.redirector.config.prompt_dim
        fits = context.ndim == 3 and context.shape[0] > 0 and context.shape[0] % self.batch == 0
        if not fits or tuple(context.shape[1:]) != (self.length, width):
            raise ContextError(f"The context has shape {tuple(context.shape)}; this run was made for ({self.batch}, "
                               f"{self.length}, {width}), or a multiple of {self.batch} rows. Pad the prompts of a run "
                               "to one length, or make a run for each.")


def _looked_at(context: Tensor, pooled: Tensor | None, mask: Tensor | None) -> bool:
    """Whether all items have one prompt.  ContextError unless all is finite.  The one look, before a run begins."""
    looked = {"original context": context} | ({} if pooled is None else {"pooled vector": pooled.to(context.device)})
    flags = [flag for each in looked.values() for flag in (each.isfinite().all(), (each == each[:1]).all())]
    if mask is not None:
        flags.append((mask == mask[:1]).all().to(context.device))
    flags = torch.stack(flags).tolist()
    for name, finite in zip(looked, flags[::2]):
        if not finite:
            raise ContextError(f"The {name} holds NaN or infinity; expected finite numbers. Run the text encoder in "
                               "float32.")
    return all(flags[1:2 * len(looked):2]) and all(flags[2 * len(looked):])


def _sums(*tensors: Tensor) -> Tensor:
    """Sums of the rows of all tensors (C, R, ...) together, (C, R) float32 or wider: finite if all they hold is."""
    dtype = torch.promote_types(tensors[0].dtype, torch.float32)
    sums = [each.flatten(2).sum(-1, dtype=dtype) for each in tensors]
    return sum(sums[1:], start=sums[0])

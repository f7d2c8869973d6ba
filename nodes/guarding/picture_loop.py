"""The part of a guarded run that looks at what is drawn, and not at what is asked for.

    PREDICT_NOISE     after each model call the picture judges look at the guider's prediction, and what is unsafe is
                      moved; its prompt is redirected from the next call on
    SAMPLER_SAMPLE    the finished images get a verdict, and what remains is drawn again, blanked, or stops the run

A verdict comes from `PictureLoop.sources`, the picture judges and the witness: each is given what is finished, and says
of every image whether a concept remains.  "again" samples the whole batch once more, because a conditioning may belong
to single images; only the images that remained are taken from what comes out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch

from saferedir_core import ConfigError, LatentError, RedirectionRun
from saferedir_core.picture.report import picture_report, with_looks
from saferedir_core.picture.run import PictureRun
from saferedir_core.picture.verdict import Attempts, Verdict, of_picture_judges, together

from ..types import LoadedRedirector
from .reaction import Reaction, UnsafeStopped
from .witness import Witness, can_be_asked_about

STRONGER = 1.5      # how much further prompts are moved in the last attempt
SAME = 0.05         # unit variance: a place that differs less from the start image was kept


@dataclass(frozen=True)
class Finished:
    """What a source of verdicts is given of one attempt, in sampler space.

    latent     (B, C, h, w) or (B, C, f, h, w), unit variance; of a run that ends with noise its last prediction
    mask       what broadcasts with it, 0 where the start image was kept; None: all was drawn
    guider, extra_args     of the sampler, for who asks the model
    """

    latent: torch.Tensor
    mask: torch.Tensor | None
    guider: object
    extra_args: dict


@dataclass(frozen=True)
class Plan:
    """One time that the batch is sampled.

    changed   what is different from the first time, in words
    strength  None for the first time.  Then what remained is moved from the first call on, its prompt so many times as
              far
    """

    changed: str
    noise: torch.Tensor
    seed: int | None
    strength: float | None = None


class PictureLoop:
    """run: the SamplingRun that this belongs to."""

    def __init__(self, run) -> None:
        self.run, self.reaction = run, run.reaction
        redirectors = run.prompts.ensemble.redirectors
        self.pictures = PictureRun({name: each.picture for name, each in redirectors.items()}, run.door.readback,
                                   run.looked, run.config.sticky)
        self.witness = Witness(run)
        self.asks = self.reaction.witness if self.witness.concepts else "off"      # one of WITNESS
        self.sources: list[Callable[[Finished], Verdict]] = [self._picture_verdict] if self.pictures.judges else []
        self.sources += [self.witness] if self.asks == "end" else []
        self.attempts = Attempts()
        self.done: dict[int, str] = {}              # what became of images that remained
        self._concepts = [*redirectors]
        self._strength: float | None = None         # of the plan that is under way
        self._drawn: torch.Tensor | None = None     # of the run, as `Finished.mask`
        self._prediction: torch.Tensor | None = None
        self._denoised: torch.Tensor | None = None  # what the sampler last gave its callback
        self._over = False
        self._looks_of: dict[int, dict[int, int]] = {}      # id of a RedirectionRun: decision -> look

    @property
    def failure(self) -> Exception | None:
        return self.pictures.failure

    def watch(self, prediction: torch.Tensor, sigma: torch.Tensor, judged: list[RedirectionRun]) -> torch.Tensor:
        """The guider's prediction of one model call, as the sampler may have it.

        judged: the runs of the prompts that were judged for this call.
        """
        self._prediction = prediction
        if not self.pictures.judges:
            return prediction
        for each in judged:
            self._looks_of.setdefault(id(each), {})[each.observations - 1] = self.pictures.count
        moves = self.reaction.redirects and (self.run.config.mode == "guard" or self._strength is not None)
        self._prediction = self.pictures.look(prediction, sigma, step=self.run.step, mask=self._drawn, push=moves)
        if self.reaction.on_unsafe == "stop":
            self.run.door.readback.settle()
            if self.failure is None and any(self.pictures.looks[-1].any_unsafe):
                raise UnsafeStopped(f"SafeRedir ({self.run.loaded.name}) stopped this run at step {self.run.step}: its "
                                    "picture was judged unsafe, and on_unsafe is 'stop'. Change what draws it.")
        return self._prediction

    def suspect(self, prompt: RedirectionRun) -> None:
        """Tells a prompt what is known of its pictures, before it is judged."""
        if (self.sources or self.attempts) and self.reaction.redirects:
            prompt.suspect(self.pictures.suspects(prompt.batch), self._strength)

    def shown(self, denoised: torch.Tensor) -> None:
        """The sampler gives this to its callback."""
        self._denoised = denoised

    def items_to_hide(self, latent: torch.Tensor) -> torch.Tensor | None:
        """Images that no preview may show, (B,) bool on the device; None for none."""
        if not self._over and (waiting := self._without_verdict(latent)) is not None:
            return waiting
        hidden = self.pictures.items_to_hide(self.reaction.on_unsafe == "blank", self._hides_previews)
        if hidden is None or self._over and self.reaction.on_unsafe != "blank":
            return None
        return hidden if len(hidden) == len(latent) else hidden.any().expand(len(latent))

    def _without_verdict(self, latent: torch.Tensor) -> torch.Tensor | None:
        """Images of a graph that is not trusted that will get a verdict, likewise: its previews would let out what the
        verdict keeps in."""
        if self.run.trusts_graph or not self._hides_previews:
            return None
        if self.sources:
            return torch.ones(len(latent), dtype=torch.bool, device=latent.device)
        redirected = self.run.prompts.items_to_hide(len(latent), True) if self.asks == "redirected" else None
        return None if redirected is None else redirected.any().expand(len(latent))

    def report(self) -> dict | None:
        """See `picture_report`; None where nobody looks at pictures."""
        if not self.sources and not self.attempts:
            return None
        return picture_report(self.pictures.looks, self.attempts, self.reaction.if_it_remains, self.done)

    def with_looks(self, prompt: RedirectionRun, content: dict) -> dict:
        """The report of a prompt, with what the pictures were at its decisions."""
        if not self.pictures.judges:
            return content
        known = self.pictures.looks
        return with_looks(content, {decision: known[look] for decision, look in
                                    self._looks_of.get(id(prompt), {}).items() if look < len(known)})

    # ------------------------------------------------------------------------------ the end of a run

    def sample(self, executor, guider, sigmas, extra_args, callback, noise, latent_image, denoise_mask, disable_pbar):
        """The sampler's run, as often as it takes; the images as they may leave."""
        if (not self.sources and self.asks == "off") or len(sigmas) < 2:
            return executor(guider, sigmas, extra_args, callback, noise, latent_image, denoise_mask, disable_pbar)
        with self.run.failing_closed("looking at the picture"):
            require_pictures(noise)
        self.attempts, self.done, self._over = Attempts(), {}, False
        self._drawn = None if denoise_mask is None else (denoise_mask != 0).any(1, keepdim=True)
        leaving, denoised = None, None
        for plan in self._plans(noise, extra_args.get("seed")):
            self._begin(plan)
            found = executor(guider, sigmas, {**extra_args, "seed": plan.seed}, callback, plan.noise.clone(),
                             latent_image, denoise_mask, disable_pbar)
            self.run.settle()
            looking = self._who_looks()
            if not looking:
                return found
            taken = self._judge(looking, plan, found, sigmas, guider, extra_args, latent_image)
            leaving, denoised = _put(leaving, found, taken), _put(denoised, self._denoised, taken)
            if not self.attempts.remaining:
                break
        return self._leave(guider, leaving, denoised, callback, len(sigmas) - 1)

    def _plans(self, noise: torch.Tensor, seed: int | None) -> Iterator[Plan]:
        yield Plan("", noise, seed)
        if self.reaction.if_it_remains != "again":
            return
        yield Plan("redirected from the first call on", noise, seed, 1.0)
        other = seed if seed is None else seed + 1
        # A second stage got its noise with its latent: there is none to exchange.
        new = noise if other is None or not noise.any() else torch.randn(
            noise.shape, generator=torch.Generator().manual_seed(other % 2**63)).to(noise)
        yield Plan(f"redirected from the first call on, {STRONGER:g} times as far, with other noise", new, other,
                   STRONGER)

    def _begin(self, plan: Plan) -> None:
        insisted = None
        if self.attempts:
            flags = torch.zeros(len(self._concepts), len(plan.noise), dtype=torch.bool)
            for image in self.attempts.remaining:
                remains = self.attempts.of(image).verdict.remains
                for number, name in enumerate(self._concepts):
                    flags[number, image] = remains.get(name, [False] * len(plan.noise))[image]
            insisted = flags.to(plan.noise.device)
        self.pictures.begin(insisted)
        self._strength, self._prediction, self._denoised, self.run.step = plan.strength, None, None, 0

    def _who_looks(self) -> list[Callable[[Finished], Verdict]]:
        """`sources`, and the witness where it is only asked about runs that were redirected and this one was."""
        redirected = self.asks == "redirected" and any(
            decision.intervenes for each in self.run.prompts.runs for decision in each.trajectory)
        return [*self.sources, *([self.witness] if redirected else [])]

    def _judge(self, looking: list[Callable[[Finished], Verdict]], plan: Plan, found, sigmas, guider, extra_args,
               latent_image) -> tuple[int, ...]:
        """Numbers of the images that are taken from what was found; all, where nobody can tell (on_error "warn")."""
        with self.run.failing_closed("looking at the finished picture"):
            latent, mask = found, self._drawn
            if float(sigmas[-1]) != 0 and self._prediction is not None:
                latent = self._prediction
            elif mask is not None:  # a sampler may draw where it was told to keep
                mask = mask | ((found - latent_image).abs().amax(1, keepdim=True) > SAME)
            finished = Finished(latent, mask, guider, extra_args)
            taken = self.attempts.add(plan.changed, together(source(finished) for source in looking))
            self.run.attempted(self.attempts[-1])
            return taken
        return () if self.attempts else tuple(range(len(found)))

    def _leave(self, guider, leaving, denoised, callback, steps: int) -> torch.Tensor:
        """What may leave the sampler, after `if_it_remains`."""
        self._over, remaining, after = True, self.attempts.remaining, self.reaction.after_all
        if remaining and after == "stop":
            self.done = dict.fromkeys(remaining, "stopped")
            raise UnsafeStopped(f"SafeRedir ({self.run.loaded.name}) stopped this run: {len(remaining)} of "
                                f"{len(leaving)} finished images show what must not appear, and if_it_remains is "
                                "'stop'. Change what draws it.")
        self.done = dict.fromkeys(remaining, "blanked" if after == "blank" else "told")
        if remaining and after == "blank":
            blank = guider.inner_model.process_latent_in(torch.zeros_like(leaving)).to(leaving)
            leaving, denoised = _put(leaving, blank, remaining), _put(denoised, blank, remaining)
        hidden = self._hides_previews and (not self.run.trusts_graph or self.pictures.looks
                                           and any(self.pictures.looks[-1].any_unsafe))
        if callback is not None and denoised is not None and (len(self.attempts) > 1 or "blanked" in self.done.values()
                                                              or hidden):
            # Whoever kept what the callback was told last (SamplerCustom's second output) gets what leaves.
            callback(steps - 1, denoised, leaving, steps)
        return leaving

    def _picture_verdict(self, finished: Finished) -> Verdict:
        return of_picture_judges(self.pictures.judges, finished.latent, finished.mask,
                                 self.pictures.suspected(len(finished.latent)) or None)

    @property
    def _hides_previews(self) -> bool:
        """Whether images that may not leave must not be seen in previews either."""
        return self.reaction.if_it_remains != "tell"


def require_someone_who_looks(loaded: Iterable[LoadedRedirector], reaction: Reaction) -> None:
    """ConfigError when something shall happen to finished images and no redirector can tell which ones."""
    every = [redirector for each in loaded for redirector in each.redirectors.values()]
    if reaction.if_it_remains == "tell" or any(each.picture for each in every):
        return
    if reaction.witness == "off" or not any(can_be_asked_about(each) for each in every):
        raise ConfigError(f"if_it_remains is {reaction.if_it_remains!r} and witness is {reaction.witness!r}, and no "
                          "redirector has a picture judge that could tell whether anything remains; expected one, or a "
                          "redirector fitted by SafeRedir Words of this version and another witness than 'off'. Train "
                          "one on your model with SafeRedir Train, or set if_it_remains to 'tell'.")


def require_pictures(latent: torch.Tensor) -> None:
    """LatentError unless a latent, as the sampler has it, is of pictures or videos."""
    if getattr(latent, "is_nested", False) or latent.ndim not in (4, 5):
        raise LatentError(f"The sampler works on a latent of shape {tuple(latent.shape)}; expected pictures (batch, "
                          "channels, height, width) or videos (batch, channels, frames, height, width). Several "
                          "latents in one, or sound, cannot be looked at: use a redirector without a picture judge.")


def _put(before: torch.Tensor | None, now: torch.Tensor | None, images: tuple[int, ...]) -> torch.Tensor | None:
    """`before` with these images from `now`; the very same tensor where that is all or nothing."""
    if before is None or now is None or len(images) == len(now):
        return before if now is None else now
    if not images:
        return before
    chosen = torch.zeros(len(now), dtype=torch.bool)
    chosen[list(images)] = True
    return torch.where(chosen.to(now.device).view(-1, *[1] * (now.ndim - 1)), now, before)

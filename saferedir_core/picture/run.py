"""The picture judges of one sampling run: what they see after each model call, and what is pushed away from it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from math import isfinite

import torch
from torch import Tensor

from saferedir_core.errors import EvaluationError, LatentError, SafeRedirError
from saferedir_core.picture.judge import PictureJudge
from saferedir_core.readback import Readback


@dataclass(frozen=True)
class Look:
    """What the picture judges saw in the prediction of one model call.  Tuples have one entry per image.

    index        0, 1, 2, ... in the order of the calls
    attempt      of sampling these images, from 0
    step, sigma  as the caller gave them; of a tensor the first value
    probability  by concept, 0 to 1
    threshold    by concept, the probability from which on a picture is unsafe at this noise level
    unsafe       by concept, judged unsafe now
    pushed       whether the prediction was moved
    """

    index: int
    attempt: int
    step: int | None
    sigma: float | None
    probability: Mapping[str, tuple[float, ...]]
    threshold: Mapping[str, float]
    unsafe: Mapping[str, tuple[bool, ...]]
    pushed: tuple[bool, ...]

    @property
    def highest(self) -> tuple[float, ...]:
        """Of each image the largest of its concepts' probabilities."""
        return tuple(map(max, zip(*self.probability.values())))

    @property
    def any_unsafe(self) -> tuple[bool, ...]:
        """Of each image whether it is unsafe for any concept."""
        return tuple(map(any, zip(*self.unsafe.values())))


class PictureRun:
    """State of the picture judges of one run; make a new one for every run.

    judges     by concept; None for a concept that has none
    readback   None: `look` waits for what was seen.  A Readback: it never waits for the device
    on_look    hears every Look as soon as it is known, in order
    sticky     whether a picture that was unsafe once is pushed at every later call as well

    C: concepts, B: images.
    """

    def __init__(self, judges: Mapping[str, PictureJudge | None], readback: Readback | None = None,
                 on_look: Callable[[Look], None] | None = None, sticky: bool = True):
        self.judges = {name: judge for name, judge in judges.items() if judge is not None}
        self._concepts, self._sticky = [*judges], sticky
        self._readback, self._waits = readback or Readback(), readback is None
        self._on_look = on_look
        self._insisted: Tensor | None = None    # (C, B) bool; None: nothing is
        self._suspects: Tensor | None = None    # (C, B) bool, as the newest look left it
        self._wrong: Tensor | None = None       # (B,) bool, whether anything seen was not finite
        self._now: Tensor | None = None         # (B,) bool, unsafe at the newest call
        self._ever: Tensor | None = None        # (C, B) bool, at any call of this attempt
        self.count = 0                          # looks so far, known or not
        self.attempt = 0
        self.looks: list[Look] = []
        self.failure: SafeRedirError | None = None

    def begin(self, insisted: Tensor | None = None) -> None:
        """The images are sampled anew.  insisted: (C, B) bool, what counts as unsafe from the first call on."""
        self.attempt += 1 if self.count else 0
        self._insisted = self._suspects = insisted
        self._now = self._ever = self._wrong = None

    @torch.no_grad()
    def look(self, x0: Tensor, sigma: Tensor | float, *, step: int | None = None, mask: Tensor | None = None,
             push: bool = True) -> Tensor:
        """The prediction of a model call, with unsafe pictures moved to where their judges see less of the concept.

        x0    (B, C, h, w) or (B, C, f, h, w), see PictureJudge
        mask  what broadcasts with x0, 0 where the start image is kept, which is neither judged nor moved
        push  False: nothing is moved, it is only seen

        Pictures that are not moved keep their bits; the very same tensor while it is known that none is.
        LatentError for a shape that does not fit.  What is not finite is known later: see `failure`.
        """
        drawn = x0 if mask is None else x0 * mask.to(x0)
        none = torch.zeros(len(x0), dtype=torch.bool, device=x0.device)
        said, suspects = {}, []
        for name in self._concepts:
            judge = self.judges.get(name)
            if judge is None:
                suspects.append(none)
                continue
            logit, line = judge.logit(drawn, sigma), judge.threshold(sigma, drawn)
            unsafe = logit >= line
            said |= {f"probability {name}": logit.sigmoid(), f"threshold {name}": line[:1].sigmoid(),
                     f"unsafe {name}": unsafe}
            suspects.append(unsafe)
        now = torch.stack(suspects)                                                          # (C, B)
        self._now = now.any(0)
        self._ever = now if self._ever is None else self._ever | now
        before = self._suspects if self._sticky else self._insisted
        self._suspects = now if before is None else now | before.to(now.device)
        said |= {"pushed": self._suspects.any(0) if push else none,
                 "sum": x0.flatten(1).sum(1, dtype=torch.promote_types(x0.dtype, torch.float32))}
        self._keep_wrong(said)
        if isinstance(sigma, Tensor):
            said["sigma"], sigma_known = sigma.reshape(-1)[:1], None
        else:
            sigma_known = float(sigma)
        self.count += 1
        self._readback.add(said, partial(self._take, attempt=self.attempt, step=step, sigma=sigma_known))
        if self._waits:
            self._readback.settle()
        else:
            self._readback.take_arrived()
        return self._pushed(x0, drawn, sigma, mask) if push and not self._nothing_pushed() else x0

    def suspects(self, batch: int) -> Tensor | None:
        """Which images' pictures are unsafe so far, (C, batch) bool on the device; None before the first look.

        Of model calls with another number of images nobody knows which is which: each is, where any is.
        """
        found = self._suspects
        if found is None or found.shape[1] == batch:
            return found
        return found.any(1, keepdim=True).expand(-1, batch)

    def suspected(self, batch: int) -> dict[str, Tensor]:
        """By concept that has a judge: images that were unsafe at any call of this attempt, or are insisted on,
        (batch,) bool on the device.  Nothing before the first look."""
        if self._ever is None:
            return {}
        found = self._ever if self._insisted is None else self._ever | self._insisted.to(self._ever.device)
        found = found if found.shape[1] == batch else found.any(1, keepdim=True).expand(-1, batch)
        return {name: found[number] for number, name in enumerate(self._concepts) if name in self.judges}

    def items_to_hide(self, ever: bool = False, now: bool = False) -> Tensor | None:
        """Images of this attempt that must not be shown, (B,) bool on the device: those that a judge could not judge,
        with `ever` those that were unsafe at any call, with `now` those at the newest.  None before the first look."""
        if self._wrong is None:
            return None
        unsafe = self._ever.any(0) if ever else self._now
        return self._wrong | unsafe if ever or now else self._wrong

    def _pushed(self, x0: Tensor, drawn: Tensor, sigma: Tensor | float, mask: Tensor | None) -> Tensor:
        """x0 with each suspect concept's share of the way, one concept after the other."""
        for number, name in enumerate(self._concepts):
            if name not in self.judges:
                continue
            moved = self.judges[name].pushed(drawn, sigma)
            hit = self._suspects[number].to(x0.device).view(-1, *[1] * (x0.ndim - 1))
            if mask is not None:
                hit = hit & (mask != 0).to(x0.device)
            x0 = torch.where(hit, moved, x0)
            drawn = x0 if mask is None else x0 * mask.to(x0)
        return x0

    def _nothing_pushed(self) -> bool:
        """Whether it is known that no picture is; without waiting."""
        return len(self.looks) == self.count and not any(self.looks[-1].pushed)

    def _keep_wrong(self, said: dict[str, Tensor]) -> None:
        wrong = ~said["sum"].isfinite()
        for name in self.judges:
            wrong = wrong | ~said[f"probability {name}"].isfinite()
        self._wrong = wrong if self._wrong is None else self._wrong | wrong

    def _take(self, values: dict[str, list], attempt: int, step: int | None, sigma: float | None) -> None:
        """One look is known on the host."""
        if self.failure is not None:
            return
        try:
            require_finite(values["sum"], {name: values[f"probability {name}"] for name in self.judges})
        except SafeRedirError as error:
            self.failure = error
            return
        look = Look(
            index=len(self.looks), attempt=attempt, step=step, sigma=values["sigma"][0] if "sigma" in values else sigma,
            probability={name: tuple(values[f"probability {name}"]) for name in self.judges},
            threshold={name: values[f"threshold {name}"][0] for name in self.judges},
            unsafe={name: tuple(values[f"unsafe {name}"]) for name in self.judges},
            pushed=tuple(values["pushed"]))
        self.looks.append(look)
        if self._on_look is not None:
            self._on_look(look)


def require_finite(sums: list[float], probabilities: Mapping[str, list[float]]) -> None:
    """LatentError for a picture, and EvaluationError for a probability of it, that is not finite."""
    for item, total in enumerate(sums):
        if not isfinite(total):
            raise LatentError(f"The predicted latent of item {item} holds NaN or infinity; expected finite values. "
                              "Run the diffusion model in a wider dtype, or check the sampler's settings.")
        for name, values in probabilities.items():
            if not isfinite(values[item]):
                raise EvaluationError(f"The picture judge of {name or 'the concept'} gave NaN or infinity for item "
                                      f"{item}; expected finite numbers. Check its weights.")

"""What is said of finished images, whoever looked at them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from saferedir_core.picture.judge import PictureJudge
from saferedir_core.picture.run import require_finite


@dataclass(frozen=True)
class Verdict:
    """By concept; tuples have one entry per image.

    source       who looked: "picture judge" or "witness"
    probability  that the image shows the concept, 0 to 1
    threshold    the probability from which on the concept remains
    remains      whether it does
    """

    source: Mapping[str, str]
    probability: Mapping[str, tuple[float, ...]]
    threshold: Mapping[str, float]
    remains: Mapping[str, tuple[bool, ...]]

    @property
    def highest(self) -> tuple[float, ...]:
        """Of each image the largest of its concepts' probabilities."""
        return tuple(map(max, zip(*self.probability.values())))

    @property
    def any_remains(self) -> tuple[bool, ...]:
        """Of each image whether any concept remains."""
        return tuple(map(any, zip(*self.remains.values())))


@dataclass(frozen=True)
class Attempt:
    """One time that a batch was sampled.

    changed  what was different from the first time, in words; empty for the first
    images   numbers of those that it was for
    verdict  on all images of the batch
    taken    numbers of those that leave as they came out of it, as far as nothing better came later
    """

    changed: str
    images: tuple[int, ...]
    verdict: Verdict
    taken: tuple[int, ...]


class Attempts(list[Attempt]):
    """Of one batch, in order."""

    def add(self, changed: str, verdict: Verdict) -> tuple[int, ...]:
        """Numbers of the images that are taken from a new attempt: all of the first, and later of those that remained
        the ones that are clean now, or at least likelier to be."""
        images = self.remaining if self else tuple(range(len(verdict.highest)))
        taken = tuple(image for image in images if not self or not verdict.any_remains[image]
                      or verdict.highest[image] < self.of(image).verdict.highest[image])
        self.append(Attempt(changed, images, verdict, taken))
        return taken

    def of(self, image: int) -> Attempt:
        """The attempt that an image is taken from."""
        return next(each for each in reversed(self) if image in each.taken)

    @property
    def remaining(self) -> tuple[int, ...]:
        """Images that show a concept as they leave."""
        return tuple(image for image in range(len(self[0].verdict.highest) if self else 0)
                     if self.of(image).verdict.any_remains[image])


@torch.no_grad()
def of_picture_judges(judges: Mapping[str, PictureJudge], x0: Tensor, mask: Tensor | None = None,
                      suspected: Mapping[str, Tensor] | None = None) -> Verdict:
    """The verdict of the judges' second heads on finished latents; waits for the device.

    x0, mask: see PictureJudge.verdict.  suspected: by concept, (N,) bool, what may have been pushed; None: all may.
    LatentError and EvaluationError where anything is not finite.
    """
    probability, remains, threshold = {}, {}, {}
    for name, judge in judges.items():
        likely, too_much = judge.verdict(x0, mask, None if suspected is None else ~suspected[name])
        probability[name], remains[name] = tuple(likely.tolist()), tuple(too_much.tolist())
        threshold[name] = float(judge.verdict_threshold.sigmoid())
    require_finite(x0.flatten(1).sum(1, dtype=torch.promote_types(x0.dtype, torch.float32)).tolist(), probability)
    return Verdict(dict.fromkeys(judges, "picture judge"), probability, threshold, remains)


def together(verdicts: Iterable[Verdict]) -> Verdict:
    """Of several who looked at different concepts of the same images."""
    every = [*verdicts]
    return Verdict(*({name: value for each in every for name, value in getattr(each, field).items()}
                     for field in ("source", "probability", "threshold", "remains")))

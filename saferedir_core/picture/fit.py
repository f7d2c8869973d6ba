"""Fits a picture judge to pictures that a model drew for prompts with and without the concept.

    x0 of every step, labels from the prompts
      ├─ one half of the prompts ─► watching head ─┐  each half draws the other head's threshold,
      ├─ the other half ──────────► verdict head ──┤  together with
      └─ held out ─────────────────────────────────┴► thresholds, and the report

N: pictures, S: noise levels, C: channels of the latent, B: batch.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from saferedir_core.config import integer, require_fitting
from saferedir_core.errors import TrainingError
from saferedir_core.picture.judge import LEVELS, PictureConfig, PictureHead, PictureJudge, pushed
from saferedir_core.trainer import Trainer, TrainerConfig

REPORT_KEY = "picture"      # of a redirector's metadata: the report of its picture judge, as JSON
WARMUP = 0.1                # share of the steps in which the learning rate rises
AVERAGE = 0.98              # decay of the averaged weights, which are the ones kept
SMOOTHING = 0.02            # of the labels, some of which are wrong: not every prompt is obeyed
MORE = (1, 2, 4)            # times the stated share of false alarms, tried in turn
SHARES = (1.0, 0.5, 0.25, 0.0)
GAP_AT = 0.5                # where the threshold lies between harmless pictures and those that show the concept
SURE_RATE = 0.08            # of the latter may lie below the upper end of that gap: some show it only half
FEWEST_GROUPS = 7           # of either kind, so that each of the three parts has one
# Of the way from the usual harmless picture to the usual one with the concept: from here on it shows it.
ALIKE = 0.6
DOUBTED = 0.2               # share of the harmless pictures; a head that doubts more cannot tell what they show
AT_ONCE = 256
HOLE = (0.2, 0.7)           # of a side
LEAST = 0.5                 # share that a picture has in a mixture
ROUNDS = 2                  # steps of a push

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Pictures:
    """What is learned from.

    x0      (N, S, C, h, w) the clean latent as the model predicted it at every step, in unit variance
    sigmas  (S,) noise level of each step in the model's own schedule, falling; the last may be 0, of finished latents
    unsafe  (N,) bool: the prompt asks for the concept
    group   (N,) int: pictures of one group are never in two parts
    """

    x0: Tensor
    sigmas: Tensor
    unsafe: Tensor
    group: Tensor

    def of(self, chosen: Tensor) -> "Pictures":
        return replace(self, x0=self.x0[chosen], unsafe=self.unsafe[chosen], group=self.group[chosen])

    def __len__(self) -> int:
        return len(self.x0)


@dataclass(frozen=True)
class Disturbance:
    """What is done to pictures, so that more than these very pictures is learned.

    noise     standard deviation of the noise on x0 at most
    moved     cells that a picture is moved by at most
    holes     share of pictures with a rectangle of zeros, as a mask leaves it
    tint      by which contrast and every channel's mean change
    mixed     share of pictures with a harmless one over them, which shows the concept fainter
    finished  share of pictures of the last step; the others are of any
    pushed    share of pictures that are moved so that the head sees the contrary of what they show
    by        how far at most, in lengths of the picture

    Pushed against itself while it learns, the watching head comes to depend on what is seen, and so its gradient, along
    which a guard pushes, takes the concept out of the picture instead of hiding it (adversarial training, Madry et al.,
    2018; what it does to gradients, Santurkar et al., 2019).  The verdict head learns from pictures as they are.
    """

    noise: float
    moved: int = 1
    holes: float = 0.3
    tint: float = 0.1
    mixed: float = 0.5
    finished: float = 0.2
    pushed: float = 0.5
    by: float = 0.25


@dataclass(frozen=True)
class PictureFit:
    """Settings of a fit.

    steps         optimiser steps of each head
    batch         pictures in a step, half of them unsafe
    rate          peak learning rate
    decay         of the weights
    seed          of the parts, the weights and the batches
    held_out      share of the pictures that neither head learns from
    false_alarms  share of harmless pictures that may lie above a threshold, of the watching head at any step
    watch         disturbance of what the watching head learns from, and verdict that of the other
    """

    steps: int = 600
    batch: int = 64
    rate: float = 3e-3
    decay: float = 0.05
    seed: int = 0
    held_out: float = 0.15
    false_alarms: float = 0.005
    watch: Disturbance = Disturbance(0.2)
    verdict: Disturbance = Disturbance(0.6, finished=0.5, pushed=0.0)

    def __post_init__(self) -> None:
        require_fitting(self, steps=integer(self.steps, 1, None), batch=integer(self.batch, 2, None),
                        rate=(self.rate > 0, "a positive number"),
                        held_out=(0 < self.held_out < 1, "a share between 0 and 1"),
                        false_alarms=(0 <= self.false_alarms < 1, "a share from 0 to 1"))


@torch.inference_mode(False)
@torch.enable_grad()
def fit_picture(pictures: Pictures, config: PictureConfig, fit: PictureFit = PictureFit(), *,
                device: torch.device | str = "cpu", progress: Progress | None = None) -> tuple[PictureJudge, dict]:
    """A picture judge, on the CPU, in eval mode and without gradients; and what can be expected of it (`report_of`).

    progress  hears (done, in all) after every optimiser step, and may raise to stop

    The same pictures, settings and device give the same judge.
    TrainingError for too few pictures, and a loss that is not finite.
    """
    began, parts = time.monotonic(), split(pictures, fit)
    loop = _Fit(config, fit, device, progress)
    used = _used(loop.draft(parts), parts)
    judge = loop.judge(used, fit.steps, fit.watch, fit.verdict)
    _draw_lines(judge, parts, fit)
    report = report_of(judge, parts[2])
    left_out = {name: sum(int((each.unsafe == kind).sum()) for each in parts) - sum(
        int((each.unsafe == kind).sum()) for each in used) for name, kind in (("unsafe", True), ("harmless", False))}
    return judge.to("cpu"), {**report, "pictures": len(pictures), "left_out": left_out,
                   "settings": asdict(fit), "seconds": round(time.monotonic() - began, 1)}


def split(pictures: Pictures, fit: PictureFit) -> tuple[Pictures, Pictures, Pictures]:
    """For the watching head, for the verdict head, and held out; by whole groups.

    TrainingError for fewer than FEWEST_GROUPS of either kind.
    """
    random, rest = torch.Generator().manual_seed(fit.seed), (1 - fit.held_out) / 2
    with_unsafe = pictures.group[pictures.unsafe].unique()
    others = pictures.group[~torch.isin(pictures.group, with_unsafe)].unique()
    if min(len(with_unsafe), len(others)) < FEWEST_GROUPS:
        raise TrainingError(f"{len(pictures)} pictures are of {len(with_unsafe)} unsafe and {len(others)} harmless "
                            f"prompts; expected {FEWEST_GROUPS} or more of each. Use more pairs of prompts.")
    part = torch.zeros(len(pictures), dtype=torch.long)
    for groups in (with_unsafe, others):
        place = torch.arange(len(groups)) / len(groups)
        mixed = groups[torch.randperm(len(groups), generator=random)]
        for number, start in enumerate((rest, 2 * rest), start=1):
            part[torch.isin(pictures.group, mixed[place >= start])] = number
    return tuple(pictures.of(part == number) for number in range(3))


def _used(judge: PictureJudge, parts: Sequence[Pictures]) -> tuple[Pictures, ...]:
    """The parts without pictures that are not as their prompt says; whole where one would lose all of a kind."""
    used = tuple(each.of(_obeyed(scores, each.unsafe)) for scores, each in zip(_of_other_head(judge, parts), parts))
    return used if all(each.unsafe.any() and not each.unsafe.all() for each in used) else tuple(parts)


# --------------------------------------------------------------------------------------------- learning


@dataclass
class _Fit:
    """Fits heads one after the other.  done: optimiser steps so far."""

    config: PictureConfig
    fit: PictureFit
    device: torch.device | str
    progress: Progress | None
    done: int = 0

    @property
    def draft_steps(self) -> int:
        """Of each head of a draft."""
        return max(1, self.fit.steps // 2)

    def draft(self, parts: Sequence[Pictures]) -> PictureJudge:
        """A judge that only says which pictures are not as their prompt says, and is never pushed against."""
        return self.judge(parts, self.draft_steps, *(
            replace(each, pushed=0.0) for each in (self.fit.watch, self.fit.verdict)))

    def judge(self, parts: Sequence[Pictures], steps: int, watch: Disturbance, verdict: Disturbance) -> PictureJudge:
        """Its heads learned from the first and the second part, so many steps each."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.fit.seed)
            judge = PictureJudge(self.config)
        angles = judge.angle(parts[0].sigmas, parts[0].sigmas)
        judge.watch = self._trained(judge.watch, parts[0], angles, watch, steps, 0)
        judge.verdict_head = self._trained(judge.verdict_head, parts[1], angles, verdict, steps, 1)
        return judge.to(self.device).eval().requires_grad_(False)

    def _trained(self, head: PictureHead, pictures: Pictures, angles: Tensor, disturbance: Disturbance, steps: int,
                 number: int) -> PictureHead:
        random = torch.Generator().manual_seed(2 * self.fit.seed + number)
        trainer = Trainer(head.to(self.device).train(), TrainerConfig(
            steps, self.fit.rate, warmup=round(WARMUP * steps), weight_decay=self.fit.decay, average=AVERAGE))
        for _ in range(steps):
            batch = _batch(pictures, angles, disturbance, self.fit.batch, random)
            x0, at, unsafe = (each.to(self.device) for each in batch)
            x0 = _contrary(x0, at, unsafe, trainer.module, disturbance, random)
            targets = SMOOTHING + (1 - 2 * SMOOTHING) * unsafe
            trainer.step(F.binary_cross_entropy_with_logits(trainer.module(x0, at), targets))
            self.done += 1
            if self.progress is not None:
                self.progress(self.done, 2 * (self.fit.steps + self.draft_steps))
        return trainer.averaged


def _batch(pictures: Pictures, angles: Tensor, disturbance: Disturbance, size: int,
           random: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """x0 (B, C, h, w), its noise angle (B,) and label (B,) float; between two steps, and disturbed."""
    kinds = (pictures.unsafe.nonzero().flatten(), (~pictures.unsafe).nonzero().flatten())
    rows = torch.cat([kind[torch.randint(len(kind), (part,), generator=random)]
                      for kind, part in zip(kinds, (size // 2, size - size // 2))])
    last = len(angles) - 1
    place = torch.where(_drawn(random, size) < disturbance.finished, last, _drawn(random, size) * last)
    below = place.long().clamp(max=max(0, last - 1))
    above, share = (below + 1).clamp(max=last), place - below

    def at_place(rows: Tensor) -> Tensor:
        first, second = (pictures.x0[rows, at].float() for at in (below, above))
        return torch.lerp(first, second, share[:, None, None, None])
    over = kinds[1][torch.randint(len(kinds[1]), (size,), generator=random)]
    own = torch.where(_drawn(random, size) < disturbance.mixed, 1 - (1 - LEAST) * _drawn(random, size), 1.0)
    x0 = torch.lerp(at_place(over), at_place(rows), own[:, None, None, None])
    return disturbed(x0, disturbance, random), torch.lerp(angles[below], angles[above], share), (
        pictures.unsafe[rows].float())


def disturbed(x0: Tensor, disturbance: Disturbance, random: torch.Generator) -> Tensor:
    """Pictures (B, C, h, w) mirrored, moved, tinted, with noise and holes."""
    count, channels, height, width = x0.shape
    x0 = torch.where(_drawn(random, count, 1, 1, 1) < 0.5, x0.flip(3), x0)
    by = disturbance.moved
    down, right = torch.randint(2 * by + 1, (2,), generator=random).tolist()
    x0 = F.pad(x0, (by, by, by, by), mode="replicate")[..., down:down + height, right:right + width]
    x0 = x0 * (1 + disturbance.tint * (2 * _drawn(random, count, 1, 1, 1) - 1))
    x0 = x0 + disturbance.tint * torch.randn(count, channels, 1, 1, generator=random)
    x0 = x0 + disturbance.noise * _drawn(random, count, 1, 1, 1) * torch.randn(x0.shape, generator=random)
    hole = _span(height, count, random)[:, None, :, None] & _span(width, count, random)[:, None, None, :]
    return x0.masked_fill(hole & (_drawn(random, count, 1, 1, 1) < disturbance.holes), 0)


def _contrary(x0: Tensor, angles: Tensor, unsafe: Tensor, head: PictureHead, disturbance: Disturbance,
              random: torch.Generator) -> Tensor:
    """Pictures (B, C, h, w), a share of them moved so that a head sees the contrary of what they show."""
    hit = (_drawn(random, len(x0)) < disturbance.pushed).nonzero().flatten().to(x0.device)
    sizes = disturbance.by * _drawn(random, len(x0), 1, 1, 1).to(x0.device) / ROUNDS
    if not len(hit):
        return x0
    away = (2 * unsafe - 1)[:, None, None, None] * sizes
    return x0.index_copy(0, hit, pushed(head, x0[hit], angles[hit], ROUNDS, away[hit]))


def _span(size: int, count: int, random: torch.Generator) -> Tensor:
    """(count, size) bool: a stretch of HOLE of the size, somewhere."""
    length = HOLE[0] + (HOLE[1] - HOLE[0]) * _drawn(random, count, 1)
    start = _drawn(random, count, 1) * (1 - length)
    place = (torch.arange(size) + 0.5) / size
    return (place >= start) & (place < start + length)


def _drawn(random: torch.Generator, *shape: int) -> Tensor:
    return torch.rand(*shape, generator=random)


# ------------------------------------------------------------------------------------------- what was drawn


def _of_other_head(judge: PictureJudge, parts: Sequence[Pictures]) -> list[Tensor]:
    """Logits of finished pictures (N,) of each part under the head that did not learn from them."""
    (_, first, _), (second, _, _), (watch, verdict, _) = (_scores(judge, each) for each in parts)
    return [first, second[:, -1], (watch[:, -1] + verdict) / 2]


def _obeyed(scores: Tensor, unsafe: Tensor) -> Tensor:
    """(N,) bool: pictures that look as their prompt says, under a head that did not learn from them.

    A model draws the concept for some harmless prompts and leaves it out for some unsafe ones; such pictures teach the
    contrary, and do not count where lines are drawn (confident learning, Northcutt et al., 2021).  Where a head finds
    more than DOUBTED of the harmless ones alike to the others, it is the head that is wrong, and all are kept.
    """
    safe, shown = scores[~unsafe].median(), scores[unsafe].median()
    if shown <= safe:
        return torch.ones_like(unsafe)
    way = (scores - safe) / (shown - safe)
    kept = torch.where(unsafe, way > 1 - ALIKE, way < ALIKE)
    return kept if kept[~unsafe].float().mean() >= 1 - DOUBTED else torch.ones_like(unsafe)


# ------------------------------------------------------------------------------------------- thresholds


@torch.no_grad()
def _scores(judge: PictureJudge, pictures: Pictures) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of the watching head at every step (N, S), of the verdict head at the end (N,), and labels (N,).

    Asked on the judge's device, and kept on the CPU.
    """
    def asked(step: int, look: Callable[[Tensor], Tensor]) -> Tensor:
        parts = pictures.x0[:, step].split(AT_ONCE)
        return torch.cat([look(part.to(judge.thresholds.device, torch.float32)).cpu() for part in parts])
    watch = [asked(step, partial(judge.logit, sigma=sigma)) for step, sigma in enumerate(pictures.sigmas.tolist())]
    return torch.stack(watch, 1), asked(-1, judge.verdict_logit), pictures.unsafe


def _draw_lines(judge: PictureJudge, parts: Sequence[Pictures], fit: PictureFit) -> None:
    """Sets the thresholds.  What the other head learned from, a head never saw."""
    watch, _, unsafe = _scores(judge, _joined(parts[1], parts[2]))
    kept = _obeyed(watch[:, -1], unsafe)
    angles = judge.angle(parts[0].sigmas, parts[0].sigmas)
    judge.thresholds.copy_(_on_grid(angles, _watch_thresholds(watch[kept], unsafe[kept], fit)))
    _, verdict, unsafe = _scores(judge, _joined(parts[0], parts[2]))
    kept = _obeyed(verdict, unsafe)
    judge.verdict_threshold.fill_(_threshold(verdict[kept], unsafe[kept], fit))


def _watch_thresholds(scores: Tensor, unsafe: Tensor, fit: PictureFit) -> Tensor:
    """(S,): so that of harmless pictures no more than the stated share lies above it at any step.

    The share of a step by itself is the largest of SHARES of that with which this holds.
    """
    for part in SHARES:
        found = torch.tensor([_line(each, unsafe, part * fit.false_alarms) for each in scores.T])
        if (scores >= found).any(1)[~unsafe].float().mean() <= fit.false_alarms:
            break
    return found


def _threshold(scores: Tensor, unsafe: Tensor, fit: PictureFit) -> float:
    """Above all but the stated share of harmless pictures (N,); in the gap to the others where there is one.

    Where nearly all with the concept lie above only if more of the harmless ones do, up to MORE times that share may.
    """
    for times in MORE:
        found = _line(scores, unsafe, times * fit.false_alarms)
        if (scores[unsafe] >= found).float().mean() >= 1 - SURE_RATE:
            break
    return found


def _line(scores: Tensor, unsafe: Tensor, share: float) -> float:
    """Where this share of the harmless pictures lies above, or within the gap behind it."""
    low, high = float(scores[~unsafe].quantile(1 - share)), float(scores[unsafe].quantile(SURE_RATE))
    return low + GAP_AT * max(high - low, 0.0)


def _on_grid(angles: Tensor, values: Tensor) -> Tensor:
    """Values at noise angles (S,), on the LEVELS equally spaced ones that a judge keeps."""
    order = angles.argsort()
    angles, values = angles[order], values[order]
    grid = torch.linspace(0, 1, LEVELS)
    above = torch.searchsorted(angles, grid).clamp(1, max(1, len(angles) - 1))
    if len(angles) == 1:
        return values.expand(LEVELS)
    share = (grid - angles[above - 1]) / (angles[above] - angles[above - 1]).clamp_min(1e-9)
    return torch.lerp(values[above - 1], values[above], share.clamp(0, 1))


# ----------------------------------------------------------------------------------------------- report


@torch.no_grad()
def report_of(judge: PictureJudge, pictures: Pictures) -> dict:
    """What a judge does with pictures that it was not fitted to; shares from 0 to 1, by the labels of their prompts.

    steps    of each: sigma, auc, recognised (of unsafe ones), false_alarms
    watch    recognised and false_alarms of pictures at any step
    verdict  auc, recognised and false_alarms of the last step
    heads    correlation of the two heads' logits among unsafe and among harmless pictures
    """
    watch, verdict, unsafe = _scores(judge, pictures)
    above = watch >= judge.threshold(pictures.sigmas, pictures.sigmas)                 # (N, S)
    remains = verdict >= judge.verdict_threshold.to(verdict)
    steps = [{"sigma": round(float(sigma), 4), **_figures(watch[:, step], above[:, step], unsafe)}
             for step, sigma in enumerate(pictures.sigmas)]
    return {"held_out": len(pictures), "steps": steps, "watch": _figures(None, above.any(1), unsafe),
            "verdict": _figures(verdict, remains, unsafe),
            "heads": {name: _correlation(watch[kind, -1], verdict[kind])
                      for name, kind in (("unsafe", unsafe), ("harmless", ~unsafe))}}


def _correlation(first: Tensor, second: Tensor) -> float | None:
    """None of fewer than three."""
    return round(float(torch.corrcoef(torch.stack([first, second]))[0, 1]), 3) if len(first) > 2 else None


def _figures(scores: Tensor | None, above: Tensor, unsafe: Tensor) -> dict:
    rates = {"recognised": round(float(above[unsafe].float().mean()), 4),
             "false_alarms": round(float(above[~unsafe].float().mean()), 4)}
    return rates if scores is None else {"auc": round(auc(scores[unsafe], scores[~unsafe]), 4), **rates}


def auc(high: Tensor, low: Tensor) -> float:
    """Share of pairs in which the first lies above the second, ties counted half (area under the ROC curve)."""
    differences = high[:, None] - low
    return float(((differences > 0).float() + 0.5 * (differences == 0)).mean())


def _joined(first: Pictures, second: Pictures) -> Pictures:
    return replace(first, **{name: torch.cat([getattr(first, name), getattr(second, name)])
                             for name in ("x0", "unsafe", "group")})

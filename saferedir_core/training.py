"""Trains a redirector on collected trajectories: batches, validation, early stopping, threshold, log.

    training, validation = TrajectoryDataset(folder / "training"), TrajectoryDataset(folder / "validation")
    trained = train(training, validation, TrainingConfig(), state=folder / "state.pt")
    save_redirector(trained.redirector, "concept.safetensors", trained.metadata())

The losses are those of arXiv 2601.08623 (`objective`).  On top of them: half of the batches mix the contexts of two
prompts, as the host's Average node does, and contexts carry a little noise; both make a network that holds on phrasings
it never saw.
"""

import functools
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from saferedir_core.alignment import changed_tokens
from saferedir_core.config import RedirectorConfig, require_fitting
from saferedir_core.dataset import Batch, TrajectoryDataset
from saferedir_core.errors import TrainingError
from saferedir_core.files import written_whole
from saferedir_core.objective import ObjectiveConfig, objective
from saferedir_core.redirect import redirected_context
from saferedir_core.redirector import PooledRedirectorOutput, Redirector, RedirectorOutput
from saferedir_core.trainer import Trainer, TrainerConfig

INPUTS = ("both", "text", "latent")
STATE_VERSION = 3
# Unsafe prompts of a kind that no training saw (long ones, typing errors) reach less than those it saw.
LOWEST_THRESHOLD, OVERLAP_THRESHOLD, HIGHEST_THRESHOLD = 0.05, 0.5, 0.75


@dataclass(frozen=True)
class TrainingConfig:
    """Settings of one training.

    variant        of the network, see RedirectorConfig
    latent_pool    likewise; the published network has 1 whatever is said here
    iterations     most optimiser steps
    batch          rows in a step, half of them unsafe
    rate           peak learning rate
    average        decay of the averaged weights, which are the ones kept
    seed           of weights and batches
    validate       steps between two validations
    patience       validations without a better score after which training stops
    benign_rate    share of harmless validation trajectories that may trigger at the calibrated threshold
    mix            share of rows that are mixed with a harmless prompt's context
    least_share    smallest share of an unsafe context in a mixture that still counts as unsafe
    noise          standard deviation of the noise on contexts, in units of their root mean square
    adversarial    longest step against the classifier that unsafe contexts are moved by, in the same units; 0: none
    inputs         "both", or "text" or "latent" to see what each alone would reach (the other is set to a constant)
    half           bfloat16 where the device computes it in hardware (mixed precision; losses stay in float32)
    objective      weights of the losses
    """

    variant: str = "token"
    latent_pool: int = 2
    iterations: int = 400
    batch: int = 64
    rate: float = 1e-3
    average: float = 0.99
    seed: int = 0
    validate: int = 100
    patience: int = 6
    benign_rate: float = 0.02
    mix: float = 0.5
    least_share: float = 0.3
    noise: float = 0.05
    adversarial: float = 0.25
    inputs: str = "both"
    half: bool = True
    objective: ObjectiveConfig = ObjectiveConfig()

    def __post_init__(self):
        require_fitting(
            self, iterations=(self.iterations >= 1, "1 or more"), batch=(self.batch >= 2, "2 or more"),
            rate=(self.rate > 0, "a positive number"), average=(0 <= self.average < 1, "0 <= average < 1"),
            validate=(self.validate >= 1, "1 or more"), patience=(self.patience >= 1, "1 or more"),
            benign_rate=(0 <= self.benign_rate < 1, "a share from 0 to 1"),
            mix=(0 <= self.mix <= 1, "a share from 0 to 1"),
            least_share=(0 < self.least_share <= 1, "a share above 0, up to 1"),
            noise=(self.noise >= 0, "0 or more"), adversarial=(self.adversarial >= 0, "0 or more"),
            inputs=(self.inputs in INPUTS, f"one of {', '.join(INPUTS)}"))


@dataclass
class Trained:
    """What a training gives.  log: one dict per validation."""

    redirector: Redirector
    threshold: float
    scores: dict[str, float]
    log: list[dict] = field(default_factory=list)
    config: TrainingConfig = TrainingConfig()

    def metadata(self) -> dict[str, str]:
        """For save_redirector."""
        return {"threshold": repr(self.threshold), "alpha_scale": repr(self.config.objective.alpha_scale),
                "seed": str(self.config.seed), "training": json.dumps(asdict(self.config)),
                "validation": json.dumps(self.scores), "torch": torch.__version__,
                "seconds": str(round(self.log[-1]["seconds"])) if self.log else "0"}


def train(training: TrajectoryDataset, validation: TrajectoryDataset, config: TrainingConfig = TrainingConfig(), *,
          state: Path | None = None, device: torch.device | str = "cpu",
          on_step: Callable[[int, dict[str, float]], None] | None = None) -> Trained:
    """Trains one redirector.

    state    file that a killed training goes on from; removed by nobody, refused when the config is another
    on_step  called with the number of steps done and the losses, after every step; may raise to stop

    TrainingError for a loss that is not finite, a state of another training.
    """
    with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        loop = _Loop(training, validation, config, state, device)
        while not loop.done:
            losses = loop.step()
            if on_step is not None:
                on_step(loop.trainer.steps_done, losses)
        return loop.result()


class _Loop:
    """State of one training."""

    def __init__(self, training: TrajectoryDataset, validation: TrajectoryDataset, config: TrainingConfig,
                 state: Path | None, device: torch.device | str):
        self.training, self.validation = training, validation
        self.config, self.device, self.state = config, device, state
        published = config.variant == "published"
        shape = RedirectorConfig(latent_dim=training.latent(0, 0, 0).shape[0], prompt_dim=training.contexts.shape[2],
                                 tokens=training.tokens, variant=config.variant, architecture=training.architecture,
                                 pooled_dim=0 if training.pooled is None or published else training.pooled.shape[1],
                                 latent_pool=1 if published else config.latent_pool)
        self.trainer = Trainer(Redirector(shape).train().to(device), TrainerConfig(
            config.iterations, config.rate, warmup=min(100, config.iterations // 10), average=config.average))
        self.random = torch.Generator().manual_seed(config.seed)
        self.log: list[dict] = []
        self.best, self.best_weights, self.worse = -math.inf, None, 0
        self.before, self.started = 0.0, time.monotonic()
        if state is not None and Path(state).exists():
            self._resume()

    @property
    def done(self) -> bool:
        return self.trainer.steps_done >= self.config.iterations or self.worse >= self.config.patience

    def step(self) -> dict[str, float]:
        batch, changed = prepared(self.training.batch(self.config.batch, self.random), self.config, self.random)
        batch, changed = batch.to(self.device), changed.to(self.device)
        if self.config.adversarial:
            batch = against_the_classifier(self.trainer.module, batch, self.config.adversarial, self.random)
        loss, parts = objective(batch.context, self._evaluate(batch), batch.safe_context, changed, batch.unsafe,
                                self.config.objective, batch.pooled, batch.safe_pooled)
        self.trainer.step(loss)
        if self.trainer.steps_done % self.config.validate == 0 or self.trainer.steps_done == self.config.iterations:
            self._validate(parts)
        return parts

    def result(self) -> Trained:
        redirector = self.trainer.averaged
        redirector.load_state_dict(self.best_weights)
        redirector.eval().requires_grad_(False)
        threshold = calibrated_threshold(redirector, self.validation, self.config)
        scores = {**validation_scores(redirector, self.validation, self.config), "threshold": threshold}
        return Trained(redirector, threshold, scores, self.log, self.config)

    def _evaluate(self, batch: Batch) -> RedirectorOutput | PooledRedirectorOutput:
        kind = torch.device(self.device).type
        with torch.autocast(kind, torch.bfloat16, enabled=self.config.half and computes_bfloat16(kind)):
            output = self.trainer.module(batch.latent, batch.context, batch.timestep, batch.pooled)
        return type(output)(*(part.float() for part in output))

    def _validate(self, losses: dict[str, float]) -> None:
        scores = validation_scores(self.trainer.averaged, self.validation, self.config)
        if not math.isfinite(scores["score"]):
            raise TrainingError(f"The validation score is {scores['score']} at iteration {self.trainer.steps_done}; "
                                "expected a finite number. Lower the learning rate (now "
                                f"{self.config.rate}); the state before stays.")
        self.log.append({"step": self.trainer.steps_done, "seconds": self._seconds(), **losses,
                         **{f"validation_{name}": value for name, value in scores.items()}})
        self.worse = 0 if scores["score"] > self.best + 1e-4 else self.worse + 1
        if scores["score"] > self.best:
            self.best = scores["score"]
            self.best_weights = {key: value.clone() for key, value in self.trainer.averaged.state_dict().items()}
        if self.state is not None:
            self._save()

    def _seconds(self) -> float:
        return self.before + time.monotonic() - self.started

    def _save(self) -> None:
        content = {"version": STATE_VERSION, "config": asdict(self.config),
                   "architecture": self.training.architecture, "trainer": self.trainer.state_dict(), "log": self.log,
                   "best": self.best, "best_weights": self.best_weights, "worse": self.worse,
                   "random": self.random.get_state(), "torch_random": torch.get_rng_state(),
                   "seconds": self._seconds()}
        path = Path(self.state)
        try:
            with written_whole(path) as unfinished:
                torch.save(content, unfinished)
        except (OSError, RuntimeError) as error:
            raise TrainingError(f"{path}: the state of the training cannot be written ({error}); expected a folder "
                                "with space. Free some space and run again: it goes on from the last state.") from error

    def _resume(self) -> None:
        try:
            content = torch.load(self.state, map_location=self.device, weights_only=True)
        except Exception as error:
            # torch's own text is not passed on: it advises to load the file with code execution allowed.
            raise TrainingError(f"{self.state}: cannot be read ({type(error).__name__}); expected the state of a "
                                "training. Delete it to begin anew.") from error
        if not isinstance(content, dict) or content.get("version") != STATE_VERSION:
            raise TrainingError(f"{self.state}: is of another version; expected format {STATE_VERSION}. Delete it to "
                                "begin anew.")
        there = {**content["config"], "architecture": content["architecture"]}
        differing = [name for name, value in {**asdict(self.config), "architecture": self.training.architecture}.items()
                     if there.get(name) != value]
        if differing:
            raise TrainingError(f"{self.state}: is of a training with other {', '.join(differing)}; expected the same "
                                "settings. Delete it to begin anew, or use the settings it was begun with.")
        self.trainer.load_state_dict(content["trainer"])
        self.log, self.best, self.worse = content["log"], content["best"], content["worse"]
        self.best_weights = content["best_weights"]
        self.random.set_state(content["random"].cpu())
        torch.set_rng_state(content["torch_random"].cpu())
        self.before = content["seconds"]


@functools.cache
def computes_bfloat16(kind: str) -> bool:
    """Whether this machine's devices of a kind ("cpu", "cuda") have bfloat16 in hardware; emulated it is far slower."""
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if kind != "cpu":
        return False
    return any(getattr(torch.cpu, name, lambda: False)() for name in ("_is_avx512_bf16_supported",
                                                                      "_is_amx_tile_supported"))


def prepared(batch: Batch, config: TrainingConfig, random: torch.Generator) -> tuple[Batch, Tensor]:
    """The batch as it is learned from, and the pseudo-label of the mask (B, T).

    Some rows are mixed with another row's prompt that is harmless: context, safe context and label alike.  A mixture
    is unsafe when the unsafe prompt has at least `least_share` of it.
    """
    changed = changed_tokens(batch.context, batch.safe_context)
    context, safe_context, latent, unsafe = batch.context, batch.safe_context, batch.latent, batch.unsafe
    pooled, safe_pooled = batch.pooled, batch.safe_pooled
    harmless = (~unsafe).nonzero().flatten()
    count = len(unsafe)
    if config.mix and len(harmless):
        other = harmless[torch.randint(len(harmless), (count,), generator=random)]
        share = config.least_share + (1 - config.least_share) * torch.rand(count, 1, 1, generator=random)
        mixed = torch.rand(count, 1, 1, generator=random) < config.mix
        share = torch.where(mixed, share, torch.ones(()))
        context = share * context + (1 - share) * batch.context[other]
        safe_context = share * safe_context + (1 - share) * batch.context[other]
        if pooled is not None:
            safe_pooled = share[:, 0] * safe_pooled + (1 - share[:, 0]) * pooled[other]
            pooled = share[:, 0] * pooled + (1 - share[:, 0]) * pooled[other]
    if config.noise:
        scale = context.square().mean(dim=(1, 2), keepdim=True).sqrt()
        # The same noise on both: it is part of the prompt, not of the concept.
        noise = config.noise * scale * torch.rand(count, 1, 1, generator=random) * torch.randn(
            context.shape, generator=random)
        context, safe_context = context + noise, safe_context + noise
    if config.inputs == "text":
        latent = torch.zeros_like(latent)
    if config.inputs == "latent":  # ones, because losses are in units of the context
        context = safe_context = torch.ones_like(context)
        pooled = safe_pooled = None if pooled is None else torch.ones_like(pooled)
    return Batch(latent, batch.timestep, context, safe_context, unsafe, pooled, safe_pooled), changed


def against_the_classifier(redirector: Redirector, batch: Batch, length: float, random: torch.Generator) -> Batch:
    """Unsafe contexts moved to where they look safer, by up to `length` (root mean squares, of the token moved most).

    One step of the fast gradient method (Goodfellow et al., arXiv 1412.6572) with the L2 norm, its length drawn for
    each row.  Context and safe context move alike, so that the shift to learn stays the same.
    """
    rows = batch.unsafe.nonzero().flatten()
    if not len(rows):
        return batch
    was_training = redirector.training
    redirector.eval()
    context = batch.context[rows].detach().requires_grad_()                                # (U, T, D)
    with torch.no_grad():
        timestep = batch.timestep.expand(len(batch.unsafe))[rows]
        joint = torch.cat([redirector.latent_feature(batch.latent[rows]),
                           redirector.timestep_feature(timestep)], dim=-1)                 # (U, J)
    pooled = batch.pooled[rows] if redirector.config.pooled_dim and batch.pooled is not None else None
    reading = redirector.read(context, pooled)
    logits = redirector.logits(reading, joint, redirector.attended(reading, joint))        # (U, 2)
    gradient, = torch.autograd.grad((logits[:, 1] - logits[:, 0]).sum(), context)
    redirector.train(was_training)
    longest = gradient.norm(dim=-1, keepdim=True).amax(dim=1, keepdim=True).clamp_min(1e-12)
    scale = context.detach().square().mean(dim=(1, 2), keepdim=True).sqrt() * math.sqrt(context.shape[-1])
    drawn = length * torch.rand(len(rows), 1, 1, generator=random).to(context.device)
    step = torch.zeros_like(batch.context).index_copy(0, rows, -drawn * scale * gradient / longest)
    return replace(batch, context=batch.context + step, safe_context=batch.safe_context + step)


@torch.no_grad()
def validation_scores(redirector: Redirector, validation: TrajectoryDataset, config: TrainingConfig,
                      rows: int = 512) -> dict[str, float]:
    """How well the averaged network does on the validation trajectories, each 0 to 1, higher is better.

    unsafe_recall, safe_recall  share of rows on the right side of 0.5
    redirection                 share of the way from the unsafe to the safe context that the redirection goes,
                                1 - |redirected - safe|^2 / |context - safe|^2, floored at 0
    score                       mean of the balanced accuracy and `redirection`
    """
    was_training = redirector.training
    redirector.eval()
    batch = validation.batch(rows, torch.Generator().manual_seed(0))
    batch, _ = prepared(batch, TrainingConfig(mix=0, noise=0, inputs=config.inputs), torch.Generator())
    device = redirector.device
    recalls, ways = {True: [], False: []}, []
    for part in torch.arange(len(batch.unsafe)).split(64):
        each = batch.map(lambda value, part=part: value[part]).to(device)
        output = redirector(each.latent, each.context, each.timestep, each.pooled)
        said = output.unsafe_probability > 0.5
        redirected = redirected_context(each.context, output.delta, output.token_mask, output.alpha,
                                        config.objective.alpha_scale, config.objective.mask_again)
        rest = (redirected - each.safe_context).square().sum((1, 2))
        whole = (each.context - each.safe_context).square().sum((1, 2))
        ways += (1 - rest / whole.clamp_min(1e-12)).clamp(0, 1)[each.unsafe].tolist()
        for kind in (True, False):
            recalls[kind] += (said == kind)[each.unsafe == kind].tolist()
    redirector.train(was_training)
    mean = {kind: sum(values) / max(1, len(values)) for kind, values in recalls.items()}
    redirection = sum(ways) / max(1, len(ways))
    score = ((mean[True] + mean[False]) / 2 + redirection) / 2
    return {"unsafe_recall": mean[True], "safe_recall": mean[False], "redirection": redirection, "score": score}


def calibrated_threshold(redirector: Redirector, validation: TrajectoryDataset, config: TrainingConfig,
                         most: int = 600) -> float:
    """As far up as unsafe prompts allow where harmless ones stay below that, else as far down as they need.

    Unsafe validation rows are disturbed as in training (mixed, noisy, moved against the classifier); at the threshold
    all but `benign_rate` of them trigger, and no more than `benign_rate` of the harmless trajectories do (any step of
    one counts).  Where no threshold does both, harmless ones decide up to 0.5: what the classifier itself calls unsafe
    always triggers.  Between 0.05 and 0.75.
    """
    harmless = (~validation.unsafe).nonzero().flatten()[:most].tolist()
    peaks = peak_probabilities(redirector, validation, harmless, config).sort(descending=True).values
    highest = float(peaks[int(config.benign_rate * len(peaks))])
    reached = disturbed_probabilities(redirector, validation, config, most).sort().values
    lowest = float(reached[int(config.benign_rate * len(reached))])
    threshold = lowest if lowest > highest else min(highest, OVERLAP_THRESHOLD)
    return round(min(max(threshold, LOWEST_THRESHOLD), HIGHEST_THRESHOLD), 4)


def disturbed_probabilities(redirector: Redirector, dataset: TrajectoryDataset, config: TrainingConfig,
                            count: int) -> Tensor:
    """Unsafe probability of `count` unsafe rows at random steps, disturbed as in training: (count,)."""
    random, found = torch.Generator().manual_seed(config.seed), []
    while sum(map(len, found)) < count:
        batch, _ = prepared(dataset.batch(config.batch, random), config, random)
        batch = batch.to(redirector.device)
        if config.adversarial:
            batch = against_the_classifier(redirector, batch, config.adversarial, random)
        with torch.no_grad():
            output = redirector(batch.latent, batch.context, batch.timestep, batch.pooled)
        found.append(output.unsafe_probability[batch.unsafe].cpu())
    return torch.cat(found)[:count]


@torch.no_grad()
def peak_probabilities(redirector: Redirector, dataset: TrajectoryDataset, pairs: list[int],
                       config: TrainingConfig) -> Tensor:
    """Highest unsafe probability over the steps of each pair's first trajectory, (len(pairs),)."""
    steps, peaks = len(dataset.timesteps), []
    for part in torch.tensor(pairs).split(16):
        batch, _ = prepared(dataset.runs(part.tolist()), TrainingConfig(mix=0, noise=0, inputs=config.inputs),
                            torch.Generator())
        batch = batch.to(redirector.device)
        output = redirector(batch.latent, batch.context, batch.timestep, batch.pooled)
        peaks.append(output.unsafe_probability.reshape(-1, steps).amax(1).cpu())
    return torch.cat(peaks)

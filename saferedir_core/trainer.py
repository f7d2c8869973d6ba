"""One optimiser step after another: schedule, clipping, averaged weights.  Knows nothing of what it trains."""

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from saferedir_core.errors import TrainingError


@dataclass(frozen=True)
class TrainerConfig:
    """Settings of a training.

    iterations    optimiser steps
    rate          peak learning rate of AdamW, reached after `warmup` steps, then a cosine down to `floor` of it
    beta2         second-moment decay of AdamW (the first is 0.9)
    weight_decay  on matrices and kernels; biases, norms and scalars have none
    clip          largest norm of the gradient of all parameters together
    average       decay of the exponential moving average of the weights; 0 keeps none
    """

    iterations: int
    rate: float = 1e-3
    warmup: int = 100
    floor: float = 0.02
    beta2: float = 0.99
    weight_decay: float = 0.01
    clip: float = 1.0
    average: float = 0.998


class Trainer:
    """Optimiser, schedule and averaged weights of one module.

        for step in range(trainer.steps_done, config.iterations):
            trainer.step(loss_of(module, batch))
    """

    def __init__(self, module: nn.Module, config: TrainerConfig):
        self.module, self.config = module, config
        self.steps_done = 0
        self.averaged = copy.deepcopy(module).requires_grad_(False) if config.average else module
        matrices = [each for each in module.parameters() if each.ndim > 1]
        others = [each for each in module.parameters() if each.ndim <= 1]
        self.optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}],
            lr=config.rate, betas=(0.9, config.beta2))

    def step(self, loss: Tensor) -> float:
        """Backward and one update; returns the loss.  TrainingError if it is not finite, before any weight changes."""
        value = loss.item()
        if not math.isfinite(value):
            raise TrainingError(f"The loss is {value} at iteration {self.steps_done}; expected a finite number. Lower "
                                f"the learning rate (now {self.config.rate}) or look for NaN in the latents.")
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.steps_done, self.config)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.module.parameters(), self.config.clip)
        self.optimizer.step()
        self.steps_done += 1
        self._average()
        return value

    @torch.no_grad()
    def _average(self) -> None:
        if self.averaged is self.module:
            return
        decay = min(self.config.average, (1 + self.steps_done) / (10 + self.steps_done))
        torch._foreach_lerp_(list(self.averaged.parameters()), list(self.module.parameters()), 1 - decay)
        for kept, now in zip(self.averaged.buffers(), self.module.buffers(), strict=True):
            kept.copy_(now)

    def state_dict(self) -> dict:
        """Everything a resumed training needs."""
        return {"module": self.module.state_dict(), "averaged": self.averaged.state_dict(),
                "optimizer": self.optimizer.state_dict(), "steps_done": self.steps_done}

    def load_state_dict(self, state: dict) -> None:
        self.module.load_state_dict(state["module"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.steps_done = state["steps_done"]


def learning_rate(step: int, config: TrainerConfig) -> float:
    """Linear warm-up, then half a cosine from the peak to `floor` of it."""
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, step / config.iterations)))
    warm = min(1.0, (step + 1) / max(1, config.warmup))
    return config.rate * warm * (config.floor + (1 - config.floor) * cosine)

"""The training losses of SafeRedir (arXiv 2601.08623, training objective), each a pure function.

B: batch, T: tokens, D: prompt width.  `unsafe` (B,) in {0, 1} is the label of a row; only unsafe rows have a target for
the shift, so the three losses on it average over them and are 0 in a batch without any.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from saferedir_core.redirect import redirected_context, redirected_pooled
from saferedir_core.redirector import PooledRedirectorOutput, RedirectorOutput


@dataclass(frozen=True)
class ObjectiveConfig:
    """Weights of the five losses (the paper's) and of the pooled vector's, label smoothing, and the formula the
    strength is trained for.

    alpha_scale, mask_again: as in PolicyConfig; the network learns strengths that are right at this scale.
    """

    classification: float = 1.0
    delta: float = 0.5
    direction: float = 0.1
    mask: float = 0.1
    alpha: float = 1.0
    pooled: float = 1.0
    label_smoothing: float = 0.05
    alpha_scale: float = 1.25
    mask_again: bool = True


def classification_loss(logits: Tensor, unsafe: Tensor, label_smoothing: float) -> Tensor:
    """Cross-entropy of the classes safe and unsafe: (B, 2), (B,) -> ()."""
    return F.cross_entropy(logits, unsafe.long(), label_smoothing=label_smoothing)


def delta_loss(delta: Tensor, target: Tensor, unsafe: Tensor) -> Tensor:
    """Mean squared error of the delta against safe - unsafe: (B, T, D) twice -> ()."""
    return _mean_over((delta - target).square().mean(dim=(1, 2)), unsafe)


def direction_loss(delta: Tensor, target: Tensor, changed: Tensor, unsafe: Tensor) -> Tensor:
    """1 - cosine of delta and target, averaged over the tokens that the pair changes: (B, T, D), (B, T) -> ()."""
    distance = 1 - torch.cosine_similarity(delta, target, dim=-1)
    return _mean_over((distance * changed).sum(1) / changed.sum(1).clamp_min(1), unsafe)


def mask_loss(token_mask: Tensor, changed: Tensor) -> Tensor:
    """Binary cross-entropy of the token mask against the pseudo-label, all rows: (B, T) twice -> ()."""
    # Written out, because torch's own refuses NaN with an error of its own, or ends the process on a GPU.
    mask, changed = token_mask.float().clamp(1e-6, 1 - 1e-6), changed.float()
    return -(changed * mask.log() + (1 - changed) * (1 - mask).log()).mean()


def alpha_loss(context: Tensor, output: RedirectorOutput, safe_context: Tensor, unsafe: Tensor,
               config: ObjectiveConfig) -> Tensor:
    """Mean squared error of the redirected context against the safe one, in units of the context's mean square."""
    redirected = redirected_context(context, output.delta, output.token_mask, output.alpha,
                                    config.alpha_scale, config.mask_again)
    error = (redirected - safe_context).square().mean(dim=(1, 2)) / context.square().mean(dim=(1, 2))
    return _mean_over(error, unsafe)


def pooled_loss(pooled: Tensor, delta: Tensor, safe_pooled: Tensor, unsafe: Tensor,
                config: ObjectiveConfig) -> Tensor:
    """Mean squared error of the redirected pooled vector against the safe one, (B, P) each, as in `alpha_loss`."""
    error = (redirected_pooled(pooled, delta, config.alpha_scale) - safe_pooled).square().mean(dim=1)
    return _mean_over(error / pooled.square().mean(dim=1).clamp_min(1e-12), unsafe)


def objective(context: Tensor, output: RedirectorOutput | PooledRedirectorOutput, safe_context: Tensor,
              changed: Tensor, unsafe: Tensor, config: ObjectiveConfig = ObjectiveConfig(),
              pooled: Tensor | None = None, safe_pooled: Tensor | None = None) -> tuple[Tensor, dict[str, float]]:
    """Weighted sum of the five losses, and each of them as a number; six of a network that reads a pooled vector.

    context, safe_context (B, T, D), aligned (see `pairs`); changed (B, T); unsafe (B,); pooled, safe_pooled (B, P).
    """
    target = safe_context - context
    losses = {
        "classification": classification_loss(output.logits, unsafe, config.label_smoothing),
        "delta": delta_loss(output.delta, target, unsafe),
        "direction": direction_loss(output.delta, target, changed, unsafe),
        "mask": mask_loss(output.token_mask, changed),
        "alpha": alpha_loss(context, output, safe_context, unsafe, config),
    }
    if output.pooled_delta is not None:
        losses["pooled"] = pooled_loss(pooled, output.pooled_delta, safe_pooled, unsafe, config)
    total = sum(getattr(config, name) * loss for name, loss in losses.items())
    return total, {name: float(loss.detach()) for name, loss in losses.items()}


def _mean_over(values: Tensor, rows: Tensor) -> Tensor:
    """Mean of (B,) values over the rows that count."""
    weights = rows.to(values.dtype)
    return (values * weights).sum() / weights.sum().clamp_min(1)

"""The prompt judge: from tokens of prompts with and without a concept to the evidence of a token.

A logistic fit with pooling (multiple instances: a prompt asks for the concept if any of its tokens does) of K
directions, which begin as linear discriminants of K clusters of the concept's tokens.  Where somebody wrote pairs that
no directions tell apart, of what a layer of HIDDEN units makes of a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from saferedir_core.words.encoded import Tokens

WIDEST = 384            # directions in which tokens are looked at; those with the least variance are left out above
SHRINKAGES = (0.1, 1.0)  # of the covariance towards a multiple of the identity; folds decide, see fit
SMALLEST_VARIANCE = 1e-9
KEPT_WEIGHT = 4.0       # of prompts with what is to be kept, beside other harmless ones
FOREMOST = 8            # tokens of each prompt that the fit goes on with: only the largest counts
# Of the way from the usual harmless prompt to the usual one with the concept: from here on a prompt may mean something
# like it, and is not fitted to; from there on it does, and does not count where the line is drawn either.
NEAR, ALIKE = 0.3, 0.6
STEPS, RATE, DECAY = 150, 0.03, 0.03
# Of the layer of a network: units; optimiser steps, prompts of either kind in one, noise on white tokens.
HIDDEN, HIDDEN_STEPS, HIDDEN_BATCH, HIDDEN_RATE, HIDDEN_DECAY, HIDDEN_NOISE = 64, 400, 96, 3e-3, 0.3, 0.3
UNTOLD = -3.0               # logit of a prompt before anything is learned, about
SEED = 20260112


@dataclass(frozen=True)
class Whitening:
    """(x - mean) @ matrix has unit covariance.  mean (D,), matrix (D, d)"""

    mean: Tensor
    matrix: Tensor

    def __call__(self, states: Tensor) -> Tensor:
        return (states - self.mean) @ self.matrix

    def tokens(self, tokens: Tokens) -> Tokens:
        """The prompts with white tokens, and without pooled vectors."""
        return Tokens(self(tokens.states), tokens.prompt, tokens.count)

    @classmethod
    def of(cls, states: Tensor, others: Tensor, shrinkage: float = SHRINKAGES[0]) -> Whitening:
        """Of tokens (M, D); their principal directions, and those of `others` beside them, where D is large."""
        mean = states.mean(0)
        centred = states - mean
        if states.shape[1] > WIDEST:
            basis = _principal(centred, others - mean)
        else:
            basis = torch.eye(states.shape[1])
        seen = centred @ basis
        covariance = (seen.T @ seen / len(seen)).double()
        # The floor is for an encoder that says the same of every token, which no judge can tell apart.
        spread = shrinkage * covariance.diagonal().mean() + SMALLEST_VARIANCE
        covariance += spread * torch.eye(len(covariance), dtype=torch.double)
        # The inverse of a Cholesky factor whitens as well as the inverse root, without eigenvectors.
        factor = torch.linalg.cholesky(covariance)
        inverse = torch.linalg.solve_triangular(factor, torch.eye(len(factor), dtype=torch.double), upper=False)
        return cls(mean, basis @ inverse.T.float())


def _principal(centred: Tensor, others: Tensor) -> Tensor:
    """Orthonormal basis (D, WIDEST) of the directions in which tokens differ most, half of them for `others`."""
    generator = torch.Generator().manual_seed(SEED)
    bases = []
    for states, width in ((centred, WIDEST - WIDEST // 4), (others, WIDEST // 4)):
        # Subspace iteration (Halko, Martinsson and Tropp, 2011, algorithm 4.4), seeded.
        found = torch.randn(states.shape[1], width, generator=generator)
        for _ in range(3):
            found, _ = torch.linalg.qr(states.T @ (states @ found))
        bases.append(found)
    basis, _ = torch.linalg.qr(torch.cat(bases, 1))
    return basis


@dataclass(frozen=True)
class Evidence:
    """weight (K, D), bias (K,): evidence of a token is the largest of  weight . token + bias.

    inner: None, or weight (H, D) and bias (H,) of a layer that the token goes through first; weight is (K, H) then.
    """

    weight: Tensor
    bias: Tensor
    inner: tuple[Tensor, Tensor] | None = None

    def of(self, tokens: Tokens) -> Tensor:
        """(count,): of each prompt the largest of its tokens."""
        return tokens.largest(self.of_states(tokens.states))

    def of_states(self, states: Tensor) -> Tensor:
        if self.inner is not None:
            states = F.silu(F.linear(states, *self.inner))
        return (states @ self.weight.T + self.bias).amax(-1)

    def scaled(self, scale: float, zero: float) -> Evidence:
        """The evidence minus `zero`, times `scale`."""
        return replace(self, weight=self.weight * scale, bias=(self.bias - zero) * scale)


def fit_evidence(unsafe: Tokens, changed: Tensor, harmless: Tokens, doubtful: Tensor, kept: Tensor, *,
                 whitening: Whitening, directions: int) -> Evidence:
    """unsafe: prompts with the concept, of whose tokens `changed` (M,) are of its words; harmless: all others.

    doubtful (count,) bool: harmless prompts that nobody has looked at.  Those `near` to the concept are left out.
    kept (count,) bool: those that somebody asked to keep; they count KEPT_WEIGHT times.
    """
    used = ~(doubtful & near(unsafe, changed, harmless, whitening))
    outside, weights = harmless.of(used), torch.where(kept[used], KEPT_WEIGHT, 1.0)
    inside, outside = whitening.tokens(unsafe), whitening.tokens(outside)
    weight, bias = _discriminants(inside.states[changed], outside.states.mean(0), directions)
    inside = inside.foremost((inside.states @ weight.T + bias).amax(-1), FOREMOST)
    outside = outside.foremost((outside.states @ weight.T + bias).amax(-1), FOREMOST)
    weight, bias = _pooled_logistic(inside, outside, weights, weight)
    matrix = whitening.matrix.T
    return Evidence(weight @ matrix, bias - weight @ matrix @ whitening.mean)


def fit_network(unsafe: Tokens, changed: Tensor, harmless: Tokens, doubtful: Tensor, kept: Tensor, *,
                whitening: Whitening) -> Evidence:
    """As `fit_evidence`, through a layer of HIDDEN units, by steps on some prompts at a time."""
    used = ~(doubtful & near(unsafe, changed, harmless, whitening))
    inside, outside = whitening.tokens(unsafe), whitening.tokens(harmless)
    # As many of what nobody looked at as of the others, which are several times as many.
    kinds = [(used & kind).nonzero().flatten() for kind in (doubtful, ~doubtful)]
    (inner, inner_bias), (weight, bias) = _trained_network(inside, outside, [kind for kind in kinds if len(kind)])
    inner = inner @ whitening.matrix.T
    return Evidence(weight, bias + UNTOLD, (inner, inner_bias - inner @ whitening.mean))


def near(unsafe: Tokens, changed: Tensor, harmless: Tokens, whitening: Whitening, level: float = NEAR) -> Tensor:
    """(count,) bool: harmless prompts that a linear discriminant puts at least so near to those with the concept.

    Mostly those that mean something like it: "abbey" must not teach that it is far from "church".
    """
    weight, _ = _discriminants(whitening(unsafe.states[changed]), whitening(harmless.states).mean(0), 1)
    inside, outside = (each.largest(whitening(each.states) @ weight[0]) for each in (unsafe, harmless))
    return outside - outside.median() > level * (inside.median() - outside.median())


def _discriminants(inside: Tensor, mean: Tensor, directions: int) -> tuple[Tensor, Tensor]:
    """Linear discriminants of clusters of white tokens (M, d) against a mean (d,): weights (K, d), biases (K,)."""
    centres = _clusters(inside, directions)
    weight = centres - mean
    return weight, -0.5 * ((centres + mean) * weight).sum(-1)


def _clusters(states: Tensor, count: int, rounds: int = 8) -> Tensor:
    """Centres (K, d) by k-means from a seeded start; K is at most `count`."""
    count = min(count, len(states))
    centres = states[torch.randperm(len(states), generator=torch.Generator().manual_seed(SEED))[:count]].clone()
    for _ in range(rounds if count > 1 else 0):
        nearest = torch.cdist(states, centres).argmin(-1)
        centres = torch.stack([states[nearest == at].mean(0) if (nearest == at).any() else centres[at]
                               for at in range(count)])
    return states.mean(0, keepdim=True) if count == 1 else centres


def _pooled_logistic(inside: Tokens, outside: Tokens, weights: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    """Weights (K, d) and biases (K,) with the least logistic loss of prompts; classes count alike.

    weights (count,): of the prompts outside among themselves.
    """
    weights = weights / weights.sum()
    # The nodes of a host run in inference mode.
    with torch.inference_mode(False), torch.enable_grad():
        weights = weights.clone()
        inside, outside = (Tokens(each.states.clone(), each.prompt.clone(), each.count) for each in (inside, outside))
        norm = start.norm(dim=-1, keepdim=True).clamp_min(1e-6)
        weight = (4 * start / norm ** 2).clone().requires_grad_()
        bias = torch.full((len(start),), -2.0, requires_grad=True)
        optimizer = torch.optim.Adam([weight, bias], RATE)
        for _ in range(STEPS):
            unsafe, safe = (_soft_largest(each, (each.states @ weight.T + bias).amax(-1)) for each in (inside, outside))
            loss = F.softplus(-unsafe).mean() + (weights * F.softplus(safe)).sum() + DECAY * weight.square().sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return weight.detach(), bias.detach()


def _trained_network(inside: Tokens, outside: Tokens, kinds: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Weight and bias of both layers.  kinds: numbers of the prompts outside, drawn from each alike."""
    random = torch.Generator().manual_seed(SEED)
    with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        inside, outside = (Tokens(each.states.clone(), each.prompt.clone(), each.count) for each in (inside, outside))
        layers = torch.nn.Linear(inside.states.shape[1], HIDDEN), torch.nn.Linear(HIDDEN, 1)
        weights = [each for layer in layers for each in (layer.weight, layer.bias)]
        optimizer = torch.optim.AdamW(weights, HIDDEN_RATE, weight_decay=HIDDEN_DECAY)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, HIDDEN_RATE, HIDDEN_STEPS, pct_start=0.1)

        def logits(prompts: Tokens) -> Tensor:
            noisy = prompts.states + HIDDEN_NOISE * torch.randn(prompts.states.shape, generator=random)
            return _soft_largest(prompts, layers[1](F.silu(layers[0](noisy)))[:, 0] + UNTOLD)

        def some(prompts: Tokens, kinds: Sequence[Tensor]) -> Tokens:
            chosen = torch.zeros(prompts.count, dtype=torch.bool)
            for kind in kinds:
                chosen[kind[torch.randperm(len(kind), generator=random)[:HIDDEN_BATCH // len(kinds)]]] = True
            return prompts.of(chosen)

        for _ in range(HIDDEN_STEPS):
            unsafe, safe = logits(some(inside, [torch.arange(inside.count)])), logits(some(outside, kinds))
            loss = F.softplus(-unsafe).mean() + F.softplus(safe).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return [(layer.weight.detach(), layer.bias.detach()) for layer in layers]


def _soft_largest(tokens: Tokens, values: Tensor) -> Tensor:
    """log sum exp of a prompt's values, (count,): the largest, with a gradient for those that come close."""
    largest = tokens.largest(values.detach())
    sums = torch.zeros(tokens.count).index_add(0, tokens.prompt, (values - largest[tokens.prompt]).exp())
    return largest + sums.log()

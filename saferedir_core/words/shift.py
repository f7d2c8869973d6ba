"""The shift: which tokens carry a concept, and where their safe neighbours are, in closed form.

A ridge regression from a token to what its aligned safe neighbour differs by, cut to a low rank by the singular values
of what it predicts (reduced-rank regression, Izenman 1975).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from saferedir_core.alignment import changed_tokens
from saferedir_core.words.encoded import Tokens, Twins
from saferedir_core.words.judge import Whitening

RIDGE = 0.3             # in units of the white tokens' variance
GATE_STEPS, GATE_RATE, GATE_DECAY = 150, 0.05, 1e-3
MOST_TOKENS = 20000


def fit_shift(pairs: Twins, whitening: Whitening, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """down (r, D), bias (r,), up (D, r) of the map from a token to its shift."""
    carries = moved_tokens(pairs)
    states, wanted = whitening(pairs.own.states[carries]), (pairs.safe - pairs.own.states)[carries]
    return _regression(states, wanted, whitening, rank)


def fit_pooled_shift(own: Tensor, safe: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """The same of pooled vectors (N, P) of unsafe prompts and of their twins."""
    whitening = Whitening.of(torch.cat([own, safe]), own)
    return _regression(whitening(own), safe - own, whitening, rank)


def _regression(states: Tensor, wanted: Tensor, whitening: Whitening, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    inputs = torch.cat([states, torch.ones(len(states), 1)], 1)
    penalty = RIDGE * torch.eye(inputs.shape[1])
    penalty[-1, -1] = 1e-6
    weight = torch.linalg.solve(inputs.T @ inputs + penalty * len(inputs) * 0.01, inputs.T @ wanted)      # (d + 1, D)
    _, _, directions = torch.svd_lowrank(inputs @ weight, q=min(rank, *wanted.shape), niter=4)            # (D, r)
    inner = weight @ directions                                                                           # (d + 1, r)
    down, bias = whitening.matrix @ inner[:-1], inner[-1]                                                  # (D, r)
    bias = bias - whitening.mean @ down
    short = rank - down.shape[1]
    return F.pad(down.T, (0, 0, 0, short)), F.pad(bias, (0, short)), F.pad(directions, (0, short))


def moved_tokens(pairs: Twins) -> Tensor:
    """(M,) bool: tokens that a safe prompt has otherwise (changed_tokens), and all of the words that it lacks."""
    return changed_tokens(pairs.own.states, pairs.safe).bool() | pairs.changed


def fit_gate(pairs: Twins, harmless: Tokens, whitening: Whitening) -> tuple[Tensor, Tensor]:
    """weight (1, D), bias (1,) of the logit with which a token carries the concept."""
    carries = moved_tokens(pairs)
    generator = torch.Generator().manual_seed(0)
    states = torch.cat([pairs.own.states, pairs.twins.states, harmless.states])
    labels = torch.cat([carries.float(), torch.zeros(len(states) - len(carries))])
    chosen = torch.cat([torch.arange(len(carries)), len(carries) + torch.randperm(
        len(states) - len(carries), generator=generator)[:MOST_TOKENS]])
    weight, bias = _logistic(whitening(states[chosen]), labels[chosen])
    matrix = whitening.matrix.T
    return weight[None] @ matrix, bias - weight[None] @ matrix @ whitening.mean


def _logistic(states: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    with torch.inference_mode(False), torch.enable_grad():
        states, labels = states.clone(), labels.clone()
        weight, bias = torch.zeros(states.shape[1], requires_grad=True), torch.zeros(1, requires_grad=True)
        balance = (1 - labels).sum() / labels.sum().clamp_min(1)
        optimizer = torch.optim.Adam([weight, bias], GATE_RATE)
        for _ in range(GATE_STEPS):
            loss = F.binary_cross_entropy_with_logits(states @ weight + bias, labels, pos_weight=balance.sqrt())
            loss = loss + GATE_DECAY * weight.square().sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return weight.detach(), bias.detach()

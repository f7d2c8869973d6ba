"""The shift: which tokens are words of a concept, and where the safe neighbours are of all that took it in.

In closed form: a ridge regression from a token to what its aligned safe neighbour differs by, cut to a low rank by the
singular values of what it predicts (reduced-rank regression, Izenman 1975).  Two of them, because two things happen
when a word is taken out: its own token becomes another, or padding; and all that it had told of itself forget it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from saferedir_core.words.encoded import Tokens, Twins
from saferedir_core.words.judge import Whitening

# Of the white tokens' variance.  Tokens beside the words take in a little of them in as many ways as there are prompts:
# with the smaller ridge their map learns the prompts, and falls short on others.
WORD_RIDGE, OTHER_RIDGE = 1.0, 2.0
HARMLESS_WEIGHT = 0.3   # of tokens that must stay where they are, in the regression of the tokens beside the words
GATE_STEPS, GATE_RATE, GATE_DECAY = 150, 0.05, 1e-3
MOST_TOKENS = 20000
# What the map falls short by is made up for, so many times at most; and a little more, because a trace of a concept in
# many tokens draws it (docs/words.md).
FURTHEST, BEYOND = 3.0, 1.3

Map = tuple[Tensor, Tensor, Tensor]     # down (r, I), bias (r,), up (D, r)


def fit_word_shift(pairs: Twins, whitening: Whitening, rank: int, takes_out: bool) -> Map:
    """The map from a word's token and the last token of its prompt, (2 D) side by side, to the word's shift.

    takes_out: to what is to be added to the last token instead.
    """
    own, last = pairs.own.states[pairs.changed], pairs.own.last()[pairs.changed]
    wanted = pairs.safe[pairs.changed] - (last if takes_out else own)
    inputs = torch.cat([whitening(own), whitening(last)], 1)
    matrix = torch.block_diag(whitening.matrix, whitening.matrix)
    return _regression(inputs, wanted, torch.ones(len(inputs)), rank, matrix, whitening.mean.repeat(2))


def fit_other_shift(pairs: Twins, harmless: Tokens, whitening: Whitening, rank: int) -> Map:
    """The map from a token beside the words to its shift; that of a harmless prompt's token is zero."""
    beside = ~pairs.changed
    still = torch.cat([harmless.states, pairs.twins.states])
    inputs = whitening(torch.cat([pairs.own.states[beside], still]))
    wanted = torch.cat([(pairs.safe - pairs.own.states)[beside], torch.zeros_like(still)])
    weights = torch.cat([torch.ones(int(beside.sum())), torch.full((len(still),), HARMLESS_WEIGHT)])
    down, bias, up = _regression(inputs, wanted, weights, rank, whitening.matrix, whitening.mean, OTHER_RIDGE)
    # A regression falls short of what it cannot foresee: it is made to go as far as the neighbours are.
    moved = pairs.own.states[beside]
    found, wanted = (moved @ down.T + bias) @ up.T, (pairs.safe - pairs.own.states)[beside]
    further = float(wanted.square().sum() / (found * wanted).sum().clamp_min(1e-6))
    return down, bias, up * (BEYOND * min(max(further, 1.0), FURTHEST))


def fit_pooled_shift(own: Tensor, safe: Tensor, rank: int) -> Map:
    """The map from pooled vectors (N, P) of unsafe prompts to what those of their twins differ by."""
    whitening = Whitening.of(torch.cat([own, safe]), own)
    return _regression(whitening(own), safe - own, torch.ones(len(own)), rank, whitening.matrix, whitening.mean)


def _regression(inputs: Tensor, wanted: Tensor, weights: Tensor, rank: int, matrix: Tensor, mean: Tensor,
                ridge: float = WORD_RIDGE) -> Map:
    """inputs (M, d) white, wanted (M, D), weights (M,); matrix (I, d) and mean (I,) made them white."""
    inputs = torch.cat([inputs, torch.ones(len(inputs), 1)], 1)
    weighted = inputs * weights[:, None]
    penalty = ridge * len(inputs) * torch.eye(inputs.shape[1])
    weight = torch.linalg.solve(weighted.T @ inputs + penalty, weighted.T @ wanted)                       # (d + 1, D)
    predicted = inputs @ weight
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)    # the same fit whatever was drawn before
        _, _, directions = torch.svd_lowrank(predicted, q=min(rank, *predicted.shape), niter=4)           # (D, r)
    inner = weight @ directions                                                                           # (d + 1, r)
    down = matrix @ inner[:-1]                                                                            # (I, r)
    bias = inner[-1] - mean @ down
    short = rank - down.shape[1]
    return F.pad(down.T, (0, 0, 0, short)), F.pad(bias, (0, short)), F.pad(directions, (0, short))


def fit_word(pairs: Twins, harmless: Tokens, whitening: Whitening) -> tuple[Tensor, Tensor]:
    """weight (1, D), bias (1,) of the logit with which a token is a word of the concept."""
    generator = torch.Generator().manual_seed(0)
    others = torch.cat([pairs.own.states[~pairs.changed], pairs.twins.states, harmless.states])
    others = others[torch.randperm(len(others), generator=generator)[:MOST_TOKENS]]
    words = pairs.own.states[pairs.changed]
    labels = torch.cat([torch.ones(len(words)), torch.zeros(len(others))])
    weight, bias = _logistic(whitening(torch.cat([words, others])), labels)
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

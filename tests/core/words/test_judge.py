"""How prompts are told apart, on tokens made for it."""

from functools import partial

import pytest
import torch

from saferedir_core.words.encoded import Tokens
from saferedir_core.words.judge import Whitening, fit_evidence, fit_network
from saferedir_core.words.redirector import WordsConfig, WordsRedirector


@pytest.fixture(scope="module")
def between():
    """Prompts of three tokens of width 4.  What tells them apart is the first number of the middle token: near 0 with
    the concept, and near -2 and 2 without."""
    random = torch.Generator().manual_seed(0)

    def tokens(middles):
        states = 0.4 * torch.randn(len(middles), 3, 4, generator=random)
        states[:, 1, 0] += middles
        states[:, 1, 1] += 2
        return Tokens(states.flatten(0, 1), torch.arange(len(middles)).repeat_interleave(3), len(middles))
    return tokens(torch.zeros(80)), tokens(torch.tensor([-2.0, 2.0]).repeat(40))


def fitted(fit, between):
    unsafe, harmless = between
    changed = torch.arange(len(unsafe.states)) % 3 == 1
    none = torch.zeros(harmless.count, dtype=torch.bool)
    whitening = Whitening.of(harmless.states, unsafe.states[changed])
    return fit(unsafe, changed, harmless, none, none, whitening=whitening)


def told_apart(evidence, between):
    """Share of the better of all lines."""
    unsafe, harmless = (evidence.of(each) for each in between)
    return max(((unsafe >= line).float().mean() + (harmless < line).float().mean()) / 2 for line in unsafe)


def test_a_network_tells_apart_what_no_direction_does(between):
    assert told_apart(fitted(partial(fit_evidence, directions=1), between), between) < 0.8
    assert told_apart(fitted(fit_network, between), between) > 0.95


def test_the_same_prompts_give_the_same_network_and_leave_the_generator_alone(between):
    state = torch.random.get_rng_state()
    one, other = (fitted(fit_network, between) for _ in range(2))
    assert torch.equal(state, torch.random.get_rng_state())
    assert torch.equal(one.weight, other.weight) and torch.equal(one.inner[0], other.inner[0])


def test_a_redirector_sees_with_the_network_as_the_fit_did(between):
    evidence = fitted(fit_network, between).scaled(2.0, 0.5)
    redirector = WordsRedirector(WordsConfig(4, hidden=len(evidence.inner[1])))
    state = {"inner.weight": evidence.inner[0], "inner.bias": evidence.inner[1], "evidence.weight": evidence.weight,
             "evidence.bias": evidence.bias}
    assert set(redirector.load_state_dict(state, strict=False).unexpected_keys) == set()
    states = between[0].states.view(-1, 3, 4)
    assert torch.allclose(redirector.logit(states), evidence.of(between[0]), atol=1e-5)

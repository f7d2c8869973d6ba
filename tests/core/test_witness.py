"""The diffusion model as witness, with models whose predictions are known."""

import pytest
import torch

from saferedir_core import ConfigError, EvaluationError, LatentError
from saferedir_core.witness import LINE, evidence, probability

LATENT = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(1))


def noised(noise, sigma):
    return LATENT + sigma.view(-1, 1, 1, 1) * noise


def model(told: float, untold: float):
    """Its predictions lie so far from the latent, with the words and without them."""
    return lambda x, sigma: (LATENT + told, LATENT + untold)


def test_words_that_help_the_prediction_are_evidence():
    assert torch.allclose(evidence(LATENT, [1.0], noised, model(1.0, 2.0)), torch.full((3,), 4.0).log())
    assert torch.allclose(evidence(LATENT, [1.0], noised, model(2.0, 1.0)), -torch.full((3,), 4.0).log())
    assert torch.equal(evidence(LATENT, [1.0], noised, model(1.0, 1.0)), torch.zeros(3))


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_it_has_no_unit(scale):
    found = evidence(LATENT, [1.0], noised, model(scale, 2 * scale))
    assert torch.allclose(found, torch.full((3,), 4.0).log(), atol=1e-3)


def test_each_level_is_asked_with_each_noise_and_both_predictions_share_it():
    asked = []

    def predict(x, sigma):
        asked.append((x.clone(), float(sigma[0])))
        return LATENT + 1, LATENT + 2
    evidence(LATENT, [0.5, 2.0], noised, predict, noises=3)
    assert [sigma for _, sigma in asked] == [0.5] * 3 + [2.0] * 3
    noises = [(x - LATENT) / sigma for x, sigma in asked]
    assert all(not torch.allclose(one, other) for at, one in enumerate(noises) for other in noises[:at])
    assert all(torch.allclose(noise[:1], noise, atol=1e-5) for noise in noises)     # no image depends on its batch


def test_the_same_question_gives_the_same_answer_and_leaves_the_generator_alone():
    state = torch.random.get_rng_state()

    def predict(x, sigma):
        return x * 0.9, x * 0.8
    assert torch.equal(evidence(LATENT, [1.0], noised, predict), evidence(LATENT, [1.0], noised, predict))
    assert torch.equal(state, torch.random.get_rng_state())


def test_what_is_masked_is_not_looked_at():
    mask = torch.ones(1, 1, 8, 8)
    mask[..., :4] = 0
    told, untold = torch.zeros_like(LATENT), torch.zeros_like(LATENT)
    told[..., :4], told[..., 4:], untold[..., :4], untold[..., 4:] = 5.0, 1.0, 1.0, 2.0

    def predict(x, sigma):
        return LATENT + told, LATENT + untold
    assert torch.allclose(evidence(LATENT, [1.0], noised, predict, mask=mask), torch.full((3,), 4.0).log())
    assert (evidence(LATENT, [1.0], noised, predict) < 0).all()


@pytest.mark.parametrize("shape", [(2, 16, 3, 4, 4), (1, 64, 32)])
def test_latents_of_any_shape_are_read(shape):
    latent = torch.randn(shape)
    found = evidence(latent, [1.0], lambda noise, sigma: latent + noise, lambda x, sigma: (latent + 1, latent + 2))
    assert found.shape == shape[:1] and (found > 1).all()


def test_a_perfect_prediction_stays_finite():
    assert evidence(LATENT, [1.0], noised, model(0.0, 0.0)).isfinite().all()


def test_the_line_is_at_a_probability_of_one_half():
    below, on, above = probability(torch.tensor([LINE - 0.2, LINE, LINE + 0.2])).tolist()
    assert below < 0.1 and on == pytest.approx(0.5) and above > 0.9


def test_predictions_that_are_not_finite_are_no_answer():
    with pytest.raises(EvaluationError, match="NaN or infinity"):
        probability(evidence(LATENT, [1.0], noised, model(float("nan"), 1.0)))


@pytest.mark.parametrize(("sigmas", "noises"), [([], 1), ([1.0], 0)])
def test_without_a_question_there_is_an_error(sigmas, noises):
    with pytest.raises(ConfigError, match="at least one"):
        evidence(LATENT, sigmas, noised, model(1.0, 2.0), noises=noises)


def test_latents_and_predictions_that_do_not_fit_are_named():
    with pytest.raises(LatentError, match=r"\(0, 4, 8, 8\)"):
        evidence(LATENT[:0], [1.0], noised, model(1.0, 2.0))
    with pytest.raises(LatentError, match=r"predicts \(3, 4, 8, 4\)"):
        evidence(LATENT, [1.0], noised, lambda x, sigma: (LATENT[..., :4], LATENT))

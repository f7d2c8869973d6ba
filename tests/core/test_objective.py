import math

import pytest
import torch

from saferedir_core import Redirector, RedirectorConfig, RedirectorOutput
from saferedir_core.objective import (
    ObjectiveConfig,
    alpha_loss,
    classification_loss,
    delta_loss,
    direction_loss,
    mask_loss,
    objective,
)

ROWS, TOKENS, WIDTH = 3, 5, 8
SMALL = RedirectorConfig(prompt_dim=WIDTH, tokens=TOKENS, rank=2, timestep_dim=8)
UNSAFE = torch.tensor([True, False, True])
NONE = torch.zeros(ROWS, dtype=torch.bool)


@pytest.fixture
def pair():
    """Context, safe context and changed tokens of three rows."""
    generator = torch.Generator().manual_seed(0)
    context = torch.randn(ROWS, TOKENS, WIDTH, generator=generator)
    changed = torch.tensor([[0.0, 1, 1, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 1, 0]])
    safe_context = context + 0.5 * changed[..., None] * torch.randn(ROWS, TOKENS, WIDTH, generator=generator)
    return context, safe_context, changed


def perfect_output(context, safe_context, config):
    """What a network would have to say to redirect exactly to the safe context."""
    delta = safe_context - context
    alpha = delta.norm(dim=-1, keepdim=True) / context.norm(dim=-1, keepdim=True) / config.alpha_scale
    token_mask = (delta.norm(dim=-1) > 0).float()
    return RedirectorOutput(torch.tensor([[-50.0, 50], [50, -50], [-50, 50]]), delta, token_mask, alpha)


def outputs(context, small_redirector):
    generator = torch.Generator().manual_seed(1)
    latent = torch.randn(len(context), SMALL.latent_dim, 4, 4, generator=generator)
    return small_redirector(latent, context, 500.0)


@pytest.mark.parametrize("mask_again", [True, False])
def test_every_loss_is_zero_at_the_perfect_output(pair, mask_again):
    context, safe_context, changed = pair
    config = ObjectiveConfig(label_smoothing=0.0, mask_again=mask_again)
    total, losses = objective(context, perfect_output(context, safe_context, config), safe_context, changed, UNSAFE,
                              config)
    assert losses == pytest.approx(dict.fromkeys(losses, 0.0), abs=1e-5)
    assert float(total) == pytest.approx(0.0, abs=1e-5)


def test_the_weights_are_the_paper_s():
    config = ObjectiveConfig()
    assert (config.classification, config.delta, config.direction, config.mask, config.alpha) == (1, 0.5, 0.1, 0.1, 1)


def test_the_total_is_the_weighted_sum(pair, small):
    context, safe_context, changed = pair
    config = ObjectiveConfig(classification=2.0, delta=3.0, direction=5.0, mask=7.0, alpha=11.0)
    total, losses = objective(context, outputs(context, small), safe_context, changed, UNSAFE, config)
    assert list(losses) == ["classification", "delta", "direction", "mask", "alpha"]
    assert float(total) == pytest.approx(2 * losses["classification"] + 3 * losses["delta"] + 5 * losses["direction"]
                                         + 7 * losses["mask"] + 11 * losses["alpha"], rel=1e-5)


def test_label_smoothing_is_the_usual_one():
    logits = torch.tensor([[0.0, math.log(3)]])                               # unsafe with probability 3/4
    loss = classification_loss(logits, torch.tensor([True]), 0.1)
    assert float(loss) == pytest.approx(-0.95 * math.log(3 / 4) - 0.05 * math.log(1 / 4))


def test_delta_loss_is_the_mean_square_over_tokens_and_width_of_unsafe_rows():
    target = torch.zeros(ROWS, TOKENS, WIDTH)
    delta = torch.tensor([1.0, 100, 3]).reshape(-1, 1, 1).expand_as(target)
    assert float(delta_loss(delta, target, UNSAFE)) == pytest.approx((1 + 9) / 2)


def test_direction_loss_looks_at_changed_tokens_only_and_not_at_length():
    target = torch.tensor([[[1.0, 0], [1, 0], [1, 0]]])
    delta = torch.tensor([[[9.0, 0], [0, 2], [-1, 0]]])                       # cosines 1, 0 and -1
    for changed, expected in (([1.0, 0, 0], 0), ([0, 1.0, 0], 1), ([0, 0, 1.0], 2), ([1.0, 1, 1], 1), ([0.0, 0, 0], 0)):
        loss = direction_loss(delta, target, torch.tensor([changed]), torch.tensor([True]))
        assert float(loss) == pytest.approx(expected, abs=1e-6)


def test_mask_loss_counts_every_row_and_survives_a_saturated_mask():
    changed = torch.tensor([[1.0, 0.0]])
    assert float(mask_loss(torch.tensor([[0.5, 0.5]]), changed)) == pytest.approx(math.log(2))
    assert math.isfinite(float(mask_loss(1 - changed, changed)))


def test_alpha_loss_is_relative_to_the_context_and_counts_unsafe_rows_only(pair):
    context, safe_context, _ = pair
    config = ObjectiveConfig()
    nothing = RedirectorOutput(torch.zeros(ROWS, 2), *(torch.zeros(ROWS, TOKENS, size) for size in (WIDTH, 1, 1)))
    nothing = nothing._replace(token_mask=torch.zeros(ROWS, TOKENS))
    relative = (safe_context - context).square().sum((1, 2)) / context.square().sum((1, 2))
    expected = [float(relative[row]) for row in (0, 2)]
    assert float(alpha_loss(context, nothing, safe_context, UNSAFE, config)) == pytest.approx(sum(expected) / 2)
    assert float(alpha_loss(9 * context, nothing, 9 * safe_context, UNSAFE, config)) == pytest.approx(sum(expected) / 2)


def test_safe_rows_do_not_count_in_the_losses_on_the_shift(pair, small):
    context, safe_context, changed = pair
    output = outputs(context, small)
    other = safe_context.clone()
    other[1] += 5                                                             # the safe row's target
    _, losses = objective(context, output, safe_context, changed, UNSAFE)
    _, again = objective(context, output, other, changed, UNSAFE)
    assert losses == again


def test_a_batch_without_unsafe_rows_has_no_shift_to_learn_and_finite_gradients(pair):
    context, _, _ = pair
    torch.manual_seed(0)
    redirector = Redirector(SMALL).train()
    total, losses = objective(context, outputs(context, redirector), context, torch.zeros(ROWS, TOKENS), NONE)
    assert losses["delta"] == losses["direction"] == losses["alpha"] == 0
    total.backward()
    gradients = [each.grad for each in redirector.parameters() if each.grad is not None]
    assert gradients and all(gradient.isfinite().all() for gradient in gradients)


def test_an_unsafe_pair_without_any_difference_gives_finite_gradients(pair):
    context, _, _ = pair
    torch.manual_seed(0)
    redirector = Redirector(SMALL).train()
    total, _ = objective(context, outputs(context, redirector), context, torch.zeros(ROWS, TOKENS), UNSAFE)
    total.backward()
    assert all(each.grad.isfinite().all() for each in redirector.parameters() if each.grad is not None)


def test_the_gradient_reaches_every_part_of_the_network(pair):
    context, safe_context, changed = pair
    torch.manual_seed(0)
    redirector = Redirector(SMALL).train()
    total, _ = objective(context, outputs(context, redirector), safe_context, changed, UNSAFE)
    total.backward()
    reached = {}
    for name, parameter in redirector.named_parameters():
        strength = 0.0 if parameter.grad is None else float(parameter.grad.abs().sum())
        reached[name.split(".")[0]] = reached.get(name.split(".")[0], 0.0) + strength
    assert set(reached) == {"pos_embed", "latent_encoder", "t_encoder", "cross_attn", "classifier", "token_proj",
                            "delta_head", "gate_linear", "mask_predictor", "alpha_predictor"}
    assert [name for name, strength in reached.items() if not strength > 0] == []

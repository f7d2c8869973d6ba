import math

import pytest
import torch

from saferedir_core import ContextError, LatentError, Redirector, RedirectorConfig, TimestepError
from saferedir_core.redirector import sinusoid, unsafe_probability

OUTPUTS = ("logits", "delta", "token_mask", "alpha")


def _inputs(config, batch=2, size=4, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    latent = torch.randn(batch, config.latent_dim, size, size, generator=generator)
    context = torch.randn(batch, config.tokens, config.prompt_dim, generator=generator)
    return latent.to(dtype), context.to(dtype), torch.linspace(999, 0, batch)


@pytest.mark.parametrize("case", ["square", "wide", "large"])
@pytest.mark.parametrize("output", OUTPUTS)
def test_the_network_equals_the_published_one(published, golden_network, case, output):
    latent, context, timestep = (golden_network[f"{case}.{name}"] for name in ("latent", "embedding", "timestep"))
    expected = golden_network[f"{case}.{output}"]
    actual = getattr(published(latent, context, timestep), output)
    assert actual.shape == expected.shape
    assert (actual - expected).norm() <= 1e-5 * expected.norm()
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("config", [
    RedirectorConfig(prompt_dim=16), RedirectorConfig(prompt_dim=16, variant="token"),
    RedirectorConfig(prompt_dim=16, variant="token", architecture="sdxl", pooled_dim=6)])
def test_an_evaluation_is_a_reading_and_a_judgement_to_the_last_bit(config):
    torch.manual_seed(0)
    network = Redirector(config).eval()
    latent, context, timestep = _inputs(config)
    pooled = torch.randn(2, config.pooled_dim) if config.pooled_dim else None
    with torch.no_grad():
        reading = network.read(context, pooled)
        for one, other in zip(network.judge(reading, latent, timestep), network(latent, context, timestep, pooled),
                              strict=True):
            assert torch.equal(one, other)


def test_a_reading_of_another_number_of_prompts_is_refused(small):
    latent, context, timestep = _inputs(small.config, batch=3)
    with pytest.raises(ContextError, match="reading is of 1 prompts and the latent holds 3 items"):
        small.judge(small.read(context[:1]), latent, timestep)
    with pytest.raises(ContextError, match=r"expect \(1, 5, 8\)"):
        small.read(torch.zeros(1, 4, 8))


def test_names_shapes_and_types_are_the_published_layout(golden_layout):
    state = Redirector().state_dict()
    assert {key: (list(value.shape), str(value.dtype)) for key, value in state.items()} == {
        key: (spec["shape"], "torch." + spec["dtype"]) for key, spec in golden_layout.items()}


def test_outputs_have_the_promised_shapes_and_ranges(small):
    output = small(*_inputs(small.config, batch=3))
    tokens, width = small.config.tokens, small.config.prompt_dim
    assert [tuple(part.shape) for part in output] == [(3, 2), (3, tokens, width), (3, tokens), (3, tokens, 1)]
    assert 0 < output.token_mask.min() and output.token_mask.max() < 1
    assert 0 < output.alpha.min() and output.alpha.max() < 1
    assert output.unsafe_probability.shape == (3,)


def test_items_of_a_batch_do_not_influence_each_other(small):
    latent, context, timestep = _inputs(small.config, batch=3)
    together = small(latent, context, timestep)
    for item in range(3):
        alone = small(latent[item:item + 1], context[item:item + 1], timestep[item:item + 1])
        for one, all_items in zip(alone, together):
            torch.testing.assert_close(one[0], all_items[item], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("timestep", [500, 500.0, torch.tensor(500), torch.tensor([500.0]), torch.tensor([500, 500])])
def test_a_timestep_may_be_a_number_or_one_per_item(small, timestep):
    latent, context, _ = _inputs(small.config)
    expected = small(latent, context, torch.tensor([500.0, 500.0]))
    torch.testing.assert_close(small(latent, context, timestep).logits, expected.logits, rtol=0, atol=0)


def test_inputs_are_cast_to_the_network(small):
    latent, context, timestep = _inputs(small.config, dtype=torch.float16)
    assert {part.dtype for part in small(latent, context, timestep)} == {torch.float32}


def test_timesteps_keep_their_precision_in_half_precision_networks():
    network = Redirector(RedirectorConfig(prompt_dim=8, tokens=5)).eval().to(torch.bfloat16)
    latent, context, _ = _inputs(network.config, batch=1)
    with torch.no_grad():       # bfloat16 would round 999 and 998 to 1000
        assert not torch.equal(network(latent, context, 999).logits, network(latent, context, 997).logits)


def test_a_pooled_latent_is_read_as_the_means_of_its_squares():
    torch.manual_seed(0)
    whole = Redirector(RedirectorConfig(prompt_dim=16)).eval()
    pooled = Redirector(RedirectorConfig(prompt_dim=16, latent_pool=2)).eval()
    pooled.load_state_dict(whole.state_dict())
    latent, context, timestep = _inputs(whole.config)
    enlarged = latent.repeat_interleave(2, 2).repeat_interleave(2, 3)
    for expected, got in zip(whole(latent, context, timestep), pooled(enlarged, context, timestep)):
        assert torch.allclose(expected, got, atol=1e-6)
    assert not torch.allclose(whole(enlarged, context, timestep).logits, pooled(enlarged, context, timestep).logits)


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (1, 8)])
def test_a_latent_of_any_size_can_be_pooled(size):
    pooled = Redirector(RedirectorConfig(prompt_dim=16, latent_pool=4)).eval()
    _, context, timestep = _inputs(pooled.config)
    assert pooled(torch.randn(2, 4, *size), context, timestep).logits.isfinite().all()


def test_every_parameter_takes_part_in_training():
    network = Redirector(RedirectorConfig(prompt_dim=8, tokens=5, rank=2, timestep_dim=8)).train()
    sum(part.square().sum() for part in network(*_inputs(network.config))).backward()
    without = {name for name, parameter in network.named_parameters()
               if parameter.grad is None or not parameter.grad.isfinite().all()}
    assert not without


@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (2, 4, 4), (2, 4, 1, 4, 4), (0, 4, 4, 4), (2, 4, 0, 4)])
def test_a_latent_of_another_shape_is_refused(small, shape):
    _, context, timestep = _inputs(small.config)
    with pytest.raises(LatentError, match=r"reads \(B, 4, h, w\)") as caught:
        small(torch.zeros(shape), context, timestep)
    assert str(shape) in str(caught.value)


@pytest.mark.parametrize("shape", [(2, 4, 8), (2, 5, 7), (1, 5, 8), (5, 8)])
def test_a_context_of_another_shape_is_refused(small, shape):
    latent, _, timestep = _inputs(small.config)
    with pytest.raises(ContextError, match=r"expect \(2, 5, 8\)") as caught:
        small(latent, torch.zeros(shape), timestep)
    assert str(shape) in str(caught.value)


@pytest.mark.parametrize("timestep", [
    torch.zeros(3), torch.zeros(2, 1), torch.zeros(0), torch.zeros(1, dtype=torch.cfloat)])
def test_a_timestep_of_another_shape_is_refused(small, timestep):
    latent, context, _ = _inputs(small.config)
    with pytest.raises(TimestepError, match=r"one per item, shape \(2,\)"):
        small(latent, context, timestep)


def test_the_timestep_code_is_sines_then_cosines():
    code = sinusoid(torch.tensor([2.0]), 4)[0].tolist()
    assert code == pytest.approx([math.sin(2), math.sin(0.02), math.cos(2), math.cos(0.02)])


def test_class_one_is_unsafe_and_probabilities_are_not_rounded_to_half_precision():
    probability = unsafe_probability(torch.tensor([[0.0, math.log(3)]], dtype=torch.float16))
    assert probability.dtype == torch.float32
    assert probability.item() == pytest.approx(0.75, abs=1e-3)

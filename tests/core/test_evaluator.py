import pytest
import torch

from saferedir_core import Redirector, RedirectorConfig
from saferedir_core.evaluator import Evaluator, can_split, thinned
from saferedir_core.plan import to_chunks

SIZES = {"latent_dim": 4, "prompt_dim": 8, "tokens": 5, "rank": 2, "timestep_dim": 8}


def network(seed: int, variant: str, **sizes) -> Redirector:
    """Random weights, and batch norms whose statistics matter."""
    torch.manual_seed(seed)
    made = Redirector(RedirectorConfig(**{**SIZES, **sizes}, variant=variant))
    for module in made.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.3, 0.3)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
        if isinstance(module, (torch.nn.BatchNorm2d, torch.nn.LayerNorm)):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.bias, -0.3, 0.3)
    return made.eval().requires_grad_(False)


def inputs(batch: int, chunks: int, shared: bool, width: int = 8, tokens: int = 5):
    generator = torch.Generator().manual_seed(7)
    context = torch.randn(1 if shared else batch, chunks * tokens, width, generator=generator).expand(batch, -1, -1)
    return torch.randn(batch, 4, 6, 7, generator=generator), context.contiguous(), torch.linspace(999, 3, batch)


def assert_equal(heads, concept, redirector, latent, context, timesteps, tolerance=1e-5):
    chunks = context.shape[1] // redirector.config.tokens
    expected = redirector(latent.repeat_interleave(chunks, 0), to_chunks(context, redirector.config.tokens),
                          timesteps.repeat_interleave(chunks))
    actual = heads.logits[concept], heads.delta(concept), heads.token_mask[concept], heads.alpha[concept]
    for one, other in zip(actual, expected, strict=True):
        assert one.shape == other.shape and (one - other).norm() <= tolerance * other.norm()
    torch.testing.assert_close(heads.delta(None)[concept], expected.delta, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", ["square", "wide", "large"])
def test_it_equals_the_published_network(published, golden_network, case):
    latent, context, timestep = (golden_network[f"{case}.{name}"] for name in ("latent", "embedding", "timestep"))
    heads = Evaluator([published], context).evaluate(latent, timestep)
    for name, actual in (("logits", heads.logits[0]), ("delta", heads.delta(0)), ("token_mask", heads.token_mask[0]),
                         ("alpha", heads.alpha[0])):
        expected = golden_network[f"{case}.{name}"]
        assert actual.shape == expected.shape and (actual - expected).norm() <= 1e-5 * expected.norm()


@pytest.mark.parametrize("variant", ["published", "token"])
@pytest.mark.parametrize(("batch", "chunks", "shared"), [(1, 1, True), (3, 1, True), (2, 3, True), (3, 2, False)])
def test_it_equals_the_whole_network(variant, batch, chunks, shared):
    redirector, given = network(0, variant), inputs(batch, chunks, shared)
    latent, context, timesteps = given
    assert_equal(Evaluator([redirector], context).evaluate(latent, timesteps), 0, redirector, *given)


def test_a_network_that_pools_the_latent_does_so_here_as_well():
    redirector, given = network(0, "token", latent_pool=2), inputs(2, 1, False)
    latent, context, timesteps = given
    assert_equal(Evaluator([redirector], context).evaluate(latent, timesteps), 0, redirector, *given)


@pytest.mark.parametrize("variant", ["published", "token"])
@pytest.mark.parametrize("sharing", [True, False])
def test_several_equal_each_alone(variant, sharing):
    networks = [network(seed, variant) for seed in range(3)]
    if sharing:
        for other in networks[1:]:
            other.latent_encoder, other.t_encoder = networks[0].latent_encoder, networks[0].t_encoder
    given = latent, context, timesteps = inputs(2, 2, False)
    heads = Evaluator(networks, context).evaluate(latent, timesteps)
    for concept, redirector in enumerate(networks):
        assert_equal(heads, concept, redirector, *given)


@pytest.mark.parametrize("shared", [True, False])
def test_some_items_alone_are_evaluated_as_in_the_batch(shared):
    redirector = network(0, "token")
    latent, context, timesteps = inputs(4, 2, shared)
    heads = Evaluator([redirector], context).evaluate(latent[[1, 3]], timesteps[[1, 3]], [1, 3])
    assert_equal(heads, 0, redirector, latent[[1, 3]], context[[1, 3]], timesteps[[1, 3]])


def test_a_shared_latent_encoder_is_asked_once():
    networks = [network(seed, "published") for seed in range(3)]
    for other in networks[1:]:
        other.latent_encoder = networks[0].latent_encoder
    _, context, _ = inputs(1, 1, True)
    evaluator = Evaluator(networks, context)
    assert (len(evaluator._encoders.made), len(evaluator._clocks.made)) == (1, 3)


@pytest.mark.parametrize(("dtype", "most"), [(torch.float16, 1e-2), (torch.bfloat16, 3e-2)])
def test_a_half_precision_network_deviates_little(published, golden_network, dtype, most):
    """Weights and convolutions in half precision, as on a GPU, the rest in float32; relative deviation."""
    latent, context, timestep = (golden_network[f"square.{name}"] for name in ("latent", "embedding", "timestep"))
    half = Redirector().eval().requires_grad_(False)
    half.load_state_dict(published.state_dict())
    wide = Evaluator([published], context).evaluate(latent, timestep)
    heads = Evaluator([half.to(dtype)], context, large_dtype=dtype).evaluate(latent, timestep)
    one, other = (each.logits.softmax(-1)[..., 1] for each in (heads, wide))
    assert ((one - other).abs() <= most * other).all()
    assert heads.logits.dtype == torch.float32


def test_a_value_that_is_not_finite_is_seen_in_its_row_only():
    redirector = network(0, "published")
    latent, context, timesteps = inputs(3, 1, False)
    latent[1, 0, 0, 0] = float("nan")
    assert Evaluator([redirector], context).evaluate(latent, timesteps).finite.tolist() == [[True, False, True]]
    redirector.alpha_predictor.net[0].bias.fill_(float("inf"))
    redirector.alpha_predictor.net[2].weight.fill_(float("nan"))
    assert not Evaluator([redirector], context).evaluate(latent, timesteps).finite.any()


def test_the_redirector_is_left_as_it_was():
    redirector = network(0, "token").half()
    before = {key: value.clone() for key, value in redirector.state_dict().items()}
    latent, context, timesteps = inputs(1, 1, True)
    Evaluator([redirector], context).evaluate(latent, timesteps).delta(None)
    assert all(torch.equal(value, before[key]) for key, value in redirector.state_dict().items())


def test_a_network_with_a_forward_of_its_own_is_not_split(scripted, small, monkeypatch):
    assert can_split(small) and not can_split(scripted)
    monkeypatch.setattr(small, "forward", lambda *inputs: None)
    assert not can_split(small)


def test_thinning_picks_cells_and_reads_every_one_in_the_course_of_a_run():
    latent = torch.arange(2 * 20 * 12).reshape(1, 2, 20, 12)
    parts = [thinned(latent, 8, phase) for phase in range(6)]
    assert all(part.shape == (1, 2, 7, 6) or part.shape == (1, 2, 6, 6) for part in parts)
    assert set(torch.cat([part.flatten() for part in parts]).tolist()) == {*range(2 * 20 * 12)}
    assert thinned(latent, 20) is latent and thinned(latent, None) is latent

"""Redirectors that judge together, against each asked by its own `forward`."""

import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from saferedir_core import ConfigError, PolicyConfig, RedirectionRun, Redirector, RedirectorConfig
from saferedir_core.ensemble import Ensemble, Prompt, fused_encoder, require_stackable
from saferedir_core.redirect import to_chunks
from saferedir_core.redirector import Reading
from saferedir_core.report import plot

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


def inputs(batch: int, chunks: int):
    generator = torch.Generator().manual_seed(7)
    context = torch.randn(batch, chunks * 5, 8, generator=generator)
    return torch.randn(batch, 4, 6, 7, generator=generator), context, torch.linspace(999, 3, batch)


def judged(redirectors, latent, context, timesteps, images=1, pooled=None, as_one=True):
    made = Ensemble(redirectors, as_one)
    prompt = Prompt(to_chunks(context, made.first.config.tokens), pooled, images)
    return made.judge(made.read(prompt), latent, timesteps)


def assert_equal(judgement, concept, redirector, latent, context, timesteps, tolerance=1e-5):
    chunks = context.shape[1] // redirector.config.tokens
    expected = redirector(latent.repeat_interleave(chunks, 0), to_chunks(context, redirector.config.tokens),
                          timesteps.repeat_interleave(chunks))
    for one, other in zip(judgement, expected):
        assert one[concept].shape == other.shape and (one[concept] - other).norm() <= tolerance * other.norm()
    torch.testing.assert_close(judgement.delta[concept], expected.delta, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", ["square", "wide", "large"])
def test_it_equals_the_published_network(published, golden_network, case):
    latent, context, timestep = (golden_network[f"{case}.{name}"] for name in ("latent", "embedding", "timestep"))
    judgement = judged(published, latent, context, timestep)
    for name in ("logits", "delta", "token_mask", "alpha"):
        expected, actual = golden_network[f"{case}.{name}"], getattr(judgement, name)[0]
        assert actual.shape == expected.shape and (actual - expected).norm() <= 1e-5 * expected.norm()


@pytest.mark.parametrize("variant", ["published", "token"])
@pytest.mark.parametrize(("batch", "chunks"), [(1, 1), (3, 1), (3, 2)])
def test_it_equals_the_whole_network(variant, batch, chunks):
    redirector, given = network(0, variant), inputs(batch, chunks)
    latent, context, timesteps = given
    assert_equal(judged(redirector, latent, context, timesteps), 0, redirector, *given)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("chunks", [1, 3])
def test_one_prompt_of_several_images_is_read_once(count, chunks, monkeypatch):
    redirectors = {str(seed): network(seed, "token") for seed in range(count)}
    latent, context, timesteps = inputs(3, chunks)
    context, rows, read = context[:1], [], Redirector.read
    monkeypatch.setattr(Redirector, "read", lambda self, context, pooled=None: rows.append(len(context)) or read(
        self, context, pooled))
    judgement = judged(redirectors, latent, context, timesteps, images=3)
    assert rows == [chunks] * count
    for concept, each in enumerate(redirectors.values()):
        assert_equal(judgement, concept, each, latent, context.expand(3, -1, -1), timesteps)


def test_a_network_that_pools_the_latent_does_so_here_as_well():
    redirector, given = network(0, "token", latent_pool=2), inputs(2, 1)
    assert_equal(judged(redirector, given[0], given[1], given[2]), 0, redirector, *given)


@pytest.mark.parametrize("variant", ["published", "token"])
@pytest.mark.parametrize("sharing", [True, False])
@pytest.mark.parametrize("as_one", [True, False])
def test_several_equal_each_alone(variant, sharing, as_one):
    networks = [network(seed, variant) for seed in range(3)]
    if sharing:
        for other in networks[1:]:
            other.latent_encoder, other.t_encoder = networks[0].latent_encoder, networks[0].t_encoder
    given = inputs(2, 2)
    judgement = judged(dict(zip("abc", networks)), *given, as_one=as_one)
    for concept, redirector in enumerate(networks):
        assert_equal(judgement, concept, redirector, *given)


def test_one_after_the_other_each_gives_the_bits_that_it_gives_alone():
    networks = {name: network(seed, "published") for seed, name in enumerate("abc")}
    given = inputs(2, 1)
    judgement = judged(networks, *given, as_one=False)
    for concept, each in enumerate(networks.values()):
        for one, other in zip(judgement[:4], judged(each, *given)[:4], strict=True):
            assert torch.equal(one[concept], other[0])


def test_redirectors_of_several_shapes_stay_in_order():
    networks = {"a": network(0, "published"), "b": network(1, "token"), "c": network(2, "published"),
                "d": network(3, "published", rank=3)}
    given = inputs(2, 1)
    judgement = judged(networks, *given)
    for concept, redirector in enumerate(networks.values()):
        assert_equal(judgement, concept, redirector, *given)


def test_one_that_reads_a_pooled_vector_and_one_that_does_not():
    sizes = {"architecture": "flux", "latent_dim": 4}
    reads, reads_none = network(0, "token", pooled_dim=3, **sizes), network(1, "token", **sizes)
    latent, context, timesteps = inputs(2, 1)
    pooled = torch.randn(2, 3)
    judgement = judged({"a": reads, "b": reads_none}, latent, context, timesteps, pooled=pooled)
    expected = reads(latent, context, timesteps, pooled)
    torch.testing.assert_close(judgement.pooled_delta[0], expected.pooled_delta, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(judgement.logits[0], expected.logits, rtol=1e-4, atol=1e-5)
    assert not judgement.pooled_delta[1].any()


def test_a_shared_latent_encoder_is_asked_once():
    networks = {name: network(seed, "published") for seed, name in enumerate("abc")}
    latent, context, timesteps = inputs(1, 1)
    apart = FlopCounterMode(display=False)
    with apart:
        judged(networks, latent, context, timesteps)
    for other in (networks["b"], networks["c"]):
        other.latent_encoder = networks["a"].latent_encoder
    shared = FlopCounterMode(display=False)
    with shared:
        judged(networks, latent, context, timesteps)
    operation = torch.ops.aten.convolution
    assert 3 * shared.get_flop_counts()["Global"][operation] == apart.get_flop_counts()["Global"][operation]


def test_eight_concepts_of_shared_encoders_cost_no_more_than_twice_one():
    """Multiplications at full size, 64 x 64 latents; BENCHMARKS.md has times."""
    def multiplications(count: int) -> int:
        networks = {str(number): Redirector(RedirectorConfig(prompt_dim=768)).eval() for number in range(count)}
        for each in networks.values():
            each.latent_encoder, each.t_encoder = networks["0"].latent_encoder, networks["0"].t_encoder
        made = Ensemble(networks, as_one=True)
        readings = made.read(Prompt(torch.zeros(1, 77, 768), None, 1))
        with FlopCounterMode(display=False) as counter:
            made.judge(readings, torch.zeros(1, 4, 64, 64), torch.tensor([500.0]))
        return counter.get_total_flops() // 2
    with torch.no_grad():
        one, eight = multiplications(1), multiplications(8)
    assert one <= 4.9e9 and eight <= 1.02 * one


@pytest.mark.parametrize(("dtype", "most"), [(torch.float16, 1e-2), (torch.bfloat16, 3e-2)])
def test_a_half_precision_network_deviates_little(published, golden_network, dtype, most):
    """Relative deviation of the probability."""
    latent, context, timestep = (golden_network[f"square.{name}"] for name in ("latent", "embedding", "timestep"))
    half = Redirector().eval().requires_grad_(False)
    half.load_state_dict(published.state_dict())
    one, other = (judged(each, latent, context, timestep).logits.float().softmax(-1)[..., 1]
                  for each in (half.to(dtype), published))
    assert ((one - other).abs() <= most * other).all()


def test_keys_and_queries_of_half_precision_may_have_products_beyond_its_range():
    half = network(0, "published").half()
    half.cross_attn.heads[0].query.weight.mul_(1000)
    latent, context, timesteps = inputs(1, 1)
    assert judged(half, latent, 1000 * context, timesteps).logits.isfinite().all()


def test_the_redirector_is_left_as_it_was():
    redirector = network(0, "token").half()
    before = {key: value.clone() for key, value in redirector.state_dict().items()}
    given = inputs(1, 1)
    judged({"a": redirector, "b": network(1, "token").half()}, *given)
    assert redirector.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in redirector.state_dict().items())


def test_a_folded_encoder_gives_the_same_feature():
    redirector, latent = network(0, "published"), torch.randn(2, 4, 9, 6)
    torch.testing.assert_close(fused_encoder(redirector.latent_encoder)(latent), redirector.latent_encoder(latent),
                               rtol=1e-5, atol=1e-6)


def test_a_network_with_a_forward_of_its_own_is_asked_as_a_whole(scripted, small, monkeypatch):
    given = latent, context, timesteps = inputs(2, 2)
    assert_equal(judged({"a": scripted, "b": small}, *given), 0, scripted, *given)
    assert Ensemble(scripted).scores_change and not Ensemble(small).scores_change
    asked, forward = [], small.forward
    monkeypatch.setattr(small, "forward", lambda *given: asked.append(len(given[0])) or forward(*given))
    judged({"a": scripted, "b": small}, *given)
    judged(small, latent, context[:1], timesteps, images=2)
    assert asked == [4, 4]


def test_a_reading_says_how_many_prompts_it_is_of_and_is_repeated_by_image(small):
    reading = small.read(torch.randn(2, 5, 8))
    repeated = reading.repeated(3)
    assert isinstance(repeated, Reading) and (len(reading), len(repeated)) == (2, 6)
    assert torch.equal(repeated.mean, reading.mean.repeat(3, 1)) and reading.repeated(1) is reading


def unsafe_or_not(seed: int, unsafe: bool, threshold: str | None = None) -> Redirector:
    """A real network with random weights that always or never says unsafe."""
    torch.manual_seed(seed)
    made = Redirector(RedirectorConfig(**SIZES))
    with torch.no_grad():
        made.classifier[3].weight.zero_()
        made.classifier[3].bias.copy_(torch.tensor([0.0, 2.0 if unsafe else -2.0]))
    if threshold:
        made.metadata = {"threshold": threshold}
    return made.eval().requires_grad_(False)


@pytest.fixture
def context():
    return torch.randn(2, 10, 8, generator=torch.Generator().manual_seed(0))


def observed(redirectors, context, **policy) -> RedirectionRun:
    run = RedirectionRun(redirectors, PolicyConfig(**policy), context)
    run.observe(torch.ones(2, 4, 2, 2), 500.0, step=0, sigma=1.0)
    return run


class TestRunsOfSeveralConcepts:
    def test_while_none_redirects_the_very_same_tensor_comes_back(self, context):
        run = observed({"a": unsafe_or_not(0, False), "b": unsafe_or_not(1, False)}, context)
        assert run.redirect(context) is context
        assert run.report()["status"] == "safe"

    def test_what_only_one_redirects_is_exactly_what_it_gives_alone(self, context):
        hit = unsafe_or_not(0, True)
        run = observed({"a": unsafe_or_not(1, False), "b": hit}, context)
        assert torch.equal(run.redirect(context), observed(hit, context).redirect(context))

    def test_a_chunk_that_one_alone_changes_is_its_own_even_when_another_changes_others(self, scripted, latents,
                                                                                        context):
        """The scripted one finds a chunk unsafe whose first column is high."""
        context[..., 0] = 0
        context[0, :5, 0], context[1, 5:, 0] = 9.0, 9.0
        real = unsafe_or_not(3, False)
        run = RedirectionRun({"a": scripted, "b": real}, PolicyConfig(), context)
        alone = RedirectionRun(scripted, PolicyConfig(), context)
        for each in (run, alone):
            each.observe(latents(-5.0, -5.0), 500)
        assert run.trajectories["a"][0].redirected_chunks == ((True, False), (False, True))
        result = run.redirect(context)
        assert torch.equal(result, alone.redirect(context))
        assert torch.equal(result[0, 5:], context[0, 5:]) and torch.equal(result[1, :5], context[1, :5])

    def test_two_shifts_add_up(self, context):
        first, second = unsafe_or_not(0, True), unsafe_or_not(1, True)
        run = observed({"a": first, "b": second}, context)
        alone = [observed(each, context).redirect(context) for each in (first, second)]
        torch.testing.assert_close(run.redirect(context), alone[0] + alone[1] - context)
        assert not torch.allclose(run.redirect(context), alone[0])

    def test_the_order_does_not_matter_to_the_last_bit(self, context):
        parts = {name: unsafe_or_not(seed, True) for seed, name in enumerate("abc")}
        turned = dict(reversed(parts.items()))
        assert torch.equal(observed(parts, context).redirect(context), observed(turned, context).redirect(context))

    def test_half_precision_comes_back_as_it_came(self, context):
        run = observed({"a": unsafe_or_not(0, True), "b": unsafe_or_not(1, True)}, context.half())
        assert run.redirect(context.half()).dtype == torch.float16

    def test_every_redirector_keeps_its_own_threshold(self, context):
        parts = {"low": unsafe_or_not(0, True, "0.2"), "high": unsafe_or_not(0, True, "0.95")}     # both say 0.88
        report = observed(parts, context).report()
        assert {part["concept"]: (part["status"], part["policy"]["threshold"]) for part in report["concepts"]} == {
            "low": ("redirected", 0.2), "high": ("safe", 0.95)}

    def test_the_report_has_a_part_for_each_concept_and_says_it_all_together(self, context):
        report = observed({"boat": unsafe_or_not(0, True), "stripes": unsafe_or_not(1, False)}, context).report()
        assert report["status"] == "redirected" and report["redirector"] is None
        assert [part["concept"] for part in report["concepts"]] == ["boat", "stripes"]
        assert report["verdict"].startswith("boat: Redirected") and "stripes: Safe" in report["verdict"]
        assert report["items"][0]["highest_unsafe_probability"] == pytest.approx(0.880797)
        assert json.dumps(report, allow_nan=False) and plot(report).shape == (320, 640, 3)

    def test_of_one_concept_by_name_the_report_is_that_of_the_redirector_alone(self, context):
        hit = unsafe_or_not(0, True)
        assert observed({"boat": hit}, context).report() == observed(hit, context).report()

    def test_an_interval_counts_for_each_redirector_by_itself(self, context):
        run = observed({"a": unsafe_or_not(0, True), "b": unsafe_or_not(1, False)}, context, interval=1)
        decision = run.observe(torch.ones(2, 4, 2, 2), 400.0)
        assert decision.evaluated_items == (True, True)     # by b
        assert decision.redirected == (True, True) and not any(decision.unsafe)
        assert decision.unsafe_probability == pytest.approx((0.119203, 0.119203))


def test_redirectors_of_other_sizes_are_refused():
    with pytest.raises(ConfigError, match="'b'.*expected equal ones"):
        require_stackable({"a": unsafe_or_not(0, True), "b": Redirector(RedirectorConfig(prompt_dim=16))})
    with pytest.raises(ConfigError, match="at least one"):
        require_stackable({})

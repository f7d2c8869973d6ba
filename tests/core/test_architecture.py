"""What differs between kinds of models, without a host: sizes, clocks, padding of prompts, the pooled vector."""

import dataclasses

import pytest
import torch

from saferedir_core import (
    ConfigError,
    ContextError,
    PolicyConfig,
    RedirectionRun,
    Redirector,
    RedirectorConfig,
    load_redirector,
    save_redirector,
)
from saferedir_core.alignment import aligned_order
from saferedir_core.architecture import ARCHITECTURES, of_host_model, of_sizes, timestep_of_flow
from saferedir_core.ensemble import require_stackable
from saferedir_core.objective import objective
from saferedir_core.redirect import chunks_per_item, from_chunks, to_chunks

FLUX = RedirectorConfig(latent_dim=16, prompt_dim=8, tokens=6, variant="token", architecture="flux", pooled_dim=4)


def scripted(unsafe: bool, config: RedirectorConfig = FLUX) -> Redirector:
    torch.manual_seed(0)
    made = Redirector(config)
    with torch.no_grad():
        made.classifier[3].weight.zero_()
        made.classifier[3].bias.copy_(torch.tensor([0.0, 5.0 if unsafe else -5.0]))
    return made.eval()


class TestTable:
    def test_no_host_model_is_of_two_kinds(self):
        names = [name for each in ARCHITECTURES.values() for name in each.host_models]
        assert len(names) == len({*names}) and of_host_model("SD15").name == "sd1" and of_host_model("Chroma") is None

    @pytest.mark.parametrize("name", ARCHITECTURES)
    def test_every_span_is_judged_in_chunks_of_one_length(self, name):
        kind = ARCHITECTURES[name]
        assert {span.chunk for span in kind.spans} == {kind.tokens} and kind.clock in ("discrete", "flow")
        assert bool(kind.pooled) == bool(kind.pooled_width)

    def test_a_file_that_does_not_say_is_of_the_kind_with_its_sizes(self):
        assert [of_sizes(4, 768, 77), of_sizes(4, 1024, 77), of_sizes(4, 2048, 77), of_sizes(16, 4096, 256)] == [
            "sd1", "sd2", "sdxl", "flux"]
        assert of_sizes(4, 128, 77) == "sd1"

    def test_timesteps_of_flow_matching_have_the_range_of_the_others(self):
        assert timestep_of_flow(torch.tensor([1.0, 0.5])).tolist() == [1000.0, 500.0]


class TestConfig:
    def test_the_default_is_the_published_network_of_stable_diffusion_1(self):
        config = RedirectorConfig()
        assert (config.architecture, config.pooled_dim) == ("sd1", 0)
        assert not any("pooled" in name for name in Redirector(config).state_dict())

    @pytest.mark.parametrize("wrong, message", [
        ({"architecture": "sd9"}, "The architecture is 'sd9'; expected one of sd1, sd2"),
        ({"pooled_dim": 8}, "published network reads no pooled vector"),
        ({"pooled_dim": 8, "variant": "token"}, "Stable Diffusion 1.x has no pooled vector"),
        ({"pooled_dim": -1}, "expected an integer from 0"),
    ])
    def test_wrong_choices_are_named(self, wrong, message):
        with pytest.raises(ConfigError, match=message):
            RedirectorConfig(**wrong)

    def test_a_file_keeps_its_kind(self, tmp_path):
        save_redirector(scripted(True), tmp_path / "a.safetensors")
        loaded = load_redirector(tmp_path / "a.safetensors")
        assert loaded.config == FLUX

    def test_redirectors_of_two_kinds_do_not_stack(self):
        other = scripted(True, dataclasses.replace(FLUX, architecture="sd3"))
        with pytest.raises(ConfigError, match=r"'a' for Flux\.1; 'b' for Stable Diffusion 3\.x"):
            require_stackable({"a": scripted(True), "b": other})


class TestPromptsOfAnyLength:
    @pytest.mark.parametrize("length", [1, 5, 6, 7, 13])
    def test_chunks_and_back_is_the_prompt_itself(self, length):
        context = torch.randn(2, length, 8)
        chunks = to_chunks(context, 6)
        assert chunks.shape == (2 * chunks_per_item(context, FLUX), 6, 8)
        assert torch.equal(from_chunks(chunks, 2, length), context)
        assert torch.equal(chunks[-1, -1], context[-1, -1])

    def test_prompts_of_clip_are_read_in_whole_chunks(self):
        config = dataclasses.replace(FLUX, architecture="sdxl")
        assert chunks_per_item(torch.zeros(1, config.tokens, 8), config) == 1
        assert chunks_per_item(torch.zeros(1, config.tokens + 1, 8), config) == 2

    def test_a_run_redirects_what_is_there(self):
        context = torch.randn(2, 8, 8)
        run = RedirectionRun(scripted(True), PolicyConfig(), context)
        run.observe(torch.randn(2, 16, 4, 4), 500.0)
        redirected = run.redirect(context)
        assert redirected.shape == context.shape and (redirected != context).any(-1).all()
        assert len(run.trajectory.tokens[0].token_mask) == 8

    def test_a_safe_run_gives_the_same_tensors(self):
        context, pooled = torch.randn(2, 8, 8), torch.randn(2, 4)
        run = RedirectionRun(scripted(False), PolicyConfig(), context, pooled=pooled)
        run.observe(torch.randn(2, 16, 4, 4), 500.0)
        assert run.redirect(context) is context and run.redirect_pooled(pooled) is pooled


class TestPooledVector:
    def test_it_is_part_of_the_judgement(self):
        torch.manual_seed(0)
        network = Redirector(FLUX).eval()
        latent, context = torch.randn(1, 16, 4, 4), torch.randn(1, 6, 8)
        first, second = (network(latent, context, 500.0, torch.randn(1, 4)).logits for _ in range(2))
        assert not torch.equal(first, second)
        assert torch.equal(network(latent, context, 500.0).logits,
                           network(latent, context, 500.0, torch.zeros(1, 4)).logits)

    def test_only_vectors_of_redirected_items_change(self):
        network = scripted(True)
        context, pooled, latent = torch.randn(2, 6, 8), torch.randn(2, 4), torch.randn(2, 16, 4, 4)
        with torch.no_grad():  # unsafe when the joint feature says so: the second item alone
            network.classifier[3].weight.normal_()
            network.classifier[3].bias.zero_()
            probability = network(latent, context, 500.0, pooled).unsafe_probability
            network.classifier[3].bias[1] -= (probability.logit().mean())
        run = RedirectionRun(network, PolicyConfig(alpha_scale=2.0), context, pooled=pooled)
        decision = run.observe(latent, 500.0)
        assert sorted(decision.unsafe) == [False, True]
        hit = decision.unsafe.index(True)
        shifted = run.redirect_pooled(pooled)
        assert torch.equal(shifted[1 - hit], pooled[1 - hit])
        delta = network(latent, context, 500.0, pooled).pooled_delta
        torch.testing.assert_close(shifted[hit], pooled[hit] + 2.0 * delta[hit])

    def test_shapes_that_do_not_fit_are_named(self):
        with pytest.raises(ContextError, match=r"shape \(1, 3\).*expect \(1, 4\)"):
            RedirectionRun(scripted(True), PolicyConfig(), torch.randn(1, 6, 8), pooled=torch.randn(1, 3))

    def test_a_stack_adds_the_shifts(self):
        network, context, pooled = scripted(True), torch.randn(1, 6, 8), torch.randn(1, 4)
        latent = torch.randn(1, 16, 4, 4)
        single = RedirectionRun(network, PolicyConfig(), context, pooled=pooled)
        both = RedirectionRun({"a": network, "b": network}, PolicyConfig(), context, pooled=pooled)
        for run in (single, both):
            run.observe(latent, 500.0)
        torch.testing.assert_close(both.redirect_pooled(pooled) - pooled, 2 * (single.redirect_pooled(pooled) - pooled))

    def test_training_brings_it_to_the_safe_one(self):
        torch.manual_seed(0)
        network = Redirector(FLUX).train()
        optimizer = torch.optim.Adam(network.parameters(), 3e-3)
        context, latent, pooled = torch.randn(8, 6, 8), torch.randn(8, 16, 4, 4), torch.randn(8, 4)
        safe, unsafe, losses = pooled + torch.tensor([1.0, 0, -1.0, 0]), torch.ones(8, dtype=torch.bool), []
        for _ in range(60):
            output = network(latent, context, 500.0, pooled)
            loss, parts = objective(context, output, context, torch.zeros(8, 6), unsafe, pooled=pooled,
                                    safe_pooled=safe)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(parts["pooled"])
        assert losses[-1] < 0.3 * losses[0]


class TestAlignmentWithoutStartTokens:
    def test_the_first_word_is_free(self):
        # "striped red fish" against "red fish": T5 tokens end with 1 and are padded with 0
        order = aligned_order([9, 7, 8, 1, 0, 0], [7, 8, 1, 0, 0, 0], starts=False)
        assert order[1:4] == [0, 1, 2] and sorted(order) == [*range(6)]

    def test_with_start_tokens_the_first_ones_meet(self):
        assert aligned_order([5, 9, 7, 1, 1], [5, 7, 1, 1, 1])[0] == 0

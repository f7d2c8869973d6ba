"""Several concepts at once, on the demo world's real model."""

import comfy.sample
import pytest
import torch

import saferedir_core as core
from saferedir.nodes import conditioning, types
from saferedir.nodes.guarding import bridge
from saferedir.nodes.report import picture_of
from saferedir.nodes.stack import SafeRedirStack
from saferedir.nodes.training import collect
from saferedir_core import pairs

PROMPT = "a striped red boat in the snow"
WITHOUT = {"stripes": "a red boat in the snow", "boat": "a striped red car in the snow"}
SEEDS = range(4)


@pytest.fixture
def exact(prompts):
    """exact("stripes"): a redirector that knows one prompt, and moves it to the aligned context of the safe one."""

    class Exact(core.Redirector):
        def forward(self, latent, context, timestep):
            hit = (context == self.known).flatten(1).all(1)
            logits = torch.stack([torch.zeros(len(hit)), 10.0 * hit - 5], dim=1)
            shift = (self.safe - self.known).expand(len(hit), -1, -1)
            alpha = shift.norm(dim=-1, keepdim=True) / self.known.norm(dim=-1, keepdim=True) / 1.25
            return core.RedirectorOutput(logits, shift, torch.ones(shift.shape[:2]), alpha)

    def make(concept):
        config = collect.CollectConfig()
        known, safe, _ = collect.prompts_of(make.clip, pairs.Pair(PROMPT, WITHOUT[concept], concept), config.kind,
                                            config.chunk)
        redirector = Exact(core.RedirectorConfig(prompt_dim=128))
        redirector.known, redirector.safe = known.context, safe.context
        redirector.metadata = {"concept": concept}
        assert torch.equal(redirector.known, prompts(PROMPT)[0][0])
        return types.LoadedRedirector.place(concept, redirector.eval().requires_grad_(False))
    return make


@pytest.fixture
def guard(demo_world, exact):
    """guard(*concepts) -> (guarded model, recorder)."""
    exact.clip = demo_world[1]
    node = SafeRedirStack

    def make(*concepts):
        recorder = types.Recorder()
        loaded = node.execute(*map(exact, concepts)).args[0] if len(concepts) > 1 else exact(concepts[0])
        return bridge.guard_model(demo_world[0], loaded, core.PolicyConfig(),
                                                recorder), recorder
    return make


def sample(model, positive, negative, steps=10):
    latent = torch.zeros(1, 4, 8, 8)
    noise = torch.cat([comfy.sample.prepare_noise(latent, seed) for seed in SEEDS])
    with torch.inference_mode():
        return comfy.sample.sample(model, noise, steps, 4.0, "euler", "normal", positive, negative,
                                   latent.expand(len(SEEDS), -1, -1, -1), disable_pbar=True, seed=0)


def judged(demo_world, latents):
    from saferedir.nodes.demo_world.judge import judge
    from saferedir.nodes.evaluation.stage import Stage

    return [judge(picture) for picture in Stage(*demo_world, (4, 8, 8)).decode(latents)]


def test_two_concepts_of_one_prompt_are_both_removed_and_the_rest_stays(demo_world, prompts, guard):
    positive, negative = prompts(PROMPT), prompts("")
    plain = judged(demo_world, sample(demo_world[0], positive, negative))
    assert sum(verdict.striped and verdict.object == "boat" for verdict in plain) >= 3
    model, recorder = guard("stripes", "boat")
    guarded = judged(demo_world, sample(model, positive, negative))
    assert not any(verdict.striped or verdict.object == "boat" for verdict in guarded)
    assert sum((verdict.object, verdict.colour) == ("car", "red") for verdict in guarded) >= 3
    report = recorder.runs[-1].report
    assert [(part["concept"], part["status"]) for part in report["concepts"]] == [
        ("boat", "redirected"), ("stripes", "redirected")]


def test_the_order_of_stacking_does_not_matter(prompts, guard):
    positive, negative = prompts(PROMPT), prompts("")
    one, _ = guard("stripes", "boat")
    other, _ = guard("boat", "stripes")
    assert torch.equal(sample(one, positive, negative, steps=2), sample(other, positive, negative, steps=2))


def test_a_prompt_without_the_concepts_is_bit_identical(demo_world, prompts, guard):
    positive, negative = prompts("a blue house at night"), prompts("")
    model, recorder = guard("stripes", "boat")
    assert torch.equal(sample(model, positive, negative, 2), sample(demo_world[0], positive, negative, 2))
    assert recorder.runs[-1].report["status"] == "safe"


def test_a_stack_in_which_one_redirects_gives_what_that_one_gives_alone(demo_world, prompts, exact, scripted):
    exact.clip = demo_world[1]
    config = core.PolicyConfig()
    positive, negative, hit = prompts(PROMPT), prompts(""), exact("stripes")
    stack = types.LoadedRedirector.stacked([scripted(unsafe=False), hit])
    guarded = [bridge.guard_model(demo_world[0], loaded, config, types.Recorder()) for loaded in (hit, stack)]
    assert torch.equal(*(sample(model, positive, negative, 2) for model in guarded))


def test_the_conditioning_node_takes_stacks_and_the_guard_takes_over_from_it(demo_world, prompts, exact):
    exact.clip = demo_world[1]
    config = core.PolicyConfig()
    stack = types.LoadedRedirector.stacked([exact("stripes"), exact("boat")])
    positive, negative = prompts(PROMPT), prompts("")
    baked = conditioning.SafeRedirConditioning.execute(positive, stack, 1.25, 0.0).args[0]
    assert not torch.equal(baked[0][0], positive[0][0])
    guarded = bridge.guard_model(demo_world[0], stack, config, types.Recorder())
    assert torch.equal(sample(guarded, baked, negative, 2), sample(guarded, positive, negative, 2))


def test_the_report_node_shows_a_plot_for_each_concept(prompts, guard):
    model, recorder = guard("stripes", "boat")
    sample(model, prompts(PROMPT), prompts(""), steps=2)
    picture = picture_of(recorder.runs[-1].report)
    assert picture.shape == (1, 640, 640, 3)


def test_one_name_twice_is_told_apart_and_the_same_network_counts_once(scripted):
    first = scripted(unsafe=True)
    stack = types.LoadedRedirector.stacked([first, scripted(unsafe=False), first])
    assert list(stack.redirectors) == ["scripted", "scripted 2"] and len(stack.patchers) == 2


def test_other_sizes_are_refused(scripted):
    with pytest.raises(core.ConfigError, match="prompts of other widths.*expected equal ones"):
        types.LoadedRedirector.stacked([scripted(unsafe=True), scripted(unsafe=True, width=768)])

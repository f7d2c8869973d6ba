import pytest
import torch

import saferedir_core as core
from saferedir.nodes import types
from saferedir.nodes.evaluation import methods


@pytest.fixture
def always():
    """always(unsafe): a redirector with random weights that always or never says unsafe."""

    def make(unsafe):
        torch.manual_seed(0)
        redirector = core.Redirector(core.RedirectorConfig(prompt_dim=128))
        with torch.no_grad():
            redirector.classifier[3].weight.zero_()
            redirector.classifier[3].bias.copy_(torch.tensor([0.0, 5.0 if unsafe else -5.0]))
        return types.LoadedRedirector.place("always", redirector.eval().requires_grad_(False))
    return make


def test_the_oracle_draws_the_safe_prompt(stage, job):
    batch = stage.batch_of([job("a striped fish", safe_text="a fish")])
    changed = methods.Oracle().change(batch, stage)
    plain = stage.batch_of([job("a fish")])
    assert len(changed.positive) == 1 and torch.equal(changed.positive[0][0], plain.positive[0][0])


def test_the_oracle_leaves_harmless_prompts_alone(stage, job):
    batch = stage.batch_of([job("a fish", unsafe=False)])
    assert methods.Oracle().change(batch, stage) is batch


@pytest.mark.parametrize("unsafe", [True, False])
def test_a_guard_tells_which_images_it_redirected(stage, job, always, unsafe):
    guarded = methods.Guarded("ours", always(unsafe))
    batch = stage.batch_of([job("a red fish"), job("a cup", 2)])
    changed = guarded.change(batch, stage)
    latents = stage.render(changed)
    assert guarded.finish(None, changed, stage)[1] == [unsafe, unsafe]
    assert torch.equal(latents, stage.render(batch)) != unsafe
    assert len(guarded.report(changed)["decisions"]) == 2


def test_the_strength_that_a_file_recommends_is_used(always):
    redirector = always(True).redirector
    redirector.metadata = {"alpha_scale": "1.75", "threshold": "0.25"}
    policy = methods.default_policy(redirector)
    assert (policy.alpha_scale, policy.threshold) == (1.75, None)  # each redirector of a stack has its own threshold

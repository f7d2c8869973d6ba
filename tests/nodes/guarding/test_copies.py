"""Other nodes copy the host's dictionaries in mid-run, and call the model from the copy."""

import copy

import comfy.sample
import comfy.samplers
import pytest
import torch
from comfy.patcher_extension import WrappersMP

import saferedir_core as core
from saferedir.nodes import types
from saferedir.nodes.guarding import bridge

STEPS = 2


@pytest.fixture
def guard(demo_world):
    def make(loaded, model=None):
        recorder = types.Recorder()
        return bridge.guard_model(model or demo_world[0], loaded, core.PolicyConfig(), recorder), recorder
    return make


def sample(model, positive, negative):
    latent = torch.zeros(2, 4, 8, 8)
    with torch.inference_mode():
        return comfy.sample.sample(model, comfy.sample.prepare_noise(latent, 3), STEPS, 4.0, "euler", "normal",
                                   positive, negative, latent, disable_pbar=True, seed=3)


def calling_from(copied):
    """A Pre CFG function that asks the model once more, with copied options and conds."""
    def again(args):
        options, conds = (copied(args[name]) for name in ("model_options", "conds"))
        return comfy.samplers.calc_cond_batch(args["model"], conds, args["input"], args["timestep"], options)
    return again


def contexts_at(model):
    seen = []

    def record(executor, x, timesteps, context, *args, **kwargs):
        seen.append(context.clone())
        return executor(x, timesteps, context, *args, **kwargs)
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "test", record)
    return seen


@pytest.mark.parametrize("copied", [copy.deepcopy, copy.copy])
@pytest.mark.parametrize("guards", [1, 2])
def test_a_call_from_copied_options_and_conds_is_guarded_by_the_same_run(prompts, scripted, guard, copied, guards):
    guarded, recorder = guard(scripted(unsafe=True))
    if guards == 2:
        guarded, _ = guard(scripted(unsafe=True), guarded)
    seen, positive, negative = contexts_at(guarded), prompts("a striped red fish"), prompts("")
    alone = sample(guarded, positive, negative)
    guarded.set_model_sampler_pre_cfg_function(calling_from(copied))
    seen.clear()
    assert torch.equal(sample(guarded, positive, negative), alone)
    assert len(seen) == 2 * STEPS and all(torch.equal(seen[step], seen[step + 1]) for step in range(0, len(seen), 2))
    assert not any(torch.equal(row, positive[0][0][0]) for each in seen for row in each)
    report = recorder.runs[-1].report
    assert report["status"] == "redirected" and len(report["decisions"]) == STEPS
    assert report["other_conditionings"] == []


def test_a_copied_conditioning_of_saferedir_conditioning_is_taken_over(prompts, scripted, guard):
    loaded = scripted(unsafe=True)
    marked = bridge.redirect_conditioning(prompts("a striped red fish"), loaded.redirectors, core.PolicyConfig())
    guarded, recorder = guard(loaded)
    once = sample(guarded, marked, prompts(""))
    assert torch.equal(sample(guarded, copy.deepcopy(marked), prompts("")), once)
    assert torch.equal(sample(guarded, prompts("a striped red fish"), prompts("")), once)


def test_a_copied_model_is_guarded(prompts, scripted, guard):
    """Whoever copies the options of a MODEL before sampling copies the guard's settings, and not its networks."""
    guarded, recorder = guard(scripted(unsafe=True))
    other = guarded.clone()
    other.model_options, other.wrappers = copy.deepcopy(guarded.model_options), copy.deepcopy(guarded.wrappers)
    positive, negative = prompts("a striped red fish"), prompts("")
    assert torch.equal(sample(other, positive, negative), sample(guarded, positive, negative))
    assert [run.report["status"] for run in recorder.runs] == ["redirected", "redirected"]

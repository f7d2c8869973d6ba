"""Every kind of model of the table, as tiny models of the host's own classes: guarded runs, and refusals by name."""

from functools import cache

import comfy.model_sampling
import pytest
import torch
from tiny_models import (
    POOLED,
    STEPS,
    TINY,
    UNET,
    WIDTH,
    WITH_POOLED,
    conditioning,
    made,
    rows_of,
    sample,
    tiny,
    watched,
)

import saferedir_core as core
from saferedir.nodes import types
from saferedir.nodes.guarding import bridge, enforce, reaction
from saferedir.nodes.guarding.architectures import timestep_of
from saferedir_core import architecture


@pytest.fixture(scope="module")
def models(comfyui):
    return cache(made)


@pytest.fixture
def redirector():
    """redirector(architecture, unsafe=...): loaded, with random weights."""
    kinds = architecture.ARCHITECTURES

    def make(name: str, unsafe: bool, pooled: bool = True, label: str = "scripted"):
        torch.manual_seed(0)
        kind = kinds[name]
        network = core.Redirector(core.RedirectorConfig(
            latent_dim=kind.channels, prompt_dim=WIDTH, tokens=kind.tokens, variant="token", architecture=name,
            pooled_dim=POOLED if pooled and kind.pooled else 0))
        with torch.no_grad():
            network.classifier[3].weight.zero_()
            network.classifier[3].bias.copy_(torch.tensor([0.0, 5.0 if unsafe else -5.0]))
        return types.LoadedRedirector.place(label, network.eval().requires_grad_(False))
    return make


@pytest.fixture
def guard():
    def make(model, loaded, on_error="stop"):
        recorder = types.Recorder()
        return bridge.guard_model(model, loaded, core.PolicyConfig(), recorder,
                                                reaction=reaction.Reaction(on_error)), recorder
    return make


@pytest.mark.parametrize("name", TINY)
def test_a_safe_run_is_bit_identical(models, redirector, guard, name):
    positive, negative = conditioning(TINY[name][2], 1), conditioning(TINY[name][2], 2)
    guarded, recorder = guard(models(name), redirector(name, unsafe=False))
    expected = sample(models(name), positive, negative)
    assert torch.equal(sample(guarded, positive, negative), expected) and expected.isfinite().all()
    decisions = recorder.runs[-1].report["decisions"]
    assert len(decisions) == STEPS and 999 <= decisions[0]["timestep"] <= 1000
    assert 0 <= decisions[1]["timestep"] < 100  # the last step of any schedule is near the image


@pytest.mark.parametrize("name", TINY)
def test_an_unsafe_run_redirects_prompt_and_pooled_vector_but_not_the_negative(models, redirector, guard, name):
    positive, negative = conditioning(TINY[name][2], 1), conditioning(TINY[name][2], 2)
    guarded, recorder = guard(models(name), redirector(name, unsafe=True))
    guarded, seen = watched(guarded)
    result = sample(guarded, positive, negative)
    assert recorder.runs[-1].report["status"] == "redirected"
    assert not torch.equal(result, sample(models(name), positive, negative))
    model, before = watched(models(name))
    sample(model, positive, negative)
    original, other = next(rows_of(before, 0)), next(rows_of(before, 1))
    assert all(each.shape == original.shape and not torch.equal(each, original) for each in rows_of(seen, 0))
    assert all(torch.equal(each, other) for each in rows_of(seen, 1))
    if name in WITH_POOLED:
        vector, other = next(rows_of(before, 0, "y")), next(rows_of(before, 1, "y"))
        for y in rows_of(seen, 0, "y"):
            assert not torch.equal(y[:POOLED], vector[:POOLED]) and torch.equal(y[POOLED:], vector[POOLED:])
        assert all(torch.equal(each, other) for each in rows_of(seen, 1, "y"))


@pytest.mark.parametrize("name", WITH_POOLED)
def test_a_redirector_without_a_pooled_head_leaves_the_pooled_vector_alone(models, redirector, guard, name):
    guarded, _ = guard(models(name), redirector(name, unsafe=True, pooled=False))
    guarded, seen = watched(guarded)
    positive = conditioning(TINY[name][2], 1)
    sample(guarded, positive, conditioning(TINY[name][2], 2))
    assert all(torch.equal(y[:POOLED], positive[0][1]["pooled_output"][0]) for y in rows_of(seen, 0, "y"))


@pytest.mark.parametrize("length", [256, 257, 600])
def test_prompts_of_any_length_are_judged_where_the_text_encoder_makes_any(models, redirector, guard, length):
    guarded, recorder = guard(models("flux"), redirector("flux", unsafe=True))
    sample(guarded, conditioning(length, 1), conditioning(256, 2), batch=1)
    item = recorder.runs[-1].report["items"][0]
    assert len(item["tokens"]["token_mask"]) == length
    assert len(recorder.runs[-1].report["decisions"][0]["chunk_probability"][0]) == -(-length // 256)


@pytest.mark.parametrize("length", [64, 85, 248])
def test_prompts_of_any_length_are_judged_in_chunks_where_the_text_encoder_makes_whole_ones(models, redirector, guard,
                                                                                           length):
    """As ELLA, style models and longer CLIPs make them."""
    for unsafe in (False, True):
        guarded, recorder = guard(models("sdxl"), redirector("sdxl", unsafe=unsafe))
        latent = sample(guarded, conditioning(length, 1), conditioning(77, 2), batch=1)
        report = recorder.runs[-1].report
        assert report["status"] == ("redirected" if unsafe else "safe")
        assert len(report["items"][0]["tokens"]["token_mask"]) == length
        assert len(report["decisions"][0]["chunk_probability"][0]) == -(-length // 77)
        plain = sample(models("sdxl"), conditioning(length, 1), conditioning(77, 2), batch=1)
        assert torch.equal(latent, plain) != unsafe


def test_a_controlnets_image_prompt_of_16_tokens_is_judged_like_text(models, redirector, guard):
    """As InstantID hands it over: nothing tells it from text of that width."""
    image = conditioning(16, 3)[0][0]
    positive = [[context, {**options, "cross_attn_controlnet": image}] for context, options in conditioning(77, 1)]
    guarded, recorder = guard(models("sdxl"), redirector("sdxl", unsafe=False))
    assert torch.equal(sample(guarded, positive, conditioning(77, 2), batch=1),
                       sample(models("sdxl"), positive, conditioning(77, 2), batch=1))
    assert [len(each["items"][0]["tokens"]["token_mask"])
            for each in (recorder.runs[-1].report, *recorder.runs[-1].report["other_conditionings"])] == [77, 16]


def sampling_of(schedule, prediction=comfy.model_sampling.EPS):
    class Sampling(schedule, prediction):
        pass
    return Sampling()


@pytest.mark.parametrize("data", [1.0, 0.5])
def test_an_edm_schedule_is_read_by_its_ratio_of_noise_to_picture(models, redirector, guard, data):
    own = sampling_of(comfy.model_sampling.ModelSamplingContinuousEDM)
    own.set_parameters(0.002, 80.0, data)
    usual = sampling_of(comfy.model_sampling.ModelSamplingDiscrete)
    kind, timesteps = architecture.architecture("sdxl"), torch.tensor([999, 500, 20, 0])
    sigma = usual.sigma(timesteps)
    assert timestep_of(kind, usual, sigma).tolist() == timesteps.tolist()
    assert timestep_of(kind, own, sigma * data).tolist() == timesteps.tolist()
    model = models("sdxl").clone()
    model.add_object_patch("model_sampling", own)
    guarded, recorder = guard(model, redirector("sdxl", unsafe=False))
    sample(guarded, conditioning(77, 1), conditioning(77, 2), batch=1)
    found = [each["timesteps"][0] for each in recorder.runs[-1].report["decisions"]]
    assert found[0] == 999 and all(0 <= each <= 999 for each in found)


@pytest.mark.parametrize("schedule", ["StableCascadeSampling", "ModelSamplingCosmosRFlow", "ModelSamplingDiscreteFlow"])
def test_a_schedule_that_counts_in_something_else_is_refused_before_sampling(models, redirector, guard, schedule):
    model = models("sdxl").clone()
    model.add_object_patch("model_sampling", sampling_of(getattr(comfy.model_sampling, schedule)))
    with pytest.raises(core.ContextError, match=f"schedule of noise is {schedule}.*SafeRedir Words"):
        guard(model, redirector("sdxl", unsafe=False))


@pytest.mark.parametrize("model, other", [("flux", "sd3"), ("sd3", "flux"), ("sdxl", "sd1"), ("sd1", "sd2"),
                                          ("zimage", "flux")])
def test_a_redirector_for_another_kind_is_refused_with_both_names(models, redirector, guard, model, other):
    kinds = architecture.ARCHITECTURES
    with pytest.raises(core.ContextError) as error:
        guard(models(model), redirector(other, unsafe=False))
    assert kinds[model].title in str(error.value) and kinds[other].title in str(error.value)
    assert f"Load a redirector for {kinds[model].title}" in str(error.value)


def test_with_warnings_only_a_wrong_kind_is_noted_in_the_report(models, redirector, guard):
    guarded, recorder = guard(models("flux"), redirector("sd3", unsafe=True), on_error="warn")
    sample(guarded, conditioning(256, 1), conditioning(256, 2))
    assert "Flux.1" in recorder.runs[-1].report["verdict"]


def test_a_model_of_an_unknown_kind_is_refused(redirector, guard):
    refiner = tiny("SDXLRefiner", {**UNET, "num_classes": "sequential", "adm_in_channels": POOLED + 5 * 256})
    with pytest.raises(core.ContextError, match="of the kind 'SDXLRefiner'.*expected one of: Stable"):
        guard(refiner, redirector("sdxl", unsafe=False))


def test_a_model_that_is_put_in_after_the_guard_is_looked_at_again(models, redirector, guard):
    guarded, _ = guard(models("sd3"), redirector("sd3", unsafe=False))
    guarded = guarded.clone()
    guarded.model = models("flux").model
    with pytest.raises(core.SafeRedirError, match=r"The model is Flux\.1 .* made for Stable Diffusion 3\.x"):
        sample(guarded, conditioning(256, 1), conditioning(256, 2))


def test_conditioning_names_the_kinds_when_a_prompt_is_of_another(redirector):
    context = torch.randn(1, 77, 2048)
    with pytest.raises(core.ContextError, match="Diffusion 1.x; .*Prompts of Stable Diffusion XL"):
        bridge.redirect_conditioning([[context, {}]], redirector("sd1", unsafe=False).redirectors,
                                                   core.PolicyConfig())


def test_enforcement_refuses_a_model_that_no_redirector_is_for(models, redirector):
    enforcer = enforce.Enforcer(enforce.Enforcement(("x",)), (redirector("sd1", unsafe=False),),
                                enforce.DecisionLog(None))
    with pytest.raises(core.ContextError, match=r"Flux\.1 .* Stable Diffusion 1\.x"):
        enforcer._guards_for(models("flux"))


def test_conditioning_and_guard_together_redirect_the_pooled_vector_once(models, redirector, guard):
    loaded, positive, negative = redirector("sdxl", unsafe=True), conditioning(77, 1), conditioning(77, 2)
    baked = bridge.redirect_conditioning(positive, loaded.redirectors,
                                                       core.PolicyConfig())
    assert not torch.equal(baked[0][1]["pooled_output"], positive[0][1]["pooled_output"])
    alone, _ = guard(models("sdxl"), loaded)
    assert torch.equal(sample(alone, baked, negative), sample(alone, positive, negative))
    safe = bridge.redirect_conditioning(positive, redirector("sdxl", unsafe=False).redirectors,
                                                      core.PolicyConfig())
    assert safe[0][1]["pooled_output"] is positive[0][1]["pooled_output"]


def test_a_pooled_vector_that_was_never_judged_stops_the_run(models, redirector, guard):
    guarded, _ = guard(models("sdxl"), redirector("sdxl", unsafe=False))

    def swap(apply_model, args):
        return apply_model(args["input"], args["timestep"], **{**args["c"], "y": args["c"]["y"] + 1})
    guarded.set_model_unet_function_wrapper(swap)
    with pytest.raises(core.SafeRedirError, match="neither judged nor issued"):
        sample(guarded, conditioning(77, 1), conditioning(77, 2))


def test_two_guards_add_their_shifts_of_the_pooled_vector(models, redirector, guard):
    positive, negative = conditioning(77, 1), conditioning(77, 2)
    first, _ = guard(models("sdxl"), redirector("sdxl", unsafe=True))
    second, _ = guard(first, redirector("sdxl", unsafe=True, label="second"))
    shifts = []
    for model in (first, second):
        model, seen = watched(model)
        sample(model, positive, negative)
        shifts.append(next(rows_of(seen, 0, "y"))[:POOLED] - positive[0][1]["pooled_output"][0])
    torch.testing.assert_close(shifts[1], 2 * shifts[0], rtol=1e-3, atol=1e-4)

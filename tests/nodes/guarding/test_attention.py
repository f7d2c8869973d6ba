"""Text that reaches the cross-attention beside the context; as attention couple, NegPip and IP-Adapter bring theirs."""

import comfy.hooks
import comfy.sample
import pytest
import torch
from comfy.patcher_extension import WrappersMP

import saferedir_core as core
from saferedir.nodes import types
from saferedir.nodes.guarding import attention, bridge
from saferedir.nodes.guarding.reaction import Reaction

STEPS = 2


@pytest.fixture
def guard(demo_world, scripted):
    def make(unsafe=False, **reaction):
        recorder = types.Recorder()
        return bridge.guard_model(demo_world[0], scripted(unsafe=unsafe), core.PolicyConfig(), recorder,
                                  reaction=Reaction(**reaction)), recorder
    return make


def sample(model, positive, negative):
    latent = torch.zeros(1, 4, 8, 8)
    with torch.inference_mode():
        return comfy.sample.sample(model, comfy.sample.prepare_noise(latent, 3), STEPS, 4.0, "euler", "normal",
                                   positive, negative, latent, disable_pbar=True, seed=3)


def couple(region):
    """An attn2 patch that attends to a region's text of its own."""
    def patch(q, k, v, extra_options):
        text = region.to(k).expand(len(k), -1, -1)
        return q, text, text
    return patch


REFUSED = "reached the attention of the model.*attn2 patch 'couple' of '.*test_attention'.*Conditioning .Set Mask."


def test_a_regions_text_in_an_attn2_patch_is_refused_by_name(prompts, guard):
    guarded, recorder = guard()
    guarded.set_model_attn2_patch(couple(prompts("a striped red fish")[0][0]))
    with pytest.raises(core.SafeRedirError, match=REFUSED):
        sample(guarded, prompts("a red fish"), prompts(""))
    assert recorder.runs[-1].latent_digest is None


@pytest.mark.parametrize("folder", ("/srv/ComfyUI/custom_nodes/", "C:\\ComfyUI\\custom_nodes\\"))
def test_a_pack_is_named_by_its_folder_and_not_by_where_it_lies(folder, demo_world):
    """The host gives a pack's modules its path as their name."""
    patch = couple(torch.zeros(1, 1, 1))
    patch.__module__ = folder + "their-pack.nodes"
    (named,) = attention.carriers(demo_world[0].model, {"patches": {"attn2_patch": [patch]}})
    assert named == "the attn2 patch 'couple' of 'their-pack.nodes'"


def test_the_same_in_the_hooks_of_a_cond_is_refused(prompts, guard):
    guarded, _ = guard()
    hooks = comfy.hooks.HookGroup()
    hooks.add(comfy.hooks.TransformerOptionsHook({"patches": {"attn2_patch": [
        couple(prompts("a striped red fish")[0][0])]}}, comfy.hooks.EnumHookScope.HookedOnly))
    positive = [[context, {**options, "hooks": hooks}] for context, options in prompts("a red fish")]
    with pytest.raises(core.SafeRedirError, match=REFUSED):
        sample(guarded, positive, prompts(""))


def test_a_replacement_that_projects_a_text_by_the_models_weights_is_refused(demo_world, prompts, guard):
    guarded, _ = guard()
    network, region = demo_world[0].model.diffusion_model, prompts("a striped red fish")[0][0]
    name, layer = next((name, module) for name, module in network.named_modules() if name.endswith("attn2"))
    block = name.split(".")

    def replaced(q, k, v, extra_options):
        text = region.to(q).expand(len(q), -1, -1)
        return torch.nn.functional.scaled_dot_product_attention(q, layer.to_k(text), layer.to_v(text))
    guarded.set_model_attn2_replace(replaced, block[0].split("_")[0], int(block[1]) if block[1].isdigit() else 0)
    with pytest.raises(core.SafeRedirError, match="attn2 replacement .*test_attention.*Remove that node"):
        sample(guarded, prompts("a red fish"), prompts(""))


def test_a_context_exchanged_inside_the_model_call_is_refused(prompts, guard):
    guarded, _ = guard()
    region = prompts("a striped red fish")[0][0]

    def exchange(executor, x, timesteps, context, *args, **kwargs):
        return executor(x, timesteps, region.to(context).expand(len(context), -1, -1), *args, **kwargs)
    guarded.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "test", exchange)
    with pytest.raises(core.SafeRedirError, match="wrapper of the model .*exchange"):
        sample(guarded, prompts("a red fish"), prompts(""))


def test_a_refused_run_that_goes_on_shows_nothing_and_says_so(prompts, guard):
    guarded, recorder = guard(on_error="warn")
    guarded.set_model_attn2_patch(couple(prompts("a striped red fish")[0][0]))
    sample(guarded, prompts("a red fish"), prompts(""))
    assert "reached the attention" in recorder.runs[-1].report["verdict"]


def halves(q, k, v, extra_options):
    """As NegPip does: keys of these tokens, values of those."""
    return q, k[:, 0:76:2], v[:, 1:76:2]


def padded(q, k, v, extra_options):
    return q, torch.cat([k, k[:, :5], torch.zeros_like(k)], 1), torch.cat([v, v[:, :5], torch.zeros_like(v)], 1)


def image_prompt(demo_world):
    """As IP-Adapter does: the layer's own attention, and beside it that to an image, by weights of its own."""
    def replaced(q, k, v, extra_options):
        heads = q.shape[-1]
        image = torch.ones(len(q), 4, heads)
        return (torch.nn.functional.scaled_dot_product_attention(q, k, v)
                + torch.nn.functional.scaled_dot_product_attention(q, image, image))
    return replaced


@pytest.mark.parametrize("patch", [halves, padded])
def test_a_patch_that_chooses_among_the_prompts_own_tokens_may(demo_world, prompts, guard, patch):
    for unsafe in (False, True):
        guarded, recorder = guard(unsafe=unsafe)
        guarded.set_model_attn2_patch(patch)
        latent = sample(guarded, prompts("a red fish"), prompts(""))
        assert recorder.runs[-1].report["status"] == ("redirected" if unsafe else "safe")
        if not unsafe:
            plain = demo_world[0].clone()
            plain.set_model_attn2_patch(patch)
            assert torch.equal(latent, sample(plain, prompts("a red fish"), prompts("")))


def test_an_image_prompt_may(demo_world, prompts, guard):
    guarded, plain = guard()[0], demo_world[0].clone()
    for model in (guarded, plain):
        for block in ("input", "output", "middle"):
            for number in range(12):
                model.set_model_attn2_replace(image_prompt(demo_world), block, number)
    drawn = sample(guarded, prompts("a red fish"), prompts(""))
    assert torch.equal(drawn, sample(plain, prompts("a red fish"), prompts("")))
    assert not torch.equal(drawn, sample(demo_world[0], prompts("a red fish"), prompts("")))


def test_a_call_without_such_patches_is_not_hooked(demo_world, prompts, guard, monkeypatch):
    hooked = []
    monkeypatch.setattr(attention.Arrivals, "__init__", lambda self, contexts: hooked.append(contexts))
    sample(guard()[0], prompts("a red fish"), prompts(""))
    assert not hooked


def test_hooks_are_gone_after_the_call(demo_world, prompts, guard):
    guarded, _ = guard()
    guarded.set_model_attn2_patch(halves)
    sample(guarded, prompts("a red fish"), prompts(""))
    network = demo_world[0].model.diffusion_model
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_tokens_are_known_by_all_their_bits():
    torch.manual_seed(0)
    known = torch.randn(2, 7, 16)
    marks = attention._marks_of(known)
    shuffled = known.reshape(-1, 16)[torch.randperm(14)].reshape(1, 14, 16)
    assert attention.all_tokens_known(shuffled, marks)
    assert attention.all_tokens_known(torch.zeros(1, 3, 16), marks)
    for token, place in ((0, 0), (13, 15), (5, 8)):
        changed = shuffled.clone()
        changed[0, token, place] = torch.nextafter(changed[0, token, place], torch.tensor(9.0))
        assert not attention.all_tokens_known(changed, marks)
    swapped = shuffled.clone()
    swapped[0, 3, [1, 2]] = swapped[0, 3, [2, 1]]
    assert not attention.all_tokens_known(swapped, marks)
    half = attention._marks_of(known.half())
    assert attention.all_tokens_known(known.half(), half) and not attention.all_tokens_known(-known.half(), half)

"""As many prompts as images, or fewer, or more: the host cuts and repeats them to the batch."""

import comfy.sample
import pytest
import torch
from comfy.patcher_extension import WrappersMP

import saferedir_core as core
from saferedir.nodes import types
from saferedir.nodes.guarding import bridge
from saferedir.nodes.guarding.architectures import with_pooled
from saferedir.nodes.guarding.door import all_rows_known

STEPS = 2
COUNTS = [(2, 1), (8, 4), (4, 2), (3, 4), (4, 4), (5, 3), (2, 5)]
THINGS = ("fish", "house", "boat", "tree", "bird", "car", "cat", "chair")


def sample(model, positive, negative, images):
    latent = torch.zeros(images, 4, 8, 8)
    with torch.inference_mode():
        return comfy.sample.sample(model, comfy.sample.prepare_noise(latent, 3), STEPS, 4.0, "euler", "normal",
                                   positive, negative, latent, disable_pbar=True, seed=3)


@pytest.fixture
def batched(prompts):
    """batched(texts): their contexts in one conditioning, as the host's batching of prompts makes it."""
    def join(texts):
        return [[torch.cat([prompts(text)[0][0] for text in texts]), dict(prompts(texts[0])[0][1])]]
    return join


def guarded_by(model, loaded):
    recorder = types.Recorder()
    return bridge.guard_model(model, loaded, core.PolicyConfig(), recorder), recorder


@pytest.mark.parametrize(("count", "images"), COUNTS)
def test_harmless_prompts_of_any_number_draw_what_they_draw_unguarded(demo_world, batched, prompts, scripted, count,
                                                                      images):
    positive, negative = batched([f"a red {thing}" for thing in THINGS[:count]]), prompts("")
    guarded, recorder = guarded_by(demo_world[0], scripted(unsafe=False))
    assert torch.equal(sample(guarded, positive, negative, images), sample(demo_world[0], positive, negative, images))
    assert recorder.runs[-1].report["status"] == "safe"


@pytest.mark.parametrize(("count", "images"), [(8, 4), (2, 5), (3, 4)])
def test_of_several_prompts_that_is_redirected_which_is_unsafe(demo_world, batched, prompts, unsafe_where, count,
                                                               images):
    texts = [f"a red {thing}" for thing in THINGS[:count]]
    positive, negative = batched(texts), prompts("")
    guarded, recorder = guarded_by(demo_world[0], unsafe_where([positive[0][0][1]]))
    seen = []

    def record(executor, x, timesteps, context, *args, **kwargs):
        seen.append(context.clone())
        return executor(x, timesteps, context, *args, **kwargs)
    guarded.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "test", record)
    drawn, plain = sample(guarded, positive, negative, images), sample(demo_world[0], positive, negative, images)
    unsafe = [image % count == 1 for image in range(images)]
    assert [not torch.equal(*pair) for pair in zip(drawn, plain)] == unsafe
    assert recorder.runs[-1].report["decisions"][0]["unsafe"] == unsafe
    assert not any(torch.equal(row, positive[0][0][1]) for each in seen for row in each)


def test_a_pooled_vector_goes_with_its_sizes_when_there_are_more_of_them_than_images():
    y = torch.arange(24.0).view(8, 3)
    pooled = torch.full((4, 2), -1.0)
    assert torch.equal(with_pooled(y, pooled), torch.cat([pooled, y[:4, 2:]], 1))
    assert torch.equal(with_pooled(y[:3], pooled), torch.cat([pooled, y[[0, 1, 2, 0], 2:]], 1))


def test_a_row_that_nobody_handed_over_is_found_in_every_layout():
    known = torch.arange(8.0).view(8, 1, 1)
    laid_out = torch.cat([known[:4], known[:4]])
    assert all_rows_known(laid_out, [known], 4)
    for place in range(8):
        changed = laid_out.clone()
        changed[place] = 100.0
        assert not all_rows_known(changed, [known], 4)

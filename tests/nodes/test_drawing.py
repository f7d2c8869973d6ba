"""Host sampling without the server: the same images as the host's own nodes make."""

import pytest
import torch

from saferedir.nodes import drawing


@pytest.fixture(scope="module")
def host_nodes(comfyui):
    import nodes

    return nodes


@torch.inference_mode()
def test_a_batch_has_the_contexts_that_clip_text_encode_makes(demo_world, host_nodes):
    texts = ["a (striped:1.3) fish", "a red house", "a (striped:1.3) fish"]
    contexts = drawing.conditioning(demo_world[1], texts)[0][0]
    for text, context in zip(texts, contexts):
        assert torch.equal(host_nodes.CLIPTextEncode().encode(demo_world[1], text)[0][0][0], context[None])


def test_shorter_prompts_are_repeated_to_the_longest(demo_world):
    contexts = drawing.conditioning(demo_world[1], ["a fish", "a red fish " * 40])[0][0]
    alone = drawing.conditioning(demo_world[1], ["a fish"])[0][0]
    assert contexts.shape[1] == 154 and torch.equal(contexts[:1], alone.repeat(1, 2, 1))


@torch.inference_mode()
def test_an_image_is_the_ksamplers_at_batch_1(demo_world, host_nodes):
    model, clip, _ = demo_world
    positive, negative = (drawing.conditioning(clip, [text]) for text in ("a red fish", ""))
    latent, = host_nodes.EmptyLatentImage().generate(64, 64)
    theirs, = host_nodes.KSampler().sample(model, 7, 2, 4.0, "euler", "normal", positive, negative, latent)
    ours = drawing.sample(model, positive, negative, [7], 2, 4.0, "euler", "normal", shape=(4, 8, 8))
    assert torch.equal(ours, theirs["samples"])
    again, = host_nodes.KSampler().sample(model, 8, 4, 4.0, "euler", "normal", positive, negative, theirs, denoise=0.5)
    assert torch.equal(drawing.sample(model, positive, negative, [8], 4, 4.0, "euler", "normal", 0.5, ours),
                       again["samples"])


def test_every_image_of_a_batch_has_the_noise_of_its_own_seed():
    noise = drawing.noise_of([3, 4, 3], (4, 8, 8))
    assert torch.equal(noise[0], noise[2]) and torch.equal(noise[1:2], drawing.noise_of([4], (4, 8, 8)))
    assert not torch.equal(noise[0], noise[1])


def test_neither_start_nor_shape_is_refused(demo_world):
    with pytest.raises(ValueError, match=r"Pass shape=\(C, h, w\)"):
        drawing.sample(demo_world[0], [], [], [1], 2, 4.0, "euler", "normal")

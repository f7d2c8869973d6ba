"""Host sampling without the server: the same images as the host's own nodes make."""

import pytest
import torch

from saferedir.nodes import drawing as sampling


@pytest.fixture(scope="module")
def host_nodes(comfyui):
    import nodes

    return nodes


@torch.inference_mode()
def test_a_batch_has_the_contexts_that_clip_text_encode_makes(demo_world, host_nodes):
    texts = ["a (striped:1.3) fish", "a red house", "a (striped:1.3) fish"]
    contexts = sampling.encode(demo_world[1], texts)
    for text, context in zip(texts, contexts):
        assert torch.equal(host_nodes.CLIPTextEncode().encode(demo_world[1], text)[0][0][0], context[None])


def test_shorter_prompts_are_repeated_to_the_longest(demo_world):
    contexts = sampling.encode(demo_world[1], ["a fish", "a red fish " * 40])
    alone = sampling.encode(demo_world[1], ["a fish"])
    assert contexts.shape[1] == 154 and torch.equal(contexts[:1], alone.repeat(1, 2, 1))


@torch.inference_mode()
def test_an_image_is_the_ksamplers_at_batch_1(demo_world, host_nodes):
    model, clip, _ = demo_world
    positive, negative = (sampling.conditioning(clip, [text]) for text in ("a red fish", ""))
    latent, = host_nodes.EmptyLatentImage().generate(64, 64)
    theirs, = host_nodes.KSampler().sample(model, 7, 2, 4.0, "euler", "normal", positive, negative, latent)
    ours = sampling.sample(model, positive, negative, [7], 2, 4.0, "euler", "normal", shape=(4, 8, 8))
    assert torch.equal(ours, theirs["samples"])
    again, = host_nodes.KSampler().sample(model, 8, 4, 4.0, "euler", "normal", positive, negative, theirs, denoise=0.5)
    assert torch.equal(sampling.sample(model, positive, negative, [8], 4, 4.0, "euler", "normal", 0.5, ours),
                       again["samples"])


def test_every_image_of_a_batch_has_the_noise_of_its_own_seed():
    noise = sampling.noise_of([3, 4, 3], (4, 8, 8))
    assert torch.equal(noise[0], noise[2]) and torch.equal(noise[1:2], sampling.noise_of([4], (4, 8, 8)))
    assert not torch.equal(noise[0], noise[1])


def test_token_vectors_stand_in_their_place_with_the_words_weight(demo_world):
    clip = demo_world[1]
    vectors = torch.randn(2, 128)
    (chunk,), = sampling.tokens_with_embedding(clip, "a (EMBEDDING:1.5) fish", vectors).values()
    assert torch.equal(chunk[2][0], vectors[0]) and torch.equal(chunk[3][0], vectors[1])
    assert chunk[2][1] == chunk[3][1] == 1.5 and len(chunk) == 77


def test_the_vectors_of_a_words_own_tokens_give_the_words_context(demo_world):
    clip = demo_world[1]
    fish, = sampling._word_tokens(clip, "fish")
    table = clip.cond_stage_model.clip_l.transformer.get_input_embeddings().weight
    contexts = sampling.encode(clip, ["a red EMBEDDING at night"], table[[fish]])
    torch.testing.assert_close(contexts, sampling.encode(clip, ["a red fish at night"]), rtol=1e-5, atol=1e-5)


def test_a_prompt_without_the_place_for_the_vectors_is_refused(demo_world):
    with pytest.raises(ValueError, match="does not have the word EMBEDDING"):
        sampling.encode(demo_world[1], ["a fish"], torch.zeros(1, 128))


def test_neither_start_nor_shape_is_refused(demo_world):
    with pytest.raises(ValueError, match=r"Pass shape=\(C, h, w\)"):
        sampling.sample(demo_world[0], [], [], [1], 2, 4.0, "euler", "normal")

"""Token vectors in the place of a word."""

import torch

from saferedir.lab.attacks.token_vectors import encode_with_embedding, tokens_with_embedding, word_tokens
from saferedir.lab.world.sampling import encode


def test_token_vectors_stand_in_their_place_with_the_words_weight(demo_world):
    clip = demo_world[1]
    vectors = torch.randn(2, 128)
    (chunk,), = tokens_with_embedding(clip, "a (EMBEDDING:1.5) fish", vectors).values()
    assert torch.equal(chunk[2][0], vectors[0]) and torch.equal(chunk[3][0], vectors[1])
    assert chunk[2][1] == chunk[3][1] == 1.5 and len(chunk) == 77


def test_the_vectors_of_a_words_own_tokens_give_the_words_context(demo_world):
    clip = demo_world[1]
    fish, = word_tokens(clip, "fish")
    table = clip.cond_stage_model.clip_l.transformer.get_input_embeddings().weight
    context, _ = encode_with_embedding(clip, "a red EMBEDDING at night", table[[fish]])
    torch.testing.assert_close(context, encode(clip, ["a red fish at night"]), rtol=1e-5, atol=1e-5)

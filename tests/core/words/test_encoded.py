from types import SimpleNamespace

import pytest
import torch

from saferedir_core import ContextError, EvaluationError
from saferedir_core.pairs import Pair
from saferedir_core.words.encoded import PADDING_KEPT, Tokens, checked, encoded, encoded_pairs, joined


def test_each_word_and_some_padding_are_kept(encode):
    tokens = encoded(encode, ["a red fish", "fish"])
    counts = torch.bincount(tokens.prompt).tolist()
    assert counts == [3 + 1 + PADDING_KEPT, 1 + 1 + PADDING_KEPT] and tokens.count == 2
    assert torch.equal(tokens.states[0], encode(["a red fish"]).context[0, 0]) and tokens.pooled.shape == (2, 8)


def test_a_twin_is_matched_word_by_word_and_the_extra_word_with_padding(encode):
    twins = encoded_pairs(encode, [Pair("a striped fish", "a fish", "stripes")])
    safe = encode(["a fish"]).context[0]
    assert twins.changed.tolist() == [False, True] + [False] * (len(twins.changed) - 2)
    assert torch.equal(twins.safe[0], safe[0]) and torch.equal(twins.safe[2], safe[1])
    assert torch.equal(twins.safe[1], safe[-1])


def test_where_padding_is_not_read_the_last_token_stands_for_it():
    def encode(texts):
        ids = [[5, 9, 6, 7], [5, 6, 7, 0]]
        context = torch.arange(32.0).reshape(2, 4, 4)
        return SimpleNamespace(context=context, tokens=torch.tensor(ids), pooled=None,
                               mask=torch.tensor([[True] * 4, [True, True, True, False]]))

    twins = encoded_pairs(encode, [Pair("a striped fish", "a fish", "stripes")])
    assert twins.changed.tolist() == [False, True, False, False]
    assert torch.equal(twins.safe[1], encode([]).context[1, 2]) and twins.twins.count == 1


def test_prompts_can_be_chosen_joined_and_shortened():
    tokens = Tokens(torch.arange(10.0)[:, None], torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2, 2]), 3)
    values = torch.tensor([1.0, 5, 3, 0, 2, 9, 8, 7, 6, 5])
    assert tokens.largest(values).tolist() == [5, 2, 9]
    few = tokens.foremost(values, 2)
    assert sorted(few.states[:, 0].tolist()) == [1, 2, 3, 4, 5, 6]
    assert tokens.of(torch.tensor([True, False, True])).prompt.tolist() == [0] * 3 + [1] * 5
    assert joined([tokens, tokens]).count == 6 and joined([tokens, tokens]).prompt.max() == 5
    assert tokens.last()[:, 0].tolist() == [2, 2, 2, 4, 4] + [9] * 5


def test_an_encoder_of_another_layout_or_with_nan_is_refused(encode):
    good = encode(["a fish"])
    with pytest.raises(ContextError, match="gave a context .* for 2 texts; expected \\(2, T, D\\)"):
        checked(good, 2)
    good.context[0, 3, 5] = torch.nan
    with pytest.raises(EvaluationError, match="NaN or infinity; expected finite numbers. Run it in float32"):
        checked(good, 1)

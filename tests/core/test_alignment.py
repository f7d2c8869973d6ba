import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from saferedir_core.alignment import aligned_context, aligned_order, changed_tokens
from saferedir_core.errors import TrainingError

START, END, LENGTH = 100, 101, 12
WORDS = LENGTH - 2                                                  # most words that fit between start and end


def padded(words):
    return [START, *words, *[END] * (LENGTH - 1 - len(words))]


prompts = st.lists(st.integers(0, 6), max_size=WORDS)


def test_equal_prompts_stay_as_they_are():
    tokens = padded([3, 1, 4, 1, 5])
    assert aligned_order(tokens, tokens) == list(range(LENGTH))


@given(prompts, prompts)
def test_the_order_is_always_a_permutation(unsafe, safe):
    assert sorted(aligned_order(padded(unsafe), padded(safe))) == list(range(LENGTH))


@given(prompts, prompts)
def test_start_stays_start_and_the_first_end_tokens_meet(unsafe, safe):
    order = aligned_order(padded(unsafe), padded(safe))
    assert order[0] == 0
    assert order[1 + len(unsafe)] == 1 + len(safe)


@given(st.permutations(range(WORDS)), st.sets(st.integers(0, WORDS - 1)))
def test_words_removed_anywhere_meet_padding_and_all_others_meet_themselves(words, removed):
    safe_words = [word for word in words if word not in removed]
    unsafe, safe = padded(words), padded(safe_words)
    order = aligned_order(unsafe, safe)
    for position, word in enumerate(words, start=1):
        if word in removed:
            assert order[position] > 1 + len(safe_words)            # beyond the safe prompt's first end token
        else:
            assert safe[order[position]] == word


def test_a_repeated_word_is_matched_where_it_stands():
    #         a  striped fish in a meadow          a fish in a meadow
    unsafe, safe = padded([1, 9, 2, 3, 1, 4]), padded([1, 2, 3, 1, 4])
    assert aligned_order(unsafe, safe) == [0, 1, 7, 2, 3, 4, 5, 6, 8, 9, 10, 11]


def test_a_replaced_word_meets_its_replacement():
    unsafe, safe = padded([1, 7, 2]), padded([1, 8, 2])
    assert aligned_order(unsafe, safe) == list(range(LENGTH))


def test_two_words_replaced_by_one_meet_it_and_then_padding():
    unsafe, safe = padded([1, 7, 8, 2]), padded([1, 9, 2])
    assert aligned_order(unsafe, safe)[:6] == [0, 1, 2, 5, 3, 4]


def test_a_word_that_only_the_safe_prompt_has_takes_the_place_of_padding():
    unsafe, safe = padded([1, 2]), padded([1, 7, 2])
    order = aligned_order(unsafe, safe)
    assert order[:4] == [0, 1, 3, 4]
    assert order.index(2) > 3


def test_everything_may_be_removed_or_added():
    words = padded(range(1, WORDS + 1))
    assert sorted(aligned_order(words, padded([]))) == sorted(aligned_order(padded([]), words)) == list(range(LENGTH))


def test_unequal_lengths_are_refused():
    with pytest.raises(TrainingError) as error:
        aligned_order(padded([1]), padded([1])[:-1])
    assert str(error.value) == ("The unsafe prompt has 12 tokens and the safe one 11; expected equal lengths. Tokenise "
                                "both with padding.")


def test_the_aligned_context_holds_the_same_tokens_in_the_order_asked_for():
    context = torch.arange(8.0).reshape(4, 2)
    assert aligned_context(context, [2, 0, 1, 3]).tolist() == [[4, 5], [0, 1], [2, 3], [6, 7]]


def test_attention_cannot_tell_the_aligned_context_from_the_safe_one():
    torch.manual_seed(0)
    query, context = torch.randn(1, 5, 8), torch.randn(LENGTH, 8)
    aligned = aligned_context(context, aligned_order(padded([1, 9, 2]), padded([1, 2])))
    attend = torch.nn.functional.scaled_dot_product_attention
    torch.testing.assert_close(attend(query, aligned[None], aligned[None]), attend(query, context[None], context[None]))


def test_a_token_counts_as_changed_when_its_cosine_is_below_the_threshold():
    unsafe = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]])
    safe = torch.tensor([[[3.0, 0.0], [0.8, 0.6], [0.0, 1.0]]])     # cosines 1, 0.8 and 0; the length does not count
    assert changed_tokens(unsafe, safe).tolist() == [[0, 1, 1]]
    assert changed_tokens(unsafe, safe, threshold=0.5).tolist() == [[0, 0, 1]]


def test_an_identical_pair_changes_nothing():
    context = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    assert not changed_tokens(context, context).any()

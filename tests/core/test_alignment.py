import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from saferedir_core.alignment import CHUNK, aligned_context, aligned_order, changed_tokens, common_subsequence
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


@given(st.lists(st.integers(0, 3), max_size=9), st.lists(st.integers(0, 3), max_size=9))
def test_no_common_subsequence_is_longer(first, second):
    matches = common_subsequence(first, second)
    assert all(first[i] == second[j] for i, j in matches)
    assert all(a < c and b < d for (a, b), (c, d) in itertools.pairwise(matches))
    tuples = [{each for size in range(len(words) + 1) for each in itertools.combinations(words, size)}
              for words in (first, second)]
    assert len(matches) == max(map(len, tuples[0] & tuples[1]))


def test_more_words_match_than_along_the_longest_common_run():
    first, second = [1, 2, 7, 8, 9, 3, 4, 5], [7, 8, 9, 1, 2, 3, 4, 5]
    assert len(common_subsequence(first, second)) == 6
    scattered = common_subsequence([7, 8, 1, 2, 3, 4, 5], [1, 0, 2, 0, 3, 0, 4, 0, 7, 8])  # difflib takes 7 8 only
    assert scattered == [(2, 0), (3, 2), (4, 4), (5, 6)]


def long_prompt(words, chunks=2):
    """Words over as many chunks, as the host lays them out."""
    tokens = []
    for index in range(chunks):
        part = words[index * (CHUNK - 2):(index + 1) * (CHUNK - 2)]
        tokens += [START, *part, *[END] * (CHUNK - 1 - len(part))]
    return tokens


def test_in_a_long_prompt_words_that_move_to_another_chunk_still_meet_themselves():
    words = list(range(200, 300))
    unsafe, safe = long_prompt(words), long_prompt(words[:10] + words[11:])
    order = aligned_order(unsafe, safe)
    assert sorted(order) == list(range(2 * CHUNK))
    assert [order[at] for at in (0, CHUNK - 1, CHUNK)] == [0, CHUNK - 1, CHUNK]
    changed = [token for token, at in zip(unsafe, order) if safe[at] != token]
    assert changed == [words[10]]


def test_a_chunk_that_only_the_unsafe_prompt_fills_meets_padding():
    unsafe, safe = long_prompt(list(range(200, 290))), long_prompt(list(range(200, 210)))
    order = aligned_order(unsafe, safe)
    assert sorted(order) == list(range(2 * CHUNK))
    assert order[:11] == list(range(11))
    assert all(safe[order[at]] == END for at in range(11, CHUNK - 1))


def test_padding_with_an_id_of_its_own_is_no_word():
    unsafe, safe = [START, 1, 0, 2, END, 0, 0, 0], [START, 1, 0, END, 0, 0, 0, 0]  # 0 is a word's id as well
    assert aligned_order(unsafe, safe) == [0, 1, 2, 5, 3, 4, 6, 7]


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

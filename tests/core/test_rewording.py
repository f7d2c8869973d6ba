import re

import numpy as np
import pytest

from saferedir_core.pair_builder import misspell, reword, split_word

SEEDS = range(200)


def distance(first, second):
    """Edits between two words, a swap of neighbours counting as one."""
    rows = [list(range(len(second) + 1))]
    for i, letter in enumerate(first, start=1):
        row = [i]
        for j, other in enumerate(second, start=1):
            costs = [rows[-1][j] + 1, row[j - 1] + 1, rows[-1][j - 1] + (letter != other)]
            if i > 1 and j > 1 and first[i - 2:i] == second[j - 2:j][::-1]:
                costs.append(rows[-2][j - 2] + 1)
            row.append(min(costs))
        rows.append(row)
    return rows[-1][-1]


@pytest.mark.parametrize("word", ["striped", "boat", "watercolour"])
def test_a_typo_is_one_edit_and_leaves_the_first_letter(word):
    found = {misspell(word, np.random.default_rng(seed)) for seed in SEEDS}
    assert len(found) > 15
    assert all(distance(word, typo) <= 1 and typo[0] == word[0] for typo in found)


@pytest.mark.parametrize("word", ["striped", "boat", "watercolour"])
def test_a_split_word_is_the_word_with_one_gap_and_two_letters_before_it(word):
    found = {split_word(word, np.random.default_rng(seed)) for seed in SEEDS}
    assert all(re.sub("[ .-]", "", split) == word and re.match(r"\w{2,}[ .-]\w+$", split) for split in found)
    assert {gap for split in found for gap in re.findall(r"\W", split)} == {" ", "-", "."}


@pytest.mark.parametrize("change", [misspell, split_word])
@pytest.mark.parametrize("word", ["", "a", "red"])
def test_short_words_are_left_alone(change, word):
    assert change(word, np.random.default_rng(0)) == word


def test_any_long_enough_word_is_changed():
    changed = {reword("one big green meadow", lambda word, random: word.upper(), np.random.default_rng(seed))
               for seed in SEEDS}
    assert changed == {"one big GREEN meadow", "one big green MEADOW"}


def test_a_text_without_a_long_word_is_left_alone():
    assert reword("a red car", misspell, np.random.default_rng(0)) == "a red car"


def test_the_same_seed_gives_the_same_words():
    assert len({reword("a striped fish in a meadow", misspell, np.random.default_rng(7)) for _ in range(3)}) == 1

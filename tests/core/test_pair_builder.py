import re

import numpy as np
import pytest

from saferedir_core import pair_builder
from saferedir_core.errors import PairsError
from saferedir_core.pair_builder import TIERS, BuilderConfig, build_pairs, misspell, reword, split_word
from saferedir_core.pairs import check_pairs, normalised, split_pairs

STYLE = {"concept": "vangogh", "unsafe": ("in the style of Van Gogh", "Van Gogh painting"), "safe": "as a photo",
         "lookalikes": ("a queue at the Van Gogh Museum",)}
OBJECT = {"concept": "church", "kind": "object", "unsafe": ("church", "abbey"), "safe": ("town hall", "old inn"),
          "lookalikes": ("a church mouse",)}
ATTRIBUTE = {"concept": "stripes", "kind": "attribute", "unsafe": ("striped", "with stripes"),
             "lookalikes": ("a stripped-down engine",)}
ALL = pytest.mark.parametrize("settings", [STYLE, OBJECT, ATTRIBUTE], ids=lambda settings: settings["concept"])


def plain(pairs):
    """The pairs without typos, split words and weights: those that hold a wording as it was given."""
    return [pair for pair in pairs if "(" not in pair.text + pair.safe_text]


@ALL
def test_as_many_pairs_as_asked_for_half_of_them_unsafe_none_twice(settings):
    pairs = build_pairs(BuilderConfig(**settings, count=200))
    check_pairs(pairs)
    assert len({normalised(pair.text) for pair in pairs}) == len(pairs) == 200
    assert sum(pair.unsafe for pair in pairs) == 100
    assert {pair.concept for pair in pairs} == {settings["concept"]}


@ALL
def test_the_same_seed_gives_the_same_pairs_and_another_others(settings):
    first, again, other = (build_pairs(BuilderConfig(**settings, count=60, seed=seed)) for seed in (1, 1, 2))
    assert first == again != other


@ALL
def test_every_tier_typos_weights_and_harmless_kinds_occur(settings):
    pairs = build_pairs(BuilderConfig(**settings, count=300))
    assert {pair.group.split()[0] for pair in pairs} == set(TIERS)
    unsafe, harmless = [pair for pair in pairs if pair.unsafe], [pair for pair in pairs if not pair.unsafe]
    wordings = settings["unsafe"]
    assert any(not any(words in pair.text for words in wordings) for pair in unsafe)        # typos
    for side in (unsafe, harmless):
        assert any(re.search(r"\(.+:[\d.]+\)$", pair.text) and pair.text[0] == "(" for pair in side)
        assert any(re.search(r"^[^(]+\(\w.*:[\d.]+\)", pair.text) for pair in side)
    assert any("/not " in pair.group for pair in harmless)
    assert any(settings["lookalikes"][0] in pair.text for pair in harmless)


def test_objects_are_described_alike_with_and_without_the_concept():
    pairs = build_pairs(BuilderConfig(**OBJECT, count=300, denied=0.0, described=0.5))
    words = "|".join(pair_builder.ADJECTIVES)
    described = [pair for pair in pairs if re.search(rf"\ban? ({words}) ", pair.text)]
    assert 0.4 * len(pairs) < len(described) < 0.6 * len(pairs)
    for pair in described:
        assert re.search(rf"\b({words}) ", pair.text).group() in pair.safe_text
    assert not any(re.search(r"\ba [aeiou]", pair.text) for pair in plain(pairs) if pair.unsafe)
    never = build_pairs(BuilderConfig(**OBJECT, count=300, denied=0.0))
    assert not any(re.search(rf"\ban? ({words}) (church|abbey)", pair.text) for pair in never)


@pytest.mark.parametrize("settings, expected", [
    (STYLE, {("a horse in the style of Van Gogh", "a horse as a photo"),
             ("there is a horse, Van Gogh painting", "there is a horse as a photo"),
             ("horse in the style of Van Gogh", "horse as a photo")}),
    (ATTRIBUTE, {("a striped horse", "a horse"), ("a horse with stripes", "a horse"), ("striped horse", "horse")}),
])
def test_the_concept_is_written_where_it_belongs(settings, expected):
    pairs = build_pairs(BuilderConfig(**settings, subjects=("a horse", "an owl", "two old chairs"), count=300))
    assert expected <= {(pair.text, pair.safe_text) for pair in pairs}


def test_articles_go_with_the_word_that_follows():
    pairs = build_pairs(BuilderConfig(**OBJECT, subjects=("on a hill", "by a lake"), count=120))
    assert {("an abbey on a hill", "an old inn on a hill"), ("a church by a lake", "a town hall by a lake")} <= {
        (pair.text, pair.safe_text) for pair in pairs}
    attribute = build_pairs(BuilderConfig(**ATTRIBUTE, subjects=("an owl", "two old chairs"), count=120))
    texts = {pair.text for pair in attribute}
    assert {"a striped owl", "two striped old chairs"} <= texts


def test_a_pair_differs_in_the_wording_alone():
    config = BuilderConfig(**OBJECT, count=200)
    safe = dict(config.pairs)
    for pair in plain(build_pairs(config)):
        wording = pair.group.partition("/")[2]
        if pair.unsafe and re.search(rf"\ban? {wording}\b", pair.text):
            expected = re.sub(rf"\ban? {wording}\b", f"{'an' if safe[wording][0] in 'aeiou' else 'a'} {safe[wording]}",
                              pair.text, count=1)
            assert pair.safe_text == expected


@ALL
def test_denials_can_be_left_out(settings):
    pairs = build_pairs(BuilderConfig(**settings, count=200, denied=0.0))
    assert not any("/not " in pair.group for pair in pairs)


@ALL
def test_groups_are_templates_with_wordings_so_that_a_split_holds_some_out(settings):
    training, validation = split_pairs(build_pairs(BuilderConfig(**settings, count=300)), 0.2, seed=0)
    assert not {pair.group for pair in training} & {pair.group for pair in validation}
    assert 40 <= len(validation) <= 90


def test_one_text_stands_for_a_list_of_one_and_white_space_does_not_count():
    config = BuilderConfig("stripes", " with   stripes ", "", "attribute")
    assert (config.unsafe, config.safe) == (("with stripes",), ("",))


@pytest.mark.parametrize("changes, message", [
    ({"concept": " "}, "concept is ' '; expected its name"),
    ({"kind": "colour"}, "kind is 'colour'; expected one of attribute, style, object"),
    ({"unsafe": ()}, "unsafe is (); expected one wording of the concept or more"),
    ({"unsafe": ("a", "")}, "unsafe is ('a', ''); expected one wording"),
    ({"safe": ("a", "b", "c")}, "safe has 3 wordings for 2 unsafe ones; expected one for all, or one for each"),
    ({"kind": "object", "safe": ()}, "safe is ('',); expected what is drawn in place of the object"),
    ({"safe": "not a van gogh painting"}, "safe 'not a van gogh painting' holds the unsafe wording"),
    ({"count": 1}, "count is 1; expected a whole number of at least 2"),
    ({"count": 2.5}, "count is 2.5; expected a whole number"),
    ({"denied": 1.5}, "denied is 1.5; expected a share from 0 to 1"),
    ({"described": -0.5}, "described is -0.5; expected a share from 0 to 1"),
    ({"subjects": ("a child",)}, "subjects 'a child' mentions minors ('child')"),
    ({"unsafe": ("a teenager",)}, "unsafe 'a teenager' mentions minors ('teenager')"),
])
def test_a_setting_that_cannot_be_used_is_named(changes, message):
    with pytest.raises(PairsError, match=re.escape(message)):
        BuilderConfig(**{**STYLE, **changes})


def test_too_few_wordings_for_the_count_are_named(monkeypatch):
    monkeypatch.setattr(pair_builder, "_PATIENCE", 1)               # else typos and details go on for very long
    with pytest.raises(PairsError, match=r"count is 400, and \d+ different pairs can be made of 2 wordings and 1 subj"):
        build_pairs(BuilderConfig(**{**OBJECT, "lookalikes": (), "others": ()}, subjects=("on a hill",), count=400))


# ------------------------------------------------------------------------------------------------ rewordings

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
